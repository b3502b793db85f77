"""``glora run`` and ``glora demo`` from their words to their files and what they print."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.pictures import cut_short
from glora.checkpoint import read_metadata
from glora.cli import commands
from glora.config import RunConfig
from glora.demo import demo_config
from small_run import (
    FAST,
    FILES,
    adapter_numbers,
    call,
    copy_of,
    fields_of,
    finished,
    flags,
    names_in,
    paint_split,
    read_json,
    succeed,
    timm_settings,
)

GLORA = Path(sys.executable).with_name("glora")


# run


def test_run_from_a_folder_of_images_to_a_table(tmp_path: Path) -> None:
    done = call("run", *flags(timm_settings(epochs=3)), "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert names_in(tmp_path / "run") - FILES == {
        "baselines/linear-probe.safetensors",
        "baselines/uniform-LoRA-rank-1.safetensors",
        "random.jsonl",
    }
    table, _, rest = done.out.partition("\n\n")
    head, *rows = table.splitlines()
    assert head.split() == ["method", "val", "%", "test", "%", "parameters", "seconds"]
    methods = ["linear probe", "uniform LoRA, rank 1", "3 random subnets, mean", "random search", "searched subnet"]
    assert [row.split("  ")[0] for row in rows] == methods
    found = read_json(tmp_path / "run" / "metrics.json")["table"]
    for row, shown in zip(found, rows, strict=True):
        assert f"{100 * row['val_accuracy']:.1f}" in shown
        assert f"{100 * row['test_accuracy']:.1f}" in shown
        assert f" {row['parameters']:,} " in shown
    said, _, rest = rest.partition("\n\n")
    assert said == read_json(tmp_path / "run" / "metrics.json")["verdict"]
    merged, *files = rest.splitlines()
    assert merged.startswith("merged = adapted: logits differ by at most ")
    assert merged.endswith("on 12 images, same predictions")
    assert fields_of("\n".join(f.replace(" ", "  ", 1) for f in files)) == {
        name: str(tmp_path / "run" / file)
        for name, file in (
            ("adapter", "adapter.safetensors"),
            ("merged", "merged.safetensors"),
            ("report", "report.html"),
        )
    }


def test_progress_goes_to_stderr_and_tells_each_stage(tmp_path: Path) -> None:
    done = call("run", *flags(timm_settings(epochs=2, finetune_epochs=1)), "--out", tmp_path / "run")
    stages = ["supernet 2/2", "search 24/24", "fine-tuning 1/1", "linear probe 3/3", "uniform LoRA, rank 1 3/3"]
    for stage in [
        *stages,
        "random subnets 3/3",
        "random search 24/24",
        "test: the held-out images are looked at now, once",
        "test 4/4",
    ]:
        assert stage in done.err
        assert stage not in done.out
    assert "search: structures have 0 to 29,952 parameters, the budget is 3,000" in done.err


def test_results_for_machines(tmp_path: Path) -> None:
    done = succeed("run", *flags(timm_settings(**FAST)), f"--out={tmp_path / 'run'}", "--json")
    found = json.loads(done.out)
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert found == {
        "table": metrics["table"],
        "verification": metrics["verification"],
        "adapter": str(tmp_path / "run" / "adapter.safetensors"),
        "merged": str(tmp_path / "run" / "merged.safetensors"),
        "report": str(tmp_path / "run" / "report.html"),
    }
    row = found["table"][-1]
    assert row["method"] == "searched subnet"
    assert row["parameters"] == adapter_numbers(Path(found["adapter"])) <= 3000


def test_run_in_a_new_process(tmp_path: Path, environment: dict[str, str]) -> None:
    command = [str(GLORA), "run", *flags(timm_settings(**FAST)), "--out=pets", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["adapter"] == "pets/adapter.safetensors"
    assert names_in(tmp_path / "pets") == FILES
    here = succeed("run", *flags(timm_settings(**FAST)), "--out", tmp_path / "here", "--json")
    for name in ("adapter", "merged"):
        assert (tmp_path / "pets" / f"{name}.safetensors").read_bytes() == Path(json.loads(here.out)[name]).read_bytes()


@pytest.mark.parametrize("command", ["train", "run"])
def test_results_reach_stdout_while_bars_are_drawn_on_a_terminal(
    command: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    # as in "glora run --json > results.json" at a terminal
    master, slave = pty.openpty()
    arguments = [command, *flags(timm_settings(**FAST)), f"--out={tmp_path / 'run'}", "--json"]
    shown: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(master, 4096):
                shown.append(piece)
        except OSError:  # the other end was closed
            pass

    process = subprocess.Popen(
        [str(GLORA), *arguments], stdout=subprocess.PIPE, stderr=slave, env={**environment, "TERM": "xterm"}
    )
    os.close(slave)
    reader = threading.Thread(target=read)
    reader.start()
    out, _ = process.communicate(timeout=120)
    reader.join()
    os.close(master)
    assert process.returncode == 0, b"".join(shown).decode()
    assert b"supernet" in b"".join(shown)
    assert json.loads(out)["report"] == str(tmp_path / "run" / "report.html")


def test_the_configuration_alone_repeats_a_run(tmp_path: Path) -> None:
    there = tmp_path / "config.yaml"
    shutil.copy(finished() / "config.yaml", there)
    succeed("run", "--config", there, "--out", tmp_path / "again")
    for name in ("adapter.safetensors", "merged.safetensors", "search.jsonl", "structure.json", "train.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (finished() / name).read_bytes()
    values = [yaml.safe_load(path.read_text()) for path in (there, tmp_path / "again" / "config.yaml")]
    assert values[0] | {"out": None} == values[1] | {"out": None}


def test_the_command_on_record_repeats_the_run(tmp_path: Path) -> None:
    line = read_json(finished() / "metrics.json")["command"]
    program, *words = shlex.split(line)
    assert (program, words[0]) == ("glora", "run")
    assert RunConfig.load(finished()).folder == Path(words[words.index("--out") + 1])
    folder = copy_of(finished(), tmp_path)
    words[words.index("--out") + 1] = str(folder)
    succeed(*words)
    succeed("search", folder)
    assert read_json(folder / "metrics.json")["command"].split()[:2] == ["glora", "run"]
    report = succeed("report", folder)
    assert "glora run" in (folder / "report.html").read_text("utf-8"), report


def test_a_supernet_is_searched_once_more_by_loss_for_a_soup(tmp_path: Path) -> None:
    chosen = ["--fitness", "loss", "--select", "soup", "--budget", "20000", "--finetune-epochs", "0"]
    done = succeed("search", finished(), "--out", tmp_path / "soup", *chosen, "--json")
    found, structure = json.loads(done.out), read_json(tmp_path / "soup" / "structure.json")
    assert structure["select"] == "soup"
    assert found["soup_of"] == len(structure["soup"]["weights"]) > 1
    assert found["parameters"] == structure["soup"]["size"]
    assert found["no_worse"] == len(structure["ties"]) > 0
    said = f"search: chosen is the mean of {found['soup_of']} subnets, {found['parameters']:,} parameters"
    assert f"{said}; the budget of 20,000 holds for each of them" in done.err
    shown = succeed("info", tmp_path / "soup")
    assert f"the mean of {found['soup_of']} subnets' weights, in one" in shown.out
    merged = succeed("merge", tmp_path / "soup", "--json")
    assert json.loads(merged.out)["same_predictions"] is True
    kept = read_metadata(tmp_path / "soup" / "merged.safetensors").values["soup"]
    assert kept == read_metadata(tmp_path / "soup" / "adapter.safetensors").values["soup"]


def test_the_same_command_on_a_finished_run_prints_the_same_table(tmp_path: Path) -> None:
    words = ["run", *flags(timm_settings(**FAST)), "--out", tmp_path / "run"]
    first = succeed(*words)
    adapter = (tmp_path / "run" / "adapter.safetensors").read_bytes()
    again = succeed(*words)

    def without_seconds(text: str) -> list[list[str]]:
        return [[word for word in line.split() if not word.isdigit()] for line in text.splitlines()]

    assert without_seconds(again.out) == without_seconds(first.out)
    assert (tmp_path / "run" / "adapter.safetensors").read_bytes() == adapter
    assert "supernet" not in again.err


def test_a_preset_has_its_own_line_in_the_table(tmp_path: Path) -> None:
    settings = timm_settings(**FAST, space="lora-4")
    del settings["budget"]
    done = succeed("run", *flags(settings), "--out", tmp_path / "run")
    rows = done.out.partition("\n\n")[0].splitlines()[1:]
    assert len(rows) == 1
    assert rows[0].startswith("fixed structure lora-4  ")
    assert "trained alone for 2 epochs" in rows[0]
    assert f" {6 * 4 * (256 + 128 + 256 + 256):,} " in rows[0]


def test_bad_images_are_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    data = paint_split(tmp_path / "data")
    cut_short(data / "train" / "red" / "zz.jpg")
    (data / "val" / "blue" / "text.png").write_text("no image")
    words = [*flags(timm_settings(**FAST, data=data)), "--out", tmp_path / "run"]
    done = succeed("run", *words, "--skip-bad")
    assert "data: 2 bad files skipped, the first is " in done.err
    assert read_json(tmp_path / "run" / "metrics.json")["data"]["skipped"] == 2


# demo


def test_the_settings_of_the_demo_are_valid_and_need_no_hub(tmp_path: Path) -> None:
    config = demo_config(str(tmp_path / "demo"))
    assert (config.data, config.model, config.folder) == ("digits", "offline/dinov2-small", tmp_path / "demo")
    assert config.limit == 150_000
    assert config.checkpoint is None
    assert config.size is not None
    assert config.size % 14 == 0
    assert config.batch_size <= 800
    bound = json.loads(succeed("info", config.model, f"--size={config.size}", f"--rank={config.rank}", "--json").out)
    assert bound["smallest"] < config.limit < bound["largest"]


def test_the_demo_is_a_run_with_those_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(commands, "run", lambda *arguments: given.append(arguments))
    succeed("demo", "--out", tmp_path / "x", "--json")
    assert given == [(demo_config(str(tmp_path / "x")), f"glora demo --out {tmp_path / 'x'}", True)]

"""Every command from its words to its files and what it prints."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from data.pictures import cut_short
from glora.checkpoint import read_metadata
from glora.cli import commands
from glora.config import RunConfig
from glora.demo import demo_config
from small_run import (
    FAST,
    FILES,
    Outcome,
    adapter_numbers,
    call,
    copy_of,
    fields_of,
    finished,
    flags,
    names_in,
    paint_split,
    read_json,
    same_tensors,
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


# train, search, merge


def test_one_by_one_the_commands_give_what_run_gives(tmp_path: Path) -> None:
    folder = tmp_path / "apart"
    trained = succeed("train", *flags(timm_settings(finetune_epochs=2)), "--out", folder)
    assert fields_of(trained.out) == {
        "supernet": str(folder / "supernet.safetensors"),
        "report": str(folder / "report.html"),
        "next": f"glora search {folder}",
    }
    assert names_in(folder) == {"config.yaml", "metrics.json", "report.html", "supernet.safetensors", "train.jsonl"}
    searched = succeed(*shlex.split(fields_of(trained.out)["next"])[1:])
    best = read_json(folder / "structure.json")["best"]
    found = fields_of(searched.out)
    assert found["val accuracy"] == f"{best['accuracy']:.2%}"
    assert found["parameters"] == f"{best['size']:,}"
    assert found["next"] == f"glora merge {folder}"
    merged = succeed(*shlex.split(found["next"])[1:])
    assert fields_of(merged.out)["merged"] == str(folder / "merged.safetensors")
    assert fields_of(merged.out)["same predictions"] == "True"
    assert names_in(folder) == FILES - {"correct.json"}
    for name in ("adapter.safetensors", "supernet.safetensors", "search.jsonl", "structure.json", "train.jsonl"):
        assert (folder / name).read_bytes() == (finished() / name).read_bytes()
    assert same_tensors(folder / "merged.safetensors", finished() / "merged.safetensors")


def test_results_of_the_stages_for_machines(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained = json.loads(succeed("train", *flags(timm_settings(**FAST)), f"--out={folder}", "--json").out)
    assert trained == {
        "supernet": str(folder / "supernet.safetensors"),
        "report": str(folder / "report.html"),
        "next": f"glora search {folder}",
    }
    searched = json.loads(succeed("search", folder, "--json").out)
    best = read_json(folder / "structure.json")["best"]
    assert (searched["val_accuracy"], searched["parameters"]) == (best["accuracy"], best["size"])
    merged = json.loads(succeed("merge", folder, "--json").out)
    assert merged["merged"] == str(folder / "merged.safetensors")
    assert merged["alpha"] == 1.0
    assert merged["max_difference"] < 1e-5
    assert merged["created_biases"] == []


def test_the_supernet_can_be_searched_anew_with_another_budget(tmp_path: Path) -> None:
    source = copy_of(finished(), tmp_path)
    before = {name: (source / name).read_bytes() for name in names_in(source)}
    succeed("search", source, "--out", tmp_path / "new", "--budget", "1.2k", "--finetune-epochs", "0")
    assert {name: (source / name).read_bytes() for name in names_in(source)} == before
    succeed("run", *flags(timm_settings(budget="1.2k")), "--out", tmp_path / "scratch")
    for name in ("adapter.safetensors", "search.jsonl", "structure.json", "supernet.safetensors", "train.jsonl"):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "scratch" / name).read_bytes()
    assert adapter_numbers(tmp_path / "new" / "adapter.safetensors") <= 1200
    assert RunConfig.load(tmp_path / "new").budget == 1200
    metrics = [read_json(folder / "metrics.json") for folder in (source, tmp_path / "new")]
    assert metrics[0]["seconds"]["supernet"] == metrics[1]["seconds"]["supernet"] > 0
    assert "tested" not in metrics[1]


def test_a_search_anew_that_was_stopped_while_copying_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["search", finished(), "--out", tmp_path / "new", "--budget=1.2k"]
    copy, copied = shutil.copyfile, []

    def stop(source: Any, target: Any) -> Any:
        copied.append(source)
        if len(copied) == 2:
            raise KeyboardInterrupt
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", stop)
    assert call(*words).code == 130
    succeed(*words)
    assert RunConfig.load(tmp_path / "new").budget == 1200
    succeed(*words)


def test_a_trained_supernet_is_searched_in_place_with_other_settings_once(tmp_path: Path) -> None:
    settings = timm_settings(**FAST)
    succeed("train", *flags(settings), "--out", tmp_path / "run")
    succeed("search", tmp_path / "run", "--budget=1k", "--generations=1")
    assert RunConfig.load(tmp_path / "run").budget == 1000
    assert len((tmp_path / "run" / "search.jsonl").read_text().splitlines()) == 17
    succeed("search", tmp_path / "run", "--budget=1k")
    done = call("search", tmp_path / "run", "--budget=2k")
    assert done == Outcome(
        2,
        "",
        f"glora: {tmp_path / 'run'} has been searched already: give --out NEW to search its supernet once more\n",
    )
    assert RunConfig.load(tmp_path / "run").budget == 1000


def test_the_number_of_workers_may_change_and_pruning_may_not(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'glora[ray]'")
    succeed("search", finished(), "--out", tmp_path / "new", "--generations=1", "--budget=2k")
    before = (tmp_path / "new" / "search.jsonl").read_bytes()
    succeed("search", tmp_path / "new", "--workers=3")  # nothing is left to do, so none is started
    assert RunConfig.load(tmp_path / "new").workers == 3
    assert (tmp_path / "new" / "search.jsonl").read_bytes() == before
    settings = flags(timm_settings(finetune_epochs=2, generations=1, budget=2000))
    done = call("run", *settings, "--no-prune", "--out", tmp_path / "new")
    assert done.code == 2
    assert "holds a run with prune=True, now it is False" in done.err


def test_a_smaller_population_can_be_searched(tmp_path: Path) -> None:
    succeed("search", finished(), "--out", tmp_path / "new", "--population", "4")
    assert len((tmp_path / "new" / "search.jsonl").read_text().splitlines()) == 1 + 3 * 4


@pytest.mark.parametrize("name", ["random", "ageing", "nsga2", "surrogate"])
def test_a_supernet_can_be_searched_by_another_strategy(name: str, tmp_path: Path) -> None:
    succeed("search", finished(), "--out", tmp_path / "new", "--strategy", name)
    header, *candidates = (tmp_path / "new" / "search.jsonl").read_text().splitlines()
    assert json.loads(header)["settings"]["strategy"] == RunConfig.load(tmp_path / "new").strategy == name
    assert len(candidates) == 3 * 8


def test_a_merge_half_way_gets_a_file_of_its_own_that_says_so(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    before = (folder / "merged.safetensors").read_bytes()
    half = Path(json.loads(succeed("merge", folder, "--alpha", "0.5", "--json").out)["merged"])
    assert half == folder / "merged-0.5.safetensors"
    assert (folder / "merged.safetensors").read_bytes() == before
    for path, alpha in ((half, "0.5 of the way from the pretrained weights"), (folder / "merged.safetensors", "1")):
        shown = fields_of(succeed("info", path).out.split("\n  ")[0])
        assert shown["alpha"] == alpha
        assert re.fullmatch(r"logits of merged and adapted model differ by at most \d\.\de-\d\d", shown["verified"])


def test_the_call_that_info_shows_loads_a_merged_file(tmp_path: Path) -> None:
    path = finished() / "merged.safetensors"
    plain = eval(succeed("info", path).out.split("load by")[1].split("\n")[0], {"timm": timm})
    assert plain.state_dict().keys() == load_file(path).keys()
    assert all(tensor.equal(load_file(path)[key]) for key, tensor in plain.state_dict().items())


def test_a_merge_may_stop_half_way_to_the_tuned_weights(tmp_path: Path) -> None:
    files = {}
    for alpha in ("0", "0.25", "1"):
        files[alpha] = tmp_path / f"{alpha}.safetensors"
        done = succeed("merge", finished(), "--alpha", alpha, "--out", files[alpha], "--json")
        assert json.loads(done.out)["alpha"] == float(alpha)
    none, some, full = (load_file(files[alpha]) for alpha in ("0", "0.25", "1"))
    assert same_tensors(files["1"], finished() / "merged.safetensors")
    for key, value in none.items():
        torch.testing.assert_close(some[key], value + 0.25 * (full[key] - value), rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(none[key], full[key]) for key in none if not key.startswith("head."))


def test_a_merge_of_an_adapter_file_lies_beside_it(tmp_path: Path) -> None:
    shutil.copy(finished() / "adapter.safetensors", tmp_path / "pets.safetensors")
    done = succeed("merge", tmp_path / "pets.safetensors", "--json")
    assert json.loads(done.out)["merged"] == str(tmp_path / "pets-merged.safetensors")
    assert same_tensors(tmp_path / "pets-merged.safetensors", finished() / "merged.safetensors")


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

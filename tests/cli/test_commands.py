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
from collections.abc import Callable
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
    COLOURS,
    FILES,
    Outcome,
    adapter_numbers,
    call,
    copy_of,
    finished,
    finished_hf,
    flags,
    hf_settings,
    names_in,
    paint,
    paint_split,
    pictures,
    same_tensors,
    spawn,
    succeed,
    timm_settings,
    write_weights,
)

FAST = {"epochs": 2, "baselines": "none", "random_subnets": 1}
GLORA = Path(sys.executable).with_name("glora")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def fields_of(text: str) -> dict[str, str]:
    """What ``name   value`` lines say."""
    pairs = [line.split("  ", 1) for line in text.splitlines()]
    return {name: value.strip() for name, value in pairs}


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


# predict


def rows_of(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_predictions_are_lines_of_path_class_and_probability() -> None:
    done = succeed("predict", finished(), pictures() / "red", pictures() / "blue" / "07.png")
    assert done.err == ""
    rows = rows_of(done.out)
    wanted = [str(pictures() / "red" / f"{n:02d}.png") for n in range(20)] + [str(pictures() / "blue" / "07.png")]
    assert [row[0] for row in rows] == wanted
    assert all(row[1] in COLOURS and 1 / 3 <= float(row[2]) <= 1 and len(row[2]) == 6 for row in rows)
    assert rows[-1][1] == "blue"


@pytest.mark.parametrize("folder", [finished, finished_hf])
def test_run_folder_adapter_and_merged_file_predict_alike(folder: Callable[[], Path]) -> None:
    names = (".", "adapter.safetensors", "merged.safetensors")
    found = [rows_of(succeed("predict", folder() / name, pictures()).out) for name in names]
    assert len(found[0]) == 60
    for rows in found[1:]:
        assert [row[:2] for row in rows] == [row[:2] for row in found[0]]
        assert [float(row[2]) for row in rows] == pytest.approx([float(row[2]) for row in found[0]], abs=2e-4)


def test_the_likeliest_classes_follow_on_the_same_line() -> None:
    one, two, all_ = (
        rows_of(succeed("predict", finished(), pictures() / "red", "--top", top).out) for top in ("1", "2", "9")
    )
    assert {len(row) for row in one} == {3}
    assert {len(row) for row in two} == {5}
    assert {len(row) for row in all_} == {7}
    for short, middle, long in zip(one, two, all_, strict=True):
        assert long[:5] == middle
        assert long[:3] == short
        assert sum(map(float, long[2::2])) == pytest.approx(1, abs=2e-4)
        assert set(long[1::2]) == set(COLOURS)


def test_predictions_for_machines_are_json_lines() -> None:
    done = succeed("predict", finished(), pictures() / "green", "--json", "--top", "2")
    rows = rows_of(succeed("predict", finished(), pictures() / "green", "--top", "2").out)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert len(lines) == 20
    for line, row in zip(lines, rows, strict=True):
        assert set(line) == {"image", "predictions"}
        assert [line["image"], *(p["class"] for p in line["predictions"])] == [row[0], row[1], row[3]]
        assert [p["probability"] for p in line["predictions"]] == pytest.approx(
            [float(row[2]), float(row[4])], abs=1e-4
        )


def test_classes_and_paths_in_any_script_are_printed_as_they_are(tmp_path: Path) -> None:
    data = paint(tmp_path / "Ωmega", {"red": 6, "blue": 6})
    (data / "red").rename(data / "hündin & co")
    settings = timm_settings(**FAST, data=data, batch_size=4)
    succeed("run", *flags(settings), "--out", tmp_path / "run")
    done = succeed("predict", tmp_path / "run", data / "hündin & co", "--top=2", "--json")
    assert str(data / "hündin & co" / "00.png") in done.out
    assert '"hündin & co"' in done.out


def test_bad_images_are_told_on_stderr_and_skipped(tmp_path: Path) -> None:
    folder = paint(tmp_path, {"red": 3}) / "red"
    cut_short(folder / "01a.jpg")
    done = succeed("predict", finished(), folder, "--skip-bad")
    assert [Path(row[0]).name for row in rows_of(done.out)] == ["00.png", "01.png", "02.png"]
    assert done.err.startswith(f"skipped {folder / '01a.jpg'}: is damaged or cut short")
    assert done.err.count("\n") == 1


def test_a_new_process_predicts_the_same_to_the_letter(environment: dict[str, str]) -> None:
    for name in ("adapter.safetensors", "merged.safetensors"):
        words = ["predict", finished() / name, pictures() / "red", "--top=3", "--precision=fp32"]
        assert spawn(environment, *words) == succeed(*words)


def test_backbone_weights_may_lie_elsewhere(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "elsewhere.safetensors")
    images = pictures() / "red"
    wanted = succeed("predict", finished(), images)
    assert succeed("predict", finished(), images, "--checkpoint", weights) == wanted


# eval


def test_a_run_is_evaluated_on_its_own_test_images_and_remembers_it(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    rows = read_json(folder / "metrics.json")["table"]
    found = json.loads(succeed("eval", folder, "--json").out)
    assert (found["split"], found["images"], found["skipped"]) == ("test", 12, 0)
    assert found["accuracy"] == rows[-1]["test_accuracy"]
    assert found["standard_error"] == pytest.approx((found["accuracy"] * (1 - found["accuracy"]) / 12) ** 0.5)
    assert found["file"] == str(folder / "adapter.safetensors")
    assert read_json(folder / "metrics.json")["evaluations"] == [found]
    again = json.loads(succeed("eval", folder, "--split=val", "--json").out)
    assert again["accuracy"] == rows[-1]["val_accuracy"]
    assert read_json(folder / "metrics.json")["evaluations"] == [found, again]
    assert read_json(folder / "metrics.json")["table"] == rows


def test_a_run_that_was_not_tested_yet_is_afterwards(tmp_path: Path) -> None:
    succeed("train", *flags(timm_settings(**FAST)), "--out", tmp_path / "run")
    succeed("search", tmp_path / "run")
    succeed("eval", tmp_path / "run", "--split=val")
    assert not read_json(tmp_path / "run" / "metrics.json").get("tested")
    succeed("eval", tmp_path / "run")
    assert read_json(tmp_path / "run" / "metrics.json")["tested"] is True


def test_an_evaluation_in_words() -> None:
    done = succeed("eval", finished() / "merged.safetensors", "--data", pictures())
    found = fields_of(done.out)
    assert found["data"] == str(pictures())
    assert (found["split"], found["images"]) == ("all", "60")
    right = float(found["accuracy"].removesuffix("%"))
    assert 90 <= right <= 100
    assert set(found) == {"file", "data", "split", "images", "accuracy", "standard error", "loss", "skipped"}


@pytest.mark.parametrize("name", ["adapter.safetensors", "merged.safetensors"])
def test_a_file_is_evaluated_on_other_images_by_class_name(name: str, tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"red": 5, "green": 1}, seed=7)
    wanted = [row[1] == Path(row[0]).parent.name for row in rows_of(succeed("predict", finished() / name, data).out)]
    found = json.loads(succeed("eval", finished() / name, "--data", data, "--json").out)
    assert (found["images"], found["split"], found["accuracy"]) == (6, "all", sum(wanted) / 6)


@pytest.mark.parametrize(("split", "count"), [(None, 12), ("test", 12), ("val", 12), ("train", 36)])
def test_parts_of_a_folder_with_splits(split: str | None, count: int, tmp_path: Path) -> None:
    data = paint_split(tmp_path / "data")
    words = [] if split is None else ["--split", split]
    done = succeed("eval", finished() / "merged.safetensors", "--data", data, *words, "--json")
    assert (json.loads(done.out)["split"], json.loads(done.out)["images"]) == (split or "test", count)


def test_bad_images_are_skipped_in_an_evaluation_and_counted(tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"red": 5, "green": 5})
    cut_short(data / "red" / "zz.jpg")
    words = ["eval", finished() / "merged.safetensors", "--data", data, "--json"]
    assert call(*words).code == 2
    found = json.loads(succeed(*words, "--skip-bad").out)
    assert (found["images"], found["skipped"]) == (10, 1)


def test_every_bad_file_is_counted_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"red": 5, "green": 5})
    cut_short(data / "red" / "zz.jpg")
    (data / "red" / "text.png").write_text("no image")
    shutil.copy(data / "red" / "00.png", data / "loose.png")
    done = succeed("eval", finished() / "merged.safetensors", "--data", data, "--json", "--skip-bad")
    assert (json.loads(done.out)["images"], json.loads(done.out)["skipped"]) == (10, 3)


# info


VIT_SMALL = {"attn.qkv": (1152, 384), "attn.proj": (384, 384), "mlp.fc1": (1536, 384), "mlp.fc2": (384, 1536)}


def test_a_model_is_described_without_its_weights() -> None:
    found = json.loads(succeed("info", "vit_small_patch16_224", "--json", "--classes=37").out)
    outs, ins = (12 * sum(shape[axis] for shape in VIT_SMALL.values()) for axis in (0, 1))
    assert (found["smallest"], found["largest"]) == (0, 2 * 4 * (outs + ins) + ins + 2 * outs)
    assert found["structures"] == 288**48
    assert found["head"] == {"names": ["head"], "parameters": 384 * 37 + 37}
    assert found["input"] == 224
    assert found["presets"] == {
        "BitFit": outs,
        "(IA)^3": 2 * outs,
        "SSF": 3 * outs,
        **{f"LoRA {rank}": rank * (outs + ins) for rank in (1, 2, 4, 8)},
    }
    rows = {row["name"]: row for row in found["layers"]}
    assert list(rows) == [f"blocks.{n}.{name}" for n in range(12) for name in VIT_SMALL]
    for name, row in rows.items():
        assert (row["out"], row["in"]) == VIT_SMALL[name.split(".", 2)[2]]
        assert row["bias"] is True
        assert row["choices"]["A"] == ["rank-4", "vector", "scalar", "none"]
        assert row["largest"] == 8 * (row["out"] + row["in"]) + row["in"] + 2 * row["out"]
    # all that is not the head: patches, class token, positions, norms, and the layers with their biases
    layers = 12 * sum(out * into + out for out, into in VIT_SMALL.values())
    assert found["frozen"] == layers + 384 * 768 + 384 + 384 + 197 * 384 + (12 * 2 + 1) * 2 * 384


def test_layers_that_are_left_alone_are_named_with_the_reason() -> None:
    found = json.loads(succeed("info", "vit_small_patch16_224", "--json").out)
    (skipped,) = [one for one in found["skipped"] if one["name"] == "patch_embed.proj"]
    assert "Conv2d" in skipped["reason"]
    shown = succeed("info", "vit_small_patch16_224").out
    assert f"left alone        patch_embed.proj: {skipped['reason']}" in " ".join(shown.split("\n")[-8:])


def test_a_model_in_words() -> None:
    shown = succeed("info", "vit_small_patch16_224", "--rank=8", "--classes=5").out
    outs, ins = (12 * sum(shape[axis] for shape in VIT_SMALL.values()) for axis in (0, 1))
    assert f"feasible budgets  0 to {2 * 8 * (outs + ins) + ins + 2 * outs:,} adapter parameters" in shown
    assert f"BitFit {outs:,}, (IA)^3 {2 * outs:,}, SSF {3 * outs:,}, LoRA 1 {outs + ins:,}" in shown
    assert f"head: {384 * 5 + 5:,} parameters for 5 classes, apart" in shown
    assert "about 10^118 structures" in shown  # 288**48 = 1.1e118
    (row,) = [line for line in shown.splitlines() if line.startswith("blocks.*.mlp.fc1")]
    assert row.split()[:5] == ["blocks.*.mlp.fc1", "12", "384", "->", "1536"]
    assert f"rank-8 {8 * (1536 + 384):,}" in row


def test_what_is_asked_of_a_model_shows_in_its_description() -> None:
    found = json.loads(succeed("info", "test_vit", "--size=32", "--space=lora-3", "--layers=*.attn.*", "--json").out)
    assert found["input"] == 32
    assert len(found["layers"]) == 12
    assert found["smallest"] == found["largest"] == 6 * 3 * (192 + 64 + 64 + 64)
    assert found["structures"] == 1


def test_a_model_of_transformers_is_described_too() -> None:
    found = json.loads(succeed("info", hf_settings()["model"], "--json").out)
    assert len(found["layers"]) == 2 * 6
    assert found["largest"] == 2 * (4 * (8 * 32 + 3 * 16) + 2 * (8 * 48) + 16 + 32 + 2 * (32 + 16))


@pytest.mark.parametrize("folder", [finished, finished_hf])
def test_files_of_a_run_say_what_they_are(folder: Callable[[], Path]) -> None:
    run = json.loads(succeed("info", folder(), "--json").out)
    adapter = json.loads(succeed("info", folder() / "adapter.safetensors", "--json").out)
    supernet = json.loads(succeed("info", folder() / "supernet.safetensors", "--json").out)
    merged = json.loads(succeed("info", folder() / "merged.safetensors", "--json").out)
    assert run == adapter
    assert [found["kind"] for found in (adapter, supernet, merged)] == ["adapter", "supernet", "merged"]
    for found in (adapter, supernet, merged):
        assert found["classes"] == ["blue", "green", "red"]
        assert found["backbone"] == RunConfig.load(folder()).model
    assert adapter["parameters"] == adapter_numbers(folder() / "adapter.safetensors")
    assert adapter["structure"] == read_json(folder() / "structure.json")["best"]["structure"]


def test_an_adapter_in_words() -> None:
    shown = succeed("info", finished()).out
    best = read_json(finished() / "structure.json")["best"]
    assert "kind        adapter, written by glora " in shown
    assert "classes     3: blue, green, red" in shown
    assert "images      size 32, mean [" in shown
    assert f"parameters  {best['size']:,}" in shown
    for name, forms in best["structure"].items():
        (line,) = [line for line in shown.splitlines() if line.split()[:1] == [name]]
        assert all(form in line for form in forms.values())
    assert "weights" not in succeed("info", finished() / "supernet.safetensors").err


# report


@pytest.mark.parametrize(
    "missing", [(), ("merged", "metrics"), ("adapter", "structure", "search"), ("train", "search")]
)
def test_a_report_is_made_from_whatever_is_there(missing: tuple[str, ...], tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    (folder / "report.html").unlink()
    for name in missing:
        (path,) = folder.glob(f"{name}.*")
        path.unlink()
    done = succeed("report", folder, "--json")
    assert json.loads(done.out) == {"report": str(folder / "report.html")}
    assert done.err == ""
    assert "</html>" in (folder / "report.html").read_text("utf-8")


def test_a_run_that_has_only_begun_has_a_report_too(tmp_path: Path) -> None:
    shutil.copy(finished() / "config.yaml", tmp_path)
    done = succeed("report", tmp_path)
    assert fields_of(done.out) == {"report": str(tmp_path / "report.html")}
    assert "</html>" in (tmp_path / "report.html").read_text("utf-8")


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

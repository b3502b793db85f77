"""The pipeline: what each stage writes, with one seed, on presets, on folders of all kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from data.pictures import cut_short
from glora import Structure
from glora.checkpoint import read_metadata
from glora.config import RunConfig
from glora.data import ImageSamples, Preprocessing
from glora.errors import DataError
from glora.evaluate import predict_logits
from glora.run import Run
from glora.train import train_supernet
from oracles.brute_force import parameters
from small_run import (
    FILES,
    Told,
    adapter_numbers,
    backbone_of,
    bytes_of,
    complete,
    copy_of,
    finished,
    finished_hf,
    names_in,
    paint,
    paint_split,
    read_json,
    run_of,
    timm_settings,
)

pytestmark = pytest.mark.usefixtures("single_threaded")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# What there is in the end


def test_a_finished_folder_holds_every_file_of_the_design_and_nothing_temporary() -> None:
    baselines = {"baselines/linear-probe.safetensors", "baselines/uniform-LoRA-rank-1.safetensors"}
    assert names_in(finished()) == FILES | baselines | {"random.jsonl"}
    assert names_in(finished_hf()) == FILES


@pytest.mark.parametrize("folder", [finished, finished_hf])
def test_the_subnet_is_within_the_budget_and_as_large_as_its_file(folder: Callable[[], Path]) -> None:
    path = folder()
    chosen, config = read_json(path / "structure.json"), RunConfig.load(path)
    shapes = {row["name"]: row for row in chosen["layers"]}
    size = sum(
        parameters(tensor, form, shapes[name]["out"], shapes[name]["in"])
        for name, forms in chosen["best"]["structure"].items()
        for tensor, form in forms.items()
    )
    assert chosen["best"]["size"] == size == adapter_numbers(path / "adapter.safetensors") > 0
    assert size <= config.limit == chosen["budget"]
    values = read_metadata(path / "adapter.safetensors").values
    assert values["parameters"] == size
    assert Structure(values["structure"]) == Structure(chosen["best"]["structure"])
    assert read_json(path / "metrics.json")["table"][-1]["parameters"] == size


@pytest.mark.parametrize("folder", [finished, finished_hf])
def test_the_best_structure_and_the_front_are_those_of_the_search(folder: Callable[[], Path]) -> None:
    chosen, (_, *found) = read_json(folder() / "structure.json"), lines(folder() / "search.jsonl")
    assert len(found) == 24
    assert all(one["size"] <= chosen["budget"] for one in found)
    assert chosen["best"] == min(found, key=lambda one: (-one["accuracy"], one["loss"], one["size"]))
    assert all(one in found for one in chosen["front"])
    accuracies = [one["accuracy"] for one in chosen["front"]]
    assert accuracies == sorted(set(accuracies))
    assert accuracies[-1] == chosen["best"]["accuracy"] == max(one["accuracy"] for one in found)
    assert chosen["range"] == [0, sum(row_largest(row) for row in chosen["layers"])]


def row_largest(row: dict[str, Any]) -> int:
    """A and B of rank 2, C, D and E vectors: the most that the default space has for a layer with a bias."""
    assert row["bias"]
    return 2 * 2 * (row["out"] + row["in"]) + row["in"] + 2 * row["out"]


def test_the_search_scores_the_inherited_weights_on_the_validation_images(tmp_path: Path) -> None:
    run = Run(RunConfig.load(copy_of(finished(), tmp_path)), Told())
    best = run.search().winner
    with run.net.using(best.structure):
        logits = predict_logits(run.net, run.data.val)
    assert best.score.accuracy == (logits.argmax(1) == run.data.val.labels).double().mean().item()
    assert best.score.samples == len(run.data.val) == 12


def test_it_learns_the_colours() -> None:
    table = read_json(finished() / "metrics.json")["table"]
    assert len(table) == 6
    # chance is a third; random subnets vary
    assert all(row["val_accuracy"] > 0.6 and row["test_accuracy"] > 0.6 for row in table)
    assert all(row["test_accuracy"] > 0.9 for row in table if "searched" in row["method"])


def test_the_folder_records_what_the_run_was_made_of() -> None:
    found = read_json(finished() / "metrics.json")
    assert {part: found["data"][part] for part in ("train", "val", "test")} == {"train": 36, "val": 12, "test": 12}
    assert found["data"]["classes"] == ["blue", "green", "red"]
    assert found["data"]["skipped"] == 0
    assert (found["backbone"], found["seed"], found["tested"]) == ("test_vit", 0, True)
    assert found["head_size"] == 64 * 3 + 3
    assert found["command"].startswith("glora run --data=")
    assert found["versions"]["torch"] == version("torch")
    stages = {"supernet", "search", "fine-tuning", "linear probe", "uniform LoRA, rank 1", "random search"}
    assert set(found["seconds"]) == stages


def test_the_training_leaves_a_line_for_each_epoch() -> None:
    found = lines(finished() / "train.jsonl")
    assert [(row["epoch"], row["step"]) for row in found] == [(epoch, 3 * epoch) for epoch in range(1, 6)]
    assert all(set(row["probes"]) == {"smallest", "largest", "random-0", "random-1"} for row in found)
    assert found[-1]["loss"] < found[0]["loss"]


def test_training_images_are_augmented_where_it_is_asked_and_all_trainings_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, str]] = []

    def note(samples: ImageSamples, indices: Tensor, augment: str, numbers: list[int]) -> Tensor:
        seen.append((len(samples), augment))
        return samples.inputs(indices)

    monkeypatch.setattr(ImageSamples, "augmented", note)
    run = complete(timm_settings(epochs=1, finetune_epochs=1, augment="crop", random_subnets=1), tmp_path / "run")
    # 36 images in 3 steps: of the supernet, the fine-tuning, and twice as long of two baselines
    assert seen == [(36, "crop")] * (3 + 3 + 2 * 6)
    assert RunConfig.load(run.folder).augment == "crop"
    assert RunConfig.load(finished()).augment == "none"


def test_what_travels_in_the_adapter_is_enough_to_use_it_alone() -> None:
    values = read_metadata(finished() / "adapter.safetensors").values
    config = RunConfig.load(finished())
    assert values["classes"] == ["blue", "green", "red"]
    assert values["backbone"] == "test_vit"
    assert values["backbone_arguments"] == {"size": 32, "checkpoint": config.checkpoint}
    assert Preprocessing.from_dict(values["preprocessing"]).size == 32
    assert "*" in values["fingerprint"]


def test_the_merged_file_says_as_much_as_the_adapter_does() -> None:
    # design.md: "the plain model's state dict, same metadata"
    merged = read_metadata(finished() / "merged.safetensors").values
    adapter = read_metadata(finished() / "adapter.safetensors").values
    for key in ("version", "backbone", "classes", "preprocessing", "structure"):
        assert merged.get(key) == adapter[key], key
    assert merged["verification"]["same_predictions"] is True


def test_fine_tuning_keeps_the_structure_and_moves_the_weights(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    (folder / "adapter.safetensors").rename(tmp_path / "tuned.safetensors")
    (folder / "config.yaml").write_text(
        yaml.safe_dump(yaml.safe_load((folder / "config.yaml").read_text()) | {"finetune_epochs": 0})
    )
    run = Run(RunConfig.load(folder), Told())
    run.tune()
    tuned, inherited = load_file(tmp_path / "tuned.safetensors"), load_file(folder / "adapter.safetensors")
    assert tuned.keys() == inherited.keys()
    assert all(tuned[key].shape == inherited[key].shape for key in tuned)
    moved = [key for key in tuned if not torch.equal(tuned[key], inherited[key])]
    assert len(moved) == len(tuned)
    with run.net.using(run.search().best):
        wanted = predict_logits(run.net, run.data.val)
    assert torch.equal(wanted, predict_logits(run.tune(), run.data.val))


def test_fine_tuning_has_a_rate_of_its_own(tmp_path: Path) -> None:
    def tuned(name: str, **changes: object) -> Run:
        folder = copy_of(finished(), tmp_path / name)
        (folder / "adapter.safetensors").unlink()
        before = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(before | changes))
        run = Run(RunConfig.load(folder), Told())
        run.tune()
        return run

    net = tuned("inherited", finetune_epochs=0).tune()
    run = tuned("faster", finetune_lr=7e-3)
    settings = run.config.train_settings(2)
    train_supernet(net, run.data.train, settings=replace(settings, lr=7e-3))
    found = run.tune().adapter_parameters()
    assert all(p.equal(found[name]) for name, p in net.adapter_parameters().items())
    usual = tuned("usual").tune().adapter_parameters()
    assert not all(p.equal(usual[name]) for name, p in net.adapter_parameters().items())


# One seed, one result


def test_two_runs_with_one_seed_agree_to_the_bit_and_another_seed_differs(tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    complete(timm_settings(finetune_epochs=2), again)
    complete(timm_settings(finetune_epochs=2, seed=1), other)
    names = ("adapter.safetensors", "merged.safetensors", "supernet.safetensors", "search.jsonl", "structure.json")
    names += ("train.jsonl", "baselines/linear-probe.safetensors", "baselines/uniform-LoRA-rank-1.safetensors")
    assert bytes_of(again, *names) == bytes_of(finished(), *names)
    for name in ("adapter.safetensors", "supernet.safetensors", "search.jsonl", "train.jsonl"):
        assert (other / name).read_bytes() != (finished() / name).read_bytes()
    figures = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_json(folder / "metrics.json")["table"]]
        for folder in (again, finished())
    ]
    assert figures[0] == figures[1]
    assert read_json(other / "metrics.json")["data"]["digest"] != read_json(again / "metrics.json")["data"]["digest"]


# Presets


@pytest.mark.parametrize(
    ("space", "forms", "size"),
    [
        ("lora-4", {"B": "rank-4"}, 6 * 4 * (192 + 64 + 64 + 64 + 192 + 64 + 64 + 192)),
        ("ssf", {"A": "vector", "D": "vector", "E": "vector"}, 6 * 3 * (192 + 64 + 192 + 64)),
    ],
)
def test_a_preset_is_trained_alone_and_not_searched(
    space: str, forms: dict[str, str], size: int, tmp_path: Path
) -> None:
    complete(timm_settings(space=space, budget=None), tmp_path)
    chosen = read_json(tmp_path / "structure.json")["best"]
    assert len(chosen["structure"]) == 24
    assert all(layer == forms for layer in chosen["structure"].values())
    assert len(lines(tmp_path / "search.jsonl")) == 2
    assert chosen["size"] == size == adapter_numbers(tmp_path / "adapter.safetensors")
    (row,) = read_json(tmp_path / "metrics.json")["table"]
    assert (row["method"], row["parameters"], row["note"]) == (
        f"fixed structure {space}",
        size,
        "trained alone for 5 epochs",
    )
    assert row["test_accuracy"] > 0.8
    assert names_in(tmp_path) == FILES
    supernet = load_file(tmp_path / "supernet.safetensors")
    assert sum(t.numel() for key, t in supernet.items() if not key.startswith("head.")) == size


def test_a_frozen_backbone_goes_the_whole_way_too(tmp_path: Path) -> None:
    complete(timm_settings(space="frozen"), tmp_path)
    assert names_in(tmp_path) == FILES
    assert adapter_numbers(tmp_path / "adapter.safetensors") == 0
    backbone = backbone_of(RunConfig.load(tmp_path)).state_dict()
    merged = load_file(tmp_path / "merged.safetensors")
    assert all(torch.equal(merged[key], value) for key, value in backbone.items() if not key.startswith("head."))
    assert merged["head.weight"].any()


# Data


def test_a_folder_with_splits_is_used_as_it_is(tmp_path: Path) -> None:
    run = complete(timm_settings(data=str(paint_split(tmp_path / "data"))), tmp_path / "run")
    found = run.metrics.values["data"]
    assert (found["train"], found["val"], found["test"]) == (36, 12, 12)
    assert found["layout"] == "DIR/{train,val,test}/<class>/*"


def test_without_test_images_the_table_has_no_test_figures(tmp_path: Path) -> None:
    run = complete(timm_settings(data=str(paint_split(tmp_path / "data", ("train", "val")))), tmp_path / "run")
    assert len(run.metrics.values["table"]) == 5
    assert all(row["test_accuracy"] is None for row in run.metrics.values["table"])
    assert not run.metrics.tested


def test_bad_images_are_skipped_if_that_is_wanted_and_counted(tmp_path: Path) -> None:
    data = paint(tmp_path / "data", dict.fromkeys(("blue", "green", "red"), 25))
    cut_short(data / "red" / "zz.jpg")
    (data / "red" / "text.png").write_text("no image")
    settings = timm_settings(data=str(data), epochs=1)
    with pytest.raises(DataError, match=r"red.text.png: is no image that can be read .*--skip-bad"):
        run_of(settings, tmp_path / "run")
    told = Told()
    run = run_of({**settings, "skip_bad": True}, tmp_path / "run", told)
    counted = 1 + (run.data.train.labels.bincount()[2] + run.data.val.labels.bincount()[2] + 5 == 25)
    assert told.said == [f"data: {counted} bad files skipped, the first is {data / 'red' / 'text.png'}"]
    assert run.data.test is not None
    assert len(run.data.skipped) == 2

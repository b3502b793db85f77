"""The pipeline: what each stage writes, going on after a stop, and what a run folder refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import glora.data.samples
from data.pictures import cut_short
from glora import Structure
from glora.backbones import load_backbone
from glora.checkpoint import load, read_metadata, save_merged
from glora.config import RunConfig
from glora.data import Preprocessing, open_data
from glora.errors import BackboneError, BudgetError, CheckpointError, ConfigError, DataError, GloraError, MergeError
from glora.evaluate import predict_logits
from glora.model import GLoRAModel
from glora.run import Run
from oracles.brute_force import parameters
from small_run import (
    FILES,
    Told,
    adapter_numbers,
    checkpoint_modules,
    complete,
    copy_of,
    finished,
    finished_hf,
    hf_settings,
    names_in,
    paint,
    paint_split,
    read_json,
    run_of,
    same_tensors,
    spawn,
    succeed,
    timm_settings,
    write_weights,
)

pytestmark = pytest.mark.usefixtures("single_threaded")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def bytes_of(folder: Path, *names: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names]


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


# Going on


def checkpoint_always(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in checkpoint_modules():
        monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)


class Stopped(Exception):
    """Stands for a kill between two steps."""


def stopping(label: str, done: int) -> Told:
    def on_bar(at: str, now: int) -> None:
        if (at, now) == (label, done):
            raise Stopped

    return Told(on_bar)


@pytest.mark.parametrize(
    ("label", "done"),
    [
        *(("supernet", epoch) for epoch in (1, 3, 5)),
        *(("search", candidate) for candidate in (1, 8, 13, 24)),
        *(("fine-tuning", epoch) for epoch in (1, 2)),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_files(
    label: str, done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_always(monkeypatch)
    settings = timm_settings(finetune_epochs=2)
    with pytest.raises(Stopped):
        run_of(settings, tmp_path, stopping(label, done)).merge()
    assert not (tmp_path / "adapter.safetensors").exists()
    told = Told()
    run_of(settings, tmp_path, told).merge()
    assert told.bars == {"supernet": ["supernet", "search", "fine-tuning"]}.get(label, ["search", "fine-tuning"])
    names = ("adapter.safetensors", "merged.safetensors", "supernet.safetensors", "search.jsonl", "structure.json")
    assert bytes_of(tmp_path, *names) == bytes_of(finished(), *names)
    assert names_in(tmp_path) == FILES - {"correct.json", "report.html"}


def test_nothing_is_trained_twice_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint_always(monkeypatch)
    with pytest.raises(Stopped):
        run_of(timm_settings(), tmp_path, stopping("supernet", 4)).train()
    assert {"state.safetensors", "train.jsonl"} <= names_in(tmp_path)
    assert "supernet.safetensors" not in names_in(tmp_path)
    steps: list[None] = []
    original = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda *args, **named: steps.append(None) or original(*args, **named)
    )
    run_of(timm_settings(), tmp_path).train()
    assert len(steps) == 3  # of the fifth and last epoch
    assert not (tmp_path / "state.safetensors").exists()
    run_of(timm_settings(), tmp_path).train()
    assert len(steps) == 3


def test_a_finished_run_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of(finished(), tmp_path)
    before = {name: (folder / name).read_bytes() for name in FILES - {"config.yaml", "metrics.json", "report.html"}}
    monkeypatch.setattr("glora.run.train_supernet", lambda *args, **kwargs: pytest.fail("trained again"))
    monkeypatch.setattr("glora.find.Evaluator.score", lambda *args: pytest.fail("evaluated again"))
    run = Run(RunConfig.load(folder), Told())
    run.merge()
    run.report()
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_a_mended_setting_is_taken_while_nothing_has_been_done(tmp_path: Path) -> None:
    with pytest.raises(GloraError, match=r"the loss of epoch \d+ is nan: lower lr"):
        run_of(timm_settings(lr=1e18), tmp_path).train()
    run_of(timm_settings(lr=1e-2, epochs=1), tmp_path).train()
    assert (tmp_path / "supernet.safetensors").is_file()


# What is refused


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 0.02), ("budget", 2000), ("space", "paper"), ("population", 9), ("seed", 3), ("baselines", "none")],
)
def test_a_folder_with_another_setting_is_refused_by_name(name: str, value: Any) -> None:
    settings = timm_settings(finetune_epochs=2)
    was = {**settings, "space": "default", "seed": 0, "baselines": "probe+lora"}[name]
    message = f"holds a run with {name}={was}, now it is {value}: give the same settings"
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_of({**settings, name: value}, finished())


@pytest.mark.parametrize(
    "change",
    [
        lambda data: (data / "red" / "07.png").unlink(),
        lambda data: (data / "red" / "07.png").rename(data / "blue" / "99.png"),
        lambda data: (data / "red" / "07.png").rename(data / "red" / "renamed.png"),
        lambda data: paint(data, {"violet": 5}),
    ],
)
def test_data_that_changed_since_are_refused(tmp_path: Path, change: Callable[[Path], object]) -> None:
    settings = timm_settings(data=str(paint(tmp_path / "data")), epochs=1)
    run_of(settings, tmp_path / "run").train()
    before = names_in(tmp_path / "run")
    run_of(settings, tmp_path / "run")
    change(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"holds a run on other images of .*data .*put them back, or start anew"):
        run_of(settings, tmp_path / "run")
    assert names_in(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"space": "lora-4", "budget": 100},
            BudgetError,
            r"100 adapter parameters or fewer: feasible budgets are 21,504",
        ),
        ({"model": "test_vitt"}, BackboneError, "unknown backbone 'test_vitt': did you mean test_vit"),
        ({"checkpoint": "nowhere.safetensors"}, BackboneError, "no such checkpoint file: nowhere.safetensors"),
        ({"layers": "block.*"}, GloraError, r"layers='block\.\*' matches no layer .* near misses: blocks\."),
        ({"size": 40}, BackboneError, "test_vit takes sizes divisible by 16, not 40"),
        ({"drop_path": 1.0}, BackboneError, "drop_path must be at least 0 and below 1, not 1.0"),
        ({"val_fraction": 0.9}, DataError, "val_fraction 0.9 and test_fraction 0.2"),
        ({"data": "nowhere"}, DataError, "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_is_found_before_any_image_is_decoded(
    settings: dict[str, Any], error: type[GloraError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glora.data.samples, "decode_images", lambda *args: pytest.fail("an image was decoded"))
    with pytest.raises(error, match=message):
        run_of(timm_settings(**settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_supernet_of_other_weights_is_refused(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "weights.safetensors")
    settings = timm_settings(checkpoint=str(weights), epochs=1)
    run_of(settings, tmp_path / "run").train()
    write_weights(weights, seed=1)
    with pytest.raises(GloraError, match=r"supernet.safetensors was trained on another backbone \(test_vit\)"):
        run_of(settings, tmp_path / "run").train()


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


def backbone_of(config: RunConfig) -> torch.nn.Module:
    return load_backbone(config.model, num_classes=3, size=config.size, checkpoint=config.checkpoint).model


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


# Merging


LOADERS = {
    "timm": """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "glora":
            raise ImportError("glora is not to be had here")
sys.meta_path.insert(0, Blocked())
import timm, torch
from safetensors.torch import load_file, save_file
merged, inputs, out = sys.argv[1:]
model = timm.create_model("test_vit", img_size=32, num_classes=3)
result = model.load_state_dict(load_file(merged), strict=True)
with torch.no_grad():
    save_file({"logits": model.eval()(load_file(inputs)["inputs"])}, out)
print(json.dumps({"type": type(model).__name__, "keys": list(model.state_dict()), "glora": "glora" in sys.modules}))
""",
    "transformers": """
import json, shutil, sys
from pathlib import Path
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "glora":
            raise ImportError("glora is not to be had here")
sys.meta_path.insert(0, Blocked())
import torch, transformers
from safetensors.torch import load_file, save_file
merged, inputs, out, folder = sys.argv[1:]
# The folder as a user would make it: the model's own config with three labels, and the merged file as its weights.
(Path(out).parent / "plain").mkdir()
shutil.copy(Path(folder) / "config.json", Path(out).parent / "plain")
shutil.copy(merged, Path(out).parent / "plain" / "model.safetensors")
model, info = transformers.ViTForImageClassification.from_pretrained(
    Path(out).parent / "plain", num_labels=3, output_loading_info=True
)
assert not any(info.values()), info
with torch.no_grad():
    save_file({"logits": model.eval()(load_file(inputs)["inputs"]).logits}, out)
print(json.dumps({"type": type(model).__name__, "keys": list(model.state_dict()), "glora": "glora" in sys.modules}))
""",
}


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_the_merged_file_is_a_plain_model_of_its_library_alone(
    library: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    folder = finished() if library == "timm" else finished_hf()
    config = RunConfig.load(folder)
    plain = backbone_of(config)
    keys = list(plain.state_dict())
    net = load(plain, folder / "adapter.safetensors")
    images = open_data(config.data, Preprocessing.from_dict(adapter_preprocessing(folder))).val
    inputs = images.inputs(torch.arange(len(images)))
    save_file({"inputs": inputs}, tmp_path / "inputs.safetensors")
    arguments = [folder / "merged.safetensors", tmp_path / "inputs.safetensors", tmp_path / "logits.safetensors"]
    arguments += [config.model.removeprefix("hf:")] if library == "transformers" else []
    done = spawn(environment, *arguments, program=LOADERS[library])
    assert done.code == 0, done.err
    found = json.loads(done.out)
    kind = {"timm": "VisionTransformer", "transformers": "ViTForImageClassification"}[library]
    assert found == {"type": kind, "keys": keys, "glora": False}
    merged = load_file(folder / "merged.safetensors")
    assert sorted(merged) == sorted(keys)
    assert not [key for key in merged if any(word in key for word in ("glora", "support", "original"))]
    logits, wanted = load_file(tmp_path / "logits.safetensors")["logits"], predict_logits(net, images)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)
    assert wanted.abs().max() > 0.05
    frozen = backbone_of(config).state_dict()
    changed = {key for key, value in frozen.items() if not torch.equal(merged[key], value)}
    assert len(changed) > len(heads := {key for key in keys if key.startswith(("head.", "classifier."))}) == 2
    assert heads < changed


def adapter_preprocessing(folder: Path) -> dict[str, Any]:
    return read_metadata(folder / "adapter.safetensors").values["preprocessing"]


def corrupted(merge: Callable[..., torch.nn.Module], value: float) -> Callable[..., torch.nn.Module]:
    def wrong(self: GLoRAModel, *args: Any, **kwargs: Any) -> torch.nn.Module:
        plain = merge(self, *args, **kwargs)
        with torch.no_grad():
            plain.get_parameter("blocks.3.mlp.fc1.weight")[5, 7] += value
        return plain

    return wrong


@pytest.mark.parametrize("value", [3.0, float("nan"), float("inf")])
def test_a_wrong_merge_is_not_written(value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of(finished(), tmp_path)
    (folder / "merged.safetensors").unlink()
    monkeypatch.setattr(GLoRAModel, "merge", corrupted(GLoRAModel.merge, value))
    with pytest.raises(MergeError, match=r"the merged model's logits differ .* nothing was written"):
        Run(RunConfig.load(folder), Told()).merge()
    assert "merged.safetensors" not in names_in(folder)
    assert not [name for name in names_in(folder) if name.endswith(".tmp")]


def test_a_weight_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    model = load_backbone("test_vit", num_classes=3, size=32, pretrained=False).model
    model.norm.bias.data[0] = torch.inf
    with pytest.raises(CheckpointError, match=r"norm.bias is not finite: nothing was written to .*x.safetensors"):
        save_merged(model, tmp_path / "x.safetensors")
    assert not names_in(tmp_path)


def test_the_merged_file_of_a_run_equals_a_merge_of_its_adapter(tmp_path: Path) -> None:
    succeed("merge", finished() / "adapter.safetensors", "--out", tmp_path / "merged.safetensors")
    assert same_tensors(tmp_path / "merged.safetensors", finished() / "merged.safetensors")


def test_a_model_of_transformers_without_stochastic_depth_needs_no_setting(tmp_path: Path) -> None:
    settings = hf_settings()
    del settings["drop_path"]
    assert run_of(settings, tmp_path / "run").config.drop_path is None
    with pytest.raises(BackboneError, match="has no stochastic depth: leave drop_path at 0"):
        run_of(settings | {"drop_path": 0.1}, tmp_path / "other")

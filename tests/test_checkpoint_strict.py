"""Adapter files that do not fit: refused by name, and the model as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import glora
from adapter_files import X, parts, refused, rewrite, trained
from glora import LayerStructure, SearchSpace, Structure
from glora.checkpoint import save_merged, save_supernet
from glora.errors import CheckpointError
from helpers import MLP, some_structure


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "adapter.safetensors"
    structure = Structure(
        {
            "first": LayerStructure(A="rank-2", B="vector", C="rank-2", D="scalar", E="vector"),
            "second": LayerStructure(A="scalar", B="rank-1"),
        }
    )
    trained(structure).save(path)
    return path


Change = Callable[[dict, dict[str, torch.Tensor]], None]


def _set(key: str, value: object) -> Change:
    return lambda metadata, tensors: metadata.__setitem__(key, value)


def _pop(key: str) -> Change:
    return lambda metadata, tensors: tensors.pop(key)


def _drop(key: str) -> Change:
    return lambda metadata, tensors: metadata.pop(key)


def _put(key: str, value: Callable[[dict[str, torch.Tensor]], torch.Tensor]) -> Change:
    return lambda metadata, tensors: tensors.__setitem__(key, value(tensors))


def _rename(metadata: dict, tensors: dict[str, torch.Tensor]) -> None:
    tensors["layers.first.F"] = tensors.pop("layers.first.E")


CHANGES: dict[str, tuple[Change, str]] = {
    "missing": (_pop("layers.first.A_up"), r"lacks 1 tensors, the first is layers\.first\.A_up"),
    "missing-head": (_pop("head.out.bias"), r"lacks 1 tensors, the first is head\.out\.bias"),
    "extra": (_put("layers.first.X", lambda t: torch.zeros(2)), r"1 tensors that do not belong here.*layers\.first\.X"),
    "foreign": (_put("base.lora_A", lambda t: torch.zeros(2)), r"do not belong here, the first is base\.lora_A"),
    "renamed": (_rename, r"lacks 1 tensors, the first is layers\.first\.E"),
    "wider": (_put("layers.first.E", lambda t: torch.zeros(9)), r"layers\.first\.E is \[9\], expected \[8\]"),
    "transposed": (
        _put("layers.first.A", lambda t: t["layers.first.A"].t().contiguous()),
        r"layers\.first\.A is \[2, 8\]",
    ),
    "classes": (_put("head.out.bias", lambda t: torch.zeros(5)), r"head\.out\.bias is \[5\].*number of classes"),
    "integer": (
        _put("layers.first.E", lambda t: torch.zeros(8, dtype=torch.int32)),
        r"layers\.first\.E is torch\.int32",
    ),
    "nan": (_put("layers.first.E", lambda t: t["layers.first.E"] * torch.nan), r"layers\.first\.E is not finite"),
    "infinite-head": (_put("head.out.bias", lambda t: t["head.out.bias"] / 0), r"head\.out\.bias is not finite"),
    "format": (_set("format", 99), r"has format 99; this version of glora reads format 1"),
    "format-text": (_set("format", "1"), r"has format 1; this version"),
    "kind": (_set("kind", "merged"), r"is a file of kind 'merged', and one of kind 'adapter' is needed"),
    "no-fingerprint": (_drop("fingerprint"), r"has no fingerprint"),
    "no-structure": (_drop("structure"), r"is incomplete: its metadata lacks 'structure'"),
    "no-gains": (_drop("gains"), r"is incomplete: its metadata lacks 'gains'"),
    "no-head": (_drop("head"), r"is incomplete: its metadata lacks 'head'"),
    "structure-list": (_set("structure", [1]), r"does not fit this model"),
    "structure-form": (_set("structure", {"first": {"E": "rank-2"}}), r"does not fit this model: support tensor E"),
    "structure-layer": (_set("structure", {"third": {"E": "vector"}}), r"does not fit this model: .*'third'"),
    "structure-head": (_set("structure", {"out": {"E": "vector"}}), r"'out' cannot be adapted: the head"),
    "structure-smaller": (
        _set("structure", {"first": {"E": "vector"}}),
        r"gains are given for 'second'",
    ),
    "gains-text": (_set("gains", {"first": {"E.vector": "1"}}), r"does not fit this model: the gain of E\.vector"),
    "gains-list": (_set("gains", {"first": [1]}), r"does not fit this model"),
    "gains-empty": (_set("gains", {}), r"gains of another structure"),
    "head-unknown": (_set("head", ["nope"]), r"the model has no module 'nope'"),
    "head-none": (_set("head", []), r"differs in its frozen weights outside the adapted layers"),
    "bias": (_set("bias", "drop"), r"bias is 'create' or 'keep'"),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_whatever_does_not_fit_is_refused_by_name_and_leaves_the_model_untouched(file: Path, name: str) -> None:
    change, match = CHANGES[name]
    metadata, tensors = parts(file)
    change(metadata, tensors)
    rewrite(file, metadata, tensors)
    refused(file, match)


def test_the_unchanged_file_passes_the_same_rewriting(file: Path) -> None:
    rewrite(file, *parts(file))
    assert glora.load(MLP(), file).active


def test_d_of_a_layer_without_bias_is_refused_and_the_model_ejected(file: Path) -> None:
    model = MLP()
    model.first = nn.Linear(6, 8, bias=False)
    refused(file, "does not fit this model: .*D=scalar", model)


@pytest.mark.parametrize("key", ["first.weight", "first.bias", "second.weight"])
def test_a_changed_frozen_weight_names_its_layer(file: Path, key: str) -> None:
    model = MLP()
    with torch.no_grad():
        model.get_parameter(key).view(-1)[0] += 1e-3
    refused(file, f"was trained on another backbone, which differs in layer '{key.split('.')[0]}'", model)


def test_changes_outside_the_adapted_layers_are_noticed_too(tmp_path: Path) -> None:
    net = glora.adapt(MLP(), SearchSpace(2), "first")
    net.activate(some_structure(net))
    glora.checkpoint.save(net, tmp_path / "a.safetensors", extra={"backbone": "tiny"})
    model = MLP()
    with torch.no_grad():
        model.second.bias[1] += 1e-3
    refused(
        tmp_path / "a.safetensors", r"another backbone \(tiny\), which differs in its frozen weights outside", model
    )


def test_a_head_that_differs_is_no_other_backbone(file: Path) -> None:
    model = MLP()
    nn.init.zeros_(model.out.weight)
    assert glora.load(model, file).model.out.weight.any()


def test_another_number_of_classes_says_so(file: Path) -> None:
    refused(file, r"head\.out\.(weight|bias) is .*create the model with the number of classes", MLP(classes=7))


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, -1])
def test_truncated_files(file: Path, keep: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    refused(file, "is damaged or no safetensors file")


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}, {"glora": "no json"}, {"glora": "[]"}, {"glora": "{}"}):
        save_file({"a": torch.zeros(2)}, path, metadata)
        refused(path, "was not written by glora")
    path.write_bytes(b"\x80\x02}q\x00.")
    refused(path, "is damaged or no safetensors file")
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path, "no such file")


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    net = trained()
    path = tmp_path / "a.safetensors"
    net.save(path)
    before = path.read_bytes()
    with torch.no_grad():
        net.model.out.bias[0] = float("inf")
    for write in (net.save, lambda p: save_supernet(net, p), lambda p: save_merged(net.merge(), p)):
        with pytest.raises(CheckpointError, match=r"out\.bias is not finite: nothing was written"):
            write(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_loading_on_an_adapted_model_is_refused(file: Path) -> None:
    net = glora.adapt(MLP())
    with pytest.raises(CheckpointError, match="adapted already"):
        glora.load(net.model, file)
    assert net(X) is not None

"""Supernet and merged files: complete, strict both ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import glora
from adapter_files import X, parts, rewrite, trained, untouched
from glora import SearchSpace
from glora.checkpoint import load_merged, load_supernet, read_metadata, save_merged, save_supernet
from glora.errors import CheckpointError
from helpers import MLP, randomise, some_structure

# Supernets


def test_a_supernet_is_restored_in_full(tmp_path: Path) -> None:
    net = trained()
    save_supernet(net, tmp_path / "s.safetensors", {"step": 7})
    other = glora.adapt(MLP(), SearchSpace.paper(2), seed=5)
    assert load_supernet(other, tmp_path / "s.safetensors")["step"] == 7
    for name, parameter in net.adapter_parameters().items():
        assert other.adapter_parameters()[name].equal(parameter)
    for seed in range(5):
        structure = some_structure(net, seed)
        with net.using(structure), other.using(structure):
            assert other(X).equal(net(X))
    metadata, tensors = parts(tmp_path / "s.safetensors")
    assert len(tensors) == len(net.adapter_parameters()) + 2
    assert metadata["space"] == net.space.to_dict()


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda: glora.adapt(MLP(), SearchSpace(2)), "a supernet with another space"),
        (lambda: glora.adapt(MLP(), SearchSpace.paper(2), "first"), "a supernet with another layers"),
        (lambda: glora.adapt(MLP(), SearchSpace.paper(2), gains="paper"), "a supernet with another gains"),
        (lambda: glora.adapt(MLP(), SearchSpace.paper(2), storage="separate"), "a supernet with another storage"),
        (lambda: glora.adapt(MLP(classes=5), SearchSpace.paper(2)), r"head\.out\.(weight|bias) is "),
        (lambda: glora.adapt(MLP(), SearchSpace.paper(2), head=False), "another layers"),
    ],
)
def test_a_supernet_of_other_settings_is_refused(tmp_path: Path, other: Callable, match: str) -> None:
    save_supernet(trained(), tmp_path / "s.safetensors")
    net = other()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with pytest.raises(CheckpointError, match=match):
        load_supernet(net, tmp_path / "s.safetensors")
    assert all(p.equal(before[name]) for name, p in net.named_parameters())


def test_a_supernet_that_names_no_storage_has_a_shared_one(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    net = glora.adapt(MLP(), SearchSpace.paper(2))
    randomise(net)
    save_supernet(net, path)
    metadata, tensors = parts(path)
    del metadata["storage"]
    rewrite(path, metadata, tensors)
    other = glora.adapt(MLP(), SearchSpace.paper(2))
    load_supernet(other, path)
    assert all(p.equal(other.adapter_parameters()[name]) for name, p in net.adapter_parameters().items())
    with pytest.raises(CheckpointError, match="another storage"):
        load_supernet(glora.adapt(MLP(), SearchSpace.paper(2), storage="separate"), path)


def test_a_supernet_of_another_backbone_is_refused(tmp_path: Path) -> None:
    save_supernet(trained(), tmp_path / "s.safetensors")
    model = MLP()
    with torch.no_grad():
        model.second.bias[0] += 1e-3
    with pytest.raises(CheckpointError, match="differs in layer 'second'"):
        load_supernet(glora.adapt(model, SearchSpace.paper(2)), tmp_path / "s.safetensors")


# Merged files


@pytest.mark.parametrize("bias", [True, False])
def test_merged_files_load_into_plain_models(tmp_path: Path, bias: bool) -> None:
    for seed in range(8):
        net = trained(bias=bias, seed=seed)
        plain = net.merge()
        save_merged(plain, tmp_path / "m.safetensors", {"classes": ["a"]})
        assert read_metadata(tmp_path / "m.safetensors").values["classes"] == ["a"]
        other = load_merged(MLP(bias, seed=1), tmp_path / "m.safetensors")
        assert other(X).equal(plain(X))
        # Without this package, too, where no bias was created.
        if bias:
            bare = MLP(seed=2)
            bare.load_state_dict(load_file(tmp_path / "m.safetensors"))
            assert bare(X).equal(plain(X))


def test_merged_files_are_strict_too(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_merged(MLP(), path)
    metadata, tensors = parts(path)
    for change, match in (
        (lambda t: t.pop("first.bias"), r"lacks 1 tensors, the first is first\.bias"),
        (lambda t: t.update({"third.bias": torch.zeros(2)}), r"do not belong here, the first is third\.bias"),
        (lambda t: t.update({"out.bias": torch.zeros(2)}), r"out\.bias is \[2\], expected \[4\]"),
        (lambda t: t.update({"out.bias": torch.full((4,), torch.nan)}), r"out\.bias is not finite"),
    ):
        changed = dict(tensors)
        change(changed)
        rewrite(path, metadata, changed)
        model = MLP(seed=1)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=match):
            load_merged(model, path)
        assert untouched(model, before)
    trained().save(path)
    with pytest.raises(CheckpointError, match="one of kind 'merged' is needed"):
        load_merged(MLP(), path)


def test_a_merged_model_with_one_module_under_two_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model.append(model[0])
    save_merged(model, tmp_path / "m.safetensors")
    other = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    other.append(other[0])
    assert load_merged(other, tmp_path / "m.safetensors")(X).equal(model(X))

"""Files of peers: complete, strict, bound to the backbone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from made_peers import made
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from vits import X, fill, vit

import glora
from glora import presets
from glora.checkpoint import read_metadata
from glora.errors import CheckpointError
from glora.peers import PEERS, load_peer
from helpers import MLP


@pytest.mark.parametrize("kind", ["dinov2", "distilled"])
@pytest.mark.parametrize("name", PEERS)
def test_a_file_gives_the_peer_back(name: str, kind: str, tmp_path: Path) -> None:
    net = made(name, kind)
    fill(net)
    net.save(tmp_path / "peer.safetensors", {"classes": ["a", "b"]})
    again = load_peer(vit(kind), tmp_path / "peer.safetensors")
    assert again(X).equal(net(X))
    assert (again.name, again.settings, again.size) == (net.name, net.settings, net.size)
    metadata = read_metadata(tmp_path / "peer.safetensors")
    assert metadata.kind == "peer"
    assert metadata.values["classes"] == ["a", "b"]
    numbers = sum(t.numel() for t in load_file(tmp_path / "peer.safetensors").values())
    assert numbers == metadata.values["parameters"] + net.head_size == net.size + net.head_size


@pytest.mark.parametrize("name", [name for name in PEERS if name != "full"])
def test_a_file_on_other_weights_is_refused(name: str, tmp_path: Path) -> None:
    made(name).save(tmp_path / "peer.safetensors")
    with pytest.raises(CheckpointError, match="was trained on another backbone"):
        load_peer(vit(seed=1), tmp_path / "peer.safetensors")


def test_a_file_with_a_tensor_too_few_or_too_many_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "peer.safetensors"
    made("adaptformer").save(path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    key = "own.blocks.0.parallel.up.bias"
    save_file({k: v for k, v in tensors.items() if k != key}, path, metadata)
    with pytest.raises(CheckpointError, match=f"lacks 1 tensors, the first is {re.escape(key)}"):
        load_peer(vit(), path)
    save_file({**tensors, "own.other": torch.zeros(1)}, path, metadata)
    with pytest.raises(CheckpointError, match=r"has 1 tensors that do not belong here, the first is own\.other"):
        load_peer(vit(), path)


@pytest.mark.parametrize("missing", ["method", "settings", "head"])
def test_a_file_that_does_not_say_what_it_is_is_refused(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "peer.safetensors"
    made("lora").save(path)
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["glora"])
    del values[missing]
    save_file(load_file(path), path, {"glora": json.dumps(values)})
    with pytest.raises(CheckpointError, match=f"its metadata lacks '{missing}'"):
        load_peer(vit(), path)


def test_files_of_peers_and_adapters_are_told_apart(tmp_path: Path) -> None:
    made("lora").save(tmp_path / "peer.safetensors")
    with pytest.raises(CheckpointError, match="is a file of kind 'peer', and one of kind 'adapter' is needed"):
        glora.load(vit(), tmp_path / "peer.safetensors")
    glora.adapt(vit(), presets.lora(2)).save(tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointError, match="is a file of kind 'adapter', and one of kind 'peer' is needed"):
        load_peer(vit(), tmp_path / "adapter.safetensors")


def test_a_file_does_not_fit_another_kind_of_model(tmp_path: Path) -> None:
    made("adapter").save(tmp_path / "peer.safetensors")
    with pytest.raises(CheckpointError, match="does not fit this model: the model has no module 'head' to be its head"):
        load_peer(MLP(), tmp_path / "peer.safetensors")

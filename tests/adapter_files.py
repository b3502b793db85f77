"""Trained nets to be saved, and their files taken apart and put together again."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import glora
from glora import SearchSpace, Structure
from glora.errors import CheckpointError
from helpers import MLP, randomise, some_structure

X = torch.linspace(-2, 2, 30).reshape(5, 6)


def trained(structure: Structure | None = None, bias: bool = True, seed: int = 3, **settings) -> glora.GLoRAModel:
    net = glora.adapt(MLP(bias), SearchSpace.paper(2), **settings)
    randomise(net)
    with torch.no_grad():
        for parameter in net.head_parameters().values():
            parameter.add_(0.25)
    net.activate(some_structure(net, seed) if structure is None else structure)
    return net


def parts(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        metadata = json.loads(file.read(length))["__metadata__"]
    return json.loads(metadata["glora"]), load_file(path)


def rewrite(path: Path, metadata: dict, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path, {"glora": json.dumps(metadata)})


def untouched(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = model.state_dict()
    plain = type(model.first) is type(model.second) is nn.Linear
    free = all(p.requires_grad for p in model.parameters()) and all(m.training for m in model.modules())
    return plain and free and list(now) == list(before) and all(now[key].equal(before[key]) for key in before)


def refused(path: Path, match: str, model: nn.Module | None = None) -> None:
    """Loading fails with a message, and the model is as it was before."""
    model = model or MLP()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match):
        glora.load(model, path)
    assert untouched(model, before)

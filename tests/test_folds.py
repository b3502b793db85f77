"""Merged weights kept from one structure to the next: those of a merge made anew, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import glora
from glora import SearchSpace, Structure
from glora.folds import Folds
from glora.layers import AdaptedLayer
from helpers import MLP, randomise, randomise_backbone, some_structure

X = torch.randn(7, 6)


def net_of(dtype: torch.dtype = torch.float32, bias: bool = True) -> glora.GLoRAModel:
    model = MLP(bias)
    randomise_backbone(model)
    net = glora.adapt(model.to(dtype), SearchSpace.paper(2))
    randomise(net)
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_one_structure_after_another_computes_as_its_merged_model(dtype: torch.dtype, bias: bool) -> None:
    net, folds, x = net_of(dtype, bias), Folds(), X.to(dtype)
    for seed in [*range(12), 3, 3, 0]:
        structure = some_structure(net, seed) if seed % 4 else Structure()
        with net.folded(structure, folds):
            assert net(x).equal(net.merge(structure)(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_folds_in_what_autocast_casts_to_change_nothing(dtype: torch.dtype) -> None:
    net, folds, x = net_of(dtype), Folds(torch.bfloat16), X.to(dtype)
    for seed in range(8):
        structure = some_structure(net, seed) if seed else Structure()
        with net.folded(structure, folds):
            merged = net.merge(structure)
            with torch.autocast("cpu", torch.bfloat16):
                assert net(x).equal(merged(x))


def test_only_layers_whose_forms_changed_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    net, folds, merged = net_of(), Folds(), []
    original = AdaptedLayer.merged

    def counted(self: AdaptedLayer, *args: object, **options: object) -> tuple[Tensor, Tensor | None]:
        merged.append(self)
        return original(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(AdaptedLayer, "merged", counted)
    first = Structure({"first": {"A": "vector"}, "second": {"B": "rank-2"}})
    second = Structure({"first": {"A": "vector"}, "second": {"B": "rank-1"}})
    buffers = []
    for structure in (first, first, second, Structure({"first": {"A": "vector"}}), second):
        with net.folded(structure, folds):
            folded = net.layers["second"]._folded
            buffers.append(None if folded is None else folded[0].data_ptr())
    assert merged == [net.layers[name] for name in ("first", "second", "second")]
    assert buffers[3] is None
    assert len({*buffers} - {None}) == 1

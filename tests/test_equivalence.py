"""What is taken from a structure changes nothing: against the net's own outputs in float64."""

from __future__ import annotations

import random
from typing import Any

import pytest
import timm
import torch
from torch import nn

import glora
from glora import GLoRAModel, LayerStructure, SearchSpace, Structure
from glora.equivalence import Equivalence, shift_free_layers
from helpers import MLP, randomise, randomise_backbone

X = torch.randn(3, 3, 16, 16, dtype=torch.float64)


def vit(**changes: Any) -> nn.Module:
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = timm.create_model("vit_tiny_patch16_224", **shape | changes).double().eval()
    randomise_backbone(model)
    return model


def net_of(model: nn.Module) -> GLoRAModel:
    net = glora.adapt(model, SearchSpace.paper(2))
    randomise(net)
    return net


WRITERS = {f"blocks.{i}.{name}" for i in range(2) for name in ("attn.proj", "mlp.fc2")}


def test_scalars_on_what_writes_to_a_pre_norm_residual_stream_do_nothing() -> None:
    net = net_of(vit())
    assert shift_free_layers(net.model) == WRITERS
    equivalence, wanted = Equivalence(net), 0
    for seed in range(20):
        structure = net.sample(random.Random(seed))
        canonical = equivalence.canonical(structure)
        for name, own in structure.items():
            for tensor, form in own.items():
                kept = not (name in WRITERS and tensor in "BE" and form.kind == "scalar")
                assert canonical[name][tensor] == (form if kept else glora.Form.NONE)
                wanted += not kept
        with torch.no_grad():
            with net.using(structure):
                before = net(X)
            with net.using(canonical):
                assert torch.allclose(net(X), before, rtol=1e-9, atol=1e-9)
    assert wanted > 20


@pytest.mark.parametrize("tensor", ["B", "E"])
def test_on_other_layers_scalars_do_something(tensor: str) -> None:
    net = net_of(vit())
    with torch.no_grad():
        base = net(X)
        for name in set(net.layers) - WRITERS:
            with net.using(Structure({name: LayerStructure(**{tensor: "scalar"})})):
                assert not torch.allclose(net(X), base, rtol=1e-6, atol=1e-6), name


class Other(nn.Module):
    pass


def with_hook() -> nn.Module:
    model = vit()
    model.blocks[1].register_forward_hook(lambda module, given, out: out * 1.0)
    return model


def with_own_forward() -> nn.Module:
    model = vit()
    model.blocks[0].mlp.forward = lambda x: x
    return model


@pytest.mark.parametrize(
    "model",
    [
        lambda: vit(init_values=0.1),
        lambda: vit(norm_layer=nn.Identity),
        lambda: vit(global_pool="avg", fc_norm=True),
        lambda: timm.create_model("vit_base_patch16_rope_reg1_gap_256", depth=1, embed_dim=24, num_heads=2),
        with_hook,
        with_own_forward,
        Other,
        MLP,
    ],
)
def test_of_other_models_nothing_is_assumed(model: Any) -> None:
    assert shift_free_layers(model()) == frozenset()


def test_layer_scale_makes_a_shift_felt() -> None:
    net = net_of(vit(init_values=0.1))
    with torch.no_grad():
        base = net(X)
        with net.using(Structure({"blocks.0.attn.proj": LayerStructure(E="scalar")})):
            assert not torch.allclose(net(X), base, rtol=1e-6, atol=1e-6)


def test_what_is_zero_does_nothing() -> None:
    net = glora.adapt(MLP(), SearchSpace.paper(2), head="out")
    full = LayerStructure(A="rank-2", B="vector", C="rank-1", D="vector", E="scalar")
    structure = Structure({"first": full, "second": full})
    assert Equivalence(net).canonical(structure) == Structure()
    randomise(net)
    assert Equivalence(net).canonical(structure) == structure
    support = net.layers["first"].support
    with torch.no_grad():
        support.get_parameter("A_up")[:1].zero_()
        support.get_parameter("E")[0].zero_()
        net.layers["first"].bias.zero_()
    found = Equivalence(net)
    assert found.canonical(structure)["first"] == LayerStructure(A="rank-2", B="vector", C="rank-1")
    one = Structure({"first": LayerStructure(A="rank-1", E="vector")})
    assert found.canonical(one) == Structure({"first": LayerStructure(E="vector")})


def test_what_is_not_finite_is_not_zero() -> None:
    net = glora.adapt(MLP(), SearchSpace.paper(2), head="out")
    with torch.no_grad():
        net.layers["first"].support.get_parameter("B_up")[0, 0] = torch.inf
        net.layers["first"].support.get_parameter("D")[0] = torch.nan
    structure = Structure({"first": LayerStructure(B="rank-2", D="vector")})
    assert Equivalence(net).canonical(structure) == structure

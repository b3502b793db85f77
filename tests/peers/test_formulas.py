"""Every peer against its published formula, written out in float64 in tests/oracles/vit.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vits import DEPTH, HEADS, KINDS, SETTINGS, X, fill, vit

from glora.peers import PEERS, Peer, peer
from oracles import vit as oracle

# Methods that change weights where they stand need no formula: the state holds the result.
FORMULAS: dict[str, Callable[..., oracle.Changes]] = {
    "full": lambda own, **_: {},
    "linear": lambda own, **_: {},
    "layernorm": lambda own, **_: {},
    "bitfit": lambda own, **_: oracle.bitfit(own),
    "lora": lambda own, **_: oracle.lora(own),
    "ssf": lambda own, **_: oracle.ssf(own),
    "ia3": lambda own, **_: oracle.ia3(own),
    "glora-fixed": lambda own, **_: oracle.fixed_glora(own),
    "vpt-shallow": lambda own, before, **_: oracle.prompt_shallow(own, DEPTH, before),
    "vpt-deep": lambda own, before, **_: oracle.prompt_deep(own, DEPTH, before),
    "adapter": lambda own, **_: oracle.adapter(own),
    "adaptformer": lambda own, **_: oracle.adaptformer(own, 0.1),
    "repadapter": lambda own, **_: oracle.repadapter(own),
    "fact-tt": lambda own, ratio, **_: oracle.fact(own, 0.5, ratio, tucker=False),
    "fact-tk": lambda own, ratio, **_: oracle.fact(own, 0.5, ratio, tucker=True),
    "peft-lora": lambda own, **_: oracle.peft_lora(own, 3.0),
    "peft-dora": lambda own, **_: oracle.peft_lora(own, 3.0, dora=True),
    "peft-glora": lambda own, **_: oracle.peft_glora(own),
}


def made(name: str, kind: str, **settings: Any) -> Peer:
    net = peer(name, vit(kind), **{**SETTINGS.get(name, {}), **settings}).double()
    fill(net)
    return net


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors under timm's keys, whatever a method has put around its layers."""
    return {key.replace(".base_layer", ""): value for key, value in model.state_dict().items()}


def expected(net: Peer, kind: str, changes: oracle.Changes) -> Tensor:
    pool = KINDS[kind][0]
    return oracle.vit(plain_state(net.model), X, HEADS, pool, changes)


def test_every_method_has_a_formula_here() -> None:
    assert set(FORMULAS) == set(PEERS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_is_timms_vision_transformer(kind: str) -> None:
    model = vit(kind).double()
    found = oracle.vit(model.state_dict(), X, HEADS, KINDS[kind][0])
    assert torch.allclose(found, model(X.double()), atol=1e-12)


@pytest.mark.parametrize(("name", "kind"), list(itertools.product(FORMULAS, KINDS)))
def test_a_peer_is_its_published_formula(name: str, kind: str) -> None:
    _, before, ratio = KINDS[kind]
    net = made(name, kind)
    own = {key: p.detach() for key, p in net.adapter_parameters().items()}
    wanted = expected(net, kind, FORMULAS[name](own, before=before, ratio=ratio))
    assert torch.allclose(net(X.double()), wanted, atol=1e-10)
    before_it = vit(kind).double()(X.double())
    assert not torch.allclose(before_it, wanted, atol=1e-3), "the filling changes nothing"


@pytest.mark.parametrize("place", ["attention", "mlp"])
def test_adapters_at_one_place_only(place: str) -> None:
    net = made("adapter", "dinov2", places=place)
    own = {key: p.detach() for key, p in net.adapter_parameters().items()}
    wanted = expected(net, "dinov2", oracle.adapter(own, (place,)))
    assert torch.allclose(net(X.double()), wanted, atol=1e-10)


def test_repadapter_contains_the_grouped_one_of_its_authors() -> None:
    """Their second matrix is two blocks, and they have two biases: conv_B(conv_A(x)) * s + x."""
    rank, groups, scale, width = 4, 2, 0.5, 12
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * 0.3

    net = peer("repadapter", vit(), rank=rank).double()
    own = net.adapter_parameters()
    theirs: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, layer in net.layers.items():
        first, shift, second, after = random(rank, width), random(rank), random(width, rank // groups), random(width)
        with torch.no_grad():
            own[f"{name}.support.A_mul_up"].copy_(first)
            dense = torch.block_diag(*second.chunk(groups))
            own[f"{name}.support.A_mul_down"].copy_(scale * dense)
            own[f"{name}.support.C"].copy_(scale * (dense @ shift + after))

        def adapted(x: Tensor, layer=layer, first=first, shift=shift, second=second, after=after) -> Tensor:
            hidden = nn.functional.conv1d(x.transpose(1, 2), first[:, :, None], shift)
            outer = nn.functional.conv1d(hidden, second[:, :, None], after, groups=groups) * scale
            return nn.functional.linear(x + outer.transpose(1, 2), layer.weight, layer.bias)

        theirs[name] = adapted
    assert len(theirs) == 2 * DEPTH
    for name, adapted in theirs.items():
        x = random(2, 7, width)
        assert torch.allclose(net.layers[name](x), adapted(x), atol=1e-11)


def test_ssf_with_tied_scales_is_a_scale_and_a_shift_behind_every_linear_layer_and_norm() -> None:
    net = made("ssf", "vit")
    own = net.adapter_parameters()
    with torch.no_grad():
        for name in net.layers:
            own[f"{name}.support.D"].copy_(own[f"{name}.support.A"])
    pretrained = plain_state(vit().double())
    state = plain_state(net.model)
    scales: dict[str, tuple[Tensor, Tensor]] = {}
    for key in pretrained:
        if "norm" in key and key.endswith("weight"):
            name = key.removesuffix(".weight")
            gamma = state[key] / pretrained[key]
            scales[name] = gamma, state[f"{name}.bias"] - gamma * pretrained[f"{name}.bias"]
    for name in net.layers:
        a, e = own[f"{name}.support.A"].detach(), own[f"{name}.support.E"].detach()
        scales[name] = 1 + a, e

    def linear(name: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        if name not in net.layers:
            return state[f"{name}.weight"], state[f"{name}.bias"]
        gamma, beta = scales[name]
        return gamma[:, None] * weight, gamma * bias + beta

    def normed(name: str, y: Tensor) -> Tensor:
        gamma, beta = scales[name]
        return gamma * y + beta

    wanted = oracle.vit(pretrained, X, HEADS, "token", {"linear": linear, "normed": normed})
    assert torch.allclose(net(X.double()), wanted, atol=1e-10)


@pytest.mark.parametrize("name", ["adapter", "adaptformer", "vpt-deep", "vpt-shallow", "fact-tt", "fact-tk"])
def test_gradients_are_those_of_the_formula(name: str) -> None:
    net = made(name, "dinov2")
    own = net.adapter_parameters()
    leaves = list(own.values())
    target = torch.randn(len(X), 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = torch.autograd.grad((net(X.double()) * target).sum(), leaves)
    wanted = torch.autograd.grad(
        (expected(net, "dinov2", FORMULAS[name](own, before=3, ratio=2)) * target).sum(), leaves
    )
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-9)
        assert other.abs().max() > 0

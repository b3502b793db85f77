"""Known methods as structures, against their definitions and against PEFT's own layers."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glora import LayerStructure, SearchSpace, presets
from glora.layers import AdaptedLinear
from helpers import adapted, linear, randomise, storage

X = torch.linspace(-2, 2, 36, dtype=torch.float64).reshape(2, 3, 6)
G = torch.linspace(1, -1, 30, dtype=torch.float64).reshape(2, 3, 5)


def layer_of(space: SearchSpace, bias: bool = True) -> tuple[AdaptedLinear, LayerStructure]:
    layer = adapted(linear(5, 6, bias), space.forms)
    randomise(layer)
    structure = LayerStructure(**{t: forms[0] for t, forms in space.forms.items()})
    layer.activate(structure)
    return layer, structure


def gradients(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(y, leaves, G))


def test_lora() -> None:
    layer, _ = layer_of(presets.lora(2))
    down, up = layer.support.get_parameter("B"), layer.support.get_parameter("B_up")
    wanted = F.linear(X, layer.weight, layer.bias) + (X @ up.t()) @ down.t()
    assert torch.allclose(layer(X), wanted, atol=1e-12)
    for found, exact in zip(gradients(layer(X), [down, up]), gradients(wanted, [down, up]), strict=True):
        assert torch.allclose(found, exact, atol=1e-11)


def test_ssf_with_a_and_d_tied() -> None:
    layer, _ = layer_of(presets.ssf())
    gamma, beta = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    with torch.no_grad():
        for name, value in {"A": gamma - 1, "D": gamma - 1, "E": beta}.items():
            layer.support.get_parameter(name).copy_(value)
    assert torch.allclose(layer(X), gamma * F.linear(X, layer.weight, layer.bias) + beta, atol=1e-12)


def test_ia3_with_a_and_d_tied() -> None:
    layer, _ = layer_of(presets.ia3())
    scale = torch.randn(5, dtype=torch.float64)
    with torch.no_grad():
        layer.support.get_parameter("A").copy_(scale - 1)
        layer.support.get_parameter("D").copy_(scale - 1)
    assert torch.allclose(layer(X), scale * F.linear(X, layer.weight, layer.bias), atol=1e-12)
    # The gradient of the one vector is the sum of those of its two copies.
    scale.requires_grad_()
    (wanted,) = gradients(scale * F.linear(X, layer.weight, layer.bias), [scale])
    a, d = gradients(layer(X), [layer.support.get_parameter("A"), layer.support.get_parameter("D")])
    assert torch.allclose(a + d, wanted, atol=1e-11)


def test_bitfit() -> None:
    layer, _ = layer_of(presets.bitfit())
    shift = layer.support.get_parameter("E")
    assert torch.allclose(layer(X), F.linear(X, layer.weight, layer.bias + shift), atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_prompt_is_a_constant_token_added_to_the_input(bias: bool) -> None:
    layer, _ = layer_of(presets.prompt(), bias)
    token = layer.support.get_parameter("C")
    assert torch.allclose(layer(X), F.linear(X + token, layer.weight, layer.bias), atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_repadapter(bias: bool, route: str) -> None:
    layer, _ = layer_of(presets.repadapter(2), bias)
    down, up, c = (layer.support.get_parameter(name) for name in ("A_mul_down", "A_mul_up", "C"))
    # W0 (x + A_d A_u x) + W0 c + b0
    wanted = F.linear(X + (X @ up.t()) @ down.t() + c, layer.weight, layer.bias)
    assert torch.allclose(layer(X), wanted, atol=1e-11)
    leaves = [down, up, c]
    for found, exact in zip(gradients(layer(X), leaves), gradients(wanted, leaves), strict=True):
        assert torch.allclose(found, exact, atol=1e-10)
    weight, shift = layer.merged()
    assert torch.allclose(F.linear(X, weight, shift), wanted, atol=1e-11)


def test_frozen() -> None:
    layer, _ = layer_of(presets.frozen())
    assert not list(layer.support.parameters())
    assert layer(X).equal(F.linear(X, layer.weight, layer.bias))


def test_the_union_of_lora_bitfit_and_prompt() -> None:
    layer, _ = layer_of(SearchSpace(2, A="none", B="rank-2", C="vector", D="none", E="vector"))
    own = storage(layer)
    wanted = F.linear(X + own["C"], layer.weight, layer.bias) + F.linear(X, own["B"] @ own["B_up"]) + own["E"]
    assert torch.allclose(layer(X), wanted, atol=1e-12)


# PEFT


@pytest.fixture(scope="module")
def peft():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("peft")


def wrapped(peft, config) -> tuple[nn.Module, nn.Module]:
    """A model of one linear layer under PEFT, and PEFT's layer in it."""
    model = nn.Sequential()
    model.add_module("fc", linear(5, 6))
    net = peft.get_peft_model(model, config).double()
    return net, net.base_model.model.fc


@pytest.mark.parametrize("ab", ["lora", "vector", "constant", "none"])
@pytest.mark.parametrize("c", ["lora", "vector", "none"])
@pytest.mark.parametrize("de", ["vector", "constant", "none"])
def test_every_setting_of_pefts_glora(peft, ab: str, c: str, de: str, route: str) -> None:
    config = peft.GloraConfig(r=2, target_modules=["fc"], config_A_B=ab, config_C=c, config_D_E=de, init_weights=False)
    net, theirs = wrapped(peft, config)
    forms = {"A": ab, "B": ab, "C": c, "D": de, "E": de}
    structure = LayerStructure(**{t: "LoRA_2" if form == "lora" else form for t, form in forms.items()})
    layer = adapted(linear(5, 6), {t: (form,) for t, form in structure.items()})
    layer.activate(structure)
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
    for tensor, form in structure.items():
        path = getattr(theirs, f"glora_{tensor}")["default"]
        if form.kind == "none":
            assert not list(path.parameters())
            continue
        down, up = layer.support.parts(tensor, form)
        pairs += [(down, path.Xd), (up, path.Xu)] if form.rank else [(down, path.X)]
    with torch.no_grad():
        for ours, other in pairs:
            other.normal_()
            ours.copy_(other.reshape(ours.shape))
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    found, wanted = layer(x), net(y)
    assert torch.allclose(found, wanted, atol=1e-11)
    found.backward(G)
    wanted.backward(G)
    if structure.is_none:
        assert torch.allclose(x.grad, y.grad, atol=1e-12)
        return
    assert torch.allclose(x.grad, y.grad, atol=1e-11)
    for ours, other in pairs:
        assert torch.allclose(ours.grad, other.grad.reshape(ours.shape), atol=1e-10)
    merged = net.merge_and_unload().fc
    weight, bias = layer.merged()
    assert torch.allclose(weight, merged.weight, atol=1e-12)
    assert torch.allclose(bias, merged.bias, atol=1e-12)


def test_lora_of_peft(peft, route: str) -> None:
    net, theirs = wrapped(peft, peft.LoraConfig(r=2, lora_alpha=2, target_modules=["fc"], init_lora_weights=False))
    layer, _ = layer_of(presets.lora(2))
    down, up = theirs.lora_B["default"].weight, theirs.lora_A["default"].weight
    with torch.no_grad():
        layer.support.get_parameter("B").copy_(down)
        layer.support.get_parameter("B_up").copy_(up)
    found, wanted = layer(X), net(X)
    assert torch.allclose(found, wanted, atol=1e-12)
    ours = [layer.support.get_parameter("B"), layer.support.get_parameter("B_up")]
    for mine, other in zip(gradients(found, ours), gradients(wanted, [down, up]), strict=True):
        assert torch.allclose(mine, other, atol=1e-11)


def test_ia3_of_peft(peft, route: str) -> None:
    config = peft.IA3Config(target_modules=["fc"], feedforward_modules=[])
    net, theirs = wrapped(peft, config)
    layer, _ = layer_of(presets.ia3())
    scale = theirs.ia3_l["default"]
    with torch.no_grad():
        scale.normal_()
        layer.support.get_parameter("A").copy_(scale[:, 0] - 1)
        layer.support.get_parameter("D").copy_(scale[:, 0] - 1)
    assert torch.allclose(layer(X), net(X), atol=1e-12)

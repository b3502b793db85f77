"""The adapted linear layer against the dense equation: values, gradients, routes, precisions."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from equation import A_FORMS, close, oracle, oracle_gradients
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from glora.errors import StructureError, TargetError
from glora.layers import AdaptedLinear
from glora.structure import Form, LayerStructure
from helpers import FORMS, RANK, adapted, layer_structures, linear, random_gains, randomise, storage
from oracles import dense

SHAPES = [(4, 3), (1, 5), (5, 1), (1, 1), (3, 6)]
LEADING = [(7,), (2, 3), (2, 1, 4), (1,), (0,), (3, 0, 2)]


def check(layer: AdaptedLinear, structure: LayerStructure, x: Tensor, g: Tensor, tolerance: float) -> None:
    y, dx, wanted = oracle_gradients(x, g, layer, structure)
    x = x.detach().requires_grad_()
    layer.zero_grad()
    layer.activate(structure)
    found = layer(x)
    assert found.dtype == x.dtype
    assert found.shape == y.shape
    assert close(found, y, tolerance), f"forward of {structure}"
    if structure.is_none:
        assert found.equal(F.linear(x, layer.weight, layer.bias))
    found.backward(g)
    assert x.grad is not None
    assert close(x.grad, dx, tolerance), f"input gradient of {structure}"
    for name, parameter in storage(layer).items():
        if wanted[name] is None:
            assert parameter.grad is None, f"{structure} gave {name} a gradient"
        else:
            assert parameter.grad is not None, f"{structure} gave {name} no gradient"
            assert parameter.grad.dtype == parameter.dtype
            assert close(parameter.grad, wanted[name], tolerance), f"gradient of {name} in {structure}"
    assert layer.weight.grad is None


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("a", A_FORMS)
def test_all_structures_compute_the_equation_and_its_gradients(a: str, bias: bool, route: str) -> None:
    cases = itertools.cycle(itertools.product(LEADING, SHAPES, [torch.float64, torch.float32]))
    layers = {}
    structures = list(layer_structures(a, bias))
    assert len(structures) == (108 if bias else 36)
    for structure in structures:
        leading, (out, into), dtype = next(cases)
        key = (out, into, dtype)
        if key not in layers:
            layers[key] = adapted(linear(out, into, bias, dtype, seed=len(layers)), gains=random_gains(len(layers)))
            randomise(layers[key], seed=len(layers))
        x, g = torch.randn(*leading, into, dtype=dtype), torch.randn(*leading, out, dtype=dtype)
        check(layers[key], structure, x, g, 1e-11 if dtype == torch.float64 else 3e-5)


def test_there_are_432_structures_and_the_multiplicative_ones() -> None:
    assert len({*layer_structures()}) == 432 + 108
    assert sum(s.A.kind != "mul" for s in layer_structures()) == 432


@pytest.mark.parametrize("a", A_FORMS)
def test_gradcheck_of_all_structures(a: str, route: str) -> None:
    layer = adapted(linear(2, 3), gains=random_gains(1))
    randomise(layer)
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    for structure in layer_structures(a):
        layer.activate(structure)
        read = [p for t, f in structure.items() if f.kind != "none" for p in layer.support.parts(t, f) if p is not None]
        # gradcheck perturbs the parameters themselves; the arguments are only there to be perturbed.
        assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *read), fast_mode=True), str(structure)


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-3, 0.099, 0.101, 0.5, -1e-6, -0.2])
@pytest.mark.parametrize("a", ["vector", "scalar"])
@pytest.mark.parametrize("b", ["none", "vector", f"rank-{RANK}"])
def test_gradients_with_one_plus_a_near_zero(a: str, b: str, distance: float, route: str) -> None:
    layer = adapted(linear(4, 3), gains={"A.vector": 2.0, "A.scalar": 2.0})
    randomise(layer)
    with torch.no_grad():
        layer.support.get_parameter("A")[0, 0] = (distance - 1) / 2
    x, g = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    check(layer, LayerStructure(A=a, B=b, C="vector", D="vector", E="vector"), x, g, 1e-10)


def test_float32_gradient_of_a_read_from_the_output_is_accurate_down_to_its_threshold() -> None:
    layer = adapted(linear(16, 24, dtype=torch.float32))
    randomise(layer)
    with torch.no_grad():
        layer.support.get_parameter("A")[:, 0] = -0.89
    x, g = torch.randn(300, 24), torch.randn(300, 16)
    check(layer, LayerStructure(A="vector", B="vector", D="vector", E="vector"), x, g, 1e-4)


def test_many_tokens_are_summed_in_chunks() -> None:
    layer = adapted(linear(3, 2, dtype=torch.float32))
    randomise(layer)
    for tokens in (255, 256, 257, 1100):
        x, g = torch.randn(tokens, 2), torch.randn(tokens, 3)
        check(layer, LayerStructure(A="vector", E="vector"), x, g, 1e-4)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[LayerStructure, tuple[int, int], tuple[int, ...], bool, int]:
    bias = draw(st.booleans())
    choices = {
        t: st.sampled_from([f for f in forms if bias or t != "D" or f.kind == "none"]) for t, forms in FORMS.items()
    }
    choices["A"] |= st.just(Form("rank", 1)) | st.just(Form("mul", 2))
    choices["B"] |= st.just(Form("rank", 2))
    structure = LayerStructure(**{t: draw(form) for t, form in choices.items()})
    tokens = draw(st.integers(1, 2000))
    leading = draw(st.sampled_from([(tokens,), (1, tokens), (tokens, 1), (2, tokens // 2), ()]))
    return structure, (draw(st.integers(1, 9)), draw(st.integers(1, 9))), leading, bias, draw(st.integers(0, 2**16))


@given(_cases(), st.sampled_from([torch.float32, torch.float64]))
def test_any_shape_and_token_count(case: tuple, dtype: torch.dtype) -> None:
    structure, (out, into), leading, bias, seed = case
    layer = adapted(linear(out, into, bias, dtype, seed), gains=random_gains(seed))
    randomise(layer, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*leading, into, dtype=dtype, generator=generator)
    g = torch.randn(*leading, out, dtype=dtype, generator=generator)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    check(layer, structure, x, g, tolerance)
    weight, shift = layer.merged(structure)
    assert close(F.linear(x, weight, shift), oracle(x, layer, structure, storage(layer)).detach(), tolerance)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_merged_is_the_dense_equation_for_all_structures(bias: bool) -> None:
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        layer = adapted(linear(4, 3, bias, dtype), gains=random_gains(3))
        randomise(layer)
        for structure in layer_structures(bias=bias):
            weight, shift = layer.merged(structure)
            wanted = dense.merged(layer.weight, layer.bias, structure.to_dict(), storage(layer), layer.support.gains)
            assert weight.dtype == dtype
            assert close(weight, wanted[0], tolerance), str(structure)
            creates = bias or structure.C.kind != "none" or structure.E.kind != "none"
            assert (shift is not None) == creates
            if shift is not None:
                assert shift.dtype == dtype
                assert close(shift, wanted[1], tolerance), str(structure)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_fresh_layer_is_the_frozen_one_to_the_bit(dtype: torch.dtype, route: str) -> None:
    for bias in (True, False):
        module = linear(5, 7, bias, dtype)
        layer = adapted(module, gains=random_gains(0))
        x = torch.randn(2, 6, 7).to(dtype)
        wanted = module(x)
        for structure in layer_structures(bias=bias):
            layer.activate(structure)
            assert layer(x).equal(wanted), str(structure)


def test_a_vector_of_one_token_is_mapped_like_a_batch_of_one(route: str) -> None:
    layer = adapted(linear(4, 3))
    randomise(layer)
    x = torch.randn(3, dtype=torch.float64)
    for structure in layer_structures():
        layer.activate(structure)
        assert layer(x).shape == (4,)
        assert torch.allclose(layer(x), layer(x[None])[0])


def test_inputs_that_are_not_contiguous(route: str) -> None:
    layer = adapted(linear(4, 3))
    randomise(layer)
    full = LayerStructure(A=f"rank-{RANK}", B=f"rank-{RANK}", C="vector", D="vector", E="vector")
    base = torch.randn(3, 5, 2, dtype=torch.float64)
    for structure in (full, LayerStructure(A="vector", B="vector")):
        for x in (
            base.permute(1, 2, 0),
            torch.randn(2, 4, 6).double()[..., ::2],
            torch.randn(1, 3).double().expand(6, 3),
        ):
            assert not x.is_contiguous()
            g = torch.ones(1, dtype=torch.float64).expand(*x.shape[:-1], 4)
            check(layer, structure, x, g, 1e-11)


def test_an_input_that_needs_no_gradient_gets_none(route: str) -> None:
    layer = adapted(linear(4, 3), gains=random_gains(0))
    randomise(layer)
    x, g = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    for structure in layer_structures():
        if structure.is_none:
            continue
        _, _, wanted = oracle_gradients(x, g, layer, structure)
        layer.zero_grad()
        layer.activate(structure)
        layer(x).backward(g)
        for name, parameter in storage(layer).items():
            assert (parameter.grad is None) == (wanted[name] is None)
            assert parameter.grad is None or close(parameter.grad, wanted[name], 1e-11), f"{name} in {structure}"


@pytest.mark.parametrize("part", ["A", "A_up", "B", "B_up"])
def test_any_single_parameter_can_be_frozen(part: str, route: str) -> None:
    layer = adapted(linear(4, 3))
    randomise(layer)
    structure = LayerStructure(A=f"rank-{RANK}", B=f"rank-{RANK}", E="vector")
    x, g = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    _, _, wanted = oracle_gradients(x, g, layer, structure)
    layer.support.get_parameter(part).requires_grad_(False)
    layer.activate(structure)
    layer(x).backward(g)
    for name, parameter in storage(layer).items():
        if wanted[name] is None or name == part:
            assert parameter.grad is None
        else:
            assert close(parameter.grad, wanted[name], 1e-11), name


# Mixed precision


@pytest.mark.parametrize("a", A_FORMS)
def test_autocast_is_close_and_gradients_stay_float32(a: str, route: str) -> None:
    layer = adapted(linear(12, 16, dtype=torch.float32))
    randomise(layer, scale=0.1)
    x, g = torch.randn(40, 16), torch.randn(40, 12)
    for structure in layer_structures(a):
        if structure.is_none:
            continue
        y, dx, wanted = oracle_gradients(x, g, layer, structure)
        layer.zero_grad()
        layer.activate(structure)
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(leaf)
        assert found.dtype == torch.bfloat16
        assert close(found, y, 0.02), str(structure)
        found.backward(g.bfloat16())
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.float32
        assert close(leaf.grad, dx, 0.02), str(structure)
        for name, parameter in storage(layer).items():
            if wanted[name] is not None:
                assert parameter.grad is not None
                assert parameter.grad.dtype == torch.float32
                assert close(parameter.grad, wanted[name], 0.03), f"{name} in {structure}"


def test_backward_under_autocast_is_the_same(route: str) -> None:
    layer = adapted(linear(6, 5, dtype=torch.float32))
    randomise(layer)
    layer.activate(LayerStructure(A=f"rank-{RANK}", B="vector", C="vector", D="vector", E="vector"))
    x = torch.randn(4, 5)
    grads = []
    for inside in (True, False):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer(x).float().square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        grads.append({name: p.grad.clone() for name, p in storage(layer).items() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all(grads[0][name].equal(grads[1][name]) for name in grads[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_frozen_weights_of_low_precision(dtype: torch.dtype, route: str) -> None:
    layer = adapted(linear(12, 16, dtype=dtype))
    randomise(layer, scale=0.1)
    assert {p.dtype for p in layer.support.parameters()} == {torch.float32}
    x, g = torch.randn(40, 16).to(dtype), torch.randn(40, 12).to(dtype)
    tolerance = 0.03 if dtype == torch.bfloat16 else 0.004
    for structure in layer_structures():
        if structure.is_none:
            continue
        y, dx, wanted = oracle_gradients(x, g, layer, structure)
        layer.zero_grad()
        layer.activate(structure)
        leaf = x.clone().requires_grad_()
        found = layer(leaf)
        assert found.dtype == dtype
        assert close(found, y, tolerance), str(structure)
        found.backward(g)
        assert leaf.grad is not None
        assert leaf.grad.dtype == dtype
        assert close(leaf.grad, dx, tolerance), str(structure)
        for name, parameter in storage(layer).items():
            if wanted[name] is not None:
                assert parameter.grad is not None
                assert parameter.grad.dtype == torch.float32
                assert close(parameter.grad, wanted[name], tolerance), f"{name} in {structure}"


def test_merging_in_low_precision_rounds_once() -> None:
    layer = adapted(linear(12, 16, dtype=torch.bfloat16), gains=random_gains(2))
    randomise(layer, scale=0.1)
    for structure in layer_structures():
        weight, shift = layer.merged(structure)
        wanted = dense.merged(layer.weight, layer.bias, structure.to_dict(), storage(layer), layer.support.gains)
        for found, exact in zip((weight, shift), wanted, strict=True):
            assert found is not None
            cast = (exact.to(torch.bfloat16).double() - exact).abs().max()
            assert (found.double() - exact).abs().max() <= 1.2 * cast + 1e-12, str(structure)


def test_a_row_sum_that_float16_cannot_hold(route: str) -> None:
    layer = adapted(linear(2, 512, dtype=torch.float16), gains={"B.vector": 1 / 512})
    with torch.no_grad():
        layer.support.get_parameter("B").fill_(1e-3)
        layer.weight.zero_()
    x = torch.full((3, 512), 200.0, dtype=torch.float16)
    layer.activate(LayerStructure(B="vector"))
    assert torch.isfinite(layer(x)).all()
    assert close(layer(x), oracle(x, layer, layer.structure, storage(layer)).detach(), 1e-3)


# Errors


def test_a_scaled_bias_needs_a_bias() -> None:
    layer = adapted(linear(4, 3, bias=False))
    with pytest.raises(StructureError, match="D=vector scales the bias, and this layer has none"):
        layer.activate(LayerStructure(D="vector"))
    assert layer.structure == LayerStructure()


def test_a_form_without_storage_is_refused() -> None:
    layer = adapted(linear(4, 3))
    for structure in (LayerStructure(B=f"rank-{RANK + 1}"), LayerStructure(A=f"mul-{RANK + 1}")):
        with pytest.raises(StructureError, match="has no storage here"):
            layer.activate(structure)


def test_unfrozen_weights_are_refused() -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(E="vector"))
    layer.weight.requires_grad_(True)
    with pytest.raises(TargetError, match="frozen"):
        layer(torch.randn(2, 3, dtype=torch.float64))


def test_an_input_of_the_wrong_width_is_refused_like_by_linear(route: str) -> None:
    layer = adapted(linear(4, 3))
    for structure in itertools.islice(layer_structures(), 0, None, 7):
        layer.activate(structure)
        with pytest.raises(RuntimeError, match=r"shape|size"):
            layer(torch.randn(2, 5, dtype=torch.float64))


def test_what_is_printed_names_sizes_and_forms() -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(B="rank-2"))
    assert "3 -> 4" in repr(layer)
    assert "B=rank-2" in repr(layer)
    assert isinstance(layer.original, nn.Linear)
    assert (layer.in_features, layer.out_features) == (3, 4)

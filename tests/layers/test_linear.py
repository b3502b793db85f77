"""The adapted linear layer against the dense equation: values, gradients, routes, precisions."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glora.errors import StructureError, TargetError
from glora.layers import AdaptedLinear
from glora.structure import Form, LayerStructure
from helpers import FORMS, RANK, adapted, layer_structures, linear, random_gains, randomise, storage
from oracles import dense

A_FORMS = [str(form) for form in FORMS["A"]]
SHAPES = [(4, 3), (1, 5), (5, 1), (1, 1), (3, 6)]
LEADING = [(7,), (2, 3), (2, 1, 4), (1,), (0,), (3, 0, 2)]


def oracle(x: Tensor, layer: AdaptedLinear, structure: LayerStructure, leaves: dict[str, Tensor]) -> Tensor:
    return dense.forward(x, layer.weight, layer.bias, structure.to_dict(), leaves, layer.support.gains)


def oracle_gradients(
    x: Tensor, g: Tensor, layer: AdaptedLinear, structure: LayerStructure
) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
    """Output, and gradients of the input and of the whole storage, by float64 autograd of the dense equation."""
    x = x.detach().double().requires_grad_()
    leaves = {name: p.detach().double().requires_grad_() for name, p in storage(layer).items()}
    y = oracle(x, layer, structure, leaves)
    found = torch.autograd.grad(y, [x, *leaves.values()], g.double(), allow_unused=True)
    return y.detach(), found[0], dict(zip(leaves, found[1:], strict=True))


def close(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Within tolerance of the wanted tensor's size, entry by entry."""
    return bool(
        ((found.double() - wanted).abs() <= tolerance * (1 + wanted.abs().max() if wanted.numel() else 1)).all()
    )


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


# Around the layer


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_gradient_checkpointing_changes_nothing(reentrant: bool, route: str) -> None:
    layer = adapted(linear(4, 4))
    randomise(layer)
    for structure in layer_structures():
        layer.activate(structure)
        results = []
        for kept in (False, True):
            layer.zero_grad()
            x = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(5, 4).requires_grad_()
            twice = lambda x: layer(layer(x).tanh())  # noqa: E731
            y = checkpoint(twice, x, use_reentrant=reentrant) if kept else twice(x)
            y.square().sum().backward()
            results.append([y.detach(), x.grad, *(p.grad for p in layer.support.parameters())])
        for found, wanted in zip(*results, strict=True):
            assert (found is None) == (wanted is None)
            assert found is None or found.equal(wanted), str(structure)


@pytest.mark.parametrize("form", [dict(B="rank-1"), dict(A="vector"), dict(A="rank-1"), dict(B="scalar", E="scalar")])
def test_a_second_derivative_is_refused(form: dict[str, str]) -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(**form))
    # The sum has a gradient of ones, which needs none itself: there above all nothing may be dropped silently.
    for loss in (lambda y: y.sum(), lambda y: y.square().sum()):
        x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        (dx,) = torch.autograd.grad(loss(layer(x.tanh())), x, create_graph=True)
        with pytest.raises(TargetError, match="an adapted layer has no second derivative: merge it"):
            dx.square().sum().backward()


def test_first_derivatives_are_the_same_under_create_graph() -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(A="vector", B="rank-1", E="vector"))
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    over = [x, *(p for p in layer.support.parameters())]
    plain = torch.autograd.grad(layer(x).sum(), over, allow_unused=True)
    graph = torch.autograd.grad(layer(x).sum(), over, allow_unused=True, create_graph=True)
    for first, second in zip(plain, graph, strict=True):
        assert (first is None) == (second is None)
        assert first is None or first.equal(second)


def test_nothing_is_kept_without_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(A="vector", B="rank-1"))
    kept: list[object] = []
    monkeypatch.setattr("glora.layers.linear._save", lambda *given: kept.append(given))
    with torch.no_grad():
        layer(torch.randn(2, 3, dtype=torch.float64))
    assert not kept
    layer(torch.randn(2, 3, dtype=torch.float64))
    assert kept


def test_the_input_may_be_named_as_for_a_linear_layer() -> None:
    layer, x = adapted(linear(4, 3)), torch.randn(2, 3, dtype=torch.float64)
    assert layer(input=x).equal(layer(x))


def test_parameters_changed_between_forward_and_backward() -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(A="vector"))
    y = layer(torch.randn(2, 3, dtype=torch.float64)).sum()
    with torch.no_grad():
        layer.support.A.add_(1)
    with pytest.raises(TargetError, match=r"was changed in place: .*, run the forward again"):
        y.backward()


def test_the_original_follows_parameters_that_are_replaced() -> None:
    layer = adapted(linear(4, 3))
    weight = torch.randn(4, 3, dtype=torch.float64)
    layer.load_state_dict({"weight": weight}, strict=False, assign=True)
    layer.weight.requires_grad_(False)
    assert layer.original.weight.equal(weight)
    assert layer.original.bias is layer.bias


def test_an_export_leaves_no_stand_ins_behind() -> None:
    layer = adapted(linear(4, 3).float()).eval()
    layer.activate(LayerStructure(A="rank-1"))
    x = torch.randn(2, 3)
    with torch.no_grad():
        exported = torch.export.export(layer, (x,)).module()
        assert type(layer(x)) is torch.Tensor
        assert exported(x).allclose(layer(x), atol=1e-6)


def test_on_the_meta_device() -> None:
    layer = adapted(linear(4, 3)).to("meta")
    layer.activate(LayerStructure(A="vector", B="rank-1", E="scalar"))
    y = layer(torch.empty(5, 3, dtype=torch.float64, device="meta"))
    assert y.shape == (5, 4)
    y.sum().backward()
    assert layer.support.A.grad.is_meta


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap], ids=["grad", "vmap"])
def test_torch_func_transforms_are_refused_clearly(transform) -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(B="rank-1"))
    with pytest.raises(RuntimeError, match="setup_context"):
        transform(lambda x: layer(x).sum())(torch.randn(2, 3, dtype=torch.float64))


def test_functional_call_uses_the_tensors_it_is_given(route: str) -> None:
    layer = adapted(linear(4, 3))
    randomise(layer)
    structure = LayerStructure(A="vector", B=f"rank-{RANK}", E="vector")
    layer.activate(structure)
    x = torch.randn(2, 3, dtype=torch.float64)
    other = {f"support.{name}": p.detach() + 0.5 for name, p in storage(layer).items()}
    found = torch.func.functional_call(layer, other, (x,))
    assert torch.allclose(found, oracle(x, layer, structure, {k.removeprefix("support."): v for k, v in other.items()}))
    assert not torch.allclose(found, layer(x))


def test_loading_by_assignment_is_seen() -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(E="vector"))
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    state["support.E"] += 1
    layer.load_state_dict(state, assign=True)
    x = torch.randn(2, 3, dtype=torch.float64)
    assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias) + 1)


@pytest.mark.parametrize("a", ["vector", f"rank-{RANK}", "none"])
def test_an_output_changed_in_place_either_works_or_is_refused(a: str, route: str) -> None:
    layer = adapted(linear(4, 3))
    randomise(layer)
    structure = LayerStructure(A=a, B=f"rank-{RANK}", E="vector")
    x, g = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    layer.activate(structure)
    y = layer(x)
    y += 1
    if a == "vector":
        with pytest.raises(TargetError, match="save_output = False"):
            y.backward(g)
        layer.save_output = False
        layer.zero_grad()
        y = layer(x)
        y += 1
    y.backward(g)
    _, _, wanted = oracle_gradients(x, g, layer, structure)
    for name, parameter in storage(layer).items():
        assert (parameter.grad is None) == (wanted[name] is None)
        assert parameter.grad is None or close(parameter.grad, wanted[name], 1e-11)


def test_an_in_place_relu_behind_the_layer() -> None:
    layer = adapted(linear(4, 3))
    randomise(layer)
    layer.save_output = False
    x = torch.randn(6, 3, dtype=torch.float64)
    for structure in layer_structures():
        grads = []
        for inplace in (False, True):
            layer.zero_grad()
            layer.activate(structure)
            if not structure.is_none:
                F.relu(layer(x), inplace=inplace).square().sum().backward()
            grads.append([p.grad for p in layer.support.parameters()])
        for found, wanted in zip(*grads, strict=True):
            assert (found is None) == (wanted is None)
            assert found is None or torch.allclose(found, wanted, atol=1e-12), str(structure)


def test_parameters_changed_between_forward_and_backward_are_noticed() -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(B=f"rank-{RANK}"))
    y = layer(torch.randn(2, 3, dtype=torch.float64))
    with torch.no_grad():
        layer.support.get_parameter("B").add_(1)
    with pytest.raises((RuntimeError, TargetError), match=r"in.?place"):
        y.sum().backward()


def test_training_after_inference_mode(route: str) -> None:
    layer = adapted(linear(4, 3))
    for structure in layer_structures():
        if structure.is_none:
            continue
        layer.activate(structure)
        with torch.inference_mode():
            layer(torch.randn(2, 3, dtype=torch.float64))
        layer(torch.randn(2, 3, dtype=torch.float64)).sum().backward()


def test_two_backwards_through_one_graph(route: str) -> None:
    layer = adapted(linear(4, 3))
    randomise(layer)
    for structure in (LayerStructure(A=f"rank-{RANK}", B="rank-1"), LayerStructure(A="vector", B="vector", C="vector")):
        layer.activate(structure)
        layer.zero_grad()
        y = layer(torch.ones(2, 3, dtype=torch.float64)).sum()
        y.backward(retain_graph=True)
        once = {name: p.grad.clone() for name, p in storage(layer).items() if p.grad is not None}
        y.backward()
        assert all(storage(layer)[name].grad.equal(2 * grad) for name, grad in once.items())


def test_layers_that_share_scratch_do_not_disturb_each_other(weight_route: None) -> None:
    first = adapted(linear(4, 4, seed=1))
    second = AdaptedLinear(linear(4, 4, seed=2), FORMS, {}, first._scratch)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    for a, b in itertools.product(A_FORMS, A_FORMS):
        s, t = LayerStructure(A=a, B="vector", E="vector"), LayerStructure(A=b, B=f"rank-{RANK}", C="vector")
        for layer, structure in ((first, s), (second, t)):
            randomise(layer, seed=3)
            layer.zero_grad()
            layer.activate(structure)
        g = torch.ones(5, 4, dtype=torch.float64)
        second(first(x)).backward(g)
        leaves = [{n: p.detach().requires_grad_() for n, p in storage(layer).items()} for layer in (first, second)]
        middle = oracle(x, first, s, leaves[0])
        oracle(middle, second, t, leaves[1]).backward(g)
        for layer, own in zip((first, second), leaves, strict=True):
            for name, parameter in storage(layer).items():
                assert (parameter.grad is None) == (own[name].grad is None)
                assert parameter.grad is None or close(parameter.grad, own[name].grad, 1e-10), f"{name}: {s}, {t}"


def test_threads_do_not_share_scratch(weight_route: None) -> None:
    first = adapted(linear(64, 64, seed=1))
    second = AdaptedLinear(linear(64, 64, seed=2), FORMS, {}, first._scratch)
    x = torch.randn(8, 64, dtype=torch.float64)
    for layer in (first, second):
        randomise(layer)
        layer.activate(LayerStructure(A=f"rank-{RANK}"))
    wanted = [layer(x).detach() for layer in (first, second)]
    wrong: list[int] = []

    def work(layer: AdaptedLinear, value: Tensor) -> None:
        with torch.no_grad():
            wrong.append(sum(not layer(x).equal(value) for _ in range(300)))

    threads = [threading.Thread(target=work, args=pair) for pair in zip((first, second), wanted, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0, 0]


def test_copies_and_pickles_are_independent_and_equal() -> None:
    layer = adapted(linear(4, 3), gains=random_gains(0))
    randomise(layer)
    layer.activate(LayerStructure(A=f"rank-{RANK}", B="vector", C="vector", D="scalar", E="vector"))
    x = torch.randn(2, 3, dtype=torch.float64)
    wanted = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other(x).equal(wanted)
        randomise(other, seed=7)
        assert not other(x).equal(wanted)
        assert layer(x).equal(wanted)


def test_casting_moves_the_support_tensors_along() -> None:
    layer = adapted(linear(4, 3, dtype=torch.float32))
    randomise(layer)
    layer.activate(LayerStructure(A="vector", B=f"rank-{RANK}", E="vector"))
    x = torch.randn(2, 3)
    wanted = layer(x).double()
    assert close(layer.double()(x.double()), wanted, 1e-5)
    layer(x.double()).sum().backward()
    assert {p.grad.dtype for p in layer.support.parameters() if p.grad is not None} == {torch.float64}


def test_hooks_of_the_frozen_layer_keep_running_and_stay_with_it() -> None:
    module = linear(4, 3)
    seen: list[str] = []
    module.register_forward_hook(lambda *_: seen.append("before"))
    layer = adapted(module)
    layer.activate(LayerStructure(E="vector"))
    handle = layer.register_forward_hook(lambda *_: seen.append("after"))
    x = torch.randn(2, 3, dtype=torch.float64)
    layer(x)
    assert seen == ["before", "after"]
    plain = layer.plain(*layer.merged())
    plain(x)
    assert seen == ["before", "after"] * 2
    handle.remove()
    module(x)
    assert seen == ["before", "after"] * 2 + ["before"]


# What it costs


class _Allocations(torch.utils._python_dispatch.TorchDispatchMode):
    """Records shapes of tensors that operations newly made, and the operand shapes of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[int, ...]] = []
        self.products: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs or {}))}
        result = function(*args, **(kwargs or {}))
        self.made += [tuple(t.shape) for t in _tensors(result) if t.untyped_storage().data_ptr() not in given]
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            left, right = [a for a in args if isinstance(a, Tensor)][-2:]
            self.products.append((tuple(left.shape), tuple(right.shape)))
        return result


def _tensors(tree) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(tree) if isinstance(t, Tensor)]


TOKENS, OUT, IN = 17, 11, 13


@pytest.fixture
def layer_of_primes() -> AdaptedLinear:
    layer = adapted(linear(OUT, IN))
    randomise(layer)
    return layer


def test_saved_for_backward_is_what_the_structure_needs(layer_of_primes: AdaptedLinear, route: str) -> None:
    layer = layer_of_primes
    known = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    for structure in layer_structures():
        layer.activate(structure)
        x = torch.randn(TOKENS, IN, dtype=torch.float64)
        saved: list[tuple[int, ...]] = []

        def pack(t: Tensor) -> Tensor:
            if t.untyped_storage().data_ptr() not in known:
                saved.append(tuple(t.shape))  # noqa: B023
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            layer(x)
        low_rank = structure.A.kind in ("rank", "mul") or structure.B.kind == "rank"
        wanted = [(TOKENS, IN)] if low_rank else []
        wanted += [(TOKENS, OUT)] if structure.A.kind in ("vector", "scalar") else []
        wanted += [(TOKENS,)] if structure.B.kind in ("vector", "scalar") and not low_rank else []
        assert sorted(saved) == sorted(wanted), str(structure)


def test_no_dense_temporary_and_no_dense_gradient_unless_the_form_asks(
    layer_of_primes: AdaptedLinear, route: str
) -> None:
    layer = layer_of_primes
    x = torch.randn(TOKENS, IN, dtype=torch.float64, requires_grad=True)
    g = torch.randn(TOKENS, OUT, dtype=torch.float64)
    dense_shapes = {(OUT, IN), (IN, OUT)}
    for structure in layer_structures():
        layer.activate(structure)
        layer(x).backward(g)  # fills the scratch buffers
        with _Allocations() as ops:
            layer(x).backward(g)
        elementwise = structure.A.kind == "rank"
        gradient = [(a, b) for a, b in ops.products if {(a[0], b[1])} & dense_shapes and a[1] == TOKENS]
        assert bool(gradient) == elementwise, f"{structure}: {gradient}"
        assert not dense_shapes & set(ops.made), str(structure)
        assert (IN, IN) not in ops.made, str(structure)
        wide = [(a, b) for a, b in ops.products if TOKENS in a and min(a[0], a[1], b[1]) >= min(OUT, IN, TOKENS)]
        assert len(wide) == (3 if elementwise else 2), f"{structure}: {wide}"


@pytest.mark.parametrize("structure", [LayerStructure(C="vector", D="vector", E="vector"), LayerStructure(E="scalar")])
def test_bias_forms_leave_the_weight_alone(structure: LayerStructure, route: str) -> None:
    layer = adapted(linear(OUT, IN))
    layer.activate(structure)
    x = torch.randn(TOKENS, IN, dtype=torch.float64)
    with _Allocations() as ops:
        layer(x).backward(torch.ones(TOKENS, OUT, dtype=torch.float64))
    assert not {(OUT, IN), (IN, OUT)} & set(ops.made)
    assert not layer._scratch._buffers


def test_a_layer_of_all_none_is_the_frozen_layer() -> None:
    layer = adapted(linear(OUT, IN))
    layer.activate(LayerStructure())
    x = torch.randn(TOKENS, IN, dtype=torch.float64, requires_grad=True)
    with _Allocations() as ops:
        layer(x).sum().backward()
    with _Allocations() as plain:
        layer.original(x).sum().backward()
    assert ops.made == plain.made
    assert ops.products == plain.products


def test_only_what_the_forms_need_is_stored() -> None:
    none = {t: (Form.NONE,) for t in FORMS}
    assert not list(adapted(linear(4, 3), none).support.parameters())
    assert {
        k: tuple(v.shape) for k, v in storage(adapted(linear(4, 3), {**none, "D": (Form.SCALAR, Form.NONE)})).items()
    } == {"D": (1,)}


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

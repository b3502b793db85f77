"""What the adapted linear layer keeps and makes: nothing that the active forms do not need."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glora.layers import AdaptedLinear
from glora.structure import Form, LayerStructure
from helpers import FORMS, adapted, layer_structures, linear, randomise, storage

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

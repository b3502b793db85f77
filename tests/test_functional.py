"""The one equation, on numbers small enough to check by hand and against the dense oracle."""

from __future__ import annotations

import pytest
import torch

from glora.functional import LowRank, Multiplicative, Values, effective_bias, effective_weight
from glora.support import Storage
from helpers import RANK, adapted, layer_structures, linear, random_gains, randomise, storage
from oracles import dense

W = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
B0 = torch.tensor([10.0, 20.0])


def test_by_hand() -> None:
    values = Values(
        A=torch.tensor([1.0, -1.0]),
        B=LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5, 0.0, -1.0]])),
        C=torch.tensor([1.0, 0.0, -1.0]),
        D=torch.tensor([0.5]),
        E=torch.tensor([100.0, 200.0]),
    )
    assert effective_weight(W, values).tolist() == [[2.5, 4.0, 5.0], [1.0, 0.0, -2.0]]
    # 10 * 1.5 + 100 + (1 - 3), 20 * 1.5 + 200 + (4 - 6)
    assert effective_bias(W, B0, values).tolist() == [113.0, 228.0]


def test_multiplicative_a_by_hand() -> None:
    values = Values(A=Multiplicative(torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor([[0.0, 1.0, 0.0]])))
    # W0 A_d = (4, 10), added to the second column.
    assert effective_weight(W, values).tolist() == [[1.0, 6.0, 3.0], [4.0, 15.0, 6.0]]


def test_elementwise_low_rank_a_by_hand() -> None:
    values = Values(A=LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 0.0, -1.0]])))
    assert effective_weight(W, values).tolist() == [[2.0, 2.0, 0.0], [12.0, 5.0, -6.0]]


def test_low_rank_c_is_a_prompt() -> None:
    values = Values(C=LowRank(torch.eye(3, 2), torch.tensor([[2.0], [1.0]])))
    assert effective_bias(W, None, values).tolist() == [4.0, 13.0]
    assert effective_bias(W, B0, values).tolist() == [14.0, 33.0]


def test_nothing_gives_the_frozen_tensors_themselves() -> None:
    assert effective_weight(W, Values()) is W
    assert effective_weight(W, Values(C=torch.ones(3), D=torch.ones(2), E=torch.ones(2))) is W
    assert effective_bias(W, B0, Values(A=torch.ones(2), B=torch.ones(2))) is B0
    assert effective_bias(W, None, Values(A=torch.ones(2))) is None


def test_a_missing_bias_counts_as_zero() -> None:
    assert effective_bias(W, None, Values(D=torch.ones(2))) is None
    assert effective_bias(W, None, Values(E=torch.tensor([3.0]))).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("written", [False, True], ids=["new", "out"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("kept", ["separate", "shared"])
def test_all_forms_agree_with_the_dense_equation(kept: Storage, bias: bool, written: bool) -> None:
    for out, into in ((4, 3), (1, 3), (3, 1)):
        layer = adapted(linear(out, into, bias), gains=random_gains(0), storage=kept)
        randomise(layer)
        frozen = layer.weight.clone()
        for structure in layer_structures(bias=bias):
            with torch.no_grad():
                values = layer.support.values(structure)
                buffer = torch.full_like(layer.weight, torch.nan) if written else None
                weight = effective_weight(layer.weight, values, out=buffer)
                shift = effective_bias(layer.weight, layer.bias, values)
            wanted = dense.merged(layer.weight, layer.bias, structure.to_dict(), storage(layer), layer.support.gains)
            assert torch.allclose(weight, wanted[0], atol=1e-12), str(structure)
            assert torch.allclose(torch.zeros(out).double() if shift is None else shift, wanted[1], atol=1e-12)
            assert layer.weight.equal(frozen)
            if written and weight is not layer.weight:
                assert weight.data_ptr() == buffer.data_ptr()


def test_it_is_differentiable_by_itself() -> None:
    layer = adapted(linear(3, 2), gains=random_gains(1))
    randomise(layer)
    structure = next(s for s in layer_structures(f"rank-{RANK}") if all(f.kind != "none" for _, f in s.items()))
    leaves = [p for t, f in structure.items() for p in layer.support.parts(t, f) if p is not None]

    def merge(*_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = layer.support.values(structure)
        return effective_weight(layer.weight, values), effective_bias(layer.weight, layer.bias, values)

    assert torch.autograd.gradcheck(merge, leaves)

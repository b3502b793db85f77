"""Gains: finite for any backbone, the same everywhere, and a step of one size moves the output about as far."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import glora
from glora.errors import ConfigError
from glora.gains import check_gains, layer_gains
from glora.shapes import LayerShape
from glora.structure import LayerStructure, Structure
from helpers import MLP, layer_structures, randomise, storage
from oracles import dense

SHAPE = LayerShape(4, 9)


def test_balanced_gains_by_hand() -> None:
    weight, bias = torch.full((4, 9), 0.5), torch.full((4,), -0.2)
    gains = layer_gains(weight, bias, SHAPE, rank=4, policy="balanced")
    # A row has norm 0.5 * 3; a Xavier-uniform factor of 4 x 9 has standard deviation sqrt(2 / 13).
    assert gains == pytest.approx(
        {
            "A.rank": 1 / (1.5 * (2 / 13) ** 0.5),
            "A.vector": 1 / 1.5,
            "A.scalar": 1 / 1.5,
            "B.vector": 1 / 9,
            "B.scalar": 1 / 9,
            "C.vector": 1 / 1.5,
            "C.rank": 1 / 1.5,
            "D.vector": 5.0,
            "D.scalar": 5.0,
        },
        rel=1e-5,
    )


def test_the_papers_gains_are_all_one() -> None:
    assert layer_gains(torch.ones(4, 9), None, SHAPE, 4, "paper") == {}


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_gains_are_finite_and_positive_for_any_weights(size: float) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        weight, bias = torch.full((4, 9), size, dtype=dtype), torch.full((4,), size, dtype=dtype)
        gains = layer_gains(weight, bias, SHAPE, 4, "balanced")
        assert all(0 <= gain <= 30 for gain in gains.values())


def test_a_meta_weight_and_a_missing_bias_count_as_one() -> None:
    gains = layer_gains(torch.empty(4, 9, device="meta"), None, SHAPE, 4, "balanced")
    assert gains["A.vector"] == gains["C.vector"] == gains["D.vector"] == 1.0


def test_another_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="gains are 'balanced' or 'paper', not 'off'"):
        layer_gains(torch.ones(4, 9), None, SHAPE, 4, "off")  # type: ignore[arg-type]


def test_given_gains_are_checked() -> None:
    check_gains({"a": {"B.vector": 0.5}}, ["a", "b"])
    with pytest.raises(ConfigError, match="'c', which is not an adapted layer"):
        check_gains({"c": {}}, ["a", "b"])
    for wrong in (float("nan"), float("inf"), "1", None):
        with pytest.raises(ConfigError, match=r"the gain of B\.vector in a is"):
            check_gains({"a": {"B.vector": wrong}}, ["a"])  # type: ignore[dict-item]


def test_a_step_of_one_size_moves_the_output_about_equally_far() -> None:
    torch.manual_seed(0)
    module = nn.Linear(256, 192)
    x = torch.randn(512, 256) + 0.3
    model = nn.Sequential(module)
    net = glora.adapt(model, glora.SearchSpace.paper(4), head=False)
    before = module(x)
    moved = {}
    step = 1e-3
    for tensor in "ABCDE":
        for form in ("vector", "rank-4") if tensor in "AB" else ("vector",):
            with torch.no_grad(), net.using(Structure({"0": LayerStructure(**{tensor: form})})):
                for name, parameter in storage(net.layers["0"]).items():
                    if not name.endswith("_up"):
                        parameter.copy_(step * torch.randint(0, 2, parameter.shape).mul(2).sub(1))
                moved[tensor, form] = float((net(x) - before).square().mean().sqrt())
    for key, distance in moved.items():
        assert 0.1 * step < distance < 10 * step, (key, moved)


def test_gains_leave_the_set_of_functions_as_it_is() -> None:
    x = torch.randn(3, 6)
    net = glora.adapt(MLP(), glora.SearchSpace.paper(3))
    randomise(net)
    layer = net.layers["first"]
    assert layer.support.gains
    for structure in layer_structures():
        if structure.A.kind == "mul":
            continue
        with net.using(Structure({"first": structure})):
            found = layer(x)
        wanted = dense.forward(x, layer.weight, layer.bias, structure.to_dict(), storage(layer), layer.support.gains)
        assert torch.allclose(found.double(), wanted, atol=1e-4)


def test_gains_do_not_depend_on_the_process_or_the_number_of_threads(environment: dict[str, str]) -> None:
    code = (
        "import torch, sys; torch.set_num_threads(int(sys.argv[1])); torch.manual_seed(0)\n"
        "from glora.gains import layer_gains; from glora.shapes import LayerShape\n"
        "w = torch.randn(701, 997)\n"
        "print(layer_gains(w, w[:, 0], LayerShape(701, 997), 4, 'balanced'))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, threads],
            env={**environment, "PYTHONHASHSEED": threads},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1

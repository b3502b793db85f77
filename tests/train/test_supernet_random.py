"""Chance in the training of a supernet: one seed, one result; stochastic depth."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from supernets import BATCH, COUNT, SHORT, Residual, X, Y, net_of, raise_at, same
from timm.layers import DropPath
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from glora import Structure, TrainSettings, train_supernet

pytestmark = pytest.mark.usefixtures("single_threaded")


class FooDropPath(nn.Module):
    """As each model of transformers has its own; without an ancestor in common with the others."""

    def __init__(self, drop_prob: float = 0.5) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not self.training:
            return hidden_states
        keep = 1 - self.drop_prob
        shape = (hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1)
        return hidden_states.div(keep) * torch.floor(keep + torch.rand(shape))


DROPS: dict[str, Callable[[], nn.Module]] = {
    "timm": lambda: DropPath(0.5),
    "transformers": FooDropPath,
    "torchvision": lambda: StochasticDepth(0.5, "row"),
}


def test_one_seed_gives_one_result_to_the_bit_whatever_the_callers_generators() -> None:
    nets = {}
    for name, seed, outside in (("a", 3, 0), ("b", 3, 1), ("c", 4, 0)):
        nets[name] = net_of(Residual())
        torch.manual_seed(outside)
        random.seed(outside)
        records = train_supernet(nets[name], (X, Y), (X, Y), TrainSettings(epochs=4, batch_size=BATCH, seed=seed))
        nets[name].records = records
    assert same(nets["a"], nets["b"])
    assert nets["a"].records == nets["b"].records
    assert not same(nets["a"], nets["c"])
    assert nets["a"].records[0].loss != nets["c"].records[0].loss


def test_the_callers_generators_are_left_alone() -> None:
    def generators() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]

    before = generators()
    train_supernet(net_of(Residual()), (X, Y), (X, Y), SHORT)
    assert generators() == before
    with pytest.raises(RuntimeError, match="enough"):
        train_supernet(net_of(Residual()), (X, Y), settings=SHORT, on_step=raise_at(3))
    assert generators() == before


def test_evaluating_along_the_way_changes_nothing() -> None:
    nets = [net_of(Residual()) for _ in range(2)]
    losses = []
    for net, val in zip(nets, (None, (X, Y)), strict=True):
        losses.append([record.loss for record in train_supernet(net, (X, Y), val, SHORT)])
    assert same(*nets)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", DROPS)
def test_drop_path_acts_in_training_and_not_in_evaluation(kind: str) -> None:
    net = net_of(Residual(DROPS[kind]))
    seen: dict[bool, list[tuple[bool, bool]]] = {True: [], False: []}

    def note(module: nn.Module, given: tuple[Tensor], found: Tensor) -> None:
        seen[torch.is_grad_enabled()].append((module.training, found.equal(given[0])))

    for module in (net.model.drop, net.model.drop2):
        module.register_forward_hook(note)
    train_supernet(net, (X, Y), (X, Y), SHORT)
    assert len(seen[True]) == 2 * 20
    assert all(training for training, _ in seen[True])
    assert not any(unchanged for _, unchanged in seen[True])
    assert len(seen[False]) == 2 * 2 * 3  # two drops in two evaluations of three probes
    assert set(seen[False]) == {(False, True)}
    assert not any(module.training for module in net.modules())
    net.activate(Structure())
    assert net(X).equal(net(X))
    without = net_of(Residual(nn.Identity))
    train_supernet(without, (X, Y), (X, Y), SHORT)
    assert not without.model.head.weight.equal(net.model.head.weight)


def test_drop_path_drops_as_many_samples_as_it_says() -> None:
    net = net_of(Residual(lambda: DropPath(0.25)))
    dropped: list[float] = []
    net.model.drop.register_forward_hook(lambda _, __, out: dropped.extend((out == 0).all(1).tolist()))
    train_supernet(net, (X, Y), settings=TrainSettings(epochs=80, batch_size=BATCH))
    assert len(dropped) == 80 * COUNT
    assert sum(dropped) / len(dropped) == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / len(dropped)))

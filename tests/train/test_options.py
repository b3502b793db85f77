"""Averages, rates by form and the consistency term, against float64 loops that are written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from supernets import BATCH, COUNT, HandWritten, Watched, X, Y, net_of, rate, read_by, same, state
from torch import Tensor

import glora
from glora import GLoRAModel, SearchSpace, Structure, TrainSettings, presets, train_supernet
from glora.data import TensorSamples
from glora.evaluate import Evaluator
from glora.train.paths import Paths
from glora.train.probes import probe_structures
from helpers import MLP

pytestmark = pytest.mark.usefixtures("single_threaded")

STEPS = -(-COUNT // BATCH)
SETTINGS = TrainSettings(epochs=6, batch_size=BATCH, lr=5e-3, weight_decay=0.05, evaluations=3, probes=1)


def trained(net: GLoRAModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in (net.adapter_parameters() | net.head_parameters()).items()}


def history(settings: TrainSettings, space: SearchSpace | None = None) -> tuple[GLoRAModel, list[dict[str, Tensor]]]:
    """A trained net, and what its parameters were after each step."""
    net, seen = net_of(MLP().double(), space), []
    train_supernet(net, (X.double(), Y), settings=settings, on_step=lambda *_: seen.append(trained(net)))
    return net, seen


# The average


def averaged(values: list[Tensor], start: Tensor, decay: float) -> Tensor:
    """The weighted sum that the recursion comes to, from its end."""
    rest, total = 1.0, torch.zeros_like(start)
    for step in range(len(values), 0, -1):
        d = min(decay, (1 + step) / (10 + step))
        total, rest = total + rest * (1 - d) * values[step - 1], rest * d
    return total + rest * start


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_what_is_kept_is_the_average_over_all_steps(decay: float) -> None:
    start = trained(net_of(MLP().double()))
    net, seen = history(replace(SETTINGS, ema=decay))
    plain, steps = history(SETTINGS)
    assert all(seen[-1][name].equal(steps[-1][name]) for name in start)  # the average does not disturb the training
    for name, p in trained(net).items():
        wanted = averaged([values[name] for values in steps], start[name], decay)
        assert torch.allclose(p, wanted, rtol=1e-9, atol=1e-12), name
    assert not same(net, plain)


def test_probes_are_scored_with_the_average() -> None:
    settings = replace(SETTINGS, ema=0.9, lr=5e-2)
    net = net_of()
    records = train_supernet(net, (X, Y), (X, Y), settings)
    score = Evaluator(net, TensorSamples(X, Y))
    structures = probe_structures(net.bound, settings.probes, settings.seed)
    assert records[-1].probes == {name: score(structure).accuracy for name, structure in structures.items()}
    plain = net_of()
    assert train_supernet(plain, (X, Y), (X, Y), replace(settings, ema=0.0))[1].probes != records[1].probes


# Rates by form


class Scaled(HandWritten):
    """The rate of a parameter is that of the form which its tensor has in the step."""

    def __init__(self, net: GLoRAModel, scale: dict[str, float]) -> None:
        super().__init__(net)
        self.scale = scale

    def step(self, x: Tensor, labels: Tensor, structure: Structure, lr: float, decay: float) -> float:
        before = {name: p.detach().clone() for name, p in self.trained.items()}
        first = super().step(x, labels, structure, 1.0, 0.0)
        with torch.no_grad():
            for name, p in self.trained.items():
                factor = lr * self.scale.get(self.kind(name, structure), 1.0)
                moved = p - before[name]  # by one unit of the rate, where there was a gradient
                active = self.kind(name, structure) != "none"
                p.copy_(before[name] * (1 - factor * decay * active) + factor * moved)
        return first

    def kind(self, name: str, structure: Structure) -> str:
        layer, _, tensor = name.partition(".support.")
        if not tensor:
            return "head"
        form = structure[layer][tensor[0]]
        if form.kind == "none" or name not in read_by(self.trained, layer, tensor[0], form):
            return "none"
        return "rank" if form.rank else form.kind


@pytest.mark.parametrize(
    ("space", "scale"),
    [
        (SearchSpace.paper(3), {"rank": 0.5, "vector": 2.0, "scalar": 3.0, "head": 0.25}),
        (SearchSpace(2), {"vector": 0.0}),
        (SearchSpace(2), {"head": 0.0}),
        (SearchSpace(2, A=("mul-2", "vector", "none")), {"rank": 3.0}),
    ],
)
def test_a_tensor_moves_by_the_rate_of_the_form_it_is_drawn_as(space: SearchSpace, scale: dict[str, float]) -> None:
    settings = replace(SETTINGS, epochs=10, lr_scale=scale)
    net = net_of(MLP().double(), space)
    oracle, data = Scaled(net, scale), Watched(net, X.double())
    train_supernet(net, data, settings=settings)
    for i, (batch, structure) in enumerate(data.read):
        oracle.step(X[batch], Y[batch], structure, rate(settings, i, STEPS), settings.weight_decay)
    found = trained(net)
    # The loss is computed in float32, whose rounding AdamW carries on.
    assert all(torch.allclose(found[name], p, rtol=1e-6, atol=1e-7) for name, p in oracle.trained.items())
    plain = net_of(MLP().double(), space)
    train_supernet(plain, (X.double(), Y), settings=replace(settings, lr_scale=None))
    assert not same(net, plain)


def test_factors_of_one_change_nothing() -> None:
    nets = [net_of(), net_of()]
    train_supernet(nets[0], (X, Y), settings=replace(SETTINGS, lr_scale={"rank": 1.0, "head": 1.0}))
    train_supernet(nets[1], (X, Y), settings=SETTINGS)
    assert same(*nets)


# Consistency


class Consistent(HandWritten):
    """Adds the divergence from a second structure, which is a constant, to the loss."""

    def __init__(self, net: GLoRAModel, weight: float) -> None:
        super().__init__(net)
        self.weight, self.twin = weight, Structure()

    def step(self, x: Tensor, labels: Tensor, structure: Structure, lr: float, decay: float) -> float:
        target = self.logits(x, self.twin).detach().softmax(1)
        plain = self.logits

        def shifted(x: Tensor, structure: Structure) -> Tensor:
            self.divergence = (target * (target.log() - plain(x, structure).log_softmax(1))).sum(1).mean()
            return plain(x, structure)

        # The gradient of the sum is that of the loss of logits that carry the divergence along.
        self.logits = lambda x, structure: _Carry.apply(shifted(x, structure), self.divergence, self.weight)
        try:
            return super().step(x, labels, structure, lr, decay) + self.weight * self.divergence.item()
        finally:
            self.logits = plain


class _Carry(torch.autograd.Function):
    """The identity on its first argument, with a gradient of ``weight`` for its second."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, extra: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad, torch.tensor(ctx.weight, dtype=grad.dtype), None


def test_consistency_adds_the_divergence_from_a_second_structure() -> None:
    settings = replace(SETTINGS, consistency=0.7, epochs=10)
    net = net_of(MLP().double())
    oracle, data = Consistent(net, 0.7), Watched(net, X.double())
    paths = Paths(net.bound, settings, 10 * STEPS)
    losses: list[float] = []
    train_supernet(net, data, settings=settings, on_step=lambda *step: losses.append(step[2]))
    wanted = []
    for i, (batch, structure) in enumerate(data.read):
        oracle.twin = paths.twin(i)
        wanted.append(oracle.step(X[batch], Y[batch], structure, rate(settings, i, STEPS), settings.weight_decay))
    assert losses == pytest.approx(wanted, rel=1e-5)
    found = trained(net)
    assert all(torch.allclose(found[name], p, rtol=1e-4, atol=1e-6) for name, p in oracle.trained.items())


def test_a_space_of_one_point_has_no_second_structure() -> None:
    forwards: list[int] = []
    nets = [net_of(space=presets.lora(2)) for _ in range(2)]
    nets[0].model.first.register_forward_hook(lambda *_: forwards.append(1))
    train_supernet(nets[0], (X, Y), settings=replace(SETTINGS, consistency=0.7))
    train_supernet(nets[1], (X, Y), settings=SETTINGS)
    assert same(*nets)
    assert len(forwards) == SETTINGS.epochs * STEPS


@pytest.mark.parametrize("kept", [{"recompute": True}, {"checkpoint_blocks": True}])
def test_consistency_goes_with_saving_memory(kept: dict[str, bool]) -> None:
    states = []
    for memory in ({}, kept):
        torch.manual_seed(0)
        vit = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=3)
        adapting = {key: value for key, value in memory.items() if key == "recompute"}
        net = glora.adapt(vit, SearchSpace(2), **adapting)
        settings = TrainSettings(
            epochs=3, batch_size=4, consistency=1.0, checkpoint_blocks=memory.get("checkpoint_blocks", False)
        )
        train_supernet(net, (torch.randn(8, 3, 32, 32), torch.arange(8) % 3), settings=settings)
        states.append(state(net))
    assert all(torch.allclose(states[0][key], states[1][key], atol=1e-6) for key in states[0])


# All of them, stopped and gone on with


ALL = {
    "paths": "warmup",
    "path_warmup": 0.8,
    "none_rate": 0.2,
    "shallow_rate": 0.3,
    "ema": 0.9,
    "lr_scale": {"vector": 2.0, "head": 0.5},
    "consistency": 0.5,
}


def stop_at(epoch: int) -> Callable[[Any], None]:
    def stop(record: Any) -> None:
        if record.epoch == epoch:
            raise RuntimeError("enough")

    return stop


@pytest.mark.parametrize(
    "options",
    [ALL, {"paths": "fair", "ema": 0.99}, {"paths": "sandwich", "consistency": 1.0}, {"train_budget": 60, "ema": 0.9}],
)
@pytest.mark.parametrize("epoch", [1, 4])
def test_a_training_with_options_goes_on_to_the_bit(
    options: dict[str, Any], epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glora.train.supernet._CHECKPOINT_SECONDS", 0.0)
    settings = replace(SETTINGS, **options)
    whole, parts = net_of(), net_of()
    wanted = train_supernet(whole, (X, Y), (X, Y), settings)
    with pytest.raises(RuntimeError, match="enough"):
        train_supernet(parts, (X, Y), (X, Y), settings, state=tmp_path / "s", on_epoch=stop_at(epoch))
    parts = net_of()
    assert train_supernet(parts, (X, Y), (X, Y), settings, state=tmp_path / "s") == wanted
    assert same(parts, whole)
    again = net_of()
    assert train_supernet(again, (X, Y), (X, Y), settings, state=tmp_path / "s") == wanted  # finished: only read
    assert same(again, whole)

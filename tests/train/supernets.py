"""Supernets in training that several tests share, and the training loop written out as an oracle."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any

import numpy as np
import torch
from timm.layers import DropPath
from torch import Tensor, nn

import glora
from glora import GLoRAModel, SearchSpace, Structure, TrainSettings
from glora.data import Samples
from glora.structure import Form
from helpers import MLP, randomise_backbone
from oracles import dense

COUNT, BATCH = 23, 5
X = torch.randn(COUNT, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 4, (COUNT,), generator=torch.Generator().manual_seed(2))
SHORT = TrainSettings(epochs=4, batch_size=BATCH, lr=1e-2, evaluations=2, probes=1)


def net_of(model: nn.Module | None = None, space: SearchSpace | None = None, **settings: Any) -> GLoRAModel:
    model = MLP() if model is None else model
    randomise_backbone(model)
    return glora.adapt(model, space or SearchSpace.paper(2), **settings)


def state(net: GLoRAModel) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in net.model.state_dict().items()}


def same(a: GLoRAModel | dict[str, Tensor], b: GLoRAModel | dict[str, Tensor]) -> bool:
    one, other = (state(part) if isinstance(part, GLoRAModel) else part for part in (a, b))
    return list(one) == list(other) and all(one[key].equal(other[key]) for key in one)


class Watched(Samples):
    """Samples that write down which are read for each step, and the structure that is active then."""

    def __init__(self, net: GLoRAModel, x: Tensor, labels: Tensor = Y) -> None:
        self.net, self.x, self.labels = net, x, labels
        self.read: list[tuple[list[int], Structure]] = []

    def inputs(self, indices: Tensor) -> Tensor:
        self.read.append((indices.tolist(), self.net.active))
        return self.x[indices]

    def to(self, device: torch.device | str) -> Watched:
        return self


class HandWritten:
    """The MLP of helpers.py in float64: dense adapted layers, cross-entropy and AdamW from their definitions."""

    def __init__(self, net: GLoRAModel) -> None:
        self.frozen = {key: value.detach().double() for key, value in net.frozen_tensors().items()}
        trained = net.adapter_parameters() | net.head_parameters()
        self.trained = {name: p.detach().double().clone().requires_grad_() for name, p in trained.items()}
        self.gains = {name: dict(layer.support.gains) for name, layer in net.layers.items()}
        self.steps = dict.fromkeys(self.trained, 0)
        self.first = {name: torch.zeros_like(p) for name, p in self.trained.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.trained.items()}

    def logits(self, x: Tensor, structure: Structure) -> Tensor:
        x = x.double()
        for name in ("first", "second"):
            prefix = f"{name}.support."
            storage = {key.removeprefix(prefix): p for key, p in self.trained.items() if key.startswith(prefix)}
            weight, bias = self.frozen[f"{name}.weight"], self.frozen[f"{name}.bias"]
            x = dense.forward(x, weight, bias, structure[name].to_dict(), storage, self.gains[name]).clamp(min=0)
        return x @ self.trained["out.weight"].T + self.trained["out.bias"]

    def step(self, x: Tensor, labels: Tensor, structure: Structure, lr: float, decay: float) -> float:
        logits = self.logits(x, structure)
        right = logits[torch.arange(len(labels)), labels]
        loss = (logits.exp().sum(1).log() - right).mean()
        grads = torch.autograd.grad(loss, list(self.trained.values()), allow_unused=True)
        with torch.no_grad():
            for (name, p), grad in zip(self.trained.items(), grads, strict=True):
                if grad is None:
                    continue
                self.steps[name] += 1
                self.first[name] = 0.9 * self.first[name] + 0.1 * grad
                self.second[name] = 0.999 * self.second[name] + 0.001 * grad**2
                mean = self.first[name] / (1 - 0.9 ** self.steps[name])
                square = self.second[name] / (1 - 0.999 ** self.steps[name])
                p.copy_(p * (1 - lr * decay) - lr * mean / (square.sqrt() + 1e-8))
        return loss.item()


def read_by(names: Container[str], layer: str, tensor: str, form: Form) -> set[str]:
    """Those of the parameters called ``names`` that a form reads: of its kind alone where there are such."""
    prefix = f"{layer}.support.{tensor}"
    if form.kind == "mul":
        return {f"{prefix}_mul_down", f"{prefix}_mul_up"}
    own = f"{prefix}_{form.kind}"
    return {own if own in names else prefix, *([f"{prefix}_up"] if form.rank else [])}


def rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Straight from ``warmup_lr`` to ``lr``, then half a cosine from the very start down to ``min_lr``."""
    epoch = step / steps
    warm = min(settings.warmup_epochs, settings.epochs / 10)
    if epoch < warm:
        return float(np.interp(epoch, [0, warm], [settings.warmup_lr, settings.lr]))
    return settings.min_lr + (settings.lr - settings.min_lr) * math.cos(math.pi / 2 * epoch / settings.epochs) ** 2


class Mixed(nn.Module):
    """Statistics and dropout in the frozen part and in the head, and parameters that are on no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(6))
        self.last = nn.Linear(6, 6)
        self.head = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.drop(self.norm(self.fc(x))) * self.scale))


class Residual(nn.Module):
    """Two branches that are dropped now and then."""

    def __init__(self, drop: Callable[[], nn.Module] = lambda: DropPath(0.5)) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.drop, self.drop2 = drop(), drop()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.first(x))
        return self.head(x + self.drop2(torch.relu(self.second(x))))


def raise_at(number: int) -> Callable[..., None]:
    """A callback that raises when it is called for the ``number``-th time."""
    calls = iter(range(1, 1000))

    def call(*_: object) -> None:
        if next(calls) == number:
            raise RuntimeError("enough")

    return call

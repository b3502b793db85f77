"""The small network of helpers.py, adapted and trained a little."""

from __future__ import annotations

import random

import torch
from torch import nn

import glora
from glora import LayerStructure, SearchSpace
from helpers import MLP, randomise

FULL = LayerStructure(A="rank-2", B="rank-2", C="vector", D="vector", E="vector")
X = torch.linspace(-2, 2, 30).reshape(5, 6)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(a[key].equal(b[key]) and a[key].dtype == b[key].dtype for key in a)


def net_of(model: nn.Module | None = None, space: SearchSpace | None = None, **settings) -> glora.GLoRAModel:
    return glora.adapt(model or MLP(), space or SearchSpace.paper(2), **settings)


def random_net(bias: bool = True, **settings) -> glora.GLoRAModel:
    net = net_of(MLP(bias), **settings)
    randomise(net)
    return net


def train(net: glora.GLoRAModel, x: torch.Tensor = X, steps: int = 3, lr: float = 0.05) -> None:
    parameters = [*net.adapter_parameters().values(), *net.head_parameters().values()]
    optimizer = torch.optim.SGD(parameters, lr=lr)
    generator = random.Random(0)
    net.train()
    for _ in range(steps):
        net.activate(net.sample(generator))
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    net.eval()

"""A supernet on a task whose best structure is planted, with the scores of all its structures."""

from __future__ import annotations

import itertools
import json
from functools import cache
from typing import Any

import torch
from torch import Tensor

import glora
from glora import GLoRAModel, SearchSpace, Structure
from glora.evaluate import Outcomes
from glora.strategies import Score
from helpers import MLP, randomise, randomise_backbone
from oracles import dense
from oracles.brute_force import parameters

# 2 * 3 * 2 * 1 * 2 = 24 layer structures, 576 structures of the two layers.
SPACE = SearchSpace(
    2, A=["vector", "none"], B=["rank-2", "vector", "none"], C=["vector", "none"], D="none", E=["vector", "none"]
)
SIZES = {"first": (8, 6), "second": (5, 8)}
PLANTED = {"first": {"B": "rank-2", "C": "vector"}, "second": {"A": "vector", "E": "vector"}}
SMALL: dict[str, Any] = {"generations": 3, "population": 8, "parents": 3, "mutants": 3, "crossovers": 3}
X = torch.randn(400, 6, generator=torch.Generator().manual_seed(1))


def net_of(seed: int = 0, space: SearchSpace = SPACE, **options: Any) -> GLoRAModel:
    """A supernet that has been through something: every tensor has random values, and the head too."""
    model = MLP(seed=seed)
    randomise_backbone(model, seed)
    net = glora.adapt(model, space, **options)
    randomise(net, seed, scale=0.5)
    return net


def logits(net: GLoRAModel, forms: dict[str, dict[str, str]]) -> Tensor:
    """The MLP with these forms, densely and in float64."""
    x = X.double()
    for name in SIZES:
        layer = net.layers[name]
        storage = {key: p.detach() for key, p in layer.support.named_parameters()}
        gains = dict(layer.support.gains)
        x = dense.forward(x, layer.weight, layer.bias, forms.get(name, {}), storage, gains).detach().clamp(min=0)
    return x @ net.model.out.weight.detach().double().T + net.model.out.bias.detach().double()


def size(forms: dict[str, dict[str, str]]) -> int:
    return sum(parameters(t, form, *SIZES[name]) for name, own in forms.items() for t, form in own.items())


@cache
def table(seed: int) -> tuple[Tensor, dict[str, tuple[float, float, int]]]:
    """The labels that the planted structure gives, and accuracy, loss and size of all structures by trying each."""
    net = net_of(seed)
    labels = logits(net, PLANTED).argmax(1)
    choices = [("A", ["vector"]), ("B", ["rank-2", "vector"]), ("C", ["vector"]), ("E", ["vector"])]
    options = [
        {t: form for (t, _), form in zip(choices, forms, strict=True) if form}
        for forms in itertools.product(*([*forms, ""] for _, forms in choices))
    ]
    found = {}
    for first, second in itertools.product(options, options):
        forms = {"first": first, "second": second}
        scores = logits(net, forms)
        right = (scores.argmax(1) == labels).sum().item() / len(labels)
        loss = (scores.logsumexp(1) - scores[torch.arange(len(labels)), labels]).mean().item()
        found[key(Structure(forms))] = (right, loss, size(forms))
    return labels, found


def key(structure: Structure) -> str:
    return json.dumps(structure.to_dict(), sort_keys=True)


class Counting:
    """Stands for the Evaluator: each structure scores better than all before it."""

    calls = 0

    def __init__(self, *_: object) -> None:
        type(self).calls = 0

    def __call__(self, _: Structure) -> Score:
        type(self).calls += 1
        return Score(self.calls / 1000, 1.0, 1)

    def outcomes(self, _: Structure) -> Outcomes:
        return Outcomes(torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.float64))

"""Small networks and fillings that several tests share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from glora import GLoRAModel, SearchSpace
from glora.layers import AdaptedLayer, AdaptedLinear, Scratch
from glora.structure import TENSORS, Form, LayerStructure
from glora.support import Storage

RANK = 3
# All forms of the paper's space, the multiplicative A, and a rank below that of the storage.
FORMS: dict[str, tuple[Form, ...]] = {
    **SearchSpace.paper(RANK).forms,
    "A": (*SearchSpace.paper(RANK).forms["A"], Form("mul", RANK)),
}


def layer_structures(a: str | None = None, bias: bool = True) -> Iterator[LayerStructure]:
    """Every layer structure of FORMS, or those with the given A; without D where there is no bias."""
    choices = {**FORMS, "D": FORMS["D"] if bias else (Form.NONE,)}
    if a is not None:
        choices["A"] = (Form.parse(a),)
    for forms in itertools.product(*(choices[t] for t in TENSORS)):
        yield LayerStructure(**dict(zip(TENSORS, forms, strict=True)))


def linear(out: int, into: int, bias: bool = True, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    module = nn.Linear(into, out, bias, dtype=dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module.requires_grad_(False)


def adapted(
    module: nn.Linear,
    forms: Mapping[str, tuple[Form, ...]] = FORMS,
    gains: Mapping[str, float] | None = None,
    storage: Storage = "shared",
) -> AdaptedLinear:
    return AdaptedLinear(module, forms, gains or {}, Scratch(), storage=storage)


def random_gains(seed: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    keys = [f"{t}.{kind}" for t in TENSORS for kind in ("rank", "vector", "scalar", "mul")]
    return {key: float(torch.rand((), generator=generator)) * 1.5 + 0.25 for key in keys}


@torch.no_grad()
def randomise(layer: nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Fill every support tensor of a layer, or of all layers of a model, with random numbers."""
    generator = torch.Generator().manual_seed(seed)
    layers = [m for m in layer.modules() if isinstance(m, AdaptedLayer)]
    for parameter in (p for one in layers for p in one.support.parameters()):
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)


@torch.no_grad()
def randomise_backbone(model: nn.Module, seed: int = 0) -> None:
    """Give norms, biases and matrices of zeros random values, without which D and vector B have hardly any effect."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim <= 1 or not parameter.any():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def storage(layer: AdaptedLayer) -> dict[str, Tensor]:
    return dict(layer.support.named_parameters())


def some_structure(net: GLoRAModel, seed: int = 0):
    import random

    return net.sample(random.Random(seed))


class MLP(nn.Module):
    """Two hidden layers and a head, for inputs of width 6."""

    def __init__(self, bias: bool = True, inplace: bool = False, classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(6, 8, bias)
            self.second = nn.Linear(8, 5, bias)
            self.act = nn.ReLU(inplace=inplace)
            self.out = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.second(self.act(self.first(x)))))


@contextmanager
def one_thread() -> Iterator[None]:
    """Tiny matrices are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""The dense equation as an oracle for adapted linear layers: values, and gradients by float64 autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from glora.layers import AdaptedLinear
from glora.structure import LayerStructure
from helpers import FORMS, storage
from oracles import dense

A_FORMS = [str(form) for form in FORMS["A"]]


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

"""Gains: constants that let one optimiser step move a layer's output about equally far through any form.

All forms of a support tensor share storage, and the same numbers stand for very different things: as a vector of
B they multiply the sum of all inputs, as a low-rank factor a small random projection of them. One step of AdamW
moves every entry by about the learning rate, hence the output 10 to 100 times further through one form than
through another, and whatever shares the storage is thrown off. A fixed gain per form, folded in at merge, mends
that and leaves the set of functions as it is. docs/gains.md derives the values below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from glora.errors import ConfigError, near_miss
from glora.shapes import LayerShape
from glora.structure import TENSORS

__all__ = ["GainPolicy", "check_gains", "layer_gains"]

GainPolicy = Literal["balanced", "paper"]

# A bias of zeros would ask for an infinite gain of D, of which no step could move the output anyway.
_LARGEST = 30.0
_KEYS = (
    *(f"{tensor}.{kind}" for tensor in TENSORS for kind in ("rank", "vector", "scalar", "mul")),
    *("prompt.tokens", "adapter.bottleneck", "adapter.serial"),
)


@torch.no_grad()
def layer_gains(
    weight: Tensor, bias: Tensor | None, shape: LayerShape, rank: int, policy: GainPolicy
) -> dict[str, float]:
    """The gains of one layer's forms, keyed ``"B.vector"``; a missing key is 1.

    Args:
        weight: frozen weight, (out, in); on the meta device a unit output scale is assumed.
        bias: frozen bias, (out,), or None.
        shape: the layer's sizes.
        rank: of the low-rank storage.
        policy: ``"balanced"``, or ``"paper"`` for the released behaviour, all gains 1.

    Raises:
        ConfigError: for another policy.
    """
    if policy == "paper":
        return {}
    if policy != "balanced":
        raise ConfigError(f"gains are 'balanced' or 'paper', not {policy!r}{near_miss(policy, ('balanced', 'paper'))}")
    known = not weight.is_meta
    row = _root_mean_square(weight) * math.sqrt(shape.in_features) if known else 1.0
    shift = _root_mean_square(bias) if known and bias is not None else 1.0
    factor = math.sqrt(2 / (rank + shape.in_features))
    divisors = {
        "A.rank": factor * row,
        "A.vector": row,
        "A.scalar": row,
        "B.vector": shape.in_features,
        "B.scalar": shape.in_features,
        "C.vector": row,
        "C.rank": row,
        "D.vector": shift,
        "D.scalar": shift,
    }
    return {key: float(f"{1 / max(divisor, 1 / _LARGEST):.6g}") for key, divisor in divisors.items()}


def check_gains(gains: Mapping[str, Mapping[str, float]], layers: Iterable[str]) -> None:
    """Raise ConfigError if gains given by layer name one that is not adapted, or no form, or are no finite numbers."""
    adapted = list(layers)
    if unknown := sorted(set(gains) - set(adapted)):
        near = near_miss(unknown[0], adapted)
        raise ConfigError(f"gains are given for {unknown[0]!r}, which is not an adapted layer{near}")
    for name, own in gains.items():
        for key, gain in own.items():
            if key not in _KEYS:
                near = near_miss(key, _KEYS)
                raise ConfigError(f"the gains of {name} have {key!r}, which is no form such as 'B.vector'{near}")
            if not isinstance(gain, int | float) or not math.isfinite(gain):
                raise ConfigError(f"the gain of {key} in {name} is {gain!r}, and must be a finite number")


def _root_mean_square(tensor: Tensor) -> float:
    # On the CPU, row by row in float32 and over rows in float64: as fast as memory, and the same on every device and
    # thread count once it is rounded to six digits.
    rows = torch.linalg.vector_norm(tensor.detach().cpu().float().reshape(len(tensor), -1), dim=1).double()
    return math.sqrt(float(rows.square().sum()) / tensor.numel())

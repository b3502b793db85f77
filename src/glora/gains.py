"""Gains: constants that let one optimiser step move a layer's output about equally far through any form.

All forms of a support tensor share storage, and the same numbers stand for very different things: as a vector of
B they multiply the sum of all inputs, as a low-rank factor a small random projection of them. One step of AdamW
moves every entry by about the learning rate, hence the output 10 to 100 times further through one form than
through another, and whatever shares the storage is thrown off. A fixed gain per form, folded in at merge, mends
that and leaves the set of functions as it is. docs/gains.md derives the values below.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from glora.errors import ConfigError
from glora.space import LayerShape

__all__ = ["GainPolicy", "layer_gains"]

GainPolicy = Literal["balanced", "paper"]

# A bias of zeros would ask for an infinite gain of D, of which no step could move the output anyway.
_LARGEST = 30.0


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
        raise ConfigError(f"gains are 'balanced' or 'paper', not {policy!r}")
    known = not weight.is_meta
    row = float(weight.float().square().sum(1).mean().sqrt()) if known else 1.0
    shift = float(bias.float().square().mean().sqrt()) if known and bias is not None else 1.0
    factor = math.sqrt(2 / (rank + shape.in_features))
    gains = {
        "A.rank": 1 / (factor * row),
        "A.vector": 1 / row,
        "A.scalar": 1 / row,
        "B.vector": 1 / shape.in_features,
        "B.scalar": 1 / shape.in_features,
        "C.vector": 1 / row,
        "C.rank": 1 / row,
        "D.vector": 1 / shift,
        "D.scalar": 1 / shift,
    }
    return {key: float(f"{min(gain, _LARGEST):.6g}") for key, gain in gains.items()}

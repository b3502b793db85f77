"""The fixed structures that a training is watched by: never a random one, whose noise would hide the trend."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from glora.space import BoundSpace
from glora.structure import Form, Structure

__all__ = ["probe_structures"]


def probe_structures(bound: BoundSpace, count: int, seed: int) -> dict[str, Structure]:
    """The smallest and the largest structure and ``count`` random ones, always the same for one seed."""
    if bound.cardinality == 1:
        return {"fixed": bound.sample(random.Random(seed))}
    extremes = {"smallest": _extreme(bound, min), "largest": _extreme(bound, max)}
    generator = random.Random(f"probes {seed}")
    return extremes | {f"random-{i}": bound.sample(generator) for i in range(count)}


def _extreme(bound: BoundSpace, choose: Callable[..., Form]) -> Structure:
    """The structure of the cheapest forms, or of the dearest."""
    return bound.build({gene: choose(bound.choices(*gene), key=partial(bound.cost, *gene)) for gene in bound.genes})

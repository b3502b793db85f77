"""The fixed structures that a training is watched by: never a random one, whose noise would hide the trend."""

from __future__ import annotations

import random
from functools import partial

from glora.space import BoundSpace
from glora.structure import Structure
from glora.train.paths import dearest

__all__ = ["probe_structures"]


def probe_structures(bound: BoundSpace, count: int, seed: int) -> dict[str, Structure]:
    """The smallest and the largest structure and ``count`` random ones, always the same for one seed."""
    if bound.cardinality == 1:
        return {"fixed": bound.sample(random.Random(seed))}
    cheapest = {gene: min(bound.choices(*gene), key=partial(bound.cost, *gene)) for gene in bound.genes}
    extremes = {"smallest": bound.build(cheapest), "largest": bound.build(dearest(bound))}
    generator = random.Random(f"probes {seed}")
    return extremes | {f"random-{i}": bound.sample(generator) for i in range(count)}

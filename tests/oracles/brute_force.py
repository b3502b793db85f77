"""Counting and optimising by trying everything; takes plain text and numbers and imports nothing from the package."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def arrays(tensor: str, form: str, out: int, into: int) -> list[tuple[int, ...]]:
    """The shapes of the arrays that one support tensor of an out x in layer is stored in."""
    kind, _, rank = form.partition("-")
    if kind == "none":
        return []
    if kind == "scalar":
        return [()]
    if kind == "vector":
        return [(into,)] if tensor == "C" else [(out,)]
    if kind == "mul":
        assert tensor == "A"
        return [(into, int(rank)), (int(rank), into)]
    assert kind == "rank"
    return [(into, int(rank)), (int(rank), 1)] if tensor == "C" else [(out, int(rank)), (int(rank), into)]


def parameters(tensor: str, form: str, out: int, into: int) -> int:
    """Numbers in those arrays, counted."""
    return sum(math.prod(shape) for shape in arrays(tensor, form, out, into))


def best_choice(costs: Sequence[Sequence[int]], gains: Sequence[Sequence[float]], budget: int) -> tuple[int, ...]:
    """Which option of every gene gives the greatest sum of gains at a sum of costs within the budget."""
    best: tuple[float, tuple[int, ...]] | None = None
    for choice in itertools.product(*(range(len(options)) for options in costs)):
        if sum(costs[gene][option] for gene, option in enumerate(choice)) > budget:
            continue
        total = math.fsum(gains[gene][option] for gene, option in enumerate(choice))
        if best is None or total > best[0]:
            best = (total, choice)
    assert best is not None, "nothing is within the budget"
    return best[1]

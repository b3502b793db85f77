"""What a comparison is worth: paired bootstrap intervals, rank correlation, and the sentence that follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from glora.errors import DataError

__all__ = ["Gain", "gain", "kendall_tau", "verdict"]

_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much a model is more accurate than another on the same images, with its 95 % bootstrap interval."""

    over: str
    difference: float
    low: float
    high: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def gain(ours: str, other: str, over: str = "", seed: int = 0) -> Gain:
    """The difference of two accuracies, and the percentile bootstrap of images drawn with both their results.

    Only how often one of the two is right alone matters, so that images are drawn as counts of three kinds.

    Args:
        ours: what it is right on, an image a character: 1 right, 0 wrong.
        other: of the other model, on the same images.
        over: the other's name.
        seed: of the 10,000 draws.

    Raises:
        DataError: if they are not of the same images, or of none.
    """
    count = len(ours)
    if count == 0 or len(other) != count:
        raise DataError(f"results of {count} and {len(other)} images cannot be paired")
    wins = sum(a > b for a, b in zip(ours, other, strict=True))
    losses = sum(a < b for a, b in zip(ours, other, strict=True))
    shares = np.array([wins, losses, count - wins - losses]) / count
    drawn = np.random.Generator(np.random.PCG64(seed)).multinomial(count, shares, _RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, [0.025, 0.975])
    return Gain(over, (wins - losses) / count, float(low), float(high), count)


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b, which allows for ties; None where one of the two is all the same or has fewer than two."""
    agreement, one, two = 0, 0, 0
    for i in range(len(first)):
        for j in range(i):
            a, b = _sign(first[i] - first[j]), _sign(second[i] - second[j])
            agreement += a * b
            one += a != 0
            two += b != 0
    return agreement / math.sqrt(one * two) if one and two else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def verdict(fixed: Gain, random_search: Gain | None, part: str, parameters: tuple[int, int]) -> str:
    """Whether the search was worth it, in a sentence or two.

    Args:
        fixed: over the best fixed structure of at least the same size.
        random_search: over a random search with as many evaluations, or None.
        part: of the data, "validation" or "test".
        parameters: ours and those of the fixed structure.
    """
    ours, theirs = parameters
    cost, images = f"with {ours:,} against {theirs:,} parameters", f"{fixed.images:,} {part} images"
    text = f"{_said(fixed, 'The search')} over {fixed.over}, {cost}: {_figures(fixed)} on {images}."
    if random_search is None:
        return text
    return f"{text} {_said(random_search, 'It')} over {random_search.over}: {_figures(random_search)}."


def _said(found: Gain, who: str) -> str:
    if found.low > 0:
        return f"{who} gained"
    return f"{who} lost" if found.high < 0 else f"{who} gained nothing that can be told from noise"


def _figures(found: Gain) -> str:
    interval = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    return f"{100 * found.difference:+.1f} points (95 % interval {interval}, paired)"

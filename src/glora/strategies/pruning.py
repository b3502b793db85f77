"""Exact pruning: which samples to look at first, and when a candidate can no longer matter.

Which samples are evaluated together may change logits by rounding, so it must not depend on what was pruned. It is
settled once: when candidates first have a bar to come up to, the samples are sorted by how many candidates so far got
them wrong, and cut into batches. All candidates until then were evaluated as a whole, with or without pruning. Later
only the order of the batches changes, on which no score depends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

from glora.strategies.score import Candidate, Merit, bits
from glora.strategies.scorer import Batches

__all__ = ["Hardness", "bar_at"]


@final
class Hardness:
    """How many candidates got each sample wrong, and the batches that this makes, the hardest first.

    Args:
        samples: how many there are.
        batch_size: how many to evaluate together.
    """

    def __init__(self, samples: int, batch_size: int) -> None:
        self._size = batch_size
        self._wrong = [0] * samples
        self._batches = self._cut(range(samples))
        self._sorted = False

    def count(self, candidates: Iterable[Candidate]) -> None:
        """Take further candidates into account; those not evaluated as a whole say nothing."""
        for candidate in candidates:
            score = candidate.score
            if score.right and score.same_as is None:
                # A callable that scores one structure has no samples that are known here.
                for index, right in enumerate(bits(score.right, len(self._wrong))):
                    if right == "0":
                        self._wrong[index] += 1

    def batches(self, sort: bool) -> Batches:
        """All samples in batches, those that most candidates get wrong first.

        Args:
            sort: whether a bar has been set: the batches are made anew when it is first, and never again.
        """
        if sort and not self._sorted:
            self._batches = self._cut(sorted(range(len(self._wrong)), key=lambda index: -self._wrong[index]))
            self._sorted = True
        return sorted(self._batches, key=lambda batch: -sum(self._wrong[index] for index in batch) / len(batch))

    def _cut(self, order: Sequence[int]) -> list[tuple[int, ...]]:
        return [tuple(order[start : start + self._size]) for start in range(0, len(order), self._size)]


def bar_at(size: int, bar: Merit | None, candidates: Iterable[Candidate]) -> Merit | None:
    """What a candidate of ``size`` must come up to: below both ``bar`` and the front at its size, it cannot matter.

    Args:
        size: its adapter parameters.
        bar: the strategy's, see :attr:`glora.strategies.Strategy.bar`.
        candidates: all before its generation.

    Returns:
        The lower one of ``bar`` and the best that is no larger than it; None if one of them does not exist.
    """
    if bar is None:
        return None
    smaller = [c for c in candidates if c.size <= size and not c.score.failed]
    if not smaller:
        return None
    front = max(smaller, key=Candidate.rank_key).score.merit
    return front if front.below(bar) else bar

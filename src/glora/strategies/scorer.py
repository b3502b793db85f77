"""What scores structures: one by one, or a generation at once, of which hopeless candidates need not be finished."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import final

from glora.errors import GloraError
from glora.strategies.score import Key, Score
from glora.structure import Structure

__all__ = ["Batches", "EachScorer", "Scorer"]

Batches = Sequence[Sequence[int]]
"""Indices of all samples in the batches they are evaluated in, in the order of evaluation."""


class Scorer(ABC):
    """The bridge between a search and a model.

    Attributes:
        samples: how many a whole evaluation is measured on.
        batch_size: how many are evaluated together.
    """

    samples: int
    batch_size: int

    @abstractmethod
    def scores(self, structures: Sequence[Structure], batches: Batches, bar: Key | None) -> Generator[Score]:
        """Score structures, and give the scores in their order, each as soon as those before it are there.

        Args:
            structures: what to score.
            batches: which samples to evaluate together. A score may depend on that by rounding, but neither on the
                order of the batches nor on what else is scored.
            bar: what they must come up to: an evaluation is stopped, and the score a bound, after the first batch,
                but the last, that leaves it no way to; None for whole evaluations.
        """

    def canonical(self, structure: Structure) -> Structure:
        """One structure for all that compute the same function; the given one where nothing is known."""
        return structure


@final
class EachScorer(Scorer):
    """A callable that scores one structure, as a whole."""

    def __init__(self, score: Callable[[Structure], Score]) -> None:
        self.samples, self.batch_size = 0, 1
        self._score = score

    def scores(self, structures: Sequence[Structure], batches: Batches, bar: Key | None) -> Generator[Score]:
        """Call it for each structure.

        Raises:
            GloraError: if it gives no score.
        """
        for structure in structures:
            score = self._score(structure)
            if not isinstance(score, Score):
                raise GloraError(f"score(structure) must return a glora.strategies.Score, not {type(score).__name__}")
            yield score

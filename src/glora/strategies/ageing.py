"""Regularised evolution (Real et al. 2019, arXiv 1802.01548): the oldest dies, however good it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, final

from glora.space import BoundSpace
from glora.strategies.operators import mutate
from glora.strategies.score import Candidate, Origin
from glora.strategies.strategy import Strategy
from glora.structure import Structure

__all__ = ["AgeingEvolution"]


@final
class AgeingEvolution(Strategy):
    """The population is a queue: the newest ``population`` candidates, whatever their scores.

    Each child is a mutant of the best of ``sample_size`` members drawn at random (Real et al., algorithm 1). A lucky
    score dies with its structure, and only what does well again in its children stays: this is what makes the
    procedure robust to noise. Children are drawn ``batch`` at a time from the same queue, so that they can be scored
    at once; with a batch of 1 this is the original. Their mutation changes one choice; here each form is redrawn with
    ``probability``, and what was seen before is drawn again.

    Args:
        space: where structures come from.
        budget: most adapter parameters of any candidate; None for no limit.
        seed: of all draws.
        evaluations: candidates in all, the random first population included.
        population: length of the queue.
        sample_size: members that a parent is the best of; a failed candidate never is a parent.
        batch: children a generation, after a first generation of a whole population.
        probability: with which a mutation redraws each form of each layer.
        initial: structures scored first; they count towards the first population.

    Raises:
        BudgetError: if no structure, or not that of ``initial``, meets the budget.
        StructureError: for a structure of ``initial`` that is not in the space.
        ConfigError: for a setting that is out of range or contradicts another one.
    """

    name: ClassVar[str] = "ageing"

    def __init__(
        self,
        space: BoundSpace,
        budget: int | None = None,
        *,
        seed: int = 0,
        evaluations: int = 1050,
        population: int = 50,
        sample_size: int = 12,
        batch: int = 10,
        probability: float = 0.05,
        initial: Iterable[Structure] = (),
    ) -> None:
        super().__init__(space, budget, seed=seed, initial=initial)
        self.evaluations, self.population, self.sample_size = evaluations, population, sample_size
        self.batch, self.probability = batch, probability
        self._check_batches(evaluations, batch, population)
        self._check(
            1 <= sample_size <= population,
            f"sample_size is between 1 and the population of {population}, not {sample_size}",
        )
        self._check(0 <= probability <= 1, f"the probability of a mutation is between 0 and 1, not {probability}")

    def _settings(self) -> dict[str, Any]:
        return {
            "evaluations": self.evaluations,
            "population": self.population,
            "sample_size": self.sample_size,
            "batch": self.batch,
            "probability": self.probability,
        }

    def _draw(self) -> list[tuple[Structure, Origin]]:
        left = self.evaluations - len(self._candidates)
        if self._generation == 0:
            return self._first(min(self.population, left))
        count = min(self.batch, left)
        queue = self._candidates[-self.population :]
        able = [candidate for candidate in queue if not candidate.score.failed]
        drawn = self._new("mutant", lambda: self._child(able), count) if able else []
        return drawn + self._random(count - len(drawn))

    def _child(self, queue: list[Candidate]) -> Structure:
        drawn = self._rng.sample(queue, min(self.sample_size, len(queue)))
        parent = max(drawn, key=Candidate.rank_key).structure
        return mutate(self.space, self.budget, parent, self.probability, self._rng)

"""Search by what every form does to every single validation sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, final

import numpy as np

from glora.space import BoundSpace
from glora.strategies.additive import Array, Table
from glora.strategies.operators import crossover, mutate
from glora.strategies.sample_model import SampleModel, edge_of, unpacked
from glora.strategies.score import Candidate, Key, Origin, bits
from glora.strategies.strategy import Strategy
from glora.structure import Structure

__all__ = ["Samplewise"]


@final
class Samplewise(Strategy):
    """Climbing from the best candidates by a model of every sample's loss, which learns from stopped evaluations too.

    A candidate's evaluation tells of each sample how high its loss is. A linear model of the forms is fitted to each
    of them (:mod:`glora.strategies.sample_model`); the accuracy it predicts for a structure is the mean chance of a
    sample to be right, which no linear model of the accuracy itself could tell. A proposal starts at one of the best
    candidates, or at a crossover of two, and changes one form after another for what the model, drawn from what it
    still holds possible, expects most of, within the budget. Only the best candidates must be known as wholes: the
    others are stopped by exact pruning, and what they showed until then is learnt from. So its draws, unlike those of
    other strategies, depend on what was stopped: without pruning, with another number of best ones that must be known,
    or in other batches it is another search.

    Where scores tell nothing of their samples, the mean loss is modelled as the only one.

    Args:
        space: where structures come from.
        budget: most adapter parameters of any candidate; None for no limit.
        seed: of all draws.
        evaluations: candidates in all.
        first: candidates of the first generation, which is random.
        batch: candidates of each further generation.
        parents: how many of the best are started from; whatever is worse than they may be stopped.
        changes: most forms that a climb changes.
        spread: how far the draws stray from the model's mean at first, as a multiple of its standard deviation; falls
            to nothing as the evaluations are used up.
        initial: structures scored first; they count towards the first generation.

    Raises:
        BudgetError: if no structure, or not that of ``initial``, meets the budget.
        StructureError: for a structure of ``initial`` that is not in the space.
        ConfigError: for a setting that is out of range or contradicts another one.
    """

    name: ClassVar[str] = "samplewise"

    def __init__(
        self,
        space: BoundSpace,
        budget: int | None = None,
        *,
        seed: int = 0,
        evaluations: int = 1050,
        first: int = 50,
        batch: int = 10,
        parents: int = 5,
        changes: int = 15,
        spread: float = 0.3,
        initial: Iterable[Structure] = (),
    ) -> None:
        super().__init__(space, budget, seed=seed, initial=initial)
        self.evaluations, self.first, self.batch = evaluations, first, batch
        self.parents, self.changes, self.spread = parents, changes, spread
        self._check(first >= 1, f"first is 1 or more, not {first}")
        self._check_batches(evaluations, batch, first)
        self._check(parents >= 1, f"parents is 1 or more, not {parents}")
        self._check(changes >= 1, f"changes is 1 or more, not {changes}")
        self._check(0 <= spread < float("inf"), f"spread is 0 or more, not {spread}")
        self._table = Table(space)

    def bar(self, found: Sequence[Candidate] = ()) -> Key | None:
        """The worst of the parents: of what is worse, what was seen of it is enough."""
        return self._worst_of_best(self.parents, found)

    def _settings(self) -> dict[str, Any]:
        return {
            "evaluations": self.evaluations,
            "first": self.first,
            "batch": self.batch,
            "parents": self.parents,
            "changes": self.changes,
            "spread": self.spread,
        }

    def _draw(self) -> list[tuple[Structure, Origin]]:
        left = self.evaluations - len(self._candidates)
        if self._generation == 0:
            return self._first(min(self.first, left))
        count = min(self.batch, left)
        parents = [candidate.structure for candidate in self._able()[: self.parents]]
        drawn: list[tuple[Structure, Origin]] = []
        if count and len(self._able()) > 1:
            model, edge = self._fitted()
            drawn += self._new("predicted", lambda: self._climbed(model, edge, parents), count)
        if parents:
            few = 2 / max(len(self.space.genes), 2)
            drawn += self._new(
                "mutant",
                lambda: mutate(self.space, self.budget, self._rng.choice(parents), few, self._rng),
                count - len(drawn),
            )
        return drawn + self._random(count - len(drawn))

    def _climbed(self, model: SampleModel, edge: float | None, parents: Sequence[Structure]) -> Structure:
        spread = self.spread * (1 - len(self._candidates) / self.evaluations)
        outlook = model.draw(self._rng, spread, edge)
        start = self._rng.choice(parents)
        if len(parents) > 1 and self._rng.random() < 0.5:
            one, other = self._rng.sample(parents, 2)
            start = crossover(self.space, self.budget, one, other, self._rng)
        changes = self._rng.randint(1, self.changes)
        return self._table.structure(outlook.climbed(self._table.chosen(start), self.budget, changes))

    def _fitted(self) -> tuple[SampleModel, float | None]:
        """The model of all that was seen, and the level from which on a sample is wrong; None to judge by the loss."""
        able = self._able()
        if not all(candidate.score.levels and candidate.score.right for candidate in able):
            losses = np.array([[candidate.score.loss] for candidate in able])
            # Only its order counts; in units of its deviation it has the size of a level.
            levels = (losses - losses.mean()) / (float(losses.std()) or 1.0)
            return SampleModel(self._table, self._matrix(able), levels), None
        seen = [candidate for candidate in self._candidates if candidate.score.levels]
        levels = np.array([unpacked(candidate.score.levels) for candidate in seen])
        model = SampleModel(self._table, self._matrix(seen), levels)
        if able[0].score.fitness == "loss":
            return model, None
        right = np.array([list(bits(candidate.score.right, candidate.score.samples)) for candidate in able]) == "1"
        return model, edge_of(np.array([unpacked(candidate.score.levels) for candidate in able]), right)

    def _matrix(self, candidates: Sequence[Candidate]) -> Array:
        return np.array([self._table.row(candidate.structure) for candidate in candidates])

"""Random search: what every other strategy must beat at equal evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, final

from glora.space import BoundSpace
from glora.strategies.score import Candidate, Key, Origin
from glora.strategies.strategy import Strategy
from glora.structure import Structure

__all__ = ["RandomSearch"]

# In simulations with the best as the bar, up to nine of ten evaluations that were stopped had to be made good for the
# 20 best and the front; with the tenth best, one of 30.
_GOOD = 10


@final
class RandomSearch(Strategy):
    """Distinct legal structures drawn at random, learning nothing from their scores.

    Args:
        space: where structures come from.
        budget: most adapter parameters of any candidate; None for no limit.
        seed: of all draws.
        evaluations: candidates in all.
        batch: candidates a generation.
        initial: structures scored first; they count towards the first generation.

    Raises:
        BudgetError: if no structure, or not that of ``initial``, meets the budget.
        StructureError: for a structure of ``initial`` that is not in the space.
        ConfigError: for a setting that is out of range or contradicts another one.
    """

    name: ClassVar[str] = "random"

    def __init__(
        self,
        space: BoundSpace,
        budget: int | None = None,
        *,
        seed: int = 0,
        evaluations: int = 1050,
        batch: int = 50,
        initial: Iterable[Structure] = (),
    ) -> None:
        super().__init__(space, budget, seed=seed, initial=initial)
        self.evaluations, self.batch = evaluations, batch
        self._check_batches(evaluations, batch)

    def bar(self, found: Sequence[Candidate] = ()) -> Key | None:
        """The tenth best so far: no draw depends on any score, but under a higher bar too much is left open."""
        return self._worst_of_best(_GOOD, found)

    def _settings(self) -> dict[str, Any]:
        return {"evaluations": self.evaluations, "batch": self.batch}

    def _draw(self) -> list[tuple[Structure, Origin]]:
        count = min(self.batch, self.evaluations - len(self._candidates))
        return self._first(count) if self._generation == 0 else self._random(count)

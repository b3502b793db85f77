"""Search by a surrogate: what every form is worth is fitted to the losses seen, and the best by that is asked next."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from glora.space import BoundSpace
from glora.strategies.additive import AdditiveModel, Table
from glora.strategies.operators import mutate
from glora.strategies.score import Origin
from glora.strategies.strategy import CHILD_TRIES, Strategy, fingerprint
from glora.structure import Form, Structure

__all__ = ["Surrogate"]


@final
class Surrogate(Strategy):
    """Thompson sampling on an additive model of the loss, with the best structure within the budget in closed form.

    In a supernet every candidate says something about every gene, and evolution throws that away: it keeps the best
    candidates, by an accuracy that 200 images hardly tell apart. Here a linear model with one value for each form of
    each gene is fitted to the losses of all candidates (:mod:`glora.strategies.additive`). Each proposal draws the
    values from what the model still holds possible and is the best structure for them within the budget, a knapsack:
    it tries what may be good, and as the values get known, what is good. Where that gives nothing new, the best
    candidate is mutated.

    Args:
        space: where structures come from.
        budget: most adapter parameters of any candidate; None for no limit.
        seed: of all draws.
        evaluations: candidates in all.
        batch: candidates a generation.
        spread: how far proposals stray from the model's mean at first, as a multiple of its standard deviation; falls
            to nothing as the evaluations are used up, so that the last ones go to what is held to be the best.
        priors: predicted gain of each form of each gene, (layer, support tensor) to form to any number, such as
            first-order sensitivities of the loss; 0 where nothing is said. How far they are believed is fitted too.
            With them the first generation is no longer drawn blindly.
        initial: structures scored first; they count towards the first generation.

    Raises:
        BudgetError: if no structure, or not that of ``initial``, meets the budget.
        StructureError: for a structure of ``initial`` that is not in the space.
        ConfigError: for a setting or a prior that is out of range, or a prior of what is not in the space.
    """

    name: ClassVar[str] = "surrogate"

    def __init__(
        self,
        space: BoundSpace,
        budget: int | None = None,
        *,
        seed: int = 0,
        evaluations: int = 1050,
        batch: int = 50,
        spread: float = 1.0,
        priors: Mapping[tuple[str, str], Mapping[Form, float]] | None = None,
        initial: Iterable[Structure] = (),
    ) -> None:
        super().__init__(space, budget, seed=seed, initial=initial)
        self.evaluations, self.batch, self.spread = evaluations, batch, spread
        self._check_batches(evaluations, batch)
        self._check(0 <= spread < float("inf"), f"spread is 0 or more, not {spread}")
        self._table = Table(space)
        self._priors = self._checked(priors or {})
        self._rows: list[NDArray[np.float64]] = []

    def _settings(self) -> dict[str, Any]:
        return {
            "evaluations": self.evaluations,
            "batch": self.batch,
            "spread": self.spread,
            "priors": fingerprint(self._priors.tolist()) if self._priors.any() else None,
        }

    def _checked(self, priors: Mapping[tuple[str, str], Mapping[Form, float]]) -> NDArray[np.float64]:
        for gene, forms in priors.items():
            for form, gain in forms.items():
                known = gene in self.space.genes and form in self.space.choices(*gene)
                self._check(known, f"the priors name {form} for {gene}, which is not in the search space")
                self._check(bool(np.isfinite(gain)), f"the prior of {form} for {gene} is a finite number, not {gain}")
        return self._table.values(priors)

    def _draw(self) -> list[tuple[Structure, Origin]]:
        count = min(self.batch, self.evaluations - len(self._candidates))
        self._rows += [self._table.row(c.structure) for c in self._candidates[len(self._rows) :]]
        if self._generation == 0 and not self._priors.any():
            return self._first(count)
        drawn = self._first(len(self.initial)) if self._generation == 0 else []
        able = self._able()
        if able or self._generation == 0:
            drawn += self._predicted(count - len(drawn))
        if able:
            best = able[0].structure
            few = 2 / max(len(self.space.genes), 2)
            drawn += self._new(
                "mutant", lambda: mutate(self.space, self.budget, best, few, self._rng), count - len(drawn)
            )
        return drawn + self._random(count - len(drawn))

    def _predicted(self, count: int) -> list[tuple[Structure, Origin]]:
        """Up to ``count`` structures, each the best by values that the model holds possible."""
        if count == 0:
            return []
        model = AdditiveModel(self._table, self._matrix(), self._gains(), self._priors)
        spread = self.spread * (1 - len(self._candidates) / self.evaluations)
        blocks = (model.draws(count, self._rng, spread) for _ in range(CHILD_TRIES))
        worths = itertools.chain.from_iterable(blocks)
        return self._new("predicted", lambda: self._table.best(next(worths), self.budget), count)

    def _matrix(self) -> NDArray[np.float64]:
        return np.array(self._rows).reshape(len(self._rows), len(self._table))

    def _gains(self) -> NDArray[np.float64]:
        """The negative losses, cut off below: how bad a bad structure is says little, and a failed one is one.

        The cut is the usual one of box plots, 1.5 times the distance between the quartiles beyond the worse one.
        """
        gains = np.array([-c.score.loss if not c.score.failed else np.nan for c in self._candidates])
        if np.isnan(gains).all():
            return np.zeros(len(gains))
        low, high = np.nanquantile(gains, [0.25, 0.75])
        fence = low - 1.5 * (high - low)
        return np.where(gains > fence, gains, fence)  # NaN is not greater

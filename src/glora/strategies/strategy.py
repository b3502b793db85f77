"""What every search strategy is: structures out by ``ask``, their scores in by ``tell``."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

from glora.errors import ConfigError, GloraError
from glora.space import BoundSpace
from glora.strategies.score import Candidate, Merit, Origin, Proposal, Score
from glora.structure import Structure

__all__ = ["Strategy", "fingerprint"]


class Strategy(ABC):
    """A search that never sees a model: ``ask`` for structures, score them, ``tell`` the scores, until ``done``.

    Subclasses say what they draw (:meth:`_draw`) and what that depends on (:meth:`_settings`). Equal settings and
    equal scores must give equal draws: a search is resumed by replaying it.

    Args:
        space: where structures come from.
        budget: most adapter parameters of any structure asked for; None for no limit.

    Raises:
        BudgetError: with the feasible range, if no structure meets the budget.
        ConfigError: if the budget is no whole number.
    """

    def __init__(self, space: BoundSpace, budget: int | None = None) -> None:
        if budget is not None:
            if not isinstance(budget, int):
                raise ConfigError(f"a budget is a whole number of adapter parameters, such as 300_000, not {budget!r}")
            space.check_budget(budget)
        self.space = space
        self.budget = budget
        self._candidates: list[Candidate] = []
        self._generation = 0
        self._drawn: list[Proposal] | None = None
        self._asked = False

    @property
    @final
    def candidates(self) -> tuple[Candidate, ...]:
        """Everything told so far, in order."""
        return tuple(self._candidates)

    @property
    @final
    def settings(self) -> dict[str, Any]:
        """Plain values that identify this search; another search with the same ones asks for the same structures."""
        shapes = [(name, s.out_features, s.in_features, s.has_bias) for name, s in self.space.shapes.items()]
        return {
            **self._settings(),
            "budget": self.budget,
            "space": self.space.space.to_dict(),
            "bias": self.space.bias,
            "layers": fingerprint(shapes),
        }

    @property
    @final
    def done(self) -> bool:
        """Whether there is nothing left to ask or to tell."""
        return not self._proposals()

    @property
    def bar(self) -> Merit | None:
        """What a candidate of the generation asked for must come up to; below that, nothing depends on its score.

        Made of what was told before that generation, so that neither the order of evaluation nor the number of
        workers matters. None, the default, if every score is needed.
        """
        return None

    @final
    def ask(self) -> list[Proposal]:
        """The structures of the next generation, all drawn before any of them is scored.

        Raises:
            GloraError: if the scores of the last ones are not told yet, or the search is done.
        """
        if self._asked:
            raise GloraError("ask() came twice: tell() the scores of the structures asked for first")
        if self.done:
            raise GloraError("the search is done: there is nothing left to ask for")
        self._asked = True
        return list(self._proposals())

    @final
    def tell(self, scores: Sequence[Score]) -> None:
        """Hand in the scores of the structures asked for, in the same order.

        Raises:
            GloraError: if nothing was asked for, or the number of scores differs.
        """
        if not self._asked:
            raise GloraError("tell() came before ask(): there are no structures that these scores belong to")
        proposals = self._proposals()
        if len(scores) != len(proposals):
            raise GloraError(f"{len(proposals)} structures were asked for, but {len(scores)} scores were told")
        self._candidates += [proposal.scored(score) for proposal, score in zip(proposals, scores, strict=True)]
        self._generation += 1
        self._drawn, self._asked = None, False

    @final
    def _proposals(self) -> list[Proposal]:
        """The generation to score now; drawn once, when first needed."""
        if self._drawn is None:
            start = len(self._candidates)
            self._drawn = [
                Proposal(index, self._generation, origin, structure, self.space.size(structure))
                for index, (structure, origin) in enumerate(self._draw(), start)
            ]
        return self._drawn

    @abstractmethod
    def _draw(self) -> list[tuple[Structure, Origin]]:
        """The next generation; empty when the search is done."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Plain values that the draws depend on, the strategy's name among them; space and budget are added."""


def fingerprint(values: Sequence[object]) -> str:
    """How many values there are and a digest of them, for settings too long to read."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return f"{len(values)} (sha256 {digest[:16]})"

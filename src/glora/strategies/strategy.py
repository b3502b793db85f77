"""What every search strategy is: structures out by ``ask``, their scores in by ``tell``."""

from __future__ import annotations

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from typing import Any, ClassVar, final

from glora.errors import BudgetError, ConfigError, GloraError
from glora.space import BoundSpace
from glora.strategies.operators import legal_sample
from glora.strategies.score import Candidate, Key, Origin, Proposal, Score
from glora.structure import Structure

__all__ = ["CHILD_TRIES", "Strategy", "fingerprint"]

# In a space so small that most random draws were seen before, enough to find nearly all of it.
_RANDOM_TRIES = 100
# The released code makes at most 250 tries for its 25 mutants, and again for its crossovers.
CHILD_TRIES = 10


class Strategy(ABC):
    """A search that never sees a model: ``ask`` for structures, score them, ``tell`` the scores, until ``done``.

    Subclasses say what they draw (:meth:`_draw`) and what that depends on (:meth:`_settings`). Equal settings and
    equal scores must give equal draws: a search is resumed by replaying it. No structure is asked for twice.

    Args:
        space: where structures come from.
        budget: most adapter parameters of any structure asked for; None for no limit.
        seed: of all draws.
        initial: structures to score first, as part of the first generation.

    Raises:
        BudgetError: if no structure, or not that of ``initial``, meets the budget; with the feasible range.
        StructureError: for a structure of ``initial`` that is not in the space.
        ConfigError: if the budget is no whole number, or for a setting out of range.
    """

    name: ClassVar[str]
    """What the strategy is called in settings and errors."""

    def __init__(
        self, space: BoundSpace, budget: int | None = None, *, seed: int = 0, initial: Iterable[Structure] = ()
    ) -> None:
        if budget is not None:
            if not isinstance(budget, int):
                raise ConfigError(f"a budget is a whole number of adapter parameters, such as 300_000, not {budget!r}")
            space.check_budget(budget)
        self._check(seed >= 0, f"seed is 0 or more, not {seed}")
        self.space = space
        self.budget = budget
        self.seed = seed
        self.initial = tuple(dict.fromkeys(initial))
        for structure in self.initial:
            self._check_legal(structure)
        self._rng = random.Random(seed)
        self._seen: set[Structure] = set()
        self._cardinality = space.cardinality
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
        shapes = [(name, *astuple(shape)) for name, shape in self.space.shapes.items()]
        return {
            "strategy": self.name,
            "seed": self.seed,
            **self._settings(),
            "initial": fingerprint([structure.to_dict() for structure in self.initial]),
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

    def bar(self, found: Sequence[Candidate] = ()) -> Key | None:
        """What a candidate of the generation asked for must come up to; below that, no draw needs its whole score.

        None, the default, if every score is needed.

        Args:
            found: candidates of that generation that are scored already.
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

    @final
    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise ConfigError(f"{self.name}: {otherwise}")

    @final
    def _check_batches(self, evaluations: int, batch: int, first: int | None = None) -> None:
        """Check numbers of candidates: in all, a generation, and in the first one if that is larger."""
        first = batch if first is None else first
        self._check(batch >= 1, f"batch is 1 or more, not {batch}")
        self._check(first >= 1, f"population is 1 or more, not {first}")
        self._check(evaluations >= 1, f"evaluations is 1 or more, not {evaluations}")
        self._check(
            len(self.initial) <= min(first, evaluations),
            f"{len(self.initial)} initial structures are more than the first generation of {min(first, evaluations)}",
        )

    @final
    def _check_legal(self, structure: Structure) -> None:
        self.space.check(structure)
        if self.budget is not None and (size := self.space.size(structure)) > self.budget:
            raise BudgetError(
                f"an initial structure has {size:,} adapter parameters, over the budget of {self.budget:,}"
            )

    # What subclasses draw with

    @final
    def _able(self, found: Sequence[Candidate] = ()) -> list[Candidate]:
        """All candidates told that did not fail, and those of ``found``, the best first."""
        able = [candidate for candidate in (*self._candidates, *found) if not candidate.score.failed]
        return sorted(able, key=Candidate.rank_key, reverse=True)

    @final
    def _worst_of_best(self, count: int, found: Sequence[Candidate] = ()) -> Key | None:
        """The key of the last of the ``count`` best of all that were told and those of ``found``; None with fewer."""
        best = self._able(found)[:count]
        return best[-1].score.key if len(best) == count else None

    @final
    def _first(self, count: int) -> list[tuple[Structure, Origin]]:
        """The initial structures and random ones, ``count`` together."""
        self._seen.update(self.initial)
        return [(structure, "initial") for structure in self.initial] + self._random(count - len(self.initial))

    @final
    def _random(self, count: int) -> list[tuple[Structure, Origin]]:
        """Up to ``count`` random structures, fewer where the space has no more new ones."""
        return self._new("random", lambda: legal_sample(self.space, self.budget, self._rng), count, _RANDOM_TRIES)

    @final
    def _new(
        self, origin: Origin, make: Callable[[], Structure], count: int, tries: int = CHILD_TRIES
    ) -> list[tuple[Structure, Origin]]:
        """Up to ``count`` structures never seen before, made in at most ``tries`` tries each."""
        found: list[tuple[Structure, Origin]] = []
        for _ in range(tries * count):
            if len(found) == count or len(self._seen) == self._cardinality:
                break
            structure = make()
            if structure not in self._seen:
                self._seen.add(structure)
                found.append((structure, origin))
        return found

    @abstractmethod
    def _draw(self) -> list[tuple[Structure, Origin]]:
        """The next generation; empty when the search is done."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Plain values that the draws depend on, beside those that all strategies have."""


def fingerprint(values: Sequence[object]) -> str:
    """How many values there are and a digest of them, for settings too long to read."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return f"{len(values)} (sha256 {digest[:16]})"

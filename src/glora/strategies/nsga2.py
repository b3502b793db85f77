"""NSGA-II (Deb et al. 2002) over fitness and parameters: the whole front in one run, through ``pymoo``."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, ClassVar, final

import numpy as np

from glora.errors import ConfigError
from glora.space import BoundSpace
from glora.strategies.operators import crossover, mutate
from glora.strategies.score import Candidate, Origin
from glora.strategies.strategy import CHILD_TRIES, Strategy
from glora.structure import Structure

__all__ = ["NSGA2"]


@final
class NSGA2(Strategy):
    """Candidates of few parameters survive beside accurate ones, and the gaps of the front are filled.

    Survival by rank and crowding distance and the binary tournament between parents are those of ``pymoo``. Children
    are crossovers of two winners, mutated, and legal under the budget by construction. A failed candidate does not
    survive.

    Args:
        space: where structures come from.
        budget: most adapter parameters of any candidate; None for no limit.
        seed: of all draws.
        generations: after the first, random one.
        population: candidates a generation, and survivors.
        probability: with which each form of a child is redrawn.
        initial: structures of generation 0, scored first; they count towards its population.

    Raises:
        BudgetError: if no structure, or not that of ``initial``, meets the budget.
        StructureError: for a structure of ``initial`` that is not in the space.
        ConfigError: for a setting that is out of range, or if ``pymoo`` is not installed.
    """

    name: ClassVar[str] = "nsga2"

    def __init__(
        self,
        space: BoundSpace,
        budget: int | None = None,
        *,
        seed: int = 0,
        generations: int = 20,
        population: int = 50,
        probability: float = 0.01,
        initial: Iterable[Structure] = (),
    ) -> None:
        super().__init__(space, budget, seed=seed, initial=initial)
        self.generations, self.population, self.probability = generations, population, probability
        self._check(generations >= 0, f"generations is 0 or more, not {generations}")
        self._check(population >= 1, f"population is 1 or more, not {population}")
        self._check_batches(population * (generations + 1), population)
        self._check(0 <= probability <= 1, f"the probability of a mutation is between 0 and 1, not {probability}")
        self._selection = _Selection()
        self._survivors: list[Candidate] = []

    def _settings(self) -> dict[str, Any]:
        return {"generations": self.generations, "population": self.population, "probability": self.probability}

    def _draw(self) -> list[tuple[Structure, Origin]]:
        if self._generation > self.generations:
            return []
        if self._generation == 0:
            return self._first(self.population)
        born = [c for c in self._candidates if c.generation == self._generation - 1 and not c.score.failed]
        rng = np.random.default_rng(self._rng.getrandbits(64))
        self._survivors = self._selection.survive([*self._survivors, *born], self.population, rng)
        if len(self._survivors) < 2:
            return self._random(self.population)
        pairs = self._selection.pairs(self.population * CHILD_TRIES, rng)
        children = (self._child(self._survivors[first], self._survivors[second]) for first, second in pairs)
        drawn = self._new("crossover", lambda: next(children), self.population)
        return drawn + self._random(self.population - len(drawn))

    def _child(self, first: Candidate, second: Candidate) -> Structure:
        child = crossover(self.space, self.budget, first.structure, second.structure, self._rng)
        return mutate(self.space, self.budget, child, self.probability, self._rng)


class _Selection:
    """What pymoo does: survival by rank and crowding, and the tournament between those that survived (final)."""

    def __init__(self) -> None:
        try:
            nsga2 = importlib.import_module("pymoo.algorithms.moo.nsga2")
            self._values: Any = importlib.import_module("pymoo.core.population")
        except ImportError as error:
            raise ConfigError("strategy nsga2 needs pymoo: pip install 'glora[nsga2]'") from error
        self._survival: Any = nsga2.RankAndCrowding()
        self._tournament: Any = nsga2.TournamentSelection(func_comp=nsga2.binary_tournament)
        self._population: Any = None

    def survive(self, candidates: list[Candidate], count: int, rng: np.random.Generator) -> list[Candidate]:
        """At most ``count`` of the candidates: front by front, and of the last one the least crowded."""
        individuals = [
            self._individual(np.array([-candidate.score.key[0], candidate.size], dtype=float), candidate)
            for candidate in candidates
        ]
        unconstrained = SimpleNamespace(has_constraints=lambda: False)
        everything = self._values.Population(individuals)
        self._population = self._survival.do(unconstrained, everything, n_survive=count, random_state=rng)
        return [individual.get("candidate") for individual in self._population]

    def pairs(self, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Parents, as positions among those that survived last: each the winner of a tournament of two."""
        algorithm = SimpleNamespace(tournament_type="comp_by_dom_and_crowding", random_state=rng)
        found = self._tournament._do(None, self._population, count, 2, random_state=rng, algorithm=algorithm)
        return [(int(first), int(second)) for first, second in found]

    def _individual(self, objectives: np.ndarray, candidate: Candidate) -> Any:
        made = self._values.Individual(candidate=candidate)
        made.F = objectives
        return made

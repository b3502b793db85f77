"""The evolutionary search of the GLoRA paper (arXiv 2306.07967, section 3.3) and its released code."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, final

from glora.errors import BudgetError, ConfigError
from glora.space import BoundSpace
from glora.strategies.operators import crossover, legal_sample, mutate
from glora.strategies.score import Candidate, Merit, Origin
from glora.strategies.strategy import Strategy, fingerprint
from glora.structure import Structure

__all__ = ["Evolution", "check_evolution"]

# The released code makes at most 250 tries for its 25 mutants, and again for its crossovers.
_CHILD_TRIES = 10
# Of the random ones: in a space so small that most draws were seen before, enough to find nearly all of it.
_RANDOM_TRIES = 100


@final
class Evolution(Strategy):
    """The authors' procedure with the authors' numbers: 50 random candidates, then 20 generations of 50.

    Each further generation keeps the ``parents`` best ever seen and makes ``mutants`` mutants of random parents and
    ``crossovers`` crossovers of two random parents, then fills up with random ones to ``population``. No structure
    is asked for twice, so a small space gives smaller generations, and the search ends when it gives no new one.

    Args:
        space: where structures come from.
        budget: most adapter parameters of any candidate; None for no limit.
        seed: of all draws.
        generations: after the first, random one.
        population: candidates a generation.
        parents: how many of the best are bred from; failed candidates never are.
        mutants: of a generation, made by mutation.
        crossovers: of a generation, made by crossover.
        probability: with which a mutation redraws each form of each layer.
        initial: structures of generation 0, scored first; they count towards its population.

    Raises:
        BudgetError: if no structure, or not that of ``initial``, meets the budget.
        StructureError: for a structure of ``initial`` that is not in the space.
        ConfigError: for a setting that is out of range or contradicts another one.
    """

    def __init__(
        self,
        space: BoundSpace,
        budget: int | None = None,
        *,
        seed: int = 0,
        generations: int = 20,
        population: int = 50,
        parents: int = 10,
        mutants: int = 25,
        crossovers: int = 25,
        probability: float = 0.2,
        initial: Iterable[Structure] = (),
    ) -> None:
        super().__init__(space, budget)
        check_evolution(seed, generations, population, parents, mutants, crossovers, probability)
        self.seed, self.generations, self.population = seed, generations, population
        self.parents, self.mutants, self.crossovers = parents, mutants, crossovers
        self.probability = probability
        self.initial = self._legal(initial)
        self._rng = random.Random(seed)
        self._cardinality = space.cardinality
        self._seen: set[Structure] = set()

    @property
    def bar(self) -> Merit | None:
        """The worst of the parents, once there are as many as shall be kept: whatever is worse is never bred from."""
        best = self._best()
        return best[-1].score.merit if len(best) == self.parents else None

    def _settings(self) -> dict[str, Any]:
        return {
            "strategy": "evolution",
            "seed": self.seed,
            "generations": self.generations,
            "population": self.population,
            "parents": self.parents,
            "mutants": self.mutants,
            "crossovers": self.crossovers,
            "probability": self.probability,
            "initial": fingerprint([structure.to_dict() for structure in self.initial]),
        }

    def _legal(self, initial: Iterable[Structure]) -> tuple[Structure, ...]:
        """The given structures without repetitions, after checking each."""
        structures = tuple(dict.fromkeys(initial))
        _check(
            len(structures) <= self.population,
            f"{len(structures)} initial structures are more than the population of {self.population}",
        )
        for structure in structures:
            self.space.check(structure)
            if self.budget is not None and (size := self.space.size(structure)) > self.budget:
                raise BudgetError(
                    f"an initial structure has {size:,} adapter parameters, over the budget of {self.budget:,}"
                )
        return structures

    def _draw(self) -> list[tuple[Structure, Origin]]:
        if self._generation > self.generations:
            return []
        drawn: list[tuple[Structure, Origin]] = []
        if self._generation == 0:
            self._seen.update(self.initial)
            drawn += [(structure, "initial") for structure in self.initial]
        parents = self._best()
        if parents:
            drawn += self._new("mutant", lambda: self._mutant(parents), self.mutants, _CHILD_TRIES * self.mutants)
        if len(parents) > 1:
            tries = _CHILD_TRIES * self.crossovers
            drawn += self._new("crossover", lambda: self._crossover(parents), self.crossovers, tries)
        missing = self.population - len(drawn)
        return drawn + self._new("random", self._random, missing, _RANDOM_TRIES * self.population)

    def _new(
        self, origin: Origin, make: Callable[[], Structure], count: int, tries: int
    ) -> list[tuple[Structure, Origin]]:
        """Up to ``count`` structures never seen before, made in at most ``tries`` tries."""
        found: list[tuple[Structure, Origin]] = []
        for _ in range(tries):
            if len(found) == count or len(self._seen) == self._cardinality:
                break
            structure = make()
            if structure not in self._seen:
                self._seen.add(structure)
                found.append((structure, origin))
        return found

    def _best(self) -> list[Candidate]:
        able = [candidate for candidate in self._candidates if not candidate.score.failed]
        return sorted(able, key=Candidate.rank_key, reverse=True)[: self.parents]

    def _random(self) -> Structure:
        return legal_sample(self.space, self.budget, self._rng)

    def _mutant(self, parents: list[Candidate]) -> Structure:
        parent = self._rng.choice(parents).structure
        return mutate(self.space, self.budget, parent, self.probability, self._rng)

    def _crossover(self, parents: list[Candidate]) -> Structure:
        first, second = self._rng.sample(parents, 2)
        return crossover(self.space, self.budget, first.structure, second.structure, self._rng)


def check_evolution(
    seed: int, generations: int, population: int, parents: int, mutants: int, crossovers: int, probability: float
) -> None:
    """Raise ConfigError for settings of :class:`Evolution` that are out of range or contradict each other."""
    _check(seed >= 0, f"seed is 0 or more, not {seed}")
    _check(generations >= 0, f"generations is 0 or more, not {generations}")
    _check(population >= 1, f"population is 1 or more, not {population}")
    _check(1 <= parents <= population, f"parents is between 1 and the population of {population}, not {parents}")
    _check(mutants >= 0 and crossovers >= 0, f"mutants ({mutants}) and crossovers ({crossovers}) are 0 or more")
    _check(
        mutants + crossovers <= population,
        f"{mutants} mutants and {crossovers} crossovers are more than the population of {population}",
    )
    _check(crossovers == 0 or parents >= 2, f"{crossovers} crossovers need at least 2 parents")
    _check(0 <= probability <= 1, f"the probability of a mutation is between 0 and 1, not {probability}")


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ConfigError(f"evolution: {otherwise}")

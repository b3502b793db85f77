"""The evolutionary search of the GLoRA paper (arXiv 2306.07967, section 3.3) and its released code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, final

from glora.space import BoundSpace
from glora.strategies.operators import crossover, mutate
from glora.strategies.score import Candidate, Key, Origin
from glora.strategies.strategy import Strategy
from glora.structure import Structure

__all__ = ["Evolution"]


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
        parents: how many of the best are bred from, a fifth of the population if None; failed candidates never are.
        mutants: of a generation, made by mutation; half of it if None.
        crossovers: of a generation, made by crossover; half of it if None.
        probability: with which a mutation redraws each form of each layer.
        initial: structures of generation 0, scored first; they count towards its population.

    Raises:
        BudgetError: if no structure, or not that of ``initial``, meets the budget.
        StructureError: for a structure of ``initial`` that is not in the space.
        ConfigError: for a setting that is out of range or contradicts another one.
    """

    name: ClassVar[str] = "evolution"

    def __init__(
        self,
        space: BoundSpace,
        budget: int | None = None,
        *,
        seed: int = 0,
        generations: int = 20,
        population: int = 50,
        parents: int | None = None,
        mutants: int | None = None,
        crossovers: int | None = None,
        probability: float = 0.2,
        initial: Iterable[Structure] = (),
    ) -> None:
        super().__init__(space, budget, seed=seed, initial=initial)
        self.generations, self.population = generations, population
        half = population // 2
        self.parents = min(population, max(2, population // 5)) if parents is None else parents
        self.mutants = half if mutants is None else mutants
        self.crossovers = half if crossovers is None else crossovers
        self.probability = probability
        self._check_numbers()

    def _check_numbers(self) -> None:
        population, parents, mutants, crossovers = self.population, self.parents, self.mutants, self.crossovers
        self._check(self.generations >= 0, f"generations is 0 or more, not {self.generations}")
        self._check(population >= 1, f"population is 1 or more, not {population}")
        self._check(
            len(self.initial) <= population,
            f"{len(self.initial)} initial structures are more than the population of {population}",
        )
        self._check(
            1 <= parents <= population, f"parents is between 1 and the population of {population}, not {parents}"
        )
        self._check(
            mutants >= 0 and crossovers >= 0, f"mutants ({mutants}) and crossovers ({crossovers}) are 0 or more"
        )
        self._check(
            mutants + crossovers <= population,
            f"{mutants} mutants and {crossovers} crossovers are more than the population of {population}",
        )
        self._check(crossovers == 0 or parents >= 2, f"{crossovers} crossovers need at least 2 parents")
        self._check(
            0 <= self.probability <= 1,
            f"the probability of a mutation is between 0 and 1, not {self.probability}",
        )

    def bar(self, found: Sequence[Candidate] = ()) -> Key | None:
        """The worst of the parents, once there are as many as shall be kept: whatever is worse is never bred from."""
        return self._worst_of_best(self.parents, found)

    def _settings(self) -> dict[str, Any]:
        return {
            "generations": self.generations,
            "population": self.population,
            "parents": self.parents,
            "mutants": self.mutants,
            "crossovers": self.crossovers,
            "probability": self.probability,
        }

    def _draw(self) -> list[tuple[Structure, Origin]]:
        if self._generation > self.generations:
            return []
        if self._generation == 0:
            return self._first(self.population)
        drawn: list[tuple[Structure, Origin]] = []
        parents = self._able()[: self.parents]
        if parents:
            drawn += self._new("mutant", lambda: self._mutant(parents), self.mutants)
        if len(parents) > 1:
            drawn += self._new("crossover", lambda: self._crossover(parents), self.crossovers)
        return drawn + self._random(self.population - len(drawn))

    def _mutant(self, parents: list[Candidate]) -> Structure:
        parent = self._rng.choice(parents).structure
        return mutate(self.space, self.budget, parent, self.probability, self._rng)

    def _crossover(self, parents: list[Candidate]) -> Structure:
        first, second = self._rng.sample(parents, 2)
        return crossover(self.space, self.budget, first.structure, second.structure, self._rng)

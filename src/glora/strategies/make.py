"""Strategies by name, from the numbers that all commands have, at equal evaluations."""

from __future__ import annotations

from typing import Any, Literal, get_args

from glora.errors import ConfigError, near_miss
from glora.space import BoundSpace
from glora.strategies.ageing import AgeingEvolution
from glora.strategies.evolution import Evolution
from glora.strategies.nsga2 import NSGA2
from glora.strategies.random_search import RandomSearch
from glora.strategies.samplewise import Samplewise
from glora.strategies.strategy import Strategy
from glora.strategies.surrogate import Surrogate

__all__ = ["StrategyName", "make_strategy"]

StrategyName = Literal["evolution", "random", "ageing", "nsga2", "surrogate", "samplewise"]


def make_strategy(
    name: StrategyName,
    space: BoundSpace,
    budget: int | None = None,
    *,
    seed: int = 0,
    generations: int = 20,
    population: int = 50,
    parents: int | None = None,
    mutants: int | None = None,
    crossovers: int | None = None,
    probability: float | None = None,
) -> Strategy:
    """A strategy that asks for ``population * (generations + 1)`` candidates, or fewer where the space has no more.

    Args:
        name: of the strategy.
        space: where structures come from.
        budget: most adapter parameters of any candidate; None for no limit.
        seed: of all draws.
        generations: after a first one of random structures.
        population: candidates a generation; ageing evolution, whose queue is as long, asks for a fifth at a time and
            takes the best of a fourth as a parent; the samplewise search asks for a fifth at a time after the first.
        parents: of evolution: how many of the best are bred from; a fifth of the population if None.
        mutants: of evolution: of a generation, made by mutation; half of it if None.
        crossovers: of evolution: of a generation, made by crossover; half of it if None.
        probability: with which a mutation redraws each form; None for the strategy's own default.

    Raises:
        BudgetError: at once, with the feasible range, if no structure meets the budget.
        ConfigError: for an unknown name, or a setting that is out of range or contradicts another one.
    """
    if name not in (known := get_args(StrategyName)):
        raise ConfigError(f"strategy {name!r} is unknown: {', '.join(known)}{near_miss(name, known)}")
    if generations < 0 or population < 1:  # before they are multiplied
        raise ConfigError(
            f"{name}: generations is 0 or more and population 1 or more, not {generations} and {population}"
        )
    evaluations = population * (generations + 1)
    own: dict[str, Any] = {"seed": seed} if probability is None else {"seed": seed, "probability": probability}
    if name == "random":
        return RandomSearch(space, budget, seed=seed, evaluations=evaluations, batch=population)
    if name == "surrogate":
        return Surrogate(space, budget, seed=seed, evaluations=evaluations, batch=population)
    fifth = -(-population // 5)  # rounded up
    if name == "samplewise":
        return Samplewise(space, budget, seed=seed, evaluations=evaluations, first=population, batch=fifth)
    own |= {"population": population}
    if name == "nsga2":
        return NSGA2(space, budget, generations=generations, **own)
    if name == "ageing":
        sample_size = -(-population // 4)
        return AgeingEvolution(space, budget, evaluations=evaluations, batch=fifth, sample_size=sample_size, **own)
    own |= {"parents": parents, "mutants": mutants, "crossovers": crossovers}
    return Evolution(space, budget, generations=generations, **own)

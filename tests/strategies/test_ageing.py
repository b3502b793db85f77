from __future__ import annotations

from typing import Any

import pytest
from planted import Planted, two_layers, vit_base

from glora.errors import ConfigError
from glora.space import BoundSpace
from glora.strategies import AgeingEvolution, Candidate, RandomSearch, Score, run_search
from glora.structure import Structure


def nearest(space: BoundSpace, child: Structure, others: tuple[Candidate, ...]) -> int:
    """The index of the candidate that differs from ``child`` in the fewest genes."""
    genes = space.genes
    return min(others, key=lambda c: sum(c.structure[n][t] != child[n][t] for n, t in genes)).index


@pytest.mark.parametrize(("population", "batch"), [(8, 1), (8, 3), (6, 6)])
def test_the_oldest_dies_however_good_it_is(population: int, batch: int) -> None:
    """Scores fall, so the best of the queue is always its oldest member, and with it dies what evolution would keep."""
    space = vit_base()
    calls = iter(range(1000))
    strategy = AgeingEvolution(
        space, evaluations=30, population=population, sample_size=population, batch=batch, probability=0.01
    )
    history = run_search(strategy, lambda _: Score(1 - next(calls) / 1000, 1.0)).history
    assert [c.origin for c in history] == ["random"] * population + ["mutant"] * (30 - population)
    for child in history[population:]:
        told = population + (child.index - population) // batch * batch  # when the child was drawn
        assert nearest(space, child.structure, history[told - population : told]) == told - population
        assert told == population or nearest(space, child.structure, history[: told - population + 1]) != 0


def test_a_parent_is_the_best_of_a_sample() -> None:
    """The worst two of five are never the best of three; the others are, as often as combinatorics says."""
    space = vit_base()
    calls = iter(range(1000))
    numbers = {"evaluations": 5 + 600, "population": 5, "sample_size": 3, "batch": 600, "probability": 0.01}
    history = run_search(AgeingEvolution(space, **numbers), lambda _: Score(next(calls) / 1000, 1.0)).history
    parents = [nearest(space, child.structure, history[:5]) for child in history[5:]]
    shares = [parents.count(index) / len(parents) for index in range(5)]
    assert shares == pytest.approx([0, 0, 0.1, 0.3, 0.6], abs=0.05)


def test_failed_candidates_age_but_are_no_parents() -> None:
    space = vit_base()
    calls = iter(range(1000))

    def score(_: Structure) -> Score:
        return Score(0.5, 1.0) if next(calls) == 2 else Score(float("nan"), 1.0)

    numbers = {"evaluations": 24, "population": 6, "sample_size": 2, "batch": 3, "probability": 0.01}
    history = run_search(AgeingEvolution(space, **numbers), score).history
    # Candidate 2 is the only parent until six newer ones have pushed it out; then there is nobody left to breed from.
    assert [c.origin for c in history] == ["random"] * 6 + ["mutant"] * 3 + ["random"] * 15
    assert {nearest(space, c.structure, history[:6]) for c in history[6:9]} == {2}


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_better_than_random_search(seed: int) -> None:
    space = vit_base()
    ours = AgeingEvolution(space, 300_000, seed=seed, evaluations=150, population=20, sample_size=6, batch=5)
    chance = RandomSearch(space, 300_000, seed=seed, evaluations=150)
    planted = Planted(space, seed)
    better, worse = (run_search(strategy, planted).winner.score.accuracy for strategy in (ours, chance))
    assert better > worse + 0.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluations": 0}, "ageing: evaluations is 1 or more, not 0"),
        ({"population": 0}, "ageing: population is 1 or more, not 0"),
        ({"batch": 0}, "ageing: batch is 1 or more, not 0"),
        ({"sample_size": 0}, "ageing: sample_size is between 1 and the population of 50, not 0"),
        ({"sample_size": 51}, "ageing: sample_size is between 1 and the population of 50, not 51"),
        ({"probability": 1.5}, r"ageing: the probability of a mutation is between 0 and 1, not 1\.5"),
        ({"probability": float("nan")}, "ageing: the probability of a mutation is between 0 and 1, not nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AgeingEvolution(two_layers(), **settings)


@pytest.mark.parametrize(
    "change", [{"evaluations": 40}, {"population": 9}, {"sample_size": 3}, {"batch": 5}, {"probability": 0.1}]
)
def test_its_numbers_tell_searches_apart(change: dict[str, Any]) -> None:
    numbers = {"evaluations": 30, "population": 8, "sample_size": 2, "batch": 4, "probability": 0.2}
    one, other = (AgeingEvolution(two_layers(), **n).settings for n in (numbers, numbers | change))
    assert {key for key in one if one[key] != other[key]} == set(change)

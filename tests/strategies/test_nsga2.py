from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
from planted import Planted, bound, two_layers, vit_base
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from glora.errors import ConfigError
from glora.space import BoundSpace, SearchSpace
from glora.strategies import NSGA2, Candidate, RandomSearch, Score, front, run_search
from glora.structure import Structure


def small() -> BoundSpace:
    """1,728 structures of three layers, whose sizes differ."""
    space = SearchSpace(
        2, A="none", B=["rank-2", "vector", "none"], C=["vector", "none"], D="none", E=["vector", "none"]
    )
    return bound((12, 8), (6, 12), (7, 5), space=space)


def everything(space: BoundSpace, planted: Planted) -> tuple[Candidate, ...]:
    structures = [
        space.build(dict(zip(space.genes, forms, strict=True)))
        for forms in itertools.product(*(space.choices(*gene) for gene in space.genes))
    ]
    return tuple(Candidate(i, 0, "random", s, space.size(s), planted(s)) for i, s in enumerate(structures))


def area(found: tuple[Candidate, ...], most: int) -> float:
    """The area that a front dominates: of accuracy over sizes from 0 to ``most``."""
    best, total, at = 0.0, 0.0, 0
    for candidate in sorted(found, key=lambda c: c.size):
        total += best * (candidate.size - at)
        best, at = max(best, candidate.score.accuracy), candidate.size
    return total + best * (most - at)


@pytest.mark.parametrize("seed", range(3))
def test_one_run_gives_the_whole_front(seed: int) -> None:
    space = small()
    planted = Planted(space, seed)
    whole = area(front(everything(space, planted)), space.largest)
    ours = run_search(NSGA2(space, seed=seed, generations=14, population=20), planted)
    chance = run_search(RandomSearch(space, seed=seed, evaluations=300), planted)
    assert len(ours.history) == len(chance.history) == 300 < space.cardinality / 5
    lost = [1 - area(found.front, space.largest) / whole for found in (ours, chance)]
    assert 0 <= lost[0] < 0.02 < lost[1]


def ranks(candidates: list[Candidate]) -> list[int]:
    """By definition: rank 0 is what nothing dominates, rank 1 what nothing else dominates without those, and so on."""

    def dominates(a: Candidate, b: Candidate) -> bool:
        better = (a.score.accuracy >= b.score.accuracy, a.size <= b.size)
        return all(better) and (a.score.accuracy > b.score.accuracy or a.size < b.size)

    found: dict[int, int] = {}
    while len(found) < len(candidates):
        left = [i for i in range(len(candidates)) if i not in found]
        best = [i for i in left if not any(dominates(candidates[j], candidates[i]) for j in left)]
        found |= dict.fromkeys(best, max(found.values(), default=-1) + 1)
    return [found[i] for i in range(len(candidates))]


def crowding(front: list[Candidate]) -> list[float]:
    """Deb et al. 2002, section III B: the sum over objectives of the normalised gap between the neighbours."""
    total = [0.0] * len(front)
    for objective in (lambda c: c.score.accuracy, lambda c: float(c.size)):
        order = sorted(range(len(front)), key=lambda i: objective(front[i]))
        span = objective(front[order[-1]]) - objective(front[order[0]])
        for place, i in enumerate(order):
            ends = place in (0, len(order) - 1)
            total[i] += (
                math.inf if ends else (objective(front[order[place + 1]]) - objective(front[order[place - 1]])) / span
            )
    return total


def test_survivors_are_the_first_fronts_and_the_least_crowded() -> None:
    space = vit_base()
    planted = Planted(space)
    strategy = NSGA2(space, 300_000, generations=6, population=12)
    split = 0
    survivors: list[Candidate] = []
    strategy.tell([planted(p.structure) for p in strategy.ask()])
    while not strategy.done:  # which draws the next generation
        pool = [*survivors, *(c for c in strategy.candidates if c.generation == strategy.candidates[-1].generation)]
        rank = ranks(pool)
        assert len({c.score.accuracy for c in pool}) == len(pool)
        by_pymoo = NonDominatedSorting().do(np.array([[-c.score.accuracy, c.size] for c in pool]))
        assert [sorted(f) for f in by_pymoo] == [
            [i for i, r in enumerate(rank) if r == n] for n in range(len(by_pymoo))
        ]
        survivors = strategy._survivors
        kept = [c in survivors for c in pool]
        assert len(survivors) == sum(kept) == 12
        last = max(r for r, k in zip(rank, kept, strict=True) if k)
        assert all(k for r, k in zip(rank, kept, strict=True) if r < last)
        members = [c for c, r in zip(pool, rank, strict=True) if r == last]
        gaps = dict(zip((c.index for c in members), crowding(members), strict=True))
        dead = [gaps[c.index] for c in members if c not in survivors]
        if dead:
            split += 1
            assert min(gaps[c.index] for c in members if c in survivors) >= max(dead)
        strategy.tell([planted(p.structure) for p in strategy.ask()])
    assert split > 1  # else nothing was crowded


def test_children_are_made_of_the_survivors() -> None:
    space = vit_base()
    planted = Planted(space)
    strategy = NSGA2(space, 300_000, generations=3, population=10, probability=0.0)
    strategy.tell([planted(p.structure) for p in strategy.ask()])
    while not strategy.done:
        proposals = strategy.ask()
        assert {p.origin for p in proposals} == {"crossover"}
        for layer, tensor in space.genes:
            forms = {c.structure[layer][tensor] for c in strategy._survivors}
            assert all(p.structure[layer][tensor] in forms for p in proposals)
        strategy.tell([planted(p.structure) for p in proposals])


def test_failed_candidates_do_not_survive() -> None:
    space = two_layers()
    planted, calls = Planted(space), iter(range(1000))

    def score(structure: Structure) -> Score:
        return Score(float("nan"), 0.0) if next(calls) % 3 else planted(structure)

    strategy = NSGA2(space, generations=2, population=9)
    while not strategy.done:
        strategy.tell([score(p.structure) for p in strategy.ask()])
    assert 2 <= len(strategy._survivors) < 9
    assert not any(c.score.failed for c in strategy._survivors)


def test_a_single_survivor_has_no_children_but_random_ones_beside_it() -> None:
    calls = iter(range(1000))
    strategy = NSGA2(two_layers(), generations=1, population=6)
    history = run_search(strategy, lambda _: Score(0.5 if next(calls) == 1 else float("nan"), 1.0)).history
    assert [c.origin for c in history] == ["random"] * 12


def test_without_pymoo_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymoo.algorithms.moo.nsga2", None)
    with pytest.raises(ConfigError, match=r"strategy nsga2 needs pymoo: pip install 'glora\[nsga2\]'"):
        NSGA2(two_layers())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generations": -1}, "nsga2: generations is 0 or more, not -1"),
        ({"population": 0}, "nsga2: population is 1 or more, not 0"),
        ({"probability": -1.0}, r"nsga2: the probability of a mutation is between 0 and 1, not -1\.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NSGA2(two_layers(), **settings)


@pytest.mark.parametrize("change", [{"generations": 4}, {"population": 9}, {"probability": 0.1}])
def test_its_numbers_tell_searches_apart(change: dict[str, Any]) -> None:
    numbers = {"generations": 3, "population": 8, "probability": 0.2}
    one, other = (NSGA2(two_layers(), **n).settings for n in (numbers, numbers | change))
    assert {key for key in one if one[key] != other[key]} == set(change)

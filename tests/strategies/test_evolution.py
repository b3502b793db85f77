from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from planted import Planted, two_layers, vit_base

from glora.errors import BudgetError, ConfigError, StructureError
from glora.strategies import Candidate, Evolution, Score, run_search
from glora.structure import LayerStructure, Structure
from oracles.brute_force import best_choice


@pytest.mark.parametrize("budget", [40, 90])
@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_optimum_under_the_budget(seed: int, budget: int) -> None:
    space = two_layers()
    planted = Planted(space, seed)
    costs = [[space.cost(*gene, form) for form in space.choices(*gene)] for gene in space.genes]
    gains = [[planted.worth[(*gene, form)] for form in space.choices(*gene)] for gene in space.genes]
    choice = best_choice(costs, gains, budget)
    best = space.build({gene: space.choices(*gene)[option] for gene, option in zip(space.genes, choice, strict=True)})
    assert run_search(Evolution(space, budget, seed=seed), planted).best == best


def test_the_authors_numbers_are_the_defaults() -> None:
    space = two_layers()
    found = run_search(Evolution(space), Planted(space))
    assert len(found.history) == 50 + 20 * 50
    by_generation = [Counter(c.origin for c in found.history if c.generation == g) for g in range(21)]
    assert by_generation[0] == {"random": 50}
    assert by_generation[1] == {"mutant": 25, "crossover": 25}
    assert all(sum(origins.values()) == 50 and origins["mutant"] == 25 for origins in by_generation[1:])


def test_children_come_from_the_best_ever_seen() -> None:
    space = vit_base()
    planted = Planted(space)
    settings: dict[str, Any] = {"generations": 3, "population": 12, "parents": 2, "mutants": 4, "crossovers": 6}
    found = run_search(Evolution(space, probability=0.1, **settings), planted)
    for generation in (1, 2, 3):
        before = [c for c in found.history if c.generation < generation]
        first, second = sorted(before, key=Candidate.rank_key, reverse=True)[:2]
        for child in (c.structure for c in found.history if c.generation == generation and c.origin == "crossover"):
            assert all(child[n][t] in (first.structure[n][t], second.structure[n][t]) for n, t in space.genes)
        for child in (c.structure for c in found.history if c.generation == generation and c.origin == "mutant"):
            same = [sum(child[n][t] == p.structure[n][t] for n, t in space.genes) for p in (first, second)]
            assert max(same) > 0.8 * len(space.genes)


def test_the_last_generation_counts() -> None:
    space = two_layers()
    calls = iter(range(10_000))
    found = run_search(Evolution(space, generations=2), lambda _: Score(next(calls) / 10_000, 1.0))
    assert found.winner is found.history[-1]
    assert found.winner.generation == 2


def test_failed_candidates_are_not_bred_from() -> None:
    space = two_layers()
    calls = iter(range(100))

    def score(_: Structure) -> Score:
        return Score(0.5, 1.0) if next(calls) in (3, 5) else Score(float("nan"), 1.0)

    settings: dict[str, Any] = {"generations": 1, "population": 10, "parents": 5, "mutants": 5, "crossovers": 5}
    found = run_search(Evolution(space, probability=0.1, **settings), score)
    able = [found.history[i].structure for i in (3, 5)]
    children = [c.structure for c in found.history if c.origin == "crossover"]
    assert children
    assert all(child[n][t] in {p[n][t] for p in able} for child in children for n, t in space.genes)


def test_if_all_failed_the_next_generation_is_random() -> None:
    strategy = Evolution(two_layers(), generations=1)
    strategy.tell([Score(float("nan"), 1.0)] * len(strategy.ask()))
    assert Counter(proposal.origin for proposal in strategy.ask()) == {"random": 50}


def test_initial_structures_come_first_and_count_once() -> None:
    space = two_layers()
    given = [Structure({"blocks.0.fc": LayerStructure(B=form)}) for form in ("rank-2", "vector", "vector")]
    found = run_search(Evolution(space, 60, generations=1, initial=given), Planted(space))
    assert [c.structure for c in found.history[:2]] == given[:2]
    assert Counter(c.origin for c in found.history if c.generation == 0) == {"initial": 2, "random": 48}
    assert len({c.structure for c in found.history}) == len(found.history) == 100


def test_initial_structures_are_not_drawn_again() -> None:
    space = two_layers()
    scalars = [Structure({"blocks.1.fc": LayerStructure(**{tensor: "scalar"})}) for tensor in "ABDE"]
    found = run_search(Evolution(space, 1, generations=2, initial=scalars), Planted(space))
    assert [c.structure for c in found.history[:4]] == scalars
    assert len({c.structure for c in found.history}) == len(found.history) == 9


def test_initial_structures_tell_searches_apart() -> None:
    space = two_layers()
    one, other = Structure(), Structure({"blocks.0.fc": LayerStructure(E="vector")})
    settings = [Evolution(space, initial=[s]).settings["initial"] for s in (one, other, one)]
    assert settings[0] == settings[2] != settings[1]


@pytest.mark.parametrize(
    ("structure", "error", "message"),
    [
        (
            Structure({"blocks.0.fc": LayerStructure(B="rank-2")}),
            BudgetError,
            "has 40 adapter parameters, over the budget of 39",
        ),
        (Structure({"blocks.0.fc": LayerStructure(B="rank-3")}), StructureError, "B=rank-3 is not in the search space"),
        (Structure({"head": LayerStructure(E="vector")}), StructureError, "layer 'head' is not adapted"),
    ],
)
def test_illegal_initial_structures_are_refused(structure: Structure, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Evolution(two_layers(), 39, initial=[structure])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed is 0 or more, not -1"),
        ({"generations": -1}, "generations is 0 or more, not -1"),
        ({"population": 0}, "population is 1 or more, not 0"),
        ({"parents": 0}, "parents is between 1 and the population of 50, not 0"),
        ({"parents": 51}, "parents is between 1 and the population of 50, not 51"),
        ({"mutants": -1}, "are 0 or more"),
        ({"crossovers": -1}, "are 0 or more"),
        ({"mutants": 26}, "26 mutants and 25 crossovers are more than the population of 50"),
        ({"parents": 1}, "25 crossovers need at least 2 parents"),
        ({"probability": -0.1}, r"probability of a mutation is between 0 and 1, not -0\.1"),
        ({"probability": 1.1}, r"probability of a mutation is between 0 and 1, not 1\.1"),
        ({"probability": float("nan")}, "probability of a mutation is between 0 and 1, not nan"),
        (
            {"population": 2, "parents": 1, "mutants": 0, "crossovers": 0}
            | {
                "initial": [
                    Structure({"blocks.0.fc": LayerStructure(E=e, D=d)})
                    for e, d in (("none", "none"), ("vector", "none"), ("none", "vector"))
                ]
            },
            "3 initial structures are more than the population of 2",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Evolution(two_layers(), **settings)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_extreme_probabilities_are_fine(probability: float) -> None:
    space = two_layers()
    found = run_search(Evolution(space, generations=2, probability=probability), Planted(space))
    origins = Counter(c.origin for c in found.history)
    assert len(found.history) == 150
    assert (origins["mutant"] == 0) == (probability == 0.0)


def test_a_large_space_under_a_tight_budget_gives_full_generations() -> None:
    space = vit_base()
    found = run_search(Evolution(space, 20_000, generations=2), Planted(space))
    assert len({c.structure for c in found.history}) == 150
    assert all(c.size <= 20_000 for c in found.history)

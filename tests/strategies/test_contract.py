"""The contract of every strategy: a new one is one more entry in STRATEGIES."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import Planted, bound, hybrid, problems, two_layers

import glora
from glora.errors import BudgetError, CheckpointError, ConfigError, GloraError, StructureError
from glora.space import BoundSpace, SearchSpace
from glora.strategies import (
    NSGA2,
    AgeingEvolution,
    Candidate,
    Evolution,
    RandomSearch,
    Samplewise,
    Score,
    Strategy,
    StrategyName,
    Surrogate,
    make_strategy,
    run_search,
)
from glora.structure import LayerStructure, Structure

Make = Callable[..., Strategy]


def evolution(space: BoundSpace, budget: int | None = None, **more: Any) -> Strategy:
    return Evolution(space, budget, generations=3, population=8, parents=3, mutants=3, crossovers=3, **more)


def no_random(space: BoundSpace, budget: int | None = None, **more: Any) -> Strategy:
    numbers = {"generations": 4, "population": 6, "parents": 6, "mutants": 3, "crossovers": 3}
    return Evolution(space, budget, probability=0.5, **numbers, **more)


def surrogate_with_priors(space: BoundSpace, budget: int | None = None, **more: Any) -> Strategy:
    priors = {
        gene: {form: (i * 7 + j) % 5 / 5 for j, form in enumerate(space.choices(*gene))}
        for i, gene in enumerate(space.genes)
    }
    return Surrogate(space, budget, evaluations=30, batch=7, priors=priors, **more)


STRATEGIES: dict[str, Make] = {
    "evolution": evolution,
    "evolution-children": no_random,
    "random": partial(RandomSearch, evaluations=30, batch=8),
    "ageing": partial(AgeingEvolution, evaluations=30, population=8, sample_size=3, batch=4),
    "nsga2": partial(NSGA2, generations=3, population=8),
    "surrogate": partial(Surrogate, evaluations=30, batch=8),
    "surrogate-priors": surrogate_with_priors,
    "samplewise": partial(Samplewise, evaluations=30, first=8, batch=4),
}


@pytest.fixture(params=STRATEGIES.values(), ids=STRATEGIES.keys(), scope="module")
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


def trace(strategy: Strategy, score: Callable[[Structure], Score]) -> list[dict[str, Any]]:
    return [candidate.to_dict() for candidate in run_search(strategy, score).history]


@pytest.mark.parametrize("budget", [0, 1, 13, 40, 120, None])
def test_candidates_are_in_the_space_within_the_budget_and_new(make: Make, budget: int | None) -> None:
    space = two_layers()
    score = Planted(space)
    found = run_search(make(space, budget), score)
    for candidate in found.history:
        space.check(candidate.structure)
        assert candidate.size == space.size(candidate.structure)
        assert budget is None or candidate.size <= budget
    assert [candidate.structure for candidate in found.history] == score.asked
    assert len(set(score.asked)) == len(score.asked)
    assert [candidate.index for candidate in found.history] == list(range(len(score.asked)))
    # Nothing, or one scalar of the eight that four tensors of two layers may be.
    few = {0: 1, 1: 9}
    assert len(score.asked) == (few[budget] if budget in few else len(score.asked))
    assert len(score.asked) >= 16 or budget in few


def test_hybrids_are_searched_as_any_space_and_resumed(make: Make, tmp_path: Path) -> None:
    space, path = hybrid(), tmp_path / "search.jsonl"
    found = run_search(make(space, 140), Planted(space), path)
    for candidate in found.history:
        space.check(candidate.structure)
        assert Structure.from_json(candidate.structure.to_json()) == candidate.structure
        assert candidate.size == space.size(candidate.structure) <= 140
    blocks = {str(form) for c in found.history for place in c.structure.blocks.values() for _, form in place.items()}
    assert blocks == {"none", "tokens-1", "tokens-2", "bottleneck-1", "serial-1"}
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:12]))
    run_search(make(space, 140), Planted(space), path)
    assert path.read_bytes() == whole


def test_layers_without_a_bias_keep_their_choices(make: Make) -> None:
    space = bound((6, 5, False), (4, 4))
    for candidate in run_search(make(space), Planted(space)).history:
        space.check(candidate.structure)
        assert candidate.structure["blocks.0.fc"].D.kind == "none"


def test_an_infeasible_budget_is_refused_at_once(make: Make) -> None:
    space = bound((6, 5), (4, 4), space=SearchSpace(E="vector"))
    with pytest.raises(BudgetError, match="has 9 adapter parameters or fewer: feasible budgets are 10 to"):
        make(space, 9)
    assert len(run_search(make(space, 10), Planted(space)).best) == 2


def test_a_budget_is_a_whole_number(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"whole number of adapter parameters, such as 300_000, not 0\.3"):
        make(two_layers(), 0.3)


def test_equal_seeds_give_equal_searches_and_others_do_not(make: Make) -> None:
    space = two_layers()
    first = trace(make(space, 60, seed=1), Planted(space))
    assert trace(make(space, 60, seed=1), Planted(space)) == first
    assert trace(make(space, 60, seed=2), Planted(space)) != first


def test_a_space_with_one_point_has_one_candidate(make: Make) -> None:
    space = bound((6, 5), space=SearchSpace.point(LayerStructure(B="rank-2")))
    found = run_search(make(space), Planted(space))
    assert len(found.history) == 1
    assert found.best["blocks.0.fc"] == LayerStructure(B="rank-2")
    assert found.front == (found.winner,)


def test_a_tiny_space_is_seen_whole_and_then_the_search_ends(make: Make) -> None:
    space = bound((6, 5), space=SearchSpace(A="none", B=["rank-1", "none"], C="none", D="none", E=["vector", "none"]))
    assert len(run_search(make(space), Planted(space)).history) == space.cardinality == 4
    assert len(run_search(make(space, 10), Planted(space)).history) == 2


def test_a_nan_never_wins(make: Make) -> None:
    space = two_layers()
    planted = Planted(space)

    def score(structure: Structure) -> Score:
        value = planted(structure)
        if len(planted.asked) % 3 == 0:
            return Score(math.nan, value.loss)
        return Score(1.0, math.nan) if len(planted.asked) % 3 == 1 else value

    found = run_search(make(space), score)
    assert not found.winner.score.failed
    assert found.winner.score.accuracy == max(c.score.accuracy for c in found.history if not c.score.failed)
    assert not any(candidate.score.failed for candidate in found.front)


def test_nothing_but_nan_is_an_error(make: Make) -> None:
    with pytest.raises(GloraError, match="candidates has a finite accuracy and loss: the supernet has diverged"):
        run_search(make(two_layers()), lambda _: Score(math.nan, math.nan))


def test_all_of_a_generation_is_drawn_before_any_is_scored(make: Make) -> None:
    strategy = make(two_layers())
    while not strategy.done:
        proposals = strategy.ask()
        assert len({proposal.generation for proposal in proposals}) == 1
        assert not strategy.done
        strategy.tell([Score(0.5, 1.0)] * len(proposals))
    assert strategy.candidates[-1].index == len(strategy.candidates) - 1


def test_ask_and_tell_alternate(make: Make) -> None:
    strategy = make(two_layers())
    with pytest.raises(GloraError, match=r"tell\(\) came before ask\(\)"):
        strategy.tell([])
    proposals = strategy.ask()
    with pytest.raises(GloraError, match=r"ask\(\) came twice"):
        strategy.ask()
    with pytest.raises(GloraError, match=rf"{len(proposals)} structures were asked for, but 1 scores were told"):
        strategy.tell([Score(0.5, 1.0)])
    strategy.tell([Score(0.5, 1.0)] * len(proposals))
    with pytest.raises(GloraError, match=r"tell\(\) came before ask\(\)"):
        strategy.tell([Score(0.5, 1.0)] * len(proposals))
    while not strategy.done:
        strategy.tell([Score(0.5, 1.0)] * len(strategy.ask()))
    with pytest.raises(GloraError, match="the search is done"):
        strategy.ask()
    with pytest.raises(GloraError, match="make a new one for each search"):
        run_search(strategy, lambda _: Score(0.5, 1.0))


def test_what_asking_hands_out_is_the_callers(make: Make) -> None:
    strategy = make(two_layers())
    proposals = strategy.ask()
    count = len(proposals)
    proposals.clear()
    strategy.tell([Score(0.5, 1.0)] * count)
    assert len(strategy.candidates) == count


def test_settings_are_plain_and_tell_searches_apart(make: Make) -> None:
    space = two_layers()
    settings = make(space, 60, seed=1).settings
    assert json.loads(json.dumps(settings)) == settings
    assert make(two_layers(), 60, seed=1).settings == settings
    others = {
        "seed": make(space, 60, seed=2),
        "budget": make(space, 61, seed=1),
        "space": make(bound((12, 8), (6, 12), space=SearchSpace(3)), 60, seed=1),
        "layers": make(bound((12, 8), (6, 13)), 60, seed=1),
        "bias": make(space.space.bind(space.shapes, "keep"), 60, seed=1),
    }
    for name, other in others.items():
        assert [key for key in settings if settings[key] != other.settings[key]] == [name]


def run_until(make: Make, path: Path, seed: int = 0) -> tuple[bytes, int]:
    """Run to the end; the file, and how many structures were scored in this run."""
    space = two_layers()
    score = Planted(space)
    run_search(make(space, 60, seed=seed), score, path)
    return path.read_bytes(), len(score.asked)


def test_a_search_cut_off_after_any_line_goes_on_to_the_same_file(make: Make, tmp_path: Path) -> None:
    whole, count = run_until(make, tmp_path / "whole.jsonl")
    lines = whole.splitlines(keepends=True)
    assert len(lines) == count + 1
    path = tmp_path / "cut.jsonl"
    for kept in range(len(lines) + 1):
        path.write_bytes(b"".join(lines[:kept]))
        again, scored = run_until(make, path)
        assert again == whole
        assert scored == count - max(kept - 1, 0)


def test_a_replayed_search_reports_the_same(make: Make, tmp_path: Path) -> None:
    space, path = two_layers(), tmp_path / "search.jsonl"
    first: list[Candidate] = []
    again: list[Candidate] = []
    found = run_search(make(space), Planted(space), path, first.append)
    replayed = run_search(make(space), lambda _: pytest.fail("scored again"), path, again.append)
    assert replayed == found
    assert again == first == list(found.history)


def test_a_resume_with_another_seed_is_refused(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    before, _ = run_until(make, path, seed=1)
    with pytest.raises(CheckpointError, match="belongs to another search: seed is 1 there and 2 here"):
        run_until(make, path, seed=2)
    assert path.read_bytes() == before


SCRIPT = """
import json, sys, types
root = types.ModuleType("glora"); root.__path__ = [sys.argv[1]]; sys.modules["glora"] = root
from glora.strategies import Score, make_strategy, run_search
from glora.shapes import LayerShape
from glora.space import SearchSpace
space = SearchSpace(2).bind({"a": LayerShape(12, 8), "b": LayerShape(6, 12)})
numbers = {"generations": 3, "population": 8, "parents": 3, "mutants": 3, "crossovers": 3}
for name in sys.argv[2:]:
    strategy = make_strategy(name, space, 80, **numbers)
    found = run_search(strategy, lambda s: Score(len(str(s)) % 7 / 7, len(str(s)) % 11))
    print(json.dumps([candidate.to_dict() for candidate in found.history]))
assert "torch" not in sys.modules
"""


def test_a_search_is_the_same_in_any_process(environment: dict[str, str]) -> None:
    package = str(Path(glora.__file__).parent)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, package, *get_args(StrategyName)],
            env={**environment, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert [len(json.loads(line)) for line in outputs.pop().splitlines()] == [32] * len(get_args(StrategyName))


@given(problems(), st.integers(0, 3))
@settings(max_examples=12)
def test_whatever_the_space_all_that_is_asked_is_legal_and_new(
    make: Make, problem: tuple[BoundSpace, int | None, Any], seed: int
) -> None:
    space, budget, _ = problem
    found = run_search(make(space, budget, seed=seed), Planted(space, seed))
    structures = [candidate.structure for candidate in found.history]
    assert len(set(structures)) == len(structures) <= 32
    for structure in structures:
        space.check(structure)
        assert budget is None or space.size(structure) <= budget


@given(problems())
@settings(max_examples=12)
def test_whatever_the_space_a_budget_below_its_smallest_structure_is_refused(
    make: Make, problem: tuple[BoundSpace, int | None, Any]
) -> None:
    space, _, _ = problem
    with pytest.raises(BudgetError, match=f"feasible budgets are {space.smallest:,} to {space.largest:,}"):
        make(space, space.smallest - 1)


def test_a_space_without_layers_has_one_candidate(make: Make) -> None:
    space = SearchSpace().bind({})
    assert [c.structure for c in run_search(make(space), lambda _: Score(0.5, 1.0)).history] == [Structure()]


def test_initial_structures_come_first_and_are_not_asked_for_again(make: Make) -> None:
    space = two_layers()
    given = [Structure({"blocks.0.fc": LayerStructure(B=form)}) for form in ("rank-2", "vector", "vector")]
    history = run_search(make(space, 60, initial=given), Planted(space)).history
    assert [(c.structure, c.origin, c.generation) for c in history[:2]] == [(s, "initial", 0) for s in given[:2]]
    assert len({c.structure for c in history}) == len(history) >= 28
    assert make(space, 60, initial=given).settings != make(space, 60).settings
    without = run_search(make(space, 60), Planted(space)).history
    assert sum(c.generation == 0 for c in history) == sum(c.generation == 0 for c in without)


@pytest.mark.parametrize(
    ("structure", "error", "message"),
    [
        (Structure({"blocks.0.fc": LayerStructure(B="rank-2")}), BudgetError, "has 40 adapter parameters, over the bu"),
        (Structure({"blocks.0.fc": LayerStructure(B="rank-3")}), StructureError, "B=rank-3 is not in the search space"),
        (Structure({"head": LayerStructure(E="vector")}), StructureError, "layer 'head' is not adapted"),
    ],
)
def test_illegal_initial_structures_are_refused(
    make: Make, structure: Structure, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(two_layers(), 39, initial=[structure])


def test_more_initial_structures_than_a_first_generation_are_refused(make: Make) -> None:
    space = two_layers()
    given = [space.build({space.genes[g]: form}) for g in (0, 1, 3, 4, 5) for form in space.choices(*space.genes[g])]
    with pytest.raises(ConfigError, match=r"\d+ initial structures are more than the"):
        make(space, initial=given)


def test_a_negative_seed_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="seed is 0 or more, not -1"):
        make(two_layers(), seed=-1)


# By name


@pytest.mark.parametrize("name", get_args(StrategyName))
@pytest.mark.parametrize(("generations", "population"), [(0, 1), (0, 7), (3, 2), (4, 11)])
def test_all_strategies_of_equal_numbers_score_equally_many(
    name: StrategyName, generations: int, population: int
) -> None:
    numbers = {"generations": generations, "population": population, "mutants": 0, "crossovers": 0, "parents": 1}
    found = run_search(make_strategy(name, two_layers(), 100, **numbers), Planted(two_layers()))
    assert len(found.history) == population * (generations + 1)


def test_strategies_have_their_own_rate_of_mutation_unless_told() -> None:
    space = two_layers()
    rates = [make_strategy(name, space).settings["probability"] for name in ("evolution", "ageing", "nsga2")]
    assert rates == [0.2, 0.05, 0.01]
    given = [make_strategy(n, space, probability=0.3).settings["probability"] for n in ("evolution", "ageing", "nsga2")]
    assert given == [0.3] * 3


@pytest.mark.parametrize("name", get_args(StrategyName))
def test_numbers_that_cannot_be_are_refused_whatever_the_strategy(name: StrategyName) -> None:
    for numbers in ({"generations": -1}, {"population": 0}, {"generations": -3, "population": -2}):
        with pytest.raises(ConfigError, match="generations is 0 or more and population 1 or more, not"):
            make_strategy(name, two_layers(), **numbers)


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ConfigError, match="strategy 'annealing' is unknown: evolution, random, ageing, nsga2, surr"):
        make_strategy("annealing", two_layers())  # type: ignore[arg-type]

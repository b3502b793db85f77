"""A search of a real supernet, on a task whose best structure is planted and found by trying everything."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from glora import SearchSpace, Structure, presets, search
from glora.data import TensorSamples
from glora.errors import BudgetError, CheckpointError, ConfigError, DataError
from glora.evaluate import Evaluator
from glora.selection import POOL
from glora.strategies import Candidate, RandomSearch, SearchResult, StrategyName, run_search
from glora.strategies.score import bits
from helpers import some_structure
from planted_net import PLANTED, SIZES, SMALL, Counting, X, key, logits, net_of, size, table

pytestmark = pytest.mark.usefixtures("single_threaded")
# Of 576 structures these ask for at most 325.
SEARCH: dict[str, Any] = {"generations": 12, "population": 25, "parents": 5, "mutants": 8, "crossovers": 8}


def optimum(seed: int, budget: float) -> str:
    allowed = {name: value for name, value in table(seed)[1].items() if value[2] <= budget}
    return max(allowed, key=lambda name: (allowed[name][0], -allowed[name][1], -allowed[name][2]))


# What it finds


@pytest.mark.parametrize("seed", [0, 3, 4, 7])  # with others, all structures give all samples one class
def test_the_planted_structure_is_found(seed: int) -> None:
    labels, everything = table(seed)
    assert len(everything) == 576
    assert sum(accuracy == 1.0 for accuracy, _, _ in everything.values()) == 1
    assert optimum(seed, math.inf) == key(Structure(PLANTED))
    found = search(net_of(seed), (X, labels), **SEARCH)
    assert found.best == Structure(PLANTED)
    assert found.winner.score.accuracy == 1.0
    assert found.winner.size == size(PLANTED) == 28 + 6 + 5 + 5
    assert len(found.history) <= 325


@pytest.mark.parametrize("budget", [0, 5, 13, 20, 34, 43, 60])
def test_the_best_within_a_budget_is_found(budget: int) -> None:
    labels, everything = table(0)
    found = search(net_of(0), (X, labels), budget, **SEARCH)
    assert key(found.best) == optimum(0, budget)
    assert found.winner.score.accuracy == everything[key(found.best)][0]
    assert all(candidate.size <= budget for candidate in found.history)


def test_every_candidate_has_the_score_and_size_of_its_structure() -> None:
    labels, everything = table(3)
    found = search(net_of(3), (X, labels), 70, prune=False, **SMALL)
    assert len(found.history) == 32
    for candidate in found.history:
        accuracy, loss, numbers = everything[key(candidate.structure)]
        assert candidate.score.accuracy == pytest.approx(accuracy, abs=1e-12)
        assert candidate.score.loss == pytest.approx(loss, rel=1e-4)
        assert candidate.score.samples == 400
        assert candidate.size == numbers <= 70
    sizes = [c.size for c in found.front]
    assert sizes == sorted(set(sizes))
    assert found.front[-1].score.accuracy == found.winner.score.accuracy
    assert not any(
        other.size <= kept.size and other.score.accuracy > kept.score.accuracy
        for kept in found.front
        for other in found.history
    )


def test_the_last_generation_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glora.find.Evaluator", Counting)
    found = search(net_of(space=SearchSpace.paper(2)), (X, table(0)[0]), **SMALL)
    assert len(found.history) == 4 * 8
    assert found.winner is found.history[-1]
    assert found.winner.generation == 3
    assert found.winner in found.front


def test_the_authors_numbers_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glora.find.Evaluator", Counting)
    found = search(net_of(space=SearchSpace.paper(2)), (X, table(0)[0]))
    by_generation = [Counter(c.origin for c in found.history if c.generation == g) for g in range(22)]
    assert by_generation[:2] == [Counter(random=50), Counter(mutant=25, crossover=25)]
    assert [origins.total() for origins in by_generation] == [50] * 21 + [0]
    assert {origins["mutant"] for origins in by_generation[1:21]} == {25}


def test_settings_reach_the_evolution() -> None:
    net, data = net_of(), (X, table(0)[0])
    found = search(net, data, generations=1, population=6, parents=1, mutants=4, crossovers=0, probability=0.0)
    assert Counter(c.origin for c in found.history) == {"random": 12}  # a mutation of nothing is nothing new
    one, same, other = (search(net, data, seed=seed, **SMALL).history for seed in (1, 1, 2))
    assert one == same != other
    for setting, message in (({"parents": 9}, "parents is between 1 and"), ({"mutants": 8}, "are more than the")):
        with pytest.raises(ConfigError, match=message):
            search(net, data, **SMALL | setting)


@pytest.mark.parametrize("name", ["random", "ageing", "nsga2", "surrogate", "samplewise"])
def test_other_strategies_score_as_many_and_resume(name: StrategyName, tmp_path: Path) -> None:
    net, data = net_of(), (X, table(0)[0])
    options: dict[str, Any] = {"strategy": name, "history": tmp_path / "s", "seed": 1, **SMALL}
    found = search(net, data, 70, **options)
    assert len(found.history) == 32
    assert all(c.size <= 70 for c in found.history)
    whole = (tmp_path / "s").read_bytes()
    assert json.loads(whole.splitlines()[0])["settings"]["strategy"] == name
    (tmp_path / "s").write_bytes(b"".join(whole.splitlines(keepends=True)[:14]))
    assert search(net, data, 70, **options) == found
    assert (tmp_path / "s").read_bytes() == whole
    with pytest.raises(CheckpointError, match=f'strategy is "{name}" there and "evolution" here'):
        search(net, data, 70, **options | {"strategy": "evolution"})


def test_a_strategy_may_be_made_by_hand() -> None:
    net, data = net_of(), (X, table(0)[0])
    evaluator = Evaluator(net, TensorSamples(*data), 50)
    found = search(net, data, strategy=RandomSearch(net.bound, 60, seed=4, evaluations=9))
    assert found.history == run_search(RandomSearch(net.bound, 60, seed=4, evaluations=9), evaluator).history
    assert len(found.history) == 9
    with pytest.raises(ConfigError, match="this strategy has the budget 60, not 50: give it to the strategy alone"):
        search(net, data, 50, strategy=RandomSearch(net.bound, 60))
    other = net_of(space=SearchSpace(2))
    with pytest.raises(ConfigError, match=r"made for another space or model: make it with net\.bound"):
        search(net, data, strategy=RandomSearch(other.bound, 60))
    assert len(search(net, data, 60, strategy=RandomSearch(net_of(3).bound, 60, evaluations=2)).history) == 2


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="strategy 'luck' is unknown: evolution, random, ageing, nsga2, surrogate, samplewise"
    ):
        search(net_of(), (X, table(0)[0]), strategy="luck")  # type: ignore[arg-type]


def test_a_preset_has_one_candidate() -> None:
    net = net_of(space=presets.lora(2))
    found = search(net, (X, table(0)[0]), 54, **SMALL)
    assert [candidate.structure for candidate in found.history] == [net.active]
    assert found.winner.size == 54


def test_data_may_come_as_samples_tensors_or_a_dataset() -> None:
    labels = table(0)[0]
    first, *others = (
        search(net_of(), data, **SMALL).history
        for data in ((X, labels), TensorSamples(X, labels), TensorDataset(X, labels))
    )
    assert others == [first, first]


def test_precision_and_batch_size_reach_the_evaluation() -> None:
    net, seen = net_of(), set()
    net.model.out.register_forward_hook(lambda _, given, out: seen.add((len(given[0]), out.dtype)))
    search(net, (X, table(0)[0]), batch_size=150, precision="bf16", **SMALL)
    assert seen == {(150, torch.bfloat16), (100, torch.bfloat16)}


# Pruning


def best(found: SearchResult) -> list[Candidate]:
    """Those that are selected from."""
    return sorted(found.history, key=Candidate.rank_key, reverse=True)[:POOL]


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pruning_finds_the_same(seed: int, precision: Any) -> None:
    labels = table(seed)[0]
    found, whole = (
        search(net_of(seed), (X, labels), 70, batch_size=25, prune=prune, precision=precision, **SEARCH)
        for prune in (True, False)
    )
    assert [c.structure for c in found.history] == [c.structure for c in whole.history]
    assert (found.winner, found.front, found.ties) == (whole.winner, whole.front, whole.ties)
    assert best(found) == best(whole)
    assert all(c.score.bound is None for c in whole.history)
    assert found.effort["sample_evaluations"] < 0.9 * whole.effort["sample_evaluations"]
    for mine, true in zip(found.history, whole.history, strict=True):
        if mine.score.bound is None:
            assert mine == true
        else:
            assert mine.score.bound.accuracy >= true.score.accuracy
            assert mine.score.bound.loss <= true.score.loss
            assert mine.score.samples % 25 == 0
            seen = [(a, b) for a, b in zip(mine.score.levels, true.score.levels, strict=True) if a != "-"]
            assert len(seen) == mine.score.samples
            assert all(a == b for a, b in seen)


def test_the_bits_say_which_samples_are_right() -> None:
    labels = table(3)[0]
    found = search(net_of(3), (X, labels), 70, prune=False, **SMALL)
    for candidate in found.history:
        forms = candidate.structure.to_dict()
        right = logits(net_of(3), forms).argmax(1) == labels
        assert bits(candidate.score.right, 400) == "".join(map(str, right.int().tolist()))


def test_structures_that_compute_the_same_are_evaluated_once() -> None:
    net = net_of()
    with torch.no_grad():
        for layer in net.layers.values():
            for tensor in ("A", "B", "C"):
                layer.support.get_parameter(tensor).zero_()
    seen: list[int] = []
    net.model.out.register_forward_hook(lambda _, given, out: seen.append(len(given[0])))
    found = search(net, (X, table(0)[0]), prune=False, batch_size=400, **SMALL)
    assert len(seen) == len({tuple(own.E for own in map(c.structure.__getitem__, SIZES)) for c in found.history}) == 4
    assert found.effort["reused"] == len(found.history) - 4


# What it leaves alone


def test_nothing_is_trained_and_the_net_is_as_it_was() -> None:
    net = net_of()
    active = some_structure(net, 5)
    net.activate(active)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    generators = torch.get_rng_state(), random.getstate()
    wanted = net(X)
    search(net, (X, table(0)[0]), **SMALL)
    assert net.active == active
    assert net.training
    assert net.model.out.training
    assert net(X).equal(wanted)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert torch.get_rng_state().equal(generators[0])
    assert random.getstate() == generators[1]
    assert all(p.grad is None for p in net.parameters())


# Budgets that cannot be met


@pytest.mark.usefixtures("_no_evaluation")
def test_a_budget_that_cannot_be_met_is_refused_before_any_evaluation(tmp_path: Path) -> None:
    space = SearchSpace(2, A=["rank-2", "vector"], B="vector", C="none", D="none", E=["vector", "scalar"])
    net = net_of(space=space)
    smallest, largest = 2 * (8 + 5) + 2, (28 + 8 + 8) + (26 + 5 + 5)
    message = (
        f"no structure of this search space has {smallest - 1} adapter parameters or fewer: "
        f"feasible budgets are {smallest} to {largest}"
    )
    with pytest.raises(BudgetError, match=message):
        search(net, (X, table(0)[0]), smallest - 1, history=tmp_path / "search.jsonl")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="a budget is a whole number of adapter parameters"):
        search(net, (X, table(0)[0]), 0.5)  # type: ignore[arg-type]


def test_the_smallest_budget_that_can_be_met_gives_the_smallest_structure() -> None:
    space = SearchSpace(2, A=["rank-2", "vector"], B="vector", C="none", D="none", E=["vector", "scalar"])
    found = search(net_of(space=space), (X, table(0)[0]), 28, **SMALL)
    own = {"A": "vector", "B": "vector", "E": "scalar"}
    assert [candidate.structure for candidate in found.history] == [Structure({"first": own, "second": own})]


def test_labels_beyond_the_head_are_refused() -> None:
    with pytest.raises(DataError, match="has no logit: the model's head has 4 outputs"):
        search(net_of(), (X, table(0)[0] + 3), **SMALL)

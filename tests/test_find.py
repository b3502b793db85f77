"""A search of a real supernet, on a task whose best structure is planted and found by trying everything."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import glora
from glora import GLoRAModel, SearchSpace, Structure, presets, search
from glora.data import TensorSamples
from glora.errors import BudgetError, CheckpointError, ConfigError, DataError
from glora.evaluate import Evaluator, Outcomes
from glora.selection import POOL
from glora.strategies import Candidate, RandomSearch, Score, SearchResult, StrategyName, run_search
from glora.strategies.score import bits
from helpers import MLP, randomise, randomise_backbone, some_structure
from oracles import dense
from oracles.brute_force import parameters

pytestmark = pytest.mark.usefixtures("single_threaded")

# 2 * 3 * 2 * 1 * 2 = 24 layer structures, 576 structures of the two layers.
SPACE = SearchSpace(
    2, A=["vector", "none"], B=["rank-2", "vector", "none"], C=["vector", "none"], D="none", E=["vector", "none"]
)
SIZES = {"first": (8, 6), "second": (5, 8)}
PLANTED = {"first": {"B": "rank-2", "C": "vector"}, "second": {"A": "vector", "E": "vector"}}
SMALL: dict[str, Any] = {"generations": 3, "population": 8, "parents": 3, "mutants": 3, "crossovers": 3}
# Of 576 structures these ask for at most 325.
SEARCH: dict[str, Any] = {"generations": 12, "population": 25, "parents": 5, "mutants": 8, "crossovers": 8}
X = torch.randn(400, 6, generator=torch.Generator().manual_seed(1))


def net_of(seed: int = 0, space: SearchSpace = SPACE, **options: Any) -> GLoRAModel:
    """A supernet that has been through something: every tensor has random values, and the head too."""
    model = MLP(seed=seed)
    randomise_backbone(model, seed)
    net = glora.adapt(model, space, **options)
    randomise(net, seed, scale=0.5)
    return net


def logits(net: GLoRAModel, forms: dict[str, dict[str, str]]) -> Tensor:
    """The MLP with these forms, densely and in float64."""
    x = X.double()
    for name in SIZES:
        layer = net.layers[name]
        storage = {key: p.detach() for key, p in layer.support.named_parameters()}
        gains = dict(layer.support.gains)
        x = dense.forward(x, layer.weight, layer.bias, forms.get(name, {}), storage, gains).detach().clamp(min=0)
    return x @ net.model.out.weight.detach().double().T + net.model.out.bias.detach().double()


def size(forms: dict[str, dict[str, str]]) -> int:
    return sum(parameters(t, form, *SIZES[name]) for name, own in forms.items() for t, form in own.items())


@cache
def table(seed: int) -> tuple[Tensor, dict[str, tuple[float, float, int]]]:
    """The labels that the planted structure gives, and accuracy, loss and size of all structures by trying each."""
    net = net_of(seed)
    labels = logits(net, PLANTED).argmax(1)
    choices = [("A", ["vector"]), ("B", ["rank-2", "vector"]), ("C", ["vector"]), ("E", ["vector"])]
    options = [
        {t: form for (t, _), form in zip(choices, forms, strict=True) if form}
        for forms in itertools.product(*([*forms, ""] for _, forms in choices))
    ]
    found = {}
    for first, second in itertools.product(options, options):
        forms = {"first": first, "second": second}
        scores = logits(net, forms)
        right = (scores.argmax(1) == labels).sum().item() / len(labels)
        loss = (scores.logsumexp(1) - scores[torch.arange(len(labels)), labels]).mean().item()
        found[key(Structure(forms))] = (right, loss, size(forms))
    return labels, found


def key(structure: Structure) -> str:
    return json.dumps(structure.to_dict(), sort_keys=True)


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


class Counting:
    """Stands for the Evaluator: each structure scores better than all before it."""

    calls = 0

    def __init__(self, *_: object) -> None:
        type(self).calls = 0

    def __call__(self, _: Structure) -> Score:
        type(self).calls += 1
        return Score(self.calls / 1000, 1.0, 1)

    def outcomes(self, _: Structure) -> Outcomes:
        return Outcomes(torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.float64))


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


@pytest.mark.parametrize("name", ["random", "ageing", "nsga2", "surrogate"])
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
    with pytest.raises(ConfigError, match="strategy 'luck' is unknown: evolution, random, ageing, nsga2, surrogate"):
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


@pytest.fixture
def _no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("evaluated")

    monkeypatch.setattr("glora.find.Evaluator.score", forbidden)


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


# The history


def stop_at(number: int) -> Callable[[Candidate], None]:
    def call(candidate: Candidate) -> None:
        if candidate.index == number:
            raise RuntimeError("enough")

    return call


@pytest.mark.parametrize("stop", [0, 7, 8, 20, 31])
def test_a_resumed_search_writes_the_same_bytes(stop: int, tmp_path: Path) -> None:
    labels = table(0)[0]
    wanted = search(net_of(), (X, labels), 70, history=tmp_path / "whole", **SMALL)
    with pytest.raises(RuntimeError, match="enough"):
        search(net_of(), (X, labels), 70, history=tmp_path / "parts", on_candidate=stop_at(stop), **SMALL)
    whole = (tmp_path / "whole").read_bytes()
    parts = (tmp_path / "parts").read_bytes()
    assert whole.startswith(parts)
    assert parts.count(b"\n") == stop + 2
    (tmp_path / "parts").write_bytes(parts + whole[len(parts) : len(parts) + 40])  # and a line half written
    seen: list[Candidate] = []
    found = search(net_of(), (X, labels), 70, history=tmp_path / "parts", on_candidate=seen.append, **SMALL)
    assert (tmp_path / "parts").read_bytes() == whole
    assert [c.index for c in seen] == [c.index for c in found.history]
    later = {c.index: c for c in found.completed}
    assert seen == [later.get(c.index, c) for c in found.history]
    assert found == wanted == search(net_of(), (X, labels), 70, **SMALL)


@pytest.mark.usefixtures("_no_evaluation")
def test_a_finished_search_is_replayed_without_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, seen = table(0)[0], []
    with monkeypatch.context() as undone:
        undone.setattr("glora.find.Evaluator", Counting)
        wanted = search(net_of(), (X, labels), history=tmp_path / "s", **SMALL)
    found = search(
        net_of(), (X, labels), history=tmp_path / "s", on_candidate=seen.append, known=wanted.to_dict(), **SMALL
    )
    assert found == wanted
    assert tuple(seen) == wanted.history


def _one_bit(net: GLoRAModel, name: str) -> None:
    with torch.no_grad():
        net.model.get_parameter(name).view(torch.int32).view(-1)[0] ^= 1


@pytest.mark.parametrize(
    "name", ["first.support.A", "second.support.B_up", "second.support.E", "out.weight", "out.bias", "first.weight"]
)
@pytest.mark.usefixtures("_no_evaluation")
def test_the_history_of_another_supernet_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of any weight, trained or frozen, makes another supernet, whose scores are others."""
    labels = table(0)[0]
    with monkeypatch.context() as undone:
        undone.setattr("glora.find.Evaluator", Counting)
        search(net_of(), (X, labels), history=tmp_path / "search.jsonl", **SMALL)
    whole = (tmp_path / "search.jsonl").read_bytes()
    net = net_of()
    _one_bit(net, name)
    with pytest.raises(CheckpointError, match=r"search\.jsonl belongs to another search: about\.\w+ is "):
        search(net, (X, labels), history=tmp_path / "search.jsonl", **SMALL)
    assert (tmp_path / "search.jsonl").read_bytes() == whole


def test_the_history_of_a_supernet_with_other_gains_is_refused(tmp_path: Path) -> None:
    """The same tensors stand for other weights then."""
    labels = table(0)[0]
    first = search(net_of(), (X, labels), history=tmp_path / "s", **SMALL)
    other = search(net_of(gains="paper"), (X, labels), **SMALL)
    assert first.history[0].structure == other.history[0].structure
    assert first.history[0].score != other.history[0].score
    with pytest.raises(CheckpointError, match="belongs to another search"):
        search(net_of(gains="paper"), (X, labels), history=tmp_path / "s", **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 60}, "budget is 70 there and 60 here"),
        ({"budget": None}, "budget is 70 there and null here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"generations": 4}, "generations is 3 there and 4 here"),
        ({"probability": 0.3}, r"probability is 0\.2 there and 0\.3 here"),
        ({"batch_size": 49}, r"about\.batch_size is 50 there and 49 here"),
        ({"precision": "bf16"}, r'about\.precision is "fp32" there and "bf16" here'),
        ({"prune": False}, r"about\.prune is true there and false here"),
    ],
)
def test_the_history_of_other_settings_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    labels = table(0)[0]
    options: dict[str, Any] = {"budget": 70, "history": tmp_path / "s", **SMALL}
    search(net_of(), (X, labels), **options)
    with pytest.raises(CheckpointError, match=f"s belongs to another search: {message}"):
        search(net_of(), (X, labels), **options | change)


def test_the_history_on_other_labels_is_refused(tmp_path: Path) -> None:
    labels = table(0)[0]
    search(net_of(), (X, labels), history=tmp_path / "s", **SMALL)
    changed = labels.clone()
    changed[77] = (changed[77] + 1) % 4
    for other in (changed, labels.roll(1)):
        with pytest.raises(CheckpointError, match=r's belongs to another search: about\.data is "\w+" there and "'):
            search(net_of(), (X, other), history=tmp_path / "s", **SMALL)
    with pytest.raises(CheckpointError, match=r"about\.data is"):
        search(net_of(), (X[:-1], labels[:-1]), history=tmp_path / "s", **SMALL)


def test_a_damaged_history_is_refused_by_name(tmp_path: Path) -> None:
    labels = table(0)[0]
    search(net_of(), (X, labels), history=tmp_path / "s", **SMALL)
    lines = (tmp_path / "s").read_bytes().splitlines(keepends=True)
    (tmp_path / "s").write_bytes(b"".join([*lines[:5], b"{broken}\n", *lines[6:]]))
    with pytest.raises(CheckpointError, match="s, line 6: damaged; cut the file off before that line"):
        search(net_of(), (X, labels), history=tmp_path / "s", **SMALL)

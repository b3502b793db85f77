"""Choosing among candidates: what noise allows to say, the smallest, the greedy soup, against brute force."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import glora
from glora import GLoRAModel, SearchSpace, Structure, TrainSettings, search
from glora.crossval import CrossEvaluator, train_folds
from glora.data import TensorSamples
from glora.errors import ConfigError, DataError, StructureError
from glora.evaluate import Evaluator, Outcomes, evaluate
from glora.selection import choose, greedy_soup, paired
from glora.soup import Soup
from glora.strategies import Candidate, Score, SearchResult, front
from helpers import MLP, randomise, randomise_backbone

pytestmark = pytest.mark.usefixtures("single_threaded")

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(2))
SMALL: dict[str, Any] = {"generations": 3, "population": 10, "parents": 3, "mutants": 4, "crossovers": 4}


def net_of(seed: int = 0, space: SearchSpace | None = None) -> GLoRAModel:
    model = MLP(seed=seed)
    randomise_backbone(model, seed)
    net = glora.adapt(model, space or SearchSpace(2))
    randomise(net, seed, scale=0.5)
    return net


def outcome(correct: str, losses: list[float] | None = None) -> Outcomes:
    bits = torch.tensor([bit == "1" for bit in correct])
    return Outcomes(bits, torch.tensor(losses or [1.0] * len(bits), dtype=torch.float64))


# Outcomes and scores


def test_a_score_is_the_mean_of_the_outcomes_and_tells_its_errors() -> None:
    score = outcome("1101", [0.5, 1.0, 2.0, 4.5]).score()
    assert (score.accuracy, score.loss, score.samples) == (0.75, 2.0, 4)
    assert score.accuracy_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    variance = (1.5**2 + 1.0**2 + 0 + 2.5**2) / 3
    assert score.loss_error == pytest.approx(math.sqrt(variance / 4))
    assert math.isnan(outcome("1").score().loss_error)


def test_every_candidate_of_a_search_carries_its_errors() -> None:
    net = net_of()
    for candidate in search(net, (X, Y), **SMALL).history:
        with net.folded(candidate.structure):
            logits = net(X).double()
        losses = logits.logsumexp(1) - logits[torch.arange(60), Y]
        assert candidate.score.loss_error == pytest.approx(losses.std().item() / math.sqrt(60), rel=1e-4)
        accuracy = candidate.score.accuracy
        assert candidate.score.accuracy_error == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / 60))
        written = candidate.to_dict()
        assert written["loss_error"] == candidate.score.loss_error


def test_by_loss_the_lowest_loss_wins() -> None:
    found = search(net_of(), (X, Y), fitness="loss", **SMALL)
    assert found.winner.score.loss == min(c.score.loss for c in found.history)
    assert found.winner.score.accuracy < max(c.score.accuracy for c in found.history)  # or the test shows nothing
    for kept in found.front:
        assert not any(c.size <= kept.size and c.score.loss < kept.score.loss for c in found.history)
    # Parents are those of the lowest loss: it drives the search, and not the last choice only.
    assert [c.structure for c in found.history] != [c.structure for c in search(net_of(), (X, Y), **SMALL).history]


def test_a_score_by_loss_survives_its_file() -> None:
    score = Score(0.5, 1.25, 8, loss_error=0.1, fitness="loss")
    candidate = Candidate(0, 0, "random", Structure(), 3, score)
    assert Candidate.from_dict(candidate.to_dict()) == candidate
    assert candidate.to_dict()["fitness"] == "loss"
    assert "fitness" not in Candidate(0, 0, "random", Structure(), 3, Score(0.5, 1.25)).to_dict()
    better = Candidate(1, 0, "random", Structure(), 9, Score(0.1, 1.0, 8, loss_error=0.1, fitness="loss"))
    assert better.rank_key() > candidate.rank_key()


# Differences on the same samples


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 9), st.floats(0, 9)), min_size=2, max_size=30))
def test_a_difference_is_paired(rows: list[tuple[bool, bool, float, float]]) -> None:
    first = outcome("".join("01"[a] for a, _, _, _ in rows), [x for *_, x, _ in rows])
    second = outcome("".join("01"[b] for _, b, _, _ in rows), [y for *_, y in rows])
    for fitness, values in (
        ("accuracy", [a - b for a, b, _, _ in rows]),
        ("loss", [y - x for _, _, x, y in rows]),
    ):
        mean = math.fsum(values) / len(rows)
        spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(rows) - 1))
        found = paired(first.merits(fitness), second.merits(fitness))  # type: ignore[arg-type]
        assert found == pytest.approx((mean, spread / math.sqrt(len(rows))), abs=1e-9)


NAMES = {name: Structure({name: {"B": "vector"}}) for name in "abcdef"}


def result(*rows: tuple[str, float, int]) -> SearchResult:
    """A search that scored these: name, accuracy, size."""
    history = tuple(
        Candidate(i, 0, "random", NAMES[name], size, Score(accuracy, 1.0, 10))
        for i, (name, accuracy, size) in enumerate(rows)
    )
    return SearchResult(max(history, key=Candidate.rank_key), front(history), history)


def judge_of(**bits: str):
    known = {NAMES[name]: outcome(value) for name, value in bits.items()}
    return lambda structure: known[structure]


FOUND = result(("a", 0.8, 50), ("b", 0.7, 20), ("c", 0.7, 10), ("d", 0.2, 5), ("e", 0.8, 60))
JUDGE = judge_of(
    a="1111111100",
    b="1111111000",  # one sample worse: 0.1 with an error of 0.1
    c="1111100011",  # three worse, two better: 0.1 with an error of 0.23
    d="0000000011",
    e="1111111100",
)


def test_ties_are_those_within_one_error_of_the_best_from_small_to_large() -> None:
    found = choose(FOUND, JUDGE)
    assert found.winner is FOUND.winner is FOUND.history[0]
    assert [tie.candidate.index for tie in found.ties] == [2, 1, 0, 4]
    assert [tie.difference for tie in found.ties] == pytest.approx([0.1, 0.1, 0.0, 0.0])
    assert [tie.error for tie in found.ties] == pytest.approx([math.sqrt(4.9 / 90), 0.1, 0.0, 0.0])
    assert found.chosen == found.best == NAMES["a"]


def test_the_smallest_of_them_is_taken_if_asked_for() -> None:
    found = choose(FOUND, JUDGE, "smallest")
    assert found.winner.structure == found.chosen == NAMES["c"]
    assert choose(FOUND, judge_of(**dict.fromkeys("abce", "1111111111"), d="0" * 10), "smallest").best == NAMES["c"]
    assert choose(FOUND, judge_of(**dict.fromkeys("bcde", "0" * 10), a="1" * 10), "smallest").best == NAMES["a"]


def test_only_the_front_and_the_best_twenty_are_judged() -> None:
    count = 100
    names = [Structure({f"l{i}": {"B": "vector"}}) for i in range(count)]
    rows = [Candidate(i, 0, "random", names[i], 1000 - i, Score(1 - i / 200, 1.0, 10)) for i in range(count)]
    rows[99] = Candidate(99, 0, "random", names[99], 1, Score(0.1, 1.0, 10))
    found = SearchResult(rows[0], front(rows), tuple(rows))
    seen: list[Any] = []

    def judge(structure: Any) -> Outcomes:
        seen.append(structure)
        return outcome("1" * 10)

    choose(found, judge)
    assert set(seen) == {*names[:20], *(c.structure for c in front(rows))}
    assert len(seen) == len(set(seen))


def test_what_the_search_recorded_is_not_judged_again() -> None:
    net = net_of()
    found = search(net, (X, Y), select=None, **SMALL)
    judged = choose(found, Evaluator(net, TensorSamples(X, Y)).outcomes, "smallest")
    recorded = choose(found, lambda _: pytest.fail("judged again"), "smallest")
    assert recorded == judged
    bare = tuple(replace(c, score=replace(c.score, right="")) for c in found.history)
    without = replace(found, winner=max(bare, key=Candidate.rank_key), front=front(bare), history=bare)
    again = choose(without, Evaluator(net, TensorSamples(X, Y)).outcomes, "smallest")
    assert [tie.to_dict() for tie in again.ties] == [tie.to_dict() for tie in recorded.ties]


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_pruning_changes_nothing_of_what_is_selected(strategy: Any) -> None:
    stopped = 0
    for seed in range(3):
        net, numbers = net_of(seed), SMALL | {"generations": 20, "seed": seed, "strategy": strategy, "batch_size": 2}
        found = [search(net, (X, Y), select="smallest", prune=prune, **numbers) for prune in (True, False)]
        stopped += found[0].effort["stopped"]
        assert [c.structure for c in found[0].history] == [c.structure for c in found[1].history]
        assert (found[0].winner, found[0].front, found[0].ties) == (found[1].winner, found[1].front, found[1].ties)
    assert stopped > 0  # or the test shows nothing


def test_nothing_is_stopped_where_the_loss_ranks_first() -> None:
    numbers = SMALL | {"generations": 8, "batch_size": 5, "select": None}
    assert search(net_of(), (X, Y), fitness="loss", **numbers).effort["stopped"] == 0
    assert search(net_of(), (X, Y), **numbers).effort["stopped"] > 0


def test_a_choice_that_is_known_is_not_judged_again() -> None:
    def judge(_: Any) -> Outcomes:
        raise AssertionError("judged again")

    for select in ("best", "smallest"):
        made = choose(FOUND, JUDGE, select)  # type: ignore[arg-type]
        assert choose(FOUND, judge, select, known=made.to_dict()) == made  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="judged again"):
        choose(FOUND, judge, "smallest", known=choose(FOUND, JUDGE).to_dict())


# The greedy soup


def test_the_greedy_soup_takes_what_helps() -> None:
    worth = {frozenset({"a": 1}.items()): 0.5, frozenset({"a": 1, "c": 1}.items()): 0.6}
    worth |= {frozenset({"a": 2, "c": 1}.items()): 0.55, frozenset({"a": 1, "c": 2}.items()): 0.7}
    tried: list[dict[str, int]] = []

    def judge(what: Structure | Soup) -> Outcomes:
        soup = what if isinstance(what, Soup) else Soup((what,), (1.0,))
        least = min(soup.weights)
        counts = {next(iter(s)): round(w / least) for s, w in zip(soup.structures, soup.weights, strict=True)}
        tried.append(counts)
        right = round(100 * worth.get(frozenset(counts.items()), 0.4))
        return outcome("1" * right + "0" * (100 - right))

    pool = [Candidate(i, 0, "random", NAMES[name], 5, Score(0.5, 1.0)) for i, name in enumerate("abcd")]
    soup, score = greedy_soup(pool, judge)
    assert soup == Soup((NAMES["a"], NAMES["c"]), (1 / 3, 2 / 3))
    assert score is not None
    assert score.accuracy == 0.7
    assert tried[:4] == [{"a": 1}, {"a": 1, "b": 1}, {"a": 1, "c": 1}, {"a": 1, "c": 1, "d": 1}]
    assert greedy_soup(pool, lambda _: outcome("10")) == (None, None)
    assert greedy_soup(pool[:1], judge) == (None, None)


@pytest.mark.parametrize("fitness", ["accuracy", "loss"])
def test_a_soup_is_better_on_validation_than_its_best_subnet(fitness: Any) -> None:
    made = 0
    for seed in range(4):
        net = net_of(seed)
        found = search(net, (X, Y), select="soup", fitness=fitness, **SMALL)
        if found.soup is not None:
            made += 1
            score = Evaluator(net, TensorSamples(X, Y), fitness=fitness)
            assert found.chosen is found.soup
            assert score(found.soup) == found.score
            assert found.score.key > score(found.best).key
            assert set(found.soup.structures) <= {c.structure for c in found.history}
            known = search(net, (X, Y), select="soup", fitness=fitness, known=found.to_dict(), **SMALL)
            assert known == found
    assert made > 0


def test_what_cannot_be_selected_is_refused() -> None:
    with pytest.raises(ConfigError, match="select must be one of best, smallest, soup, not 'mean'"):
        search(net_of(), (X, Y), select="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fitness must be one of accuracy, loss, cv, cv-loss, not 'f1'"):
        search(net_of(), (X, Y), fitness="f1")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"fitness=cv needs folds=: glora\.crossval\.train_folds makes them"):
        search(net_of(), (X, Y), fitness="cv")
    with pytest.raises(ConfigError, match="fitness=cv-loss is evaluated in one process: leave out workers and ray"):
        search(net_of(), (X, Y), fitness="cv-loss", folds=[None], workers=2)  # type: ignore[list-item]
    with pytest.raises(StructureError, match="first: a mean of A=mul-<r> and other forms of A is no form of A"):
        search(net_of(space=SearchSpace(2, A=["mul-2", "vector"])), (X, Y), select="soup")


# Folds

TRAIN = TrainSettings(epochs=2, batch_size=8, lr=1e-2)


def test_folds_are_trained_on_the_others_from_the_same_start() -> None:
    net = net_of()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    folds = train_folds(net, (X, Y), TRAIN, 4)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    held = [fold.samples.inputs(torch.arange(len(fold.samples))) for fold in folds]
    rows = torch.cat(held)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, X.tolist()))
    for fold, own in zip(folds, held, strict=True):
        alone = net_of()
        rest = [i for i in range(60) if not (own == X[i]).all(1).any()]
        glora.train_supernet(alone, (X[rest], Y[rest]), settings=TRAIN)
        found = {**alone.adapter_parameters(), **alone.head_parameters()}
        assert all(fold.tensors[name].equal(p) for name, p in found.items())
        assert 14 <= len(fold.samples) <= 16


def test_a_cross_validated_score_is_over_all_samples_each_by_its_own_supernet() -> None:
    net = net_of()
    folds = train_folds(net, (X, Y), TRAIN, 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    score = CrossEvaluator(net, folds)
    structure = net.bound.build({gene: net.bound.choices(*gene)[0] for gene in net.bound.genes})
    right, total = 0.0, 0.0
    for fold in folds:
        other = net_of()
        with torch.no_grad():
            for name, p in {**other.adapter_parameters(), **other.head_parameters()}.items():
                p.copy_(fold.tensors[name])
        other.activate(structure)
        part = evaluate(other, fold.samples)
        right += part.accuracy * len(fold.samples)
        total += part.loss * len(fold.samples)
    found = score(structure)
    assert found.samples == 60
    assert found.accuracy == pytest.approx(right / 60)
    assert found.loss == pytest.approx(total / 60, rel=1e-5)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("fitness", ["cv", "cv-loss"])
def test_a_search_by_cross_validation(fitness: Any, tmp_path: Any) -> None:
    net = net_of()
    folds = train_folds(net, (X, Y), TRAIN, 3)
    named = {"fitness": fitness, "folds": folds, "select": "soup", **SMALL}
    found = search(net, None, history=tmp_path / "s", **named)
    score = CrossEvaluator(net, folds, fitness="loss" if fitness == "cv-loss" else "accuracy")
    assert all(c.score == score(c.structure) for c in found.history)
    assert found.winner.score.key == max(c.score.key for c in found.history)
    assert search(net, None, history=tmp_path / "s", **named) == found
    other = train_folds(net, (X, Y), TRAIN, 4)
    with pytest.raises(glora.GloraError, match="belongs to another search"):
        search(net, None, history=tmp_path / "s", **named | {"folds": other})


def test_folds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="cross-validation takes 2 folds or more, not 1"):
        train_folds(net_of(), (X, Y), TRAIN, 1)
    with pytest.raises(DataError, match="a split needs at least two of each class"):
        train_folds(net_of(), (X[:9], torch.tensor([0] * 8 + [1])), TRAIN, 2)

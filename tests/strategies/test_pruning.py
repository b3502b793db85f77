"""Pruned searches against whole ones and against brute force, over random tables of right and wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import bound, two_layers

from glora.errors import CheckpointError
from glora.space import BoundSpace, SearchSpace
from glora.strategies import (
    Batches,
    Candidate,
    Evolution,
    Fitness,
    Key,
    Merit,
    RandomSearch,
    Score,
    Scorer,
    SearchResult,
    front,
    run_search,
)
from glora.strategies.loop import _Scoring
from glora.strategies.pruning import batches, hardest_first, unsettled
from glora.strategies.score import Proposal, loss_levels, pack_bits
from glora.structure import LayerStructure, Structure


class Table(Scorer):
    """Right, wrong and losses of each structure from a generator of its own; counts what it looks at."""

    def __init__(
        self,
        samples: int,
        batch_size: int,
        seed: int,
        ease: float,
        levels: int = 3,
        fitness: Fitness = "accuracy",
    ) -> None:
        self.samples, self.batch_size = samples, batch_size
        self.seed, self.ease, self.levels, self.fitness = seed, ease, levels, fitness
        generator = random.Random(seed)
        self.difficulty = [generator.random() for _ in range(samples)]
        self.looked = 0
        self.asked: list[Structure] = []
        self.batches: set[frozenset[frozenset[int]]] = set()

    def row(self, structure: Structure) -> list[tuple[bool, float]]:
        return self._row(json.dumps(structure.to_dict(), sort_keys=True))

    @cache  # noqa: B019
    def _row(self, text: str) -> list[tuple[bool, float]]:
        generator = random.Random(f"{self.seed} {text}")
        ease = self.ease + 0.3 * generator.random()
        # few different losses, so that ties are frequent
        levels = self.levels
        return [
            (generator.random() + ease > hard, generator.randrange(levels) / 4 + round(hard * (levels - 1)) / 4)
            for hard in self.difficulty
        ]

    def merit(self, structure: Structure) -> Merit:
        row = self.row(structure)
        return Merit(sum(right for right, _ in row) / len(row), sum(loss for _, loss in row) / len(row))

    def scores(self, structures: Sequence[Structure], batches: Batches, bar: Key | None) -> Generator[Score]:
        assert sorted(index for batch in batches for index in batch) == list(range(self.samples))
        self.batches.add(frozenset(map(frozenset, batches)))
        for structure in structures:
            self.asked.append(structure)
            yield self.one(structure, batches, bar)

    def one(self, structure: Structure, batches: Batches, bar: Key | None) -> Score:
        row, seen, wrong, lost = self.row(structure), 0, 0, 0.0
        for batch in batches:
            for index in batch:
                right, loss = row[index]
                seen, wrong, lost = seen + 1, wrong + (not right), lost + loss
            self.looked += len(batch)
            best = Merit((self.samples - wrong) / self.samples, lost / self.samples)
            if bar is not None and seen < self.samples and best.key(self.fitness) < bar:
                return Score.stopped(best, seen, self.samples, self.fitness)
        right = pack_bits(right for right, _ in row)
        levels = loss_levels([loss for _, loss in row])
        return Score(*self.merit(structure), self.samples, right, fitness=self.fitness, levels=levels)


def evolution(space: BoundSpace, seed: int = 0, budget: int | None = None, parents: int = 3) -> Evolution:
    return Evolution(
        space,
        budget,
        seed=seed,
        generations=4,
        population=12,
        parents=parents,
        mutants=6,
        crossovers=6 if parents > 1 else 0,
    )


def chance(space: BoundSpace, seed: int = 0, budget: int | None = None, parents: int = 3) -> RandomSearch:
    return RandomSearch(space, budget, seed=seed, evaluations=60, batch=12)


def key(table: Table, candidate: Candidate) -> tuple[float, float, int, int]:
    return *table.merit(candidate.structure).key(table.fitness), -candidate.size, -candidate.index


def best(found: SearchResult, count: int) -> list[Candidate]:
    able = [c for c in found.history if not c.score.failed]
    return sorted(able, key=Candidate.rank_key, reverse=True)[:count]


@settings(max_examples=60)
@given(
    make=st.sampled_from([evolution, chance]),
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 10_000),
    ease=st.sampled_from([-0.2, 0.2, 0.5, 0.8]),
    levels=st.sampled_from([1, 3, 50]),
    budget=st.sampled_from([None, 60]),
    parents=st.integers(1, 5),
    fitness=st.sampled_from(["accuracy", "loss"]),
    keep=st.sampled_from([0, 1, 5, 20]),
)
def test_pruning_changes_nothing_that_matters(
    make: Any,
    samples: int,
    batch_size: int,
    seed: int,
    ease: float,
    levels: int,
    budget: int | None,
    parents: int,
    fitness: Fitness,
    keep: int,
) -> None:
    space = two_layers()
    table, other = (Table(samples, batch_size, seed, ease, levels, fitness) for _ in range(2))
    pruned = run_search(make(space, seed, budget, parents), table, keep=keep)
    whole = run_search(make(space, seed, budget, parents), other, prune=False)
    # the same structures in the same order, so the same survivors in every generation
    assert [c.structure for c in pruned.history] == [c.structure for c in whole.history]
    assert pruned.winner == whole.winner
    assert pruned.front == whole.front
    assert best(pruned, keep) == best(whole, keep)
    assert all(c.score.bound is None for c in whole.history)
    # evaluated in the same batches, so that rounding is the same too
    assert table.batches == other.batches
    # by brute force
    assert pruned.winner == max(pruned.history, key=lambda c: key(table, c))
    first = {c.index: table.merit(c.structure).key(fitness)[0] for c in pruned.history}

    def dominated(c: Candidate, o: Candidate) -> bool:
        mine, other = (first[c.index], -c.size), (first[o.index], -o.size)
        no_worse = other[0] >= mine[0] and other[1] >= mine[1]
        return no_worse and (other != mine or key(table, o) > key(table, c))

    wanted = {c.index for c in pruned.history if not any(dominated(c, o) for o in pruned.history)}
    assert {c.index for c in pruned.front} == wanted
    for candidate in pruned.history:
        score, true = candidate.score, table.merit(candidate.structure)
        if score.bound is None:
            assert score == whole.history[candidate.index].score
            continue
        assert 0 < score.samples < samples
        assert score.bound.accuracy >= true.accuracy
        assert score.bound.loss <= true.loss
        before = [c for c in pruned.history if c.index < candidate.index]
        kept = sorted(before, key=lambda c: key(table, c), reverse=True)[: parents if make is evolution else 10]
        assert true.key(fitness) < table.merit(kept[-1].structure).key(fitness)
    effort = pruned.effort
    assert effort["sample_evaluations"] == table.looked
    assert effort["of"] == other.looked == samples * len(whole.history)
    assert effort["stopped"] == sum(c.score.bound is not None for c in (*pruned.history, *pruned.completed))
    assert effort["completed"] == len(table.asked) - len(pruned.history)


def test_much_is_saved_where_samples_differ_in_difficulty() -> None:
    table = Table(200, 10, 3, 0.2)
    effort = run_search(evolution(two_layers(), 1, parents=5), table, keep=5).effort
    assert effort["stopped"] > 0.6 * effort["candidates"]
    assert effort["sample_evaluations"] < 0.7 * effort["of"]


class Natural(Table):
    """The same, looked at in the order of the samples, not of their difficulty."""

    def one(self, structure: Structure, batches: Batches, bar: Key | None) -> Score:
        return super().one(structure, sorted(map(sorted, batches)), bar)


def test_hard_samples_first_saves_more() -> None:
    looked = []
    for kind in (Table, Natural):
        table = kind(200, 10, 3, 0.2)
        run_search(evolution(two_layers(), 1), table)
        looked.append(table.looked)
    assert looked[0] < 0.95 * looked[1]


# Order, bars and what is left open


def scored(index: int, losses: Sequence[float], size: int = 10) -> Candidate:
    score = Score(0.5, sum(losses) / len(losses), len(losses), levels=loss_levels(losses))
    return Candidate(index, 0, "random", Structure({"fc": LayerStructure(E="vector")}), size, score)


def test_nothing_is_stopped_before_as_many_are_known_as_are_selected_from() -> None:
    found = run_search(evolution(two_layers(), 1), Table(40, 4, 1, 0.4), keep=20)
    stopped = [c.index for c in (*found.history, *found.completed) if c.score.bound is not None]
    assert 20 <= min(stopped) < 34
    assert run_search(evolution(two_layers(), 1), Table(40, 4, 1, 0.4), keep=60).effort["stopped"] == 0


def test_samples_with_high_losses_come_first() -> None:
    found = [scored(0, [0.1, 3.0, 1.0, 0.1]), scored(1, [0.1, 3.0, 1.0, 2.0])]
    assert hardest_first(4, found) == [1, 2, 3, 0]
    again = replace(found[0], index=2, score=replace(scored(2, [9.0, 0.1, 0.1, 0.1]).score, same_as=0))
    assert hardest_first(4, [*found, again, again]) == [1, 2, 3, 0]
    assert hardest_first(3, []) == [0, 1, 2]
    assert batches([1, 2, 3, 0], 3) == [(1, 2, 3), (0,)]
    assert batches([], 3) == []


def test_evolution_sets_its_worst_parent_as_the_bar() -> None:
    strategy = evolution(two_layers(), parents=3)
    assert strategy.bar() is None
    proposals = strategy.ask()
    strategy.tell([Score(0.5 + 0.01 * p.index, 1.0) for p in proposals[:-1]] + [Score(1.0, float("nan"))])
    assert strategy.bar() == (0.5 + 0.01 * (len(proposals) - 4), -1.0)
    better = [proposals[0].scored(Score(0.9, 1.0)), proposals[1].scored(Score.stopped(Merit(1.0, 0.0), 1, 2))]
    assert strategy.bar(better) == (0.5 + 0.01 * (len(proposals) - 3), -1.0)
    few = evolution(two_layers(), parents=5)
    few.tell([Score(0.5, 1.0)] * 4 + [Score.stopped(Merit(1.0, 0.0), 1, 2)] * (len(few.ask()) - 4))
    assert few.bar() is None


@pytest.mark.parametrize("fitness", ["accuracy", "loss"])
@settings(max_examples=60)
@given(data=st.data(), keep=st.integers(1, 5))
def test_what_is_left_open_is_what_must_be_known(fitness: Fitness, data: st.DataObject, keep: int) -> None:
    """Brute force: an open candidate is due if and only if it matters in one of all the ways it may turn out."""
    steps = st.integers(0, 3)
    found: list[Candidate] = []
    for index in range(data.draw(st.integers(1, 6))):
        worst = Merit(data.draw(steps) / 4, data.draw(steps) + 1.0)
        score = Score(*worst, 4, fitness=fitness)
        if data.draw(st.booleans()):
            score = Score.stopped(Merit(worst.accuracy + 0.25, worst.loss - 1.0), 2, 4, fitness)
        found.append(Candidate(index, 0, "random", Structure(), data.draw(st.integers(1, 3)), score))

    def matters(one: Candidate) -> bool:
        """If it turns out as good as it can, and all the other open ones as bad as anything: else they only stand in
        its way."""
        others = [c for c in found if c.score.bound is None]
        merit = one.score.bound
        assert merit is not None
        known = [*others, replace(one, score=Score(*merit, 4, fitness=fitness))]
        ranked = sorted(known, key=Candidate.rank_key, reverse=True)[:keep]
        return one.index in {c.index for c in (*ranked, *front(known))}

    due = unsettled(found, keep)
    assert all(matters(one) for one in due)
    assert [c.hoped.rank_key() for c in due] == sorted((c.hoped.rank_key() for c in due), reverse=True)
    # made good in any way, none is left that matters
    while due:
        for one in due:
            bound = one.score.bound
            assert bound is not None
            worse = Score(bound.accuracy - data.draw(steps) / 4, bound.loss + data.draw(steps), 4, fitness=fitness)
            found[one.index] = replace(one, score=worse)
        due = unsettled(found, keep)
    assert not any(matters(one) for one in found if one.score.bound is not None)


# Structures that compute the same


def alone(candidate: Candidate) -> Candidate:
    return replace(candidate, score=replace(candidate.score, same_as=None))


class Blind(Table):
    """Does not see the second layer at all."""

    def canonical(self, structure: Structure) -> Structure:
        return Structure({name: own for name, own in structure.items() if name != "blocks.1.fc"})

    def row(self, structure: Structure) -> list[tuple[bool, float]]:
        return super().row(self.canonical(structure))


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.6]), st.booleans())
def test_equivalent_structures_are_scored_once(seed: int, ease: float, prune: bool) -> None:
    space = bound((6, 5), (4, 6), space=SearchSpace(1, A="none", C="none"))
    table, whole = Blind(40, 4, seed, ease), Blind(40, 4, seed, ease)
    found = run_search(evolution(space, seed), table, prune=prune, keep=20)
    wanted = run_search(evolution(space, seed), whole, prune=False)
    assert [c.structure for c in found.history] == [c.structure for c in wanted.history]
    # a score that was only a bound before is one of its own here, and one reused there
    assert [alone(c) for c in (found.winner, *found.front)] == [alone(c) for c in (wanted.winner, *wanted.front)]
    assert [alone(c) for c in best(found, 20)] == [alone(c) for c in best(wanted, 20)]
    assert len(whole.asked) == len({whole.canonical(s) for s in whole.asked}) < len(wanted.history)
    assert wanted.effort["reused"] == len(wanted.history) - len(whole.asked)
    assert found.effort["sample_evaluations"] == table.looked
    for candidate in found.history:
        if (same := candidate.score.same_as) is not None:
            first = found.history[same]
            completed = {c.index for c in found.completed}
            assert same < candidate.index or candidate.index in completed
            assert table.canonical(first.structure) == table.canonical(candidate.structure)
            assert first.score.same_as is None
            assert first.score.to_dict() == {k: v for k, v in candidate.score.to_dict().items() if k != "same_as"}
    assert prune or all(c.score.bound is None for c in found.history)


# The file


@pytest.mark.parametrize("kind", [Table, Blind])
def test_a_search_cut_off_anywhere_goes_on_to_the_same_bytes(kind: type[Table], tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    space = bound((6, 5), (4, 6), space=SearchSpace(1, A="none", C="none"))
    wanted = run_search(evolution(space, 1), kind(40, 4, 1, 0.4), path, keep=10)
    whole = path.read_bytes()
    assert wanted.effort["stopped"]
    assert wanted.effort["completed"]
    assert whole.count(b"\n") == 1 + len(wanted.history) + len(wanted.completed)
    assert kind is Table or wanted.effort["reused"]
    lines = whole.splitlines(keepends=True)
    for kept in (*range(1, len(wanted.history), 4), *range(len(wanted.history), len(lines) + 1)):
        path.write_bytes(b"".join(lines[:kept]))
        table = kind(40, 4, 1, 0.4)
        assert run_search(evolution(space, 1), table, path, keep=10) == wanted
        assert path.read_bytes() == whole
        assert len(table.asked) == sum(b"same_as" not in line for line in lines[kept:])


def test_a_bound_where_a_score_is_needed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    run_search(evolution(two_layers(), 1), Table(40, 4, 1, 0.4), path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    value = json.loads(lines[2])
    del value["right"], value["levels"]
    structure = value.pop("structure")
    value |= {"accuracy": None, "loss": None, "samples": 4, "of": 40, "bound": {"accuracy": 0.1, "loss": 0.5}}
    path.write_text("".join([*lines[:2], json.dumps({**value, "structure": structure}) + "\n", *lines[3:]]), "utf-8")
    with pytest.raises(CheckpointError, match="line 3: was stopped where this search needs a whole evaluation"):
        run_search(evolution(two_layers(), 1), Table(40, 4, 1, 0.4), path)


def test_a_completion_that_is_not_due_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    found = run_search(evolution(two_layers(), 1), Table(40, 4, 1, 0.4), path, keep=10)
    lines = path.read_bytes().splitlines(keepends=True)
    count = len(found.history)
    for wrong, message in (
        ([*lines[: count + 1], lines[1]], f"line {count + 2}: is not the structure that the search asks for there"),
        ([*lines[: count + 1], *lines[count + 2 :]], f"line {count + 2}: is not the structure"),
        ([*lines, lines[count + 1]], f"line {len(lines) + 1}: comes after the end of the search"),
        ([*lines[:9], lines[1], *lines[9:]], "line 10: is not the structure"),
    ):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(CheckpointError, match=message):
            run_search(evolution(two_layers(), 1), Table(40, 4, 1, 0.4), path, keep=10)


def test_equivalents_are_scored_unless_one_of_them_says_enough() -> None:
    scoring = _Scoring(Table(4, 2, 0, 0.5), None, prune=True, keep=1)
    one, other = Structure({"fc": LayerStructure(E="vector")}), Structure()
    assert scoring._to_score([one, other, one], None) == [0, 1]
    scoring._known[one] = Proposal(0, 0, "random", one, 10).scored(Score.stopped(Merit(0.5, 0.95), 2, 4))
    assert scoring._to_score([one, other, one], (0.5, -0.9)) == [1]
    assert scoring._to_score([one, other, one], (0.5, -0.95)) == [0, 1]
    assert scoring._to_score([other, one, one], None) == [0, 1]
    scoring._known[one] = Proposal(0, 0, "random", one, 10).scored(Score(0.5, 1.0))
    assert scoring._to_score([one], None) == []

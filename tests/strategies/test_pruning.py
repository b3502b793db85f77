"""Pruned searches against whole ones and against brute force, over random tables of right and wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import bound, two_layers

from glora.errors import CheckpointError
from glora.space import BoundSpace, SearchSpace
from glora.strategies import Batches, Candidate, Evolution, Merit, Score, Scorer, run_search
from glora.strategies.loop import _Scoring
from glora.strategies.pruning import Hardness, bar_at
from glora.strategies.score import Origin, pack_bits
from glora.structure import LayerStructure, Structure


class Table(Scorer):
    """Right, wrong and losses of each structure from a generator of its own; counts what it looks at."""

    def __init__(self, samples: int, batch_size: int, seed: int, ease: float, levels: int = 3) -> None:
        self.samples, self.batch_size = samples, batch_size
        self.seed, self.ease, self.levels = seed, ease, levels
        generator = random.Random(seed)
        self.difficulty = [generator.random() for _ in range(samples)]
        self.looked = 0
        self.asked: list[Structure] = []

    def row(self, structure: Structure) -> list[tuple[bool, float]]:
        return self._row(json.dumps(structure.to_dict(), sort_keys=True))

    @cache  # noqa: B019
    def _row(self, text: str) -> list[tuple[bool, float]]:
        generator = random.Random(f"{self.seed} {text}")
        ease = self.ease + 0.3 * generator.random()
        # few different losses, so that ties are frequent
        return [(generator.random() + ease > hard, generator.randrange(self.levels) / 4) for hard in self.difficulty]

    def merit(self, structure: Structure) -> Merit:
        row = self.row(structure)
        return Merit(sum(right for right, _ in row) / len(row), sum(loss for _, loss in row) / len(row))

    def scores(
        self, structures: Sequence[Structure], batches: Batches, bars: Sequence[Merit | None]
    ) -> Generator[Score]:
        assert sorted(index for batch in batches for index in batch) == list(range(self.samples))
        for structure, bar in zip(structures, bars, strict=True):
            self.asked.append(structure)
            yield self.one(structure, batches, bar)

    def one(self, structure: Structure, batches: Batches, bar: Merit | None) -> Score:
        row, seen, wrong, lost = self.row(structure), 0, 0, 0.0
        for batch in batches:
            for index in batch:
                right, loss = row[index]
                seen, wrong, lost = seen + 1, wrong + (not right), lost + loss
            self.looked += len(batch)
            best = Merit((self.samples - wrong) / self.samples, lost / self.samples)
            if bar is not None and seen < self.samples and best.below(bar):
                return Score.stopped(best, seen, self.samples)
        return Score(*self.merit(structure), self.samples, pack_bits(right for right, _ in row))


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


def key(table: Table, candidate: Candidate) -> tuple[float, float, int, int]:
    accuracy, loss = table.merit(candidate.structure)
    return accuracy, -loss, -candidate.size, -candidate.index


@settings(max_examples=25)
@given(
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 10_000),
    ease=st.sampled_from([-0.2, 0.2, 0.5, 0.8]),
    levels=st.sampled_from([1, 3, 50]),
    budget=st.sampled_from([None, 60]),
    parents=st.integers(1, 5),
)
def test_pruning_changes_nothing_that_matters(
    samples: int, batch_size: int, seed: int, ease: float, levels: int, budget: int | None, parents: int
) -> None:
    space = two_layers()
    table, other = (Table(samples, batch_size, seed, ease, levels) for _ in range(2))
    pruned = run_search(evolution(space, seed, budget, parents), table)
    whole = run_search(evolution(space, seed, budget, parents), other, prune=False)
    # the same structures in the same order, so the same survivors in every generation
    assert [c.structure for c in pruned.history] == [c.structure for c in whole.history]
    assert pruned.winner == whole.winner
    assert pruned.front == whole.front
    assert all(c.score.bound is None for c in whole.history)
    # by brute force
    assert pruned.winner == max(pruned.history, key=lambda c: key(table, c))
    merits = {c.index: table.merit(c.structure) for c in pruned.history}

    def dominated(c: Candidate, o: Candidate) -> bool:
        mine, other = (merits[c.index].accuracy, -c.size), (merits[o.index].accuracy, -o.size)
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
        before = [c for c in pruned.history if c.generation < candidate.generation]
        kept = sorted(before, key=lambda c: key(table, c), reverse=True)[:parents]
        assert true.below(table.merit(kept[-1].structure))
    effort = pruned.effort
    assert effort["sample_evaluations"] == table.looked
    assert effort["of"] == other.looked == samples * len(whole.history)
    assert effort["stopped"] == sum(c.score.bound is not None for c in pruned.history)


def test_much_is_saved_where_samples_differ_in_difficulty() -> None:
    table = Table(200, 10, 3, 0.2)
    effort = run_search(evolution(two_layers(), 1), table).effort
    assert effort["stopped"] > effort["candidates"] / 2
    assert effort["sample_evaluations"] < 0.8 * effort["of"]


class Natural(Table):
    """The same, looked at in the order of the samples, not of their difficulty."""

    def one(self, structure: Structure, batches: Batches, bar: Merit | None) -> Score:
        return super().one(structure, sorted(map(sorted, batches)), bar)


def test_hard_samples_first_saves_more() -> None:
    looked = []
    for kind in (Table, Natural):
        table = kind(200, 10, 3, 0.2)
        run_search(evolution(two_layers(), 1), table)
        looked.append(table.looked)
    assert looked[0] < 0.95 * looked[1]


# Order and bars


def scored(
    index: int, right: Sequence[bool], size: int = 10, loss: float = 1.0, origin: Origin = "random"
) -> Candidate:
    score = Score(sum(right) / len(right), loss, len(right), pack_bits(right))
    return Candidate(index, 0, origin, Structure({"fc": LayerStructure(E="vector")}), size, score)


def test_batches_are_made_once_and_then_only_change_places() -> None:
    hardness = Hardness(6, 2)
    assert hardness.batches(sort=False) == [(0, 1), (2, 3), (4, 5)]
    hardness.count(
        [scored(0, [True, False, True, True, False, True]), scored(1, [True, False, False, True, True, True])]
    )
    assert hardness.batches(sort=False)[0] == (0, 1)
    assert hardness.batches(sort=True) == [(1, 2), (4, 0), (3, 5)]
    hardness.count([scored(2 + i, [True, True, True, False, True, False]) for i in range(5)])
    assert hardness.batches(sort=True) == [(3, 5), (1, 2), (4, 0)]
    assert hardness.batches(sort=False) == [(3, 5), (1, 2), (4, 0)]


def test_only_whole_evaluations_of_their_own_count() -> None:
    hardness = Hardness(2, 1)
    wrong = scored(0, [True, False])
    reused = Candidate(1, 0, "random", wrong.structure, 10, Score(0.5, 1.0, 2, pack_bits([False, True]), same_as=0))
    stopped = Candidate(2, 0, "random", wrong.structure, 10, Score.stopped(Merit(0.5, 0.1), 1, 2))
    hardness.count([wrong, reused, reused, stopped])
    assert hardness.batches(sort=True) == [(1,), (0,)]


def test_the_bar_is_the_lower_one_of_the_strategys_and_the_fronts() -> None:
    low, high = scored(0, [True, False, False], size=5), scored(1, [True, True, True], size=20)
    bar = Merit(2 / 3, 0.5)
    assert bar_at(4, bar, [low, high]) is None
    assert bar_at(5, bar, [low, high]) == Merit(1 / 3, 1.0)
    assert bar_at(20, bar, [low, high]) == bar
    assert bar_at(20, None, [low, high]) is None


def test_evolution_sets_its_worst_parent_as_the_bar() -> None:
    strategy = evolution(two_layers(), parents=3)
    assert strategy.bar is None
    proposals = strategy.ask()
    strategy.tell([Score(0.5 + 0.01 * p.index, 1.0) for p in proposals[:-1]] + [Score(1.0, float("nan"))])
    assert strategy.bar == Merit(0.5 + 0.01 * (len(proposals) - 4), 1.0)
    few = evolution(two_layers(), parents=5)
    few.tell([Score(0.5, 1.0)] * 4 + [Score.stopped(Merit(1.0, 0.0), 1, 2)] * (len(few.ask()) - 4))
    assert few.bar is None


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
    found = run_search(evolution(space, seed), table, prune=prune)
    wanted = run_search(evolution(space, seed), whole, prune=False)
    assert [c.structure for c in found.history] == [c.structure for c in wanted.history]
    # a score that was only a bound before is one of its own here, and one reused there
    assert [alone(c) for c in (found.winner, *found.front)] == [alone(c) for c in (wanted.winner, *wanted.front)]
    assert len(whole.asked) == len({whole.canonical(s) for s in whole.asked}) < len(wanted.history)
    assert wanted.effort["reused"] == len(wanted.history) - len(whole.asked)
    assert found.effort["sample_evaluations"] == table.looked
    for candidate in found.history:
        if (same := candidate.score.same_as) is not None:
            first = found.history[same]
            assert same < candidate.index
            assert table.canonical(first.structure) == table.canonical(candidate.structure)
            assert first.score.same_as is None
            assert first.score.to_dict() == {k: v for k, v in candidate.score.to_dict().items() if k != "same_as"}
    assert prune or all(c.score.bound is None for c in found.history)


# The file


@pytest.mark.parametrize("kind", [Table, Blind])
def test_a_search_cut_off_anywhere_goes_on_to_the_same_bytes(kind: type[Table], tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    space = bound((6, 5), (4, 6), space=SearchSpace(1, A="none", C="none"))
    wanted = run_search(evolution(space, 1), kind(40, 4, 1, 0.4), path)
    whole = path.read_bytes()
    assert wanted.effort["stopped"]
    assert kind is Table or wanted.effort["reused"]
    lines = whole.splitlines(keepends=True)
    for kept in range(1, len(lines), 4):
        path.write_bytes(b"".join(lines[:kept]))
        table = kind(40, 4, 1, 0.4)
        assert run_search(evolution(space, 1), table, path) == wanted
        assert path.read_bytes() == whole
        assert len(table.asked) == sum(b"same_as" not in line for line in lines[kept:])


def test_a_bound_where_a_score_is_needed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    run_search(evolution(two_layers(), 1), Table(40, 4, 1, 0.4), path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    value = json.loads(lines[2])
    del value["right"]
    structure = value.pop("structure")
    value |= {"accuracy": None, "loss": None, "samples": 4, "of": 40, "bound": {"accuracy": 0.1, "loss": 0.5}}
    path.write_text("".join([*lines[:2], json.dumps({**value, "structure": structure}) + "\n", *lines[3:]]), "utf-8")
    with pytest.raises(CheckpointError, match="line 3: was stopped where this search needs a whole evaluation"):
        run_search(evolution(two_layers(), 1), Table(40, 4, 1, 0.4), path)


def test_equivalents_of_a_generation_are_scored_for_the_lowest_of_their_bars() -> None:
    """Else the first one is stopped where the second, a smaller one that may be on the front, needs a score."""
    scoring = _Scoring(Table(4, 2, 0, 0.5), None, prune=True, keep=0)
    one, other = Structure({"fc": LayerStructure(E="vector")}), Structure()
    low, high = Merit(0.5, 1.0), Merit(0.5, 0.9)
    assert scoring._to_score([one, other, one], [high, high, low]) == {0: low, 1: high}
    assert scoring._to_score([one, one], [low, high]) == {0: low}
    assert scoring._to_score([one, one], [low, None]) == {0: None}
    stopped = Candidate(0, 0, "random", one, 10, Score.stopped(Merit(0.5, 0.95), 2, 4))
    scoring._known[one] = stopped
    assert scoring._to_score([one, one, one], [high, low, high]) == {1: low}
    assert scoring._to_score([one], [None]) == {0: None}

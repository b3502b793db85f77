from __future__ import annotations

import itertools
import json
import math

import pytest

from glora.strategies import Candidate, Proposal, Score, front
from glora.structure import LayerStructure, Structure

NAN, INF = math.nan, math.inf
STRUCTURE = Structure({"fc": LayerStructure(B="rank-2", E="vector")})


def candidate(accuracy: float, loss: float = 1.0, size: int = 10, index: int = 0) -> Candidate:
    return Candidate(index, 0, "random", STRUCTURE, size, Score(accuracy, loss, 5))


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (candidate(0.6, loss=9, size=99, index=9), candidate(0.5)),
        (candidate(0.5, loss=1, size=99, index=9), candidate(0.5, loss=2)),
        (candidate(0.5, size=10, index=9), candidate(0.5, size=11)),
        (candidate(0.5, index=1), candidate(0.5, index=2)),
        (candidate(0.0, loss=1e9), candidate(NAN)),
        (candidate(0.0, loss=1e9), candidate(1.0, loss=NAN)),
        (candidate(0.0, loss=1e9), candidate(INF)),
        (candidate(0.0, loss=1e9), candidate(1.0, loss=-INF)),
        (candidate(NAN, size=9, index=1), candidate(1.0, loss=NAN, size=10)),
    ],
    ids=["accuracy", "loss", "size", "index", "nan", "nan-loss", "inf", "inf-loss", "both-nan"],
)
def test_the_order_of_candidates(better: Candidate, worse: Candidate) -> None:
    assert better.rank_key() > worse.rank_key()
    for order in ([better, worse], [worse, better]):
        assert max(order, key=Candidate.rank_key) is better


def test_the_order_is_total() -> None:
    values = (0.5, 0.6, NAN)
    found = [
        candidate(a, b, size, index)
        for index, (a, b, size) in enumerate(itertools.product(values, values, (1, 2)), start=1)
    ]
    ranked = sorted(found, key=Candidate.rank_key)
    for seed in range(3):
        assert sorted(found[seed:] + found[:seed], key=Candidate.rank_key) == ranked
    assert [c.score.failed for c in ranked] == [True] * 10 + [False] * 8


def test_values_that_are_not_finite_are_nan() -> None:
    score = Score(INF, -INF)
    assert math.isnan(score.accuracy)
    assert math.isnan(score.loss)
    assert score.failed
    assert not Score(0.0, 0.0).failed


@pytest.mark.parametrize(
    "score", [Score(0.25, 1.5, 8), Score(1, 2), Score(NAN, 1.0), Score(0.5, NAN), Score(0.1, 1e-300)]
)
def test_json_round_trip(score: Score) -> None:
    before = Candidate(3, 1, "mutant", STRUCTURE, 40, score)
    text = json.dumps(before.to_dict(), allow_nan=False)
    after = Candidate.from_dict(json.loads(text))
    assert json.dumps(after.to_dict()) == text
    assert repr(after) == repr(before)
    assert after.structure == STRUCTURE


def test_a_missing_entry_is_an_error() -> None:
    value = candidate(0.5).to_dict()
    del value["loss"]
    with pytest.raises(KeyError, match="loss"):
        Candidate.from_dict(value)


def test_a_scored_proposal_keeps_everything() -> None:
    proposal = Proposal(7, 2, "crossover", STRUCTURE, 40)
    assert proposal.scored(Score(0.5, 1.0)) == Candidate(7, 2, "crossover", STRUCTURE, 40, Score(0.5, 1.0))


def test_the_front_is_what_nothing_dominates() -> None:
    found = [
        candidate(accuracy, loss, size, index)
        for index, (accuracy, loss, size) in enumerate(
            [
                (0.5, 1, 10),
                (0.5, 1, 8),
                (0.7, 2, 20),
                (0.7, 1, 20),
                (0.6, 1, 30),
                (0.9, NAN, 1),
                (0.8, 1, 25),
                (0.8, 1, 25),
            ]
        )
    ]
    assert [c.index for c in front(found)] == [1, 3, 6]
    assert front(found[::-1]) == front(found)
    dominated = {
        a.index
        for a, b in itertools.product(found, found)
        if b.score.accuracy >= a.score.accuracy and b.size <= a.size and b.rank_key() > a.rank_key()
    }
    able = {c.index for c in found if not c.score.failed}
    assert {c.index for c in front(found)} == able - dominated


def test_the_front_of_nothing_is_empty() -> None:
    assert front([]) == ()
    assert front([candidate(NAN)]) == ()

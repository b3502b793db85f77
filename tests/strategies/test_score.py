from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glora.strategies import Candidate, Merit, Proposal, Score, front
from glora.strategies.score import bits, loss_levels, pack_bits
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
    "score",
    [
        Score(0.25, 1.5, 8, "c0"),
        Score(1, 2),
        Score(NAN, 1.0),
        Score(0.5, NAN),
        Score(0.1, 1e-300),
        Score(0.5, 1.0, 4, "a", same_as=2),
        Score.stopped(Merit(0.75, 0.1), 3, 8),
        Score(0.5, 0.2, 3, bound=Merit(0.75, 0.1), of=8, same_as=1),
        Score.stopped(Merit(0.75, 0.1), 3, 8, "loss"),
        Score(0.25, 1.5, 4, "1", loss_error=0.5, fitness="loss", levels="f00a"),
    ],
)
def test_json_round_trip(score: Score) -> None:
    before = Candidate(3, 1, "mutant", STRUCTURE, 40, score)
    text = json.dumps(before.to_dict(), allow_nan=False)
    after = Candidate.from_dict(json.loads(text))
    assert json.dumps(after.to_dict()) == text
    assert repr(after) == repr(before)
    assert after.structure == STRUCTURE
    assert after == before


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


def test_a_bound_is_no_score() -> None:
    stopped = Score.stopped(Merit(1.0, 0.0), 50, 200)
    assert stopped.failed
    assert Score(0.9, 0.1, bound=Merit(1.0, 0.0)).failed
    value = Candidate(0, 0, "random", STRUCTURE, 1, stopped).to_dict()
    assert (value["accuracy"], value["loss"], value["samples"], value["of"]) == (None, None, 50, 200)
    assert value["bound"] == {"accuracy": 1.0, "loss": 0.0}
    worst = Candidate(1, 0, "random", STRUCTURE, 999, Score(0.0, 1e9, 200))
    found = [Candidate(0, 0, "random", STRUCTURE, 1, stopped), worst]
    assert max(found, key=Candidate.rank_key) is worst
    assert front(found) == (worst,)


def test_what_was_stopped_may_still_be_as_good_as_its_bound() -> None:
    stopped = Candidate(3, 1, "mutant", STRUCTURE, 7, Score.stopped(Merit(0.75, 0.25), 50, 200, "loss"))
    assert stopped.hoped == Candidate(3, 1, "mutant", STRUCTURE, 7, Score(0.75, 0.25, 50, fitness="loss"))
    assert stopped.hoped.hoped == stopped.hoped
    whole = Candidate(3, 1, "mutant", STRUCTURE, 7, Score(0.75, 0.25, 200, "f", levels="000f"))
    assert whole.hoped == whole
    assert whole.proposal.scored(whole.score) == whole


@pytest.mark.parametrize(
    ("one", "other", "below"),
    [
        (Merit(0.5, 1.0), Merit(0.6, 9.0), (True, False)),
        (Merit(0.5, 1.0), Merit(0.5, 1.0), (False, False)),
        (Merit(0.5, 1.1), Merit(0.5, 1.0), (True, True)),
        (Merit(0.5, 0.9), Merit(0.5, 1.0), (False, False)),
        (Merit(0.6, 9.0), Merit(0.5, 1.0), (False, True)),
        (Merit(0.5, 1.0), Merit(0.6, 1.0), (True, True)),
        (Merit(NAN, 1.0), Merit(0.5, 1.0), (False, False)),
        (Merit(0.5, NAN), Merit(0.5, 1.0), (False, False)),
    ],
)
def test_merits_are_compared_by_what_ranks_first(one: Merit, other: Merit, below: tuple[bool, bool]) -> None:
    assert (one.key("accuracy") < other.key("accuracy"), one.key("loss") < other.key("loss")) == below


@pytest.mark.parametrize(
    ("loss", "digit"),
    [
        *[(0.0, "0"), (1e-300, "0"), (0.044, "0"), (0.0442, "1"), (0.99, "9"), (1.0, "a"), (1.42, "b"), (5.6, "e")],
        *[(5.7, "f"), (1e9, "f"), (INF, "f"), (NAN, "f")],
    ],
)
def test_the_level_of_a_loss_is_its_logarithm(loss: float, digit: str) -> None:
    assert loss_levels([loss]) == digit


@given(st.lists(st.booleans(), max_size=40))
def test_bits_round_trip(right: list[bool]) -> None:
    packed = pack_bits(right)
    assert len(packed) == -(-len(right) // 4)
    assert [bit == "1" for bit in bits(packed, len(right))] == right
    # the definition: digit by digit, the first sample the highest of its four
    digits = [right[i : i + 4] for i in range(0, len(right), 4)]
    assert packed == "".join("0123456789abcdef"[sum(8 >> i for i, one in enumerate(d) if one)] for d in digits)

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planted import Planted, two_layers

from glora.errors import CheckpointError, GloraError
from glora.strategies import Candidate, Evolution, Score, run_search
from glora.structure import Structure


def evolution(generations: int = 2) -> Evolution:
    return Evolution(two_layers(), 80, generations=generations, population=6, parents=3, mutants=2, crossovers=2)


def test_the_result_holds_the_best_and_the_front() -> None:
    found = run_search(evolution(), Planted(two_layers()))
    assert found.winner is max(found.history, key=Candidate.rank_key)
    assert found.front[-1].score.accuracy == found.winner.score.accuracy
    assert list(found.front) == sorted(found.front, key=lambda c: c.size)
    value = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert Structure(value["best"]["structure"]) == found.best
    assert [entry["size"] for entry in value["front"]] == [c.size for c in found.front]
    assert set(value) == {"best", "select", "ties", "front"}
    assert (value["select"], value["ties"]) == ("best", [])
    assert {"structure", "size", "accuracy", "loss"} <= set(value["best"])


def test_a_search_killed_in_the_middle_of_a_line_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    run_search(evolution(1), Planted(two_layers()), path)
    whole = path.read_bytes()
    for kept in range(len(whole) - 250, len(whole), 7):
        path.write_bytes(whole[:kept])
        score = Planted(two_layers())
        run_search(evolution(1), score, path)
        assert path.read_bytes() == whole
        assert len(score.asked) == whole.count(b"\n") - whole[:kept].count(b"\n")


def test_an_interrupted_search_keeps_what_it_scored(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    planted = Planted(two_layers())

    def score(structure: Structure) -> Score:
        if len(planted.asked) == 9:
            raise KeyboardInterrupt
        return planted(structure)

    with pytest.raises(KeyboardInterrupt):  # it has no message to match
        run_search(evolution(), score, path)
    assert path.read_bytes().count(b"\n") == 10
    again = Planted(two_layers())
    found = run_search(evolution(), again, path)
    assert found == run_search(evolution(), Planted(two_layers()))
    assert planted.asked + again.asked == [c.structure for c in found.history]


def test_a_history_of_another_search_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    run_search(evolution(), Planted(two_layers()), path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    value = json.loads(lines[3])
    value["structure"] = {}
    path.write_text("".join([*lines[:3], json.dumps(value) + "\n", *lines[4:]]), encoding="utf-8")
    with pytest.raises(CheckpointError, match="line 4: is not the structure that the search asks for there"):
        run_search(evolution(), Planted(two_layers()), path)


def test_lines_after_the_end_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    found = run_search(evolution(), Planted(two_layers()), path)
    value = {**found.history[-1].to_dict(), "index": len(found.history)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")
    with pytest.raises(CheckpointError, match=f"line {len(found.history) + 2}: comes after the end of the search"):
        run_search(evolution(), Planted(two_layers()), path)


def test_what_the_scores_depend_on_can_be_told(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    found = run_search(evolution(), Planted(two_layers()), path, about={"supernet": "abc"})
    assert run_search(evolution(), Planted(two_layers()), path, about={"supernet": "abc"}) == found
    with pytest.raises(CheckpointError, match=r'about\.supernet is "abc" there and "abd" here'):
        run_search(evolution(), Planted(two_layers()), path, about={"supernet": "abd"})


def test_a_score_is_a_score() -> None:
    with pytest.raises(GloraError, match=r"must return a glora\.strategies\.Score, not float"):
        run_search(evolution(), lambda _: 0.5)  # type: ignore[arg-type, return-value]

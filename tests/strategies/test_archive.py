from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from glora.errors import CheckpointError
from glora.strategies import Candidate, History, Score
from glora.structure import LayerStructure, Structure

SETTINGS = {"strategy": "test", "seed": 3, "budget": None, "space": {"rank": 4, "B": ["rank-4", "none"]}}


def candidate(index: int, accuracy: float = 0.5) -> Candidate:
    structure = Structure({f"blöcke.{index}": LayerStructure(B="rank-4", E="vector")})
    return Candidate(index, index // 2, "random", structure, 10 + index, Score(accuracy, 1.25, 8))


def write(path: Path, count: int = 4) -> bytes:
    with History(path, SETTINGS) as history:
        assert history.recorded == ()
        for index in range(count):
            history.append(candidate(index))
    return path.read_bytes()


def test_the_file_is_one_header_and_one_line_per_candidate(tmp_path: Path) -> None:
    path = tmp_path / "new" / "search.jsonl"
    lines = write(path).decode().splitlines()
    assert json.loads(lines[0]) == {"format": 3, "settings": SETTINGS}
    assert json.loads(lines[3]) == {
        "index": 2,
        "generation": 1,
        "origin": "random",
        "size": 12,
        "accuracy": 0.5,
        "loss": 1.25,
        "samples": 8,
        "structure": {"blöcke.2": {"B": "rank-4", "E": "vector"}},
    }
    assert len(lines) == 5


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    write(path)
    with History(path, SETTINGS) as history:
        assert history.recorded == tuple(candidate(index) for index in range(4))
        history.append(candidate(4))
    with History(path, SETTINGS) as history:
        assert len(history.recorded) == 5


def test_every_line_is_on_disk_before_the_next_is_scored(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    with History(path, SETTINGS) as history:
        assert path.read_bytes().count(b"\n") == 1
        for index in range(3):
            history.append(candidate(index))
            assert path.read_bytes().count(b"\n") == index + 2


def test_nan_is_written_as_null(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    with History(path, SETTINGS) as history:
        history.append(candidate(0, math.nan))
    assert '"accuracy": null' in path.read_text(encoding="utf-8")
    assert "NaN" not in path.read_text(encoding="utf-8")
    with History(path, SETTINGS) as history:
        assert math.isnan(history.recorded[0].score.accuracy)


def test_a_write_cut_off_at_any_byte_is_dropped(tmp_path: Path) -> None:
    """What a kill in the middle of a write leaves: any prefix of the file."""
    path = tmp_path / "search.jsonl"
    whole = write(path, 2)
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for kept in range(len(whole) + 1):
        path.write_bytes(whole[:kept])
        recorded = max(sum(end <= kept for end in ends) - 1, 0)
        with History(path, SETTINGS) as history:
            assert len(history.recorded) == recorded
            assert path.read_bytes() == whole[: ends[recorded]]
            for index in range(recorded, 2):
                history.append(candidate(index))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"index"', b'"index', "damaged"),
        (b'"index"', b'"Index"', "damaged"),
        (b'"rank-4"', b'"rank-x"', "damaged"),
        (b'"structure": {', b'"structure": 5, "x": {', "damaged"),
        (b"0.5", b"[]", "damaged"),
        (b"0.5", b'"0.5"', "not as this search wrote it"),
        (b"{", b'{"more": 1, ', "not as this search wrote it"),
        (b'"index": ', b'"index": 1', "not as this search wrote it"),
        (b"{", b"\xff{", "damaged"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, number: int, old: bytes, new: bytes, message: str) -> None:
    path = tmp_path / "search.jsonl"
    lines = write(path).splitlines(keepends=True)
    lines[number - 1] = lines[number - 1].replace(old, new, 1)
    path.write_bytes(b"".join(lines))
    with pytest.raises(CheckpointError, match=rf"search\.jsonl, line {number}: {message}; cut the file off before"):
        History(path, SETTINGS)
    assert path.read_bytes() == b"".join(lines)


def test_a_missing_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    lines = write(path).splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(CheckpointError, match="line 3: not as this search wrote it"):
        History(path, SETTINGS)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04", b"notes\n", b"[]\n", b'{"format": 1}\n', b'{"format": 1, "settings": 5}\n']
)
def test_another_kind_of_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "search.jsonl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="line 1: not the header of a search history"):
        History(path, SETTINGS)
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [1, 2, 4])
def test_another_format_is_refused(version: int, tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    path.write_text(f'{{"format": {version}, "settings": {{}}}}\n', encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"has format {version}; this version of glora reads format 3: delete"):
        History(path, SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"budget": 500}, "budget is null there and 500 here"),
        ({"extra": [1]}, r"extra is null there and \[1\] here"),
        ({"space": {"rank": 4, "B": ["rank-4"]}}, r'space\.B is \["rank-4", "none"\] there and \["rank-4"\] here'),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "search.jsonl"
    before = write(path)
    with pytest.raises(CheckpointError, match=f"belongs to another search: {message}; search with the same settings"):
        History(path, {**SETTINGS, **change})
    assert path.read_bytes() == before


def test_a_setting_that_is_gone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    write(path)
    with pytest.raises(CheckpointError, match="seed is 3 there and null here"):
        History(path, {key: value for key, value in SETTINGS.items() if key != "seed"})

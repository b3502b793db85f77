"""metrics.json: written whole after every change, and read back over any number of sittings."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glora.errors import CheckpointError
from glora.metrics import Metrics, Row

PLAIN = Row("LoRA", 0.5, 1200, 3.14159, "rank 4")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.json"


def test_a_new_file_is_made_at_the_first_change(path: Path) -> None:
    metrics = Metrics.open(path)
    assert not path.exists()
    assert metrics.values == {"format": 1, "seconds": {}, "table": []}
    metrics.update(classes=37, note="ä")
    assert read(path) == {"format": 1, "seconds": {}, "table": [], "classes": 37, "note": "ä"}
    assert os.listdir(path.parent) == ["metrics.json"]


def test_what_was_written_is_read_again(path: Path) -> None:
    metrics = Metrics.open(path)
    metrics.update(a=1, b=[0.1 + 0.2])
    metrics.row(PLAIN)
    metrics.add_seconds("search", 2.5)
    again = Metrics.open(path)
    assert again.values == metrics.values == read(path)
    again.update(a=2)
    assert read(path) == {**metrics.values, "a": 2}


def test_every_change_is_on_disk_at_once(path: Path) -> None:
    metrics = Metrics.open(path)
    for change in (
        lambda: metrics.update(x=1),
        lambda: metrics.add_seconds("train", 1.0),
        lambda: metrics.row(PLAIN),
        lambda: metrics.test({"LoRA": [0.5]}),
    ):
        before = path.read_bytes() if path.exists() else b""
        change()
        assert path.read_bytes() != before
        assert read(path) == metrics.values


def test_a_failing_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics.open(path)
    metrics.update(a=1)
    before = path.read_bytes()

    def half(self: Path, text: str, **_: object) -> None:
        self.write_bytes(text[:9].encode())
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="disk full"):
        metrics.update(a=2)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["metrics.json"]
    assert Metrics.open(path).values["a"] == 1


def test_what_is_no_json_is_not_written(path: Path) -> None:
    Metrics.open(path).update(a=1)
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        Metrics.open(path).update(a=object())
    assert path.read_bytes() == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_is_refused_by_name(share: float, path: Path) -> None:
    path.unlink(missing_ok=True)
    metrics = Metrics.open(path)
    metrics.row(PLAIN)
    metrics.add_seconds("search", 3.0)
    whole = path.read_bytes().rstrip()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"metrics\.json is damaged or not ours \(.+\): delete it") as caught:
        Metrics.open(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b'{"format": 1, "seconds": {}, "table": [], "note": "\xff\xfe"}',
        b"[]",
        b"{}",
    ],
    ids=["not UTF-8", "a list", "empty"],
)
def test_a_file_that_is_not_ours_is_refused_by_name(content: bytes, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"metrics\.json"):
        Metrics.open(path)


# Time


def test_seconds_add_up_over_sittings(path: Path) -> None:
    assert Metrics.open(path).seconds("train") == 0.0
    for seconds in (1.5, 2.25, 0.125):
        Metrics.open(path).add_seconds("train", seconds)
    Metrics.open(path).add_seconds("search", 10)
    assert read(path)["seconds"] == {"train": 3.875, "search": 10.0}
    metrics = Metrics.open(path)
    assert (metrics.seconds("train"), metrics.seconds("search"), metrics.seconds("x")) == (3.875, 10.0, 0.0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(parts=st.lists(st.floats(0, 1e4), min_size=1, max_size=8))
def test_seconds_are_the_sum_to_the_millisecond(parts: list[float], path: Path) -> None:
    path.unlink(missing_ok=True)
    for part in parts:
        Metrics.open(path).add_seconds("train", part)
    assert Metrics.open(path).seconds("train") == pytest.approx(sum(parts), abs=0.0006 * len(parts))


# The table


def test_a_row_is_written_with_its_figures(path: Path) -> None:
    Metrics.open(path).row(PLAIN, spread=0.01)
    assert read(path)["table"] == [
        {
            "method": "LoRA",
            "val_accuracy": 0.5,
            "val_spread": 0.01,
            "test_accuracy": None,
            "test_spread": None,
            "parameters": 1200,
            "seconds": 3.1,
            "note": "rank 4",
        }
    ]


def test_a_row_of_the_same_method_is_replaced_where_it_stands(path: Path) -> None:
    metrics = Metrics.open(path)
    for method in ("probe", "LoRA", "GLoRA"):
        metrics.row(Row(method, 0.1, 1, 1.0))
    Metrics.open(path).row(Row("LoRA", 0.75, 2, 9.0, "again"), spread=0.5)
    table = read(path)["table"]
    assert [row["method"] for row in table] == ["probe", "LoRA", "GLoRA"]
    assert [row["val_accuracy"] for row in table] == [0.1, 0.75, 0.1]
    assert (table[1]["parameters"], table[1]["seconds"], table[1]["note"]) == (2, 9.0, "again")
    assert table[1]["val_spread"] == 0.5
    metrics = Metrics.open(path)
    assert metrics.has("LoRA")
    assert not metrics.has("lora")


def test_test_figures_are_entered_and_stay_when_a_row_is_replaced(path: Path) -> None:
    metrics = Metrics.open(path)
    for method in ("probe", "LoRA", "GLoRA"):
        metrics.row(Row(method, 0.1, 1, 1.0))
    assert not metrics.tested
    metrics.test({"LoRA": [0.5, 0.75], "GLoRA": [0.25], "elsewhere": [1.0], "probe": []})
    metrics = Metrics.open(path)
    assert metrics.tested
    metrics.row(Row("LoRA", 0.2, 7, 2.0))
    table = {row["method"]: (row["test_accuracy"], row["test_spread"]) for row in read(path)["table"]}
    assert table == {"probe": (None, None), "LoRA": (0.625, 0.125), "GLoRA": (0.25, None)}
    assert read(path)["table"][1]["parameters"] == 7
    assert read(path)["tested"] is True


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_test_figures_are_mean_and_population_deviation(accuracies: list[float]) -> None:
    metrics = Metrics(Path(os.devnull), {"table": [{"method": "m"}]})
    metrics.update = lambda **_: None  # type: ignore[method-assign]
    metrics.test({"m": accuracies})
    mean = sum(accuracies) / len(accuracies)
    (row,) = metrics.values["table"]
    assert row["test_accuracy"] == pytest.approx(mean)
    spread = (sum((a - mean) ** 2 for a in accuracies) / len(accuracies)) ** 0.5
    assert row["test_spread"] == pytest.approx(spread, abs=1e-9)
    assert statistics.pstdev(accuracies) == pytest.approx(spread, abs=1e-9)

"""Tables of labelled images: what is read, what is cut off, and what is refused by its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.pictures import fill
from glora.data import Preprocessing, has_parts, k_shot, list_data, open_data, pick_part, write_table
from glora.errors import DataError

SMALL = Preprocessing(size=8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "some images", 20)
    return tmp_path


def table(root: Path, rows: list[list[str]], name: str = "x.csv") -> Path:
    path = root / name
    mark = "\t" if name.endswith("tsv") else ","
    path.write_text("".join(mark.join(row) + "\n" for row in rows))
    return path


def rows(count: int = 20, split: bool = False) -> list[list[str]]:
    head = ["label", "note", "path", *(["split"] if split else [])]
    parts = ["train", "train", "Validation", "test"]
    return [head] + [
        [f"{(index % 3) * 5}", "-", f"some images/{index:03d}.png", *([parts[index // 5]] if split else [])]
        for index in range(count)
    ]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_columns_in_any_order_and_labels_by_number(root: Path, name: str) -> None:
    data = open_data(table(root, rows(split=True), name), SMALL)
    assert data.classes == ("0", "5", "10")
    assert (len(data.train), len(data.val), data.test_size) == (10, 5, 5)
    assert data.train.labels.tolist() == [index % 3 for index in range(10)]
    assert (data.name, data.layout) == ("x", "table with train, val, test")
    assert list_data(root / name).val.names[0] == "some images/010.png"


def test_json_lines_give_the_same(root: Path) -> None:
    lines = [{"path": row[2], "label": int(row[0]), "split": row[3]} for row in rows(split=True)[1:]]
    (root / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n")
    assert open_data(root / "x.jsonl", SMALL).digest == open_data(table(root, rows(split=True)), SMALL).digest


def test_without_splits_they_are_cut_off_by_the_seed(root: Path) -> None:
    path = table(root, rows())
    first, again, other = (list_data(path, seed=seed, val_fraction=0.3, test_fraction=0.3) for seed in (0, 0, 1))
    assert first == again
    assert first.test is not None
    assert (len(first.train), len(first.val), len(first.test)) == (8, 6, 6)
    assert first.train != other.train
    assert first.layout == "table; cut off by seed 0: val 30 % and test 30 %"
    assert not has_parts(path)
    assert (pick_part(path).split, len(pick_part(path).part)) == ("all", 20)
    assert has_parts(table(root, rows(split=True)))
    assert (pick_part(path).split, len(pick_part(path).part)) == ("test", 5)


def test_few_of_each_class_in_a_table(root: Path) -> None:
    few = k_shot(list_data(table(root, rows())), 2, 3)
    write_table(root / "few.jsonl", few)
    found = list_data(root / "few.jsonl")
    assert found.classes == few.classes
    for part in ("train", "val", "test"):
        one, other = getattr(found, part), getattr(few, part)
        assert (one.labels, [str(path) for path in one.images]) == (other.labels, [str(path) for path in other.images])
    with pytest.raises(DataError, match="0 shots: one or more are needed"):
        k_shot(few, 0)
    with pytest.raises(DataError, match="digits: its images are no files"):
        write_table(root / "d.csv", list_data("digits"))


@pytest.mark.parametrize(
    ("line", "column", "value", "message"),
    [
        (0, 2, "file", r"x.csv, line 1: has no column 'path': its columns are path, label and perhaps split"),
        (3, 0, "", r"x.csv, line 4: has no label"),
        (3, 3, "", r"x.csv, line 4: has no split"),
        (3, 3, "dev", r"x.csv, line 4: split 'dev' is none of train, val, test"),
        (3, 2, "some images/000.png", r"x.csv, line 4: some images/000.png: stands in line 2 already: remove one"),
        (3, 2, "nowhere.png", r"nowhere.png: no such file: mend or remove it, or go on without it \(--skip-bad\)"),
    ],
)
def test_a_bad_line_is_named(root: Path, line: int, column: int, value: str, message: str) -> None:
    found = rows(split=True)
    found[line][column] = value
    with pytest.raises(DataError, match=message):
        list_data(table(root, found))
    if value == "nowhere.png":
        listing = list_data(root / "x.csv", skip_bad=True)
        assert (len(listing.train), listing.skipped) == (9, ((str(root / "nowhere.png"), "no such file"),))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "path,label\n", "x.csv: holds no images"),
        ("x.csv", "path,label\nsome images/000.png,a\n", r"x.csv: has one class only \('a'\)"),
        (
            "x.csv",
            "path,label,split\nsome images/000.png,a,val\nsome images/001.png,b,val\n",
            "has val but no split train",
        ),
        ("x.jsonl", "{\n", "x.jsonl, line 1: is no JSON"),
        ("x.jsonl", "[1]\n", "x.jsonl, line 1: is no JSON object"),
        ("x.jsonl", '{"path": "some images/000.png", "label": true}\n', "x.jsonl, line 1: has no label"),
        (
            "x.jsonl",
            '{"path": "some images/000.png", "label": "a"}\n'
            '{"path": "some images/001.png", "label": "b", "split": "train"}\n',
            "x.jsonl: some lines have a split and some have none",
        ),
    ],
)
def test_tables_that_cannot_be_used(root: Path, name: str, text: str, message: str) -> None:
    (root / name).write_text(text)
    with pytest.raises(DataError, match=message):
        list_data(root / name)
    with pytest.raises(DataError, match=r"y\.csv: no such file"):
        list_data(root / "y.csv")

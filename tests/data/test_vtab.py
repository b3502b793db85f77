from collections import Counter
from pathlib import Path

import pytest
import torch
from pictures import picture

from glora.data import Preprocessing, open_data
from glora.data.vtab import VTAB
from glora.errors import DataError

SMALL = Preprocessing(size=8)
COUNTS = {"train800": 8, "val200": 4, "train800val200": 12, "test": 5}


def miniature(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    for part, count in counts.items():
        folder = root / "images" / part
        folder.mkdir(parents=True)
        for index in range(count):
            picture(index).save(folder / f"{index:06d}.jpg")
        lines = [f"images/{part}/{index:06d}.jpg {index % 4}\n" for index in range(count)]
        (root / f"{part}.txt").write_text("".join(lines))
    return root


def test_table() -> None:
    assert len(VTAB) == 19
    assert Counter(task.group for task in VTAB.values()) == {"Natural": 7, "Specialized": 4, "Structured": 8}


def test_miniature_of_an_unknown_name(tmp_path: Path) -> None:
    data = open_data(miniature(tmp_path / "toy"), SMALL)
    assert data.classes == ("0", "1", "2", "3")
    assert data.summary() | {"digest": ""} == {
        "name": "toy",
        "classes": ["0", "1", "2", "3"],
        "train": 8,
        "val": 4,
        "test": 5,
        "digest": "",
        "layout": "VTAB-1k",
        "skipped": 0,
    }
    assert data.val.labels.tolist() == [0, 1, 2, 3]
    assert len(data.train_val) == 12
    both = data.train_val.inputs(torch.tensor([8, 0]))
    assert torch.equal(both, torch.cat([data.val.inputs(torch.tensor([0])), data.train.inputs(torch.tensor([0]))]))
    assert data.test is not None
    assert len(data.test) == 5


def test_label_changes_the_digest(tmp_path: Path) -> None:
    root = miniature(tmp_path / "toy")
    before = open_data(root, SMALL).digest
    assert open_data(root, SMALL, seed=5).digest == before
    path = root / "train800.txt"
    path.write_text(path.read_text().replace("000003.jpg 3", "000003.jpg 2"))
    assert open_data(root, SMALL).digest != before


def test_lists_may_be_missing(tmp_path: Path) -> None:
    root = miniature(tmp_path / "toy")
    (root / "test.txt").unlink()
    (root / "train800val200.txt").unlink()
    data = open_data(root, SMALL)
    assert data.test is None
    assert data.layout == "VTAB-1k; no test images"
    (root / "val200.txt").unlink()
    with pytest.raises(DataError, match=r"val200.txt: no such file: VTAB-1k has"):
        open_data(root, SMALL)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train800", "000002.jpg 2", "000002.jpg", r"train800.txt, line 3: 'images/train800/000002.jpg' is not of the"),
        ("val200", "000001.jpg 1", "000001.jpg x", r"val200.txt, line 2: .* is not of the form"),
        ("val200", "000001.jpg 1", "000001.jpg -1", r"val200.txt, line 2: .* is not of the form"),
        ("test", "000004", "900004", r"test.txt, line 5: .*900004.jpg: no such file"),
        ("train800val200", "000004", "900004", r"train800val200.txt, line 5: .*900004.jpg: no such file"),
        ("test", "000004.jpg 0", "000004.jpg 123456789", r"test.txt, line 5: label 123456789 is out of range"),
    ],
)
def test_bad_lines(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    root = miniature(tmp_path / "toy")
    path = root / f"{file}.txt"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        open_data(root, SMALL)


def test_known_data_set(tmp_path: Path) -> None:
    root = miniature(tmp_path / "kitti")
    with pytest.raises(DataError, match=r"train800.txt, line 8: ends after 8 images, 800 are needed"):
        open_data(root, SMALL)
    path = root / "train800.txt"
    path.write_text(path.read_text().replace("000003.jpg 3", "000003.jpg 4"))
    with pytest.raises(DataError, match=r"train800.txt, line 4: label 4 is out of range: there are at most 4 classes"):
        open_data(root, SMALL)


def test_known_data_set_under_another_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ends after 8 images, 800 are needed"):
        open_data(miniature(tmp_path / "cifar100"), SMALL)


def test_known_data_set_takes_its_classes_from_the_table(tmp_path: Path) -> None:
    counts = {"train800": 800, "val200": 200, "test": 711}
    root = tmp_path / "kitti"
    (root / "images").mkdir(parents=True)
    picture(0).save(root / "images" / "0.jpg")
    for part, count in counts.items():
        (root / f"{part}.txt").write_text("images/0.jpg 2\n" * count + "\n")
    data = open_data(root, SMALL)
    assert data.classes == ("0", "1", "2", "3")
    assert (len(data.train), len(data.val), data.test_size) == (800, 200, 711)


def test_bad_image(tmp_path: Path) -> None:
    root = miniature(tmp_path / "toy")
    (root / "images" / "val200" / "000001.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"val200.000001.jpg: is no image"):
        open_data(root, SMALL)
    data = open_data(root, SMALL, skip_bad=True)
    assert data.val.labels.tolist() == [0, 2, 3]
    assert len(data.skipped) == 1

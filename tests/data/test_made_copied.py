"""Real images that come with other software."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_sets import fashion_folder, write_idx

from glora.data.made import MADE
from glora.data.made.copied import read_idx
from glora.errors import DataError

SIZES = {"train800": 800, "val200": 200, "test": 60}


@pytest.fixture(params=[True, False], ids=["gz", "plain"])
def fashion(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = fashion_folder(tmp_path / "fashion", request.param)
    monkeypatch.setattr("glora.data.made.copied.FASHION_FOLDER", folder)
    return folder


def test_fashion(fashion: Path) -> None:
    found: dict[str, list[tuple[int, int, int]]] = {}
    for split, size in SIZES.items():
        rows = []
        for index in range(size):
            image, label = MADE["fashion"].sample(0, split, index)
            assert image.shape == (28, 28)
            assert image.dtype == np.uint8
            rows.append((int(image[0, 0]) * 256 + int(image[0, 1]), int(image[0, 2]), label))
        found[split] = rows
    train, val, test = found.values()
    assert all(mark == label and number * 7 % 10 == label for number, mark, label in train + val)
    assert all(mark == label + 100 for _, mark, label in test)
    assert len({number for number, _, _ in train + val}) == 1000
    assert sorted(number for number, _, _ in test) == list(range(60))
    assert Counter(label for _, _, label in train) == dict.fromkeys(range(10), 80)
    assert Counter(label for _, _, label in val) == dict.fromkeys(range(10), 20)
    assert [number for number, _, _ in test] != sorted(number for number, _, _ in test)
    other = [int(MADE["fashion"].sample(1, "train800", index)[0][0, 1]) for index in range(800)]
    assert other != [number % 256 for number, _, _ in train]


def test_fashion_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glora.data.made.copied.FASHION_FOLDER", tmp_path / "nowhere")
    with pytest.raises(
        DataError,
        match=r'nowhere/train-images-idx3-ubyte: no such file, nor with .gz: the data set "fashion" needs it; it comes '
        r"with Debian's package dataset-fashion-mnist: sudo apt-get install dataset-fashion-mnist$",
    ):
        MADE["fashion"].sample(0, "train800", 0)


def test_fashion_that_does_not_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fashion_folder(tmp_path / "x")
    write_idx(folder / "train-labels-idx1-ubyte", np.zeros(7, np.uint8), packed=False)
    monkeypatch.setattr("glora.data.made.copied.FASHION_FOLDER", folder)
    with pytest.raises(DataError, match=r"its train images \(1200, 28, 28\) and labels \(7,\) do not match.*apt-get"):
        MADE["fashion"].sample(0, "train800", 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged or no idx file of bytes"),
        (b"\0\0\x0d\1\0\0\0\1xxxx", "is damaged or no idx file of bytes"),
        (b"\0\0\x08\1\0\0\0\5xxxx", "is damaged or no idx file of bytes"),
        (b"\0\0\x08\3\0\0\0\5", "is damaged or no idx file of bytes"),
    ],
)
def test_damaged_idx(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=rf"x: {message}.*sudo apt-get install dataset-fashion-mnist$"):
        read_idx(tmp_path / "x")


def test_damaged_gz(tmp_path: Path) -> None:
    for content in (b"no gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x01\x00"):
        (tmp_path / "x.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"x: cannot be read \(.*\): it comes with Debian's package"):
            read_idx(tmp_path / "x")


def test_idx(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "a", values, packed=False)
    write_idx(tmp_path / "b", values, packed=True)
    for name in "ab":
        assert np.array_equal(read_idx(tmp_path / name), values)


def test_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    originals = {
        np.rint(image * (255 / 16)).astype(np.uint8).tobytes(): int(label)
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    seen = []
    for split, size in {"train800": 800, "val200": 200, "test": 797}.items():
        for index in range(size):
            image, label = MADE["digits"].sample(0, split, index)
            assert originals[image.tobytes()] == label
            seen.append(image.tobytes())
    assert len(seen) == len(set(seen)) == 1797
    first = Counter(MADE["digits"].sample(0, "test", index)[1] for index in range(200))
    assert min(first.values()) >= 8


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r'comes with scikit-learn: pip install "glora\[demo\]"'):
        MADE["digits"].sample(987, "train800", 0)

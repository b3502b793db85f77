"""A stand-in for Debian's Fashion-MNIST, and small splits, for the tests of glora.data.made."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from glora.data.made.sets import SPLITS


def write_idx(path: Path, values: np.ndarray, packed: bool) -> None:
    """Bytes in an idx file, or in its .gz."""
    content = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, 1))
    else:
        path.write_bytes(content)


def fashion_folder(folder: Path, packed: bool = True, train: int = 1200, test: int = 60) -> Path:
    """Images 28 x 28 whose first two pixels tell their number and whose third tells the part and the label."""
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        numbers = np.arange(count)
        images = np.zeros((count, 28, 28), np.uint8)
        labels = (numbers * 7 % 10).astype(np.uint8)
        images[:, 0, 0], images[:, 0, 1] = numbers // 256, numbers % 256
        images[:, 0, 2] = labels + (100 if part == "t10k" else 0)
        write_idx(folder / f"{part}-images-idx3-ubyte", images, packed)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels, packed)
    return folder


def small_splits(monkeypatch: pytest.MonkeyPatch, train: int, val: int) -> None:
    """Fewer training and validation images than VTAB-1k has."""
    monkeypatch.setitem(SPLITS, "train800", train)
    monkeypatch.setitem(SPLITS, "val200", val)

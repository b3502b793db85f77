"""Random numbers that are the same on every machine: a generator for each image, known by its key."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypeVar, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Draw", "Floats", "Pixels", "balanced_label"]

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Item = TypeVar("Item")


@final
class Draw:
    """A stream of random numbers that its key decides.

    All numbers are made from ``Generator.random``: numpy promises that the stream of a bit generator stays as it is,
    but not what its further distributions make of it.

    Args:
        key: whole numbers from 0 and words, such as seed, data set, split and index.
    """

    def __init__(self, *key: int | str) -> None:
        entropy = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def uniforms(self, *shape: int) -> Floats:
        """Numbers in [0, 1), float64 of this shape."""
        return self._generator.random(shape)

    def normals(self, *shape: int) -> Floats:
        """Bell-shaped numbers of mean 0 and deviation 1 within [-3, 3], float64 of this shape."""
        first, second, third = (self._generator.random(shape) for _ in range(3))
        return 2.0 * (first + second + third - 1.5)

    def ratio(self, low: float, high: float) -> float:
        """A number in [low, high) whose logarithm is uniform, for scales."""
        return float(low * (high / low) ** self.uniform())

    def whole(self, count: int) -> int:
        """A whole number in [0, count)."""
        return int(self._generator.random() * count)

    def choice(self, items: Sequence[Item]) -> Item:
        """One of some things."""
        return items[self.whole(len(items))]

    def permutation(self, count: int) -> NDArray[np.int64]:
        """The whole numbers below ``count`` in random order, int64 (count,)."""
        return np.argsort(self._generator.random(count), kind="stable").astype(np.int64)


def balanced_label(seed: int, name: str, split: str, index: int, count: int) -> int:
    """Label of an image such that every run of ``count`` images of a split has each class once."""
    block, place = divmod(index, count)
    return int(Draw(seed, name, "labels", split, block).permutation(count)[place])

"""Real images that come with other software: scikit-learn's digits and Debian's Fashion-MNIST."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from glora.data.digits import list_digits
from glora.data.listing import Part
from glora.data.made.draws import Draw, Pixels
from glora.data.made.sets import SPLITS, MadeSet
from glora.data.splits import stratified_split
from glora.errors import DataError

__all__ = ["FASHION_FOLDER", "DigitsSet", "FashionSet", "read_idx"]

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

_INSTALL = "it comes with Debian's package dataset-fashion-mnist: sudo apt-get install dataset-fashion-mnist"


@final
class DigitsSet(MadeSet):
    """scikit-learn's 1797 digits, cut as ``glora run --data digits`` cuts them."""

    name = "digits"
    classes = tuple("0123456789")
    label = "the handwritten digit"
    most = 797

    def sample(self, seed: int, split: str, index: int) -> tuple[Pixels, int]:
        """One image, uint8 (8, 8), and its label."""
        part = _digits(seed)[split]
        return part.images[index][:, :, 0], part.labels[index]


@lru_cache(maxsize=2)
def _digits(seed: int) -> dict[str, Part]:
    """Parts by split, the test images in random order, so that the first of them are a fair choice."""
    listing = list_digits(seed)
    assert listing.test is not None
    order = [int(position) for position in Draw(seed, "digits", "test").permutation(len(listing.test))]
    return {"train800": listing.train, "val200": listing.val, "test": listing.test.take(order)}


@final
class FashionSet(MadeSet):
    """Fashion-MNIST: 1000 of its 60,000 training images, as many of each class; the test images are of its own."""

    name = "fashion"
    classes = (
        "T-shirt or top",
        "trousers",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "trainer",
        "bag",
        "ankle boot",
    )
    label = "the kind of clothing"
    most = 10_000

    def sample(self, seed: int, split: str, index: int) -> tuple[Pixels, int]:
        """One image, uint8 (28, 28), and its label."""
        place = int(_fashion_places(seed, str(FASHION_FOLDER))[split][index])
        images, labels = _fashion(str(FASHION_FOLDER), "t10k" if split == "test" else "train")
        return images[place], int(labels[place])


@lru_cache(maxsize=2)
def _fashion_places(seed: int, folder: str) -> dict[str, NDArray[np.int64]]:
    """Where the images of each split are among the training or the test images."""
    _, labels = _fashion(folder, "train")
    shuffled = Draw(seed, "fashion", "train").permutation(len(labels))
    share = sum(SPLITS.values()) // len(FashionSet.classes)
    chosen = np.sort(np.concatenate([shuffled[labels[shuffled] == label][:share] for label in range(10)]))
    cut = stratified_split([int(label) for label in labels[chosen]], tuple(SPLITS.values()), seed)
    places = {split: chosen[list(part)] for split, part in zip(SPLITS, cut, strict=True)}
    test = len(_fashion(folder, "t10k")[1])
    return places | {"test": Draw(seed, "fashion", "test").permutation(test)}


@lru_cache(maxsize=4)
def _fashion(folder: str, part: str) -> tuple[Pixels, Pixels]:
    """All images (N, 28, 28) and labels (N,) of one part, uint8."""
    images, labels = (read_idx(Path(folder) / f"{part}-{name}") for name in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    if images.ndim != 3 or labels.shape != images.shape[:1] or labels.size == 0 or labels.max() > 9:
        raise DataError(
            f"{folder}: its {part} images {images.shape} and labels {labels.shape} do not match: {_INSTALL}"
        )
    return images, labels


def read_idx(path: Path) -> Pixels:
    """Read bytes of an idx file, or of its ``.gz``.

    Raises:
        DataError: if there is neither, or what is there is no such file.
    """
    packed = path.with_name(f"{path.name}.gz")
    if not path.is_file() and not packed.is_file():
        raise DataError(f'{path}: no such file, nor with .gz: the data set "fashion" needs it; {_INSTALL}')
    try:
        content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}): {_INSTALL}") from error
    # two zeros, 8 for unsigned bytes, the number of sides, then each side in four bytes
    sides = np.frombuffer(content[4 : 4 + 4 * content[3]], ">u4") if content[:3] == b"\0\0\x08" else None
    start = 4 + 4 * len(sides) if sides is not None else 0
    if sides is None or len(content) - start != int(np.prod(sides, dtype=np.int64)):
        raise DataError(f"{path}: is damaged or no idx file of bytes: {_INSTALL}")
    return np.frombuffer(content, np.uint8, offset=start).reshape([int(side) for side in sides])

"""What a data set that needs no download is: names, and any of its images by seed, split and index."""

from __future__ import annotations

from abc import ABC, abstractmethod

from glora.data.made.draws import Pixels

__all__ = ["SPLITS", "TEST_SIZE", "MadeSet"]

SPLITS = {"train800": 800, "val200": 200}
"""Images of the splits that have a fixed number of them."""

TEST_SIZE = 2000
"""Test images, if not said otherwise and if there are as many."""


class MadeSet(ABC):
    """A data set made on the spot.

    Attributes:
        name: on the command line.
        classes: names, by label.
        label: what the label is, in words.
        version: of the generator: another number means other images.
        most: test images that there are.
    """

    name: str
    classes: tuple[str, ...]
    label: str
    version: int = 1
    most: int = 100_000

    @abstractmethod
    def sample(self, seed: int, split: str, index: int) -> tuple[Pixels, int]:
        """One image and its label, which depend on nothing but the arguments.

        Args:
            seed: of the whole data set, 0 or more.
            split: "train800", "val200" or "test".
            index: within the split, from 0.

        Returns:
            uint8 (H, W) or (H, W, 3), and the class.

        Raises:
            DataError: if what the images are taken from is not installed.
        """

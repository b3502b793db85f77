"""What a data set holds, before any image is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Listing", "Part"]


@dataclass(frozen=True)
class Part:
    """One part of a data set.

    Args:
        images: what ``ImageSamples`` takes: paths or arrays.
        names: path of each image relative to the data set, with "/".
        labels: class of each image.
    """

    images: tuple[Any, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, positions: Sequence[int]) -> Part:
        """Some of the images."""
        return Part(
            tuple(self.images[i] for i in positions),
            tuple(self.names[i] for i in positions),
            tuple(self.labels[i] for i in positions),
        )

    @classmethod
    def joined(cls, parts: Iterable[Part]) -> Part:
        """One part after another."""
        chained = [[*zip(part.images, part.names, part.labels, strict=True)] for part in parts]
        return cls.of(row for rows in chained for row in rows)

    @classmethod
    def of(cls, rows: Iterable[tuple[Any, str, int]]) -> Part:
        """From image, name and label of each."""
        images, names, labels = zip(*found, strict=True) if (found := list(rows)) else ((), (), ())
        return cls(tuple(images), tuple(names), tuple(labels))

    def rows(self, part: str) -> list[tuple[str, int, str]]:
        """What ``digest`` takes."""
        return [(name, label, part) for name, label in zip(self.names, self.labels, strict=True)]


@dataclass(frozen=True)
class Listing:
    """All parts of a data set.

    Args:
        name: of the data set.
        layout: how it lies on disk and what was cut from what, in words.
        classes: names, by label.
        train, val, test: the parts; a data set may have no test part.
        skipped: path and reason of files left out already.
        complete: whether every class must have a training image.
    """

    name: str
    layout: str
    classes: tuple[str, ...]
    train: Part
    val: Part
    test: Part | None
    skipped: tuple[tuple[str, str], ...] = ()
    complete: bool = True

"""The data sets of a bench: folders, what is made, and those of the paper's protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from glora import protocols
from glora.data import digest, list_data
from glora.data.made import made_set
from glora.protocols import Protocol

__all__ = ["Task", "protocol_tasks"]


@dataclass(frozen=True)
class Task:
    """A data set of a bench.

    Args:
        name: in results and tables.
        source: as ``glora.data.list_data`` takes it; of a protocol, the folder of its data sets.
        group: that the data set belongs to, or None.
        make: name of a data set that is made at ``source`` if it is not there, or None.
        seed: of what is made.
        test: test images of what is made; 2000, or as many as there are, if None.
        protocol: that it is a task of, or None.
        shots: training images of each class, where the protocol counts them.
        drawn: the seed of the protocol's list of training images, if it has several.
        split: the digest of the protocol's split.
        augment: what the protocol changes training images by.
    """

    name: str
    source: str
    group: str | None = None
    make: str | None = None
    seed: int = 0
    test: int | None = None
    protocol: Protocol | None = None
    shots: int | None = None
    drawn: int | None = None
    split: str | None = None
    augment: str = "none"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells these images from others: the digest of the split, or what they are made by.

        Raises:
            DataError: if the data cannot be listed.
        """
        if self.protocol is not None:
            return {"split": self.split, "protocol": self.protocol, "shots": self.shots}
        if self.make is not None:
            return {"make": self.make, "seed": self.seed, "test": self.test, "version": made_set(self.make).version}
        listing = list_data(self.source)
        parts = {"train": listing.train, "val": listing.val, "test": listing.test}
        return {"split": digest(row for name, part in parts.items() if part is not None for row in part.rows(name))}

    def open(self) -> protocols.Task:
        """Its images as lists, and what is done with them.

        Raises:
            DataError: if they cannot be listed; if there are no test images.
        """
        return _opened(self)

    def __str__(self) -> str:
        """As it is told to people."""
        return self.name if self.shots is None else f"{self.name}, {self.shots} shot{'' if self.shots == 1 else 's'}"


def protocol_tasks(
    protocol: Protocol, root: str, names: Sequence[str] | None, shots: Sequence[int] | None, seeds: Sequence[int]
) -> list[tuple[Task, Literal["train", "train+val"]]]:
    """The tasks of a protocol, each with what its final model is trained on.

    Args:
        protocol: "vtab", "fewshot" or "domain".
        root: the folder of its data sets.
        names: of data sets; all if None.
        shots: of a few-shot protocol; all if None.
        seeds: whose lists of training images are needed, where there are several.

    Raises:
        DataError: naming the first thing that is missing or wrong in the folder; for a choice that there is not.
    """
    drawn = None if protocol == "vtab" else seeds
    return [
        (
            Task(
                found.name,
                root,
                found.group,
                protocol=protocol,
                shots=found.shots,
                drawn=found.seed,
                split=found.split,
                augment=found.augmentation,
            ),
            found.final_on,
        )
        for found in protocols.tasks(protocol, root, names=names, shots=shots, seeds=drawn)
    ]


@lru_cache(maxsize=1)
def _opened(task: Task) -> protocols.Task:
    """Listed once for all methods on the same data set."""
    if task.protocol is None:
        return protocols.tasks("own", task.source)[0]
    chosen = {name: [value] for name, value in (("shots", task.shots), ("seeds", task.drawn)) if value is not None}
    return protocols.tasks(task.protocol, task.source, names=[task.name], **chosen)[0]

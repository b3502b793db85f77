"""What a protocol gives to whoever trains and tests: a task, with its test sets and the logits that count on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from glora.data.listing import Listing, Part
from glora.data.preprocess import Preprocessing
from glora.data.splits import digest

__all__ = ["Survey", "Task", "TestSet"]


@dataclass(frozen=True)
class TestSet:
    """Images to test on, and which logits may win.

    Args:
        name: of the set.
        part: its images, with labels of the task.
        spaces: by the name of a figure, the classes whose logits count for it; None for all of them.
    """

    __test__ = False  # pytest takes the name for a test's

    name: str
    part: Part
    spaces: tuple[tuple[str, tuple[int, ...] | None], ...]

    @classmethod
    def plain(cls, name: str, part: Part) -> TestSet:
        """A set with one figure, of its own name, for which all logits count."""
        return cls(name, part, ((name, None),))

    @classmethod
    def shifted(cls, name: str, part: Part, classes: int) -> TestSet:
        """A set with two figures: with all logits, and with those alone whose classes are among its labels."""
        present = tuple(sorted(set(part.labels)))
        return cls(name, part, ((f"{name}, {classes} classes", None), (f"{name}, present classes", present)))


@dataclass(frozen=True)
class Task:
    """A data set as a protocol has it.

    Choices are made by ``listing.val`` alone. ``tests`` are looked at once.

    Args:
        name: of the data set.
        protocol: "vtab", "fewshot" or "domain"; None for a data set of one's own.
        listing: training, validation and test images; the test part is that of the first of ``tests``.
        tests: all test sets.
        preprocessing: of validation and test images, and of training images where nothing is drawn at random; at the
            protocol's 224 pixels (``dataclasses.replace`` it for another size).
        augmentation: of training images, see :func:`glora.data.augment.training_transform`; none where the protocol has
            none.
        final_on: "train", or "train+val" where the protocol trains anew on both before the test.
        group: "natural", "specialized" or "structured" in VTAB-1k; else None.
        shots: training images of each class; None if that is not what the task is about.
        seed: that the training images were drawn by; None if they were not drawn.
    """

    name: str
    protocol: str | None
    listing: Listing
    tests: tuple[TestSet, ...]
    preprocessing: Preprocessing
    augmentation: str = "none"
    final_on: Literal["train", "train+val"] = "train"
    group: str | None = None
    shots: int | None = None
    seed: int | None = None

    def prepared(self, model: Preprocessing) -> Preprocessing:
        """The protocol's preprocessing at the size of a model, whose own is taken for data of one's own."""
        return model if self.protocol is None else replace(self.preprocessing, size=model.size)

    @property
    def split(self) -> str:
        """Fingerprint of the images, labels and parts, all test sets included."""
        rows = self.listing.train.rows("train") + self.listing.val.rows("val")
        return digest([*rows, *(row for test in self.tests for row in test.part.rows(test.name))])


@dataclass
class Survey:
    """What was found while tasks were looked for.

    Attributes:
        tasks: those that can be used.
        problems: a line for everything that is missing or wrong.
    """

    tasks: list[Task]
    problems: list[str]

    def add(self, task: Task | None, problems: Sequence[str]) -> None:
        """One more task, or why it cannot be used."""
        new = [problem for problem in problems if problem not in self.problems]
        self.problems += new
        if task is not None and not problems:
            self.tasks.append(task)

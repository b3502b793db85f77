"""Testing on all test sets of a task, with the logits that count on each, also along the way between two weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from glora.data.preprocess import Preprocessing
from glora.data.samples import ImageSamples
from glora.errors import ConfigError, DataError
from glora.evaluate import evaluate_spaces
from glora.model import GLoRAModel
from glora.precision import Precision
from glora.protocols.make import Protocol, tasks
from glora.protocols.task import Task, TestSet
from glora.strategies.score import Score

__all__ = ["TaskScore", "evaluate_task", "interpolate", "open_task", "parse_alphas"]

_MOST_ALPHAS = 1001


@dataclass(frozen=True)
class TaskScore:
    """Figures by name, of all test sets of a task.

    Attributes:
        scores: such as "test", or "imagenet-r, 1000 classes" and "imagenet-r, present classes".
        skipped: how many images were left out that cannot be read.
    """

    scores: dict[str, Score]
    skipped: int = 0

    def accuracies(self) -> dict[str, float]:
        """Shares from 0 to 1."""
        return {name: score.accuracy for name, score in self.scores.items()}


def evaluate_task(
    model: nn.Module,
    tests: Sequence[TestSet],
    preprocessing: Preprocessing,
    batch_size: int = 50,
    precision: Precision = "fp32",
    skip_bad: bool = False,
) -> TaskScore:
    """Test a model, once, on every test set and with each choice of logits.

    Args:
        model: gives logits.
        tests: of a task.
        preprocessing: of the images: the task's own, or what the model was trained with.
        batch_size: images in a forward.
        precision: of the forward.
        skip_bad: go on without files that cannot be read.

    Raises:
        DataError: for a bad image; if a label or a class that counts has no logit.
    """
    (found,) = _along(lambda alpha: model, (1.0,), tests, preprocessing, batch_size, precision, skip_bad).values()
    return found


def interpolate(
    net: GLoRAModel,
    alphas: Sequence[float],
    tests: Sequence[TestSet],
    preprocessing: Preprocessing,
    batch_size: int = 50,
    precision: Precision = "fp32",
    skip_bad: bool = False,
) -> dict[str, TaskScore]:
    """Test the weights on the way from the pretrained (0) to the tuned ones (1), the head being the trained one.

    Returns:
        By alpha, as "0.0" or "0.25", what :func:`evaluate_task` gives for ``net.merge(alpha=alpha)``.

    Raises:
        DataError: as :func:`evaluate_task`.
        MergeError: if a merged weight is not finite.
    """
    return _along(lambda alpha: net.merge(alpha=alpha), alphas, tests, preprocessing, batch_size, precision, skip_bad)


def _along(
    model: Callable[[float], nn.Module],
    alphas: Sequence[float],
    tests: Sequence[TestSet],
    preprocessing: Preprocessing,
    batch_size: int,
    precision: Precision,
    skip_bad: bool,
) -> dict[str, TaskScore]:
    """Scores by alpha; a set's images are decoded once, one set at a time."""
    found: dict[str, dict[str, Score]] = {str(float(alpha)): {} for alpha in alphas}
    skipped = 0
    for test in tests:
        samples = ImageSamples(test.part.images, test.part.labels, preprocessing, skip_bad=skip_bad)
        skipped += len(samples.skipped)
        for alpha in alphas:
            scores = evaluate_spaces(model(alpha), samples, dict(test.spaces), batch_size, precision)
            found[str(float(alpha))] |= scores
    return {alpha: TaskScore(scores, skipped) for alpha, scores in found.items()}


def open_task(protocol: Protocol, root: str | Path, name: str | None = None) -> Task:
    """The task of a protocol that is meant where only its test sets matter, which do not depend on shots and seeds.

    Args:
        protocol: as in :func:`glora.protocols.tasks`.
        root: as there.
        name: of the data set, where the protocol has several.

    Raises:
        DataError: as :func:`glora.protocols.tasks`; if there are several data sets and no name.
    """
    if name is None and protocol in ("vtab", "fewshot"):
        raise DataError(f"protocol {protocol} has several data sets: say which one (--task NAME)")
    fewest = {"fewshot": (1,)}.get(protocol)
    drawn = None if protocol == "vtab" else (0,)
    return tasks(protocol, root, names=None if name is None else [name], shots=fewest, seeds=drawn)[0]


def parse_alphas(text: str, what: str = "--alphas") -> tuple[float, ...]:
    """Read values from 0 to 1: "0:1:0.1" from the first by the last up to the second, or "0,0.5,1".

    Args:
        text: to be read.
        what: the text is, for messages.

    Raises:
        ConfigError: for anything else.
    """
    try:
        if ":" in text:
            first, last, step = map(float, text.split(":"))
            count = math.floor((last - first) / step + 1e-9) + 1 if step > 0 else 0
            if not 0 < count <= _MOST_ALPHAS:
                raise ValueError(text)
            found = tuple(round(first + index * step, 9) for index in range(count))
        else:
            found = tuple(map(float, text.split(",")))
    except (ValueError, OverflowError):
        raise ConfigError(f"{what} {text!r}: write first:last:step, such as 0:1:0.1, or values 0,0.5,1") from None
    if bad := [alpha for alpha in found if not 0 <= alpha <= 1]:
        raise ConfigError(f"{what} {text!r}: {bad[0]:g} is not from 0 (pretrained) to 1 (tuned)")
    return found

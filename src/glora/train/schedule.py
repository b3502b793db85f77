"""Rate, order of images and their augmentation in a step: functions of the step and the seed, without a state."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

from glora.train.settings import TrainSettings

__all__ = ["image_numbers", "image_order", "learning_rate"]


def learning_rate(settings: TrainSettings, progress: float) -> float:
    """Linear warm-up, then cosine to ``min_lr``.

    Args:
        settings: the recipe.
        progress: epochs done, with fractions.
    """
    warmup = min(settings.warmup_epochs, settings.epochs / 10)
    low = min(settings.min_lr, settings.lr)
    if progress < warmup:
        start = min(settings.warmup_lr, settings.lr)
        return start + (settings.lr - start) * progress / warmup
    return low + (settings.lr - low) * (1 + math.cos(math.pi * progress / settings.epochs)) / 2


def image_order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of the training set for ``epoch``."""
    order = list(range(count))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return order


def image_numbers(images: Iterable[int], seed: int, epoch: int) -> list[int]:
    """What the augmentation of each image is drawn by in ``epoch``, 32 bits.

    Args:
        images: positions in the training set.
        seed: of the training.
        epoch: counted from 0.
    """
    return [random.Random(f"augment {seed} {epoch} {image}").getrandbits(32) for image in images]

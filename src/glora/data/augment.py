"""Training images changed at random by timm, each as a number says and nothing else."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glora.data.preprocess import Preprocessing
from glora.errors import ConfigError, near_miss

__all__ = ["check_augment", "draw", "training_transform"]

_NAMES = ("none", "flip", "crop", "randaugment")
_NOAH = "rand-m9-mstd0.5-inc1"
# timm passes over what it does not know here, or fails without a word.
_NOTATION = re.compile(r"rand(-m\d+|-n[1-9]\d*|-mmax[1-9]\d*|-(p|mstd)\d+(\.\d+)?|-inc[01])*")
_DRAWING = threading.Lock()


def check_augment(augment: str) -> None:
    """Raise ConfigError if there is no such augmentation: none, flip, crop, randaugment, or timm's notation of one."""
    if augment not in _NAMES and not _NOTATION.fullmatch(str(augment)):
        raise ConfigError(
            f"augment must be {', '.join(_NAMES)} or timm's notation such as {_NOAH}, not {augment!r}"
            f"{near_miss(augment, _NAMES)}"
        )


def training_transform(augment: str, preprocessing: Preprocessing) -> Callable[[Any], Tensor]:
    """What makes a training image of an image; it draws from the global generators of ``random``, numpy and torch.

    - ``flip`` takes the model's input, as validation images are shown, and flips half of them;
    - ``crop`` takes the image as it was decoded (PIL, RGB): a random crop of 8 to 100 % of its area, 3:4 to 4:3,
      resized to the square, then the flip;
    - ``randaugment`` is NOAH's and GLoRA's training transform of few-shot learning and domain generalisation
      (data/datasets.py): ``crop``, then RandAugment, and in one of four images a rectangle filled with noise;
    - timm's notation, such as ``rand-m5-n1``, is the same with another RandAugment.

    Args:
        augment: any but none, see :func:`check_augment`.
        preprocessing: gives size, mean, deviation and interpolation.

    Returns:
        A function to float32 (3, size, size), normalised.
    """
    # Here, because timm takes seconds to import, and few trainings need it.
    from timm.data import create_transform
    from torchvision.transforms import RandomHorizontalFlip

    if augment == "flip":
        flip: Callable[[Any], Tensor] = RandomHorizontalFlip()
        return flip
    plain = augment == "crop"
    made: Callable[[Any], Tensor] = create_transform(
        preprocessing.size,
        is_training=True,
        color_jitter=None,  # NOAH asks for one of 0.4, which timm drops where there is RandAugment
        auto_augment=None if plain else _NOAH if augment == "randaugment" else augment,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        re_prob=0.0 if plain else 0.25,
        re_mode="pixel",
        re_count=1,
    )
    _mend_posterize(made)
    return made


def _mend_posterize(transform: Any) -> None:
    """Let the strongest posterisation, which keeps no bit, be black, as older Pillow has it; newer refuses it."""
    for step in transform.transforms:
        for op in getattr(step, "ops", ()):
            if op.name.startswith("Posterize"):
                op.aug_fn = partial(_posterize, op.aug_fn)


def _posterize(posterize: Callable[..., Image.Image], image: Image.Image, bits: int, **how: Any) -> Image.Image:
    return posterize(image, bits, **how) if bits else Image.new(image.mode, image.size)


def draw(transform: Callable[[Any], Tensor], sources: Iterable[Any], numbers: Sequence[int], target: Tensor) -> Tensor:
    """Transform images one after another, each with the three global generators seeded by its number.

    The generators are afterwards as they were, whatever happens, and those of GPUs are not touched.

    Args:
        transform: from :func:`training_transform`.
        sources: what it takes.
        numbers: from 0 to 2^32 - 1, one for each.
        target: (N, 3, size, size), whose rows are filled, and which is given back.
    """
    with _DRAWING:
        python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            for row, source, number in zip(target, sources, numbers, strict=True):
                random.seed(number)
                np.random.seed(number)
                torch.default_generator.manual_seed(number)  # torch.manual_seed would seed those of GPUs too
                row.copy_(transform(source))
            return target
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_rng_state(cpu)

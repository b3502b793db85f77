"""Training images changed at random, as the few-shot protocol has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from timm.data import create_transform
from torch import Tensor

from glora.data.preprocess import Preprocessing

__all__ = ["NOAH", "Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Settings of timm's ``create_transform``: a random crop resized, flipped, RandAugment, and a random erasure.

    Args:
        auto_augment: RandAugment in timm's notation.
        color_jitter: strength of a jitter of colours, which timm drops where there is RandAugment.
        erase: probability that a rectangle is filled with noise.
        interpolation: of the resizing.
    """

    auto_augment: str = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    erase: float = 0.25
    interpolation: str = "bicubic"

    def transform(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
        """The transform of one image, to float32 (3, size, size), normalised.

        It draws from the global generators of ``random``, numpy and torch, as timm does: seed those where results must
        repeat.

        Args:
            preprocessing: gives size, mean and deviation.
        """
        made: Callable[[Image.Image], Tensor] = create_transform(
            preprocessing.size,
            is_training=True,
            color_jitter=self.color_jitter,
            auto_augment=self.auto_augment,
            interpolation=self.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
            re_prob=self.erase,
            re_mode="pixel",
            re_count=1,
        )
        return made


NOAH = Augmentation()
"""That of NOAH's and GLoRA's few-shot and domain-generalisation experiments (data/datasets.py)."""

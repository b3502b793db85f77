"""timm's training transforms as NOAH's code asks for them, seeded by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from torch import Tensor

# NOAH's call (data/datasets.py), which is GLoRA's.
NOAH = {"color_jitter": 0.4, "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel", "re_count": 1}


def noah(size: int, **changes: Any) -> Callable[[Image.Image], Tensor]:
    """The transform, with other settings or preprocessing if need be."""
    transform: Callable[[Image.Image], Tensor]
    transform = create_transform(size, is_training=True, **({"interpolation": "bicubic"} | NOAH | changes))
    return transform


def seeded(transform: Callable[[Any], Tensor], source: Any, number: int) -> Tensor:
    """One image, with all generators seeded by a number."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageOps, "posterize", _posterize)
        return transform(source)


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    """As older Pillow has it, which takes 0 bits, too."""
    return image.point([value & ~(2 ** (8 - bits) - 1) for value in range(256)] * 3)

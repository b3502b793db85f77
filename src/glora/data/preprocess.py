"""How an image becomes a model's input: one resize by PIL, then one affine map of the pixel values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glora.errors import DataError

__all__ = ["Preprocessing", "rgb"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_KEYS = ("size", "mean", "std", "interpolation", "resize")
# beyond this many times longer than wide, PIL's intermediate image can need gigabytes
_EXTREME = 4


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What is done to every image, in training and in evaluation alike unless a training augments its images.

    Args:
        size: side of the square input in pixels.
        mean: subtracted from each channel after division by 255.
        std: each channel is divided by it, then.
        interpolation: nearest, box, bilinear, hamming, bicubic or lanczos, as PIL does them.
        resize: "squash" to the square (the protocol of VTAB-1k); "crop": resize the shorter side to
            ``size / crop_ratio`` and take the centre; "squash-crop": squash to a square of ``size / crop_ratio`` and
            take the centre (NOAH's few-shot protocol, 256 and 224).
        crop_ratio: of "crop" and "squash-crop" only.

    Raises:
        DataError: for a value out of range.
    """

    size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    resize: Literal["squash", "crop", "squash-crop"] = "squash"
    crop_ratio: float = 0.875

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise DataError(f"preprocessing: size is a whole number of pixels, not {self.size!r}")
        object.__setattr__(self, "mean", _three("mean", self.mean))
        object.__setattr__(self, "std", _three("std", self.std))
        if min(self.std) <= 0:
            raise DataError(f"preprocessing: std must be positive, not {self.std}")
        if self.interpolation not in _FILTERS:
            raise DataError(f"preprocessing: interpolation {self.interpolation!r} is none of {', '.join(_FILTERS)}")
        if self.resize not in ("squash", "crop", "squash-crop"):
            raise DataError(f"preprocessing: resize {self.resize!r} is none of squash, crop, squash-crop")
        if not _is_number(self.crop_ratio) or not 0 < self.crop_ratio <= 1:
            raise DataError(f"preprocessing: crop_ratio is above 0 and at most 1, not {self.crop_ratio!r}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; ``crop_ratio`` only where it acts."""
        found: dict[str, Any] = {
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize": self.resize,
        }
        return found | ({} if self.resize == "squash" else {"crop_ratio": self.crop_ratio})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of ``to_dict``.

        Raises:
            DataError: for unknown or missing keys, or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise DataError(f"preprocessing: a mapping is needed, not {type(values).__name__}")
        keys = (*_KEYS, "crop_ratio") if values.get("resize") in ("crop", "squash-crop") else _KEYS
        missing = [key for key in keys if key not in values]
        unknown = [str(key) for key in values if key not in keys]
        if missing or unknown:
            faults = [f"lacks {', '.join(missing)}"] if missing else []
            faults += [f"has unknown {', '.join(unknown)}"] if unknown else []
            raise DataError(f"preprocessing {' and '.join(faults)}: its keys are {', '.join(keys)}")
        return cls(**{key: values[key] for key in keys})

    def pixels(self, image: Image.Image) -> Tensor:
        """Resize one image.

        Args:
            image: of any size; a mode other than RGB is converted.

        Returns:
            uint8 (3, size, size), contiguous.
        """
        image = rgb(image)
        if self.resize == "crop":
            square = self._crop(image)
        else:
            whole = self.size if self.resize == "squash" else round(self.size / self.crop_ratio)
            square = _centre(self._squash(image, whole), self.size, self.size)
        # numpy and not torch: this runs in many threads, each of which would start torch's own
        return torch.from_numpy(np.ascontiguousarray(np.array(square).transpose(2, 0, 1)))

    def normalise(self, batch: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Map pixel values to a model's input, on the device of the batch.

        Args:
            batch: uint8 (N, 3, H, W).
            dtype: of the result; the computation is in float32, or in float64 if that is asked for.

        Returns:
            (batch / 255 - mean) / std, (N, 3, H, W).

        Raises:
            DataError: if the batch is not uint8 or has not three channels.
        """
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[1] != 3:
            raise DataError(f"pixels are uint8 (N, 3, H, W), not {batch.dtype} {tuple(batch.shape)}")
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        mean = torch.tensor(self.mean, dtype=exact, device=batch.device).view(3, 1, 1)
        std = torch.tensor(self.std, dtype=exact, device=batch.device).view(3, 1, 1)
        return batch.to(exact).div_(255).sub_(mean).div_(std).to(dtype)

    def _squash(self, image: Image.Image, size: int) -> Image.Image:
        filter_ = _FILTERS[self.interpolation]
        if image.height > image.width * size * _EXTREME:
            # PIL widens before it shortens
            image = image.resize((image.width, size), filter_)
        return image.resize((size, size), filter_)

    def _crop(self, image: Image.Image) -> Image.Image:
        image = _centre(image, _EXTREME * image.height, _EXTREME * image.width)
        width, height = image.size
        short = round(self.size / self.crop_ratio)
        if width <= height:
            target = (short, int(short * height / width))
        else:
            target = (int(short * width / height), short)
        return _centre(image.resize(target, _FILTERS[self.interpolation]), self.size, self.size)


def rgb(image: Image.Image) -> Image.Image:
    """An image in the mode RGB."""
    return image if image.mode == "RGB" else image.convert("RGB")


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    """The centre of an image, at most ``width`` by ``height``."""
    width, height = min(width, image.width), min(height, image.height)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _three(name: str, values: Any) -> tuple[float, float, float]:
    if not isinstance(values, Sequence) or len(values) != 3 or not all(map(_is_number, values)):
        raise DataError(f"preprocessing: {name} is three numbers, not {values!r}")
    return cast(tuple[float, float, float], tuple(map(float, values)))

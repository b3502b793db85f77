"""All shifts by name, on 8-bit images."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from glora.data.shifts.corruptions import CORRUPTIONS
from glora.data.shifts.filters import Floats, convolve, gaussian
from glora.errors import DataError

__all__ = ["RENDERINGS", "SHIFTS", "shifted"]

Pixels = NDArray[np.uint8]


def _sketch(x: Floats) -> Floats:
    """Dark lines on white where the lightness changes: the Sobel gradient of the slightly blurred image."""
    grey = gaussian(x @ np.array([[0.299], [0.587], [0.114]]), 1.0)
    ramp = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
    edges = np.hypot(convolve(grey, ramp), convolve(grey, ramp.T))
    return np.repeat(1 - (3 * edges).clip(0, 1), 3, axis=2)


def _posterise(x: Floats) -> Floats:
    """Four levels a channel."""
    return np.minimum(np.floor(x * 4), 3) / 3


def _invert(x: Floats) -> Floats:
    return 1 - x


RENDERINGS: dict[str, Callable[[Floats], Floats]] = {
    "sketch": _sketch,
    "posterise": _posterise,
    "invert": _invert,
    "clean": lambda x: x,
}
"""Ways to draw an image otherwise, without a severity; "clean" leaves it, to compare with."""

SHIFTS = (*CORRUPTIONS, *RENDERINGS)
"""Names of all corruptions and renderings."""


def shifted(pixels: Pixels, name: str, severity: int = 3, *key: int) -> Pixels:
    """One image, corrupted or rendered.

    Args:
        pixels: uint8 (S, S, 3), square.
        name: one of ``SHIFTS``.
        severity: of a corruption, 1 to 5.
        *key: whole numbers from 0 that decide what is random, such as a seed and the image's place.

    Returns:
        uint8 (S, S, 3); values are cut off to whole numbers, as in ImageNet-C.

    Raises:
        DataError: for a name or severity that does not exist, or an image that is not square RGB.
    """
    if name not in SHIFTS:
        near = difflib.get_close_matches(name, SHIFTS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SHIFTS)}"
        raise DataError(f"no corruption or rendering {name!r}: {hint}")
    if not 1 <= severity <= 5:
        raise DataError(f"severity {severity}: it goes from 1, mild, to 5")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[0] != pixels.shape[1] or pixels.shape[2] != 3:
        raise DataError(f"an image to shift is uint8 (S, S, 3), not {pixels.dtype} {pixels.shape}")
    values = pixels / 255
    if name in RENDERINGS:
        found = RENDERINGS[name](values)
    else:
        seed = np.random.SeedSequence([zlib.crc32(name.encode()), severity, *key])
        found = CORRUPTIONS[name](values, severity - 1, np.random.Generator(np.random.PCG64(seed)))
    # Rounding must not cut a whole number off to the one below.
    return np.floor(found.clip(0, 1) * 255 + 1e-6).astype(np.uint8)

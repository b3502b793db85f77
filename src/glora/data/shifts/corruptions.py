"""The fifteen corruptions of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261), by their published settings.

Each takes a square RGB image (S, S, 3), float64 from 0 to 1, a severity from 0 (mildest) to 4 and a generator, and
gives the same shape, clipped by the caller. Lengths in pixels are those published for S = 224. Frost lays a texture
over the image that is drawn here, where ImageNet-C has five photographs.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from glora.data.shifts.filters import Floats, clipped_zoom, convolve, disk, gaussian, motion_blur, plasma, sample

__all__ = ["CORRUPTIONS", "Corruption"]

Corruption = Callable[[Floats, int, np.random.Generator], Floats]


def _gaussian_noise(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    return x + draw.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[severity], size=x.shape)


def _shot_noise(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    photons = (60, 25, 12, 5, 3)[severity]
    return draw.poisson(x * photons) / photons


def _impulse_noise(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    struck = draw.random(x.shape) <= (0.03, 0.06, 0.09, 0.17, 0.27)[severity]
    return np.where(struck, draw.random(x.shape) <= 0.5, x)


def _defocus_blur(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    return convolve(x, disk(*((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity]))


def _glass_blur(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity]
    side = len(x)
    pixels = np.floor(gaussian(x, sigma) * 255).reshape(-1, 3)
    # As the published code acts: each pixel, one after another, becomes what a neighbour is by then.
    source = list(range(side * side))
    places = range(side - reach, reach, -1)
    for _ in range(rounds):
        steps = draw.integers(-reach, reach, (len(places), len(places), 2)).tolist()
        for row, line in zip(places, steps, strict=True):
            for column, (right, down) in zip(places, line, strict=True):
                source[row * side + column] = source[(row + down) * side + column + right]
    return gaussian(pixels[source].reshape(x.shape) / 255, sigma)


def _motion_blur(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity]
    return motion_blur(x, radius, sigma, draw.uniform(-45, 45))


def _zoom_blur(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity]
    factors = np.arange(1, end, step).tolist()
    return (x + sum(clipped_zoom(x, factor) for factor in factors)) / (len(factors) + 1)


def _snow(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    mean, deviation, zoom, floor, radius, sigma, keep = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity]
    flakes = clipped_zoom(draw.normal(mean, deviation, (*x.shape[:2], 1)), zoom)
    flakes = np.floor(np.where(flakes < floor, 0, flakes).clip(0, 1) * 255) / 255
    flakes = motion_blur(flakes, int(radius), sigma, draw.uniform(-135, -45))
    grey = x @ np.array([[0.299], [0.587], [0.114]])
    pale = keep * x + (1 - keep) * np.maximum(x, grey * 1.5 + 0.5)
    return np.asarray(pale + flakes + np.rot90(flakes, 2))


def _frost(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    keep, ice = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity]
    side = _power_of_two(len(x))
    ridges = [1 - abs(2 * plasma(side, decay, draw)[: len(x), : len(x)] - 1) for decay in (1.6, 2.0)]
    crystals = np.maximum(ridges[0] ** 4, 0.8 * ridges[1] ** 8)
    return np.asarray(keep * x + ice * crystals[:, :, None] * np.array([0.82, 0.92, 1.0]))


def _fog(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    thickness, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity]
    brightest = x.max()
    haze = plasma(_power_of_two(len(x)), decay, draw)[: len(x), : len(x), None]
    return np.asarray((x + thickness * haze) * brightest / (brightest + thickness))


def _brightness(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    value = x.max(2, keepdims=True)  # V of HSV, in proportion to which all channels grow
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity]).clip(0, 1)
    return np.asarray(np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised))


def _contrast(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    mean = x.mean((0, 1), keepdims=True)
    return np.asarray((x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity] + mean)


def _elastic_transform(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    # 244 stands in the published code, too
    strength, sigma, shift = (
        244 * factor
        for factor in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))[
            severity
        ]
    )
    side = len(x)
    centre, reach = side // 2, side // 3
    before = np.array([[centre + reach, centre + reach], [centre + reach, centre - reach], [centre - reach] * 2], float)
    after = before + draw.uniform(-shift, shift, before.shape)
    rows, columns = np.meshgrid(np.arange(side, dtype=float), np.arange(side, dtype=float), indexing="ij")
    # An affine map from places (x, y, 1) after to those before.
    back = np.linalg.solve(np.column_stack([after, np.ones(3)]), before)
    there = np.stack([columns, rows, np.ones_like(rows)], -1) @ back
    moved = sample(x, there[..., 1], there[..., 0], twice=False)
    right, down = (
        gaussian(draw.uniform(-1, 1, (side, side)), sigma, truncate=3, mirror=True) * strength for _ in range(2)
    )
    return sample(moved, rows + down, columns + right, twice=True)


def _pixelate(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    small = max(1, int(len(x) * (0.6, 0.5, 0.4, 0.3, 0.25)[severity]))
    image = Image.fromarray(np.rint(x * 255).astype(np.uint8))
    box = Image.Resampling.BOX
    return np.asarray(image.resize((small, small), box).resize(image.size, box)) / 255


def _jpeg_compression(x: Floats, severity: int, draw: np.random.Generator) -> Floats:
    file = io.BytesIO()
    Image.fromarray(np.rint(x * 255).astype(np.uint8)).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[severity])
    with Image.open(file) as image:
        return np.asarray(image) / 255


def _power_of_two(count: int) -> int:
    """The least one that is not below ``count``, and 256 at least, as published."""
    return max(256, 1 << (count - 1).bit_length())


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
"""By the name of ImageNet-C."""

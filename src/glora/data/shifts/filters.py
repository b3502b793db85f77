"""What corruptions are made of: blurs, zooms, resampling and fractal heights, in float64."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "clipped_zoom", "convolve", "disk", "gaussian", "motion_blur", "plasma", "reflected", "sample"]

Floats = NDArray[np.float64]


def reflected(index: NDArray[np.int64], count: int, *, twice: bool) -> NDArray[np.int64]:
    """Places in [0, count) of places beyond: mirrored at the border, whose pixel is seen ``twice`` or once."""
    if count == 1:
        return np.zeros_like(index)
    if twice:
        folded = index % (2 * count)
        return np.minimum(folded, 2 * count - 1 - folded)
    folded = index % (2 * count - 2)
    return np.minimum(folded, 2 * count - 2 - folded)


def gaussian(image: Floats, sigma: float, *, truncate: float = 4.0, mirror: bool = False) -> Floats:
    """Gaussian blur of (H, W) or (H, W, C), the kernel cut at ``truncate`` deviations.

    Args:
        image: to blur.
        sigma: deviation in pixels.
        truncate: reach of the kernel in deviations.
        mirror: continue the image by its mirror image, rather than by its border pixels.
    """
    rows, columns = (_blur_matrix(count, sigma, truncate, mirror) for count in image.shape[:2])
    return np.asarray(np.einsum("ij,jk...,lk->il...", rows, image, columns, optimize=True))


def _blur_matrix(count: int, sigma: float, truncate: float, mirror: bool) -> Floats:
    """What blurs a line of pixels, (count, count)."""
    reach = int(truncate * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    places = np.arange(count)[:, None] + offsets
    places = reflected(places, count, twice=True) if mirror else places.clip(0, count - 1)
    matrix = np.zeros((count, count))
    np.add.at(matrix, (np.arange(count)[:, None], places), kernel / kernel.sum())
    return matrix


def convolve(image: Floats, kernel: Floats) -> Floats:
    """Correlation of (H, W, C) with a kernel of odd sides, mirrored at the border."""
    high, wide = (side // 2 for side in kernel.shape)
    rows = reflected(np.arange(-high, image.shape[0] + high), image.shape[0], twice=False)
    columns = reflected(np.arange(-wide, image.shape[1] + wide), image.shape[1], twice=False)
    padded = image[rows][:, columns]
    out = np.zeros_like(image)
    for row, column in zip(*np.nonzero(kernel), strict=True):
        out += kernel[row, column] * padded[row : row + image.shape[0], column : column + image.shape[1]]
    return out


def disk(radius: int, alias_blur: float) -> Floats:
    """Kernel of a lens out of focus: a disk, its edge blurred by a Gaussian of 3 x 3 taps, or 5 x 5 above radius 8."""
    half = max(8, radius)
    line = np.arange(-half, half + 1)
    inside = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float64)
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    edge = np.exp(-0.5 * (taps / alias_blur) ** 2)
    edge /= edge.sum()
    return convolve((inside / inside.sum())[:, :, None], np.outer(edge, edge))[:, :, 0]


def motion_blur(image: Floats, radius: int, sigma: float, angle: float) -> Floats:
    """ImageMagick's motion blur of (H, W, C): half a Gaussian along a line, continued by the border pixels.

    Args:
        image: to blur.
        radius: the kernel has 2 radius + 1 taps.
        sigma: deviation of the Gaussian in taps.
        angle: of the line, in degrees.
    """
    taps = np.arange(2 * radius + 1)
    kernel = np.exp(-0.5 * (taps / sigma) ** 2)
    kernel /= kernel.sum()
    down, right = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    rows, columns = np.arange(image.shape[0]), np.arange(image.shape[1])
    out = np.zeros_like(image)
    for tap, weight in zip(taps.tolist(), kernel.tolist(), strict=True):
        across = (columns + math.ceil(tap * right - 0.5)).clip(0, image.shape[1] - 1)
        along = (rows + math.ceil(tap * down - 0.5)).clip(0, image.shape[0] - 1)
        out += weight * image[along][:, across]
    return out


def sample(image: Floats, rows: Floats, columns: Floats, *, twice: bool) -> Floats:
    """Bilinear values of (H, W, C) at places (H', W'), mirrored at the border, see :func:`reflected`."""
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    low, near = (rows - top)[..., None], (columns - left)[..., None]

    def at(row: NDArray[np.int64], column: NDArray[np.int64]) -> Floats:
        return np.asarray(
            image[reflected(row, image.shape[0], twice=twice), reflected(column, image.shape[1], twice=twice)]
        )

    upper = at(top, left) * (1 - near) + at(top, left + 1) * near
    lower = at(top + 1, left) * (1 - near) + at(top + 1, left + 1) * near
    return upper * (1 - low) + lower * low


def clipped_zoom(image: Floats, factor: float) -> Floats:
    """The centre of a square image (S, S, C), enlarged bilinearly by ``factor``, corners on corners."""
    side = len(image)
    inner = math.ceil(side / factor)
    first = (side - inner) // 2
    crop = image[first : first + inner, first : first + inner]
    whole = round(inner * factor)
    line = np.linspace(0, inner - 1, whole)
    rows, columns = np.meshgrid(line, line, indexing="ij")
    trim = (whole - side) // 2
    return sample(crop, rows, columns, twice=True)[trim : trim + side, trim : trim + side]


def plasma(side: int, decay: float, generator: np.random.Generator) -> Floats:
    """Fractal heights (side, side) from 0 to 1, side a power of two, by the diamond-square algorithm on a torus.

    Args:
        side: of the map.
        decay: what the roughness is divided by from one scale to the next.
        generator: of the roughness.
    """
    heights = np.zeros((side, side))
    step, rough = side, 100.0

    def mean(total: Floats) -> Floats:
        return total / 4 + rough * generator.uniform(-rough, rough, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = mean(pairs + np.roll(pairs, -1, 1))
        centres = heights[half::step, half::step]
        heights[::step, half::step] = mean(centres + np.roll(centres, 1, 0) + corners + np.roll(corners, -1, 1))
        heights[half::step, ::step] = mean(centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 0))
        step, rough = half, rough / decay
    heights -= heights.min()
    return np.asarray(heights / heights.max())

"""dSprites, drawn anew from its published factors: a white shape on black, 64 x 64 pixels."""

from __future__ import annotations

from functools import lru_cache
from math import cos, pi, sin
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from glora.data.made.draws import Draw, Floats, Pixels
from glora.data.made.sets import SPLITS, MadeSet

__all__ = ["SHAPES", "SIZES", "DspritesSet", "Factors", "draw_sprite", "factors", "grid_order"]

SIDE = 64
SHAPES = ("square", "ellipse", "heart")
SIZES = (3, 6, 40, 32, 32)
"""Values of each factor: shape, scale, orientation, x, y; their product is 737,280."""

# Farthest point of every shape from its centre at scale 1, in pixels: less than the 16 that are left at the edge.
_REACH = 15.5
# The heart (x^2 + y^2 - 1)^3 = x^2 y^3 has its centroid at this height above 0, and its farthest point this far off it.
_HEART_CENTRE = 0.2935
_HEART_REACH = 1.2935
_EDGE = 1e-9


class Factors(NamedTuple):
    """One point of the grid, each factor counted from 0."""

    shape: int
    scale: int
    orientation: int
    x: int
    y: int


def factors(number: int) -> Factors:
    """Factors of a point of the grid, which are numbered as in the published files: y runs fastest."""
    return Factors(*(int(value) for value in np.unravel_index(number, SIZES)))


def draw_sprite(point: Factors) -> Pixels:
    """The picture of one point of the grid.

    Scales are linspace(0.5, 1, 6), orientations linspace(0, 2 pi, 40) with both ends, as published, so that the first
    and the last look the same; the centre moves by one pixel in x and in y, and no shape touches the edge.

    Returns:
        uint8 (64, 64), 0 or 255.
    """
    scale = 0.5 + 0.1 * point.scale
    angle = 2 * pi * point.orientation / (SIZES[2] - 1)
    across = np.arange(SIDE) - (point.x + 16.0)
    down = np.arange(SIDE) - (point.y + 16.0)
    right, up = across[None, :] / (_REACH * scale), -down[:, None] / (_REACH * scale)
    # the tolerance decides alike on every machine where an edge runs through the middle of a pixel
    u = cos(angle) * right + sin(angle) * up
    v = cos(angle) * up - sin(angle) * right
    inside = _inside(SHAPES[point.shape], u, v)
    return np.where(inside, np.uint8(255), np.uint8(0))


def _inside(shape: str, u: Floats, v: Floats) -> NDArray[np.bool_]:
    """Whether points lie in a shape whose farthest point is at distance 1."""
    if shape == "square":
        return np.asarray(np.maximum(np.abs(u), np.abs(v)) <= 0.5**0.5 + _EDGE)
    if shape == "ellipse":
        return np.asarray(u * u + 4 * v * v <= 1 + _EDGE)
    x, y = _HEART_REACH * u, _HEART_REACH * v + _HEART_CENTRE
    ball = x * x + y * y - 1
    return np.asarray(ball * ball * ball <= x * x * y * y * y + _EDGE)


@lru_cache(maxsize=4)
def grid_order(seed: int, name: str) -> NDArray[np.int64]:
    """The points of the grid in random order, int64 (737280,)."""
    return Draw(seed, name, "grid").permutation(int(np.prod(SIZES)))


@final
class DspritesSet(MadeSet):
    """VTAB's tasks on dSprites; no point of the grid is taken twice.

    Args:
        name: of the data set.
        factor: what the label is: "x" or "orientation".
    """

    def __init__(self, name: str, factor: str) -> None:
        self.name = name
        self._factor = factor
        self._count = SIZES[Factors._fields.index(factor)]
        bins = [[value for value in range(self._count) if self._bin(value) == label] for label in range(16)]
        if factor == "x":
            self.classes = tuple(f"x {values[0]} to {values[-1]}" for values in bins)
            self.label = "x position of the shape's centre: 32 values from left to right, two to a class"
        else:
            self.classes = tuple(f"orientation {values[0]} to {values[-1]}" for values in bins)
            self.label = (
                "orientation of the shape: 40 values over a full turn anticlockwise, value k in class floor(k / 2.5)"
            )
        self.most = int(np.prod(SIZES)) - sum(SPLITS.values())

    def sample(self, seed: int, split: str, index: int) -> tuple[Pixels, int]:
        """One image, uint8 (64, 64), and its label."""
        start = {"train800": 0, "val200": SPLITS["train800"], "test": sum(SPLITS.values())}[split]
        point = factors(int(grid_order(seed, self.name)[start + index]))
        return draw_sprite(point), self._bin(getattr(point, self._factor))

    def _bin(self, value: int) -> int:
        return value * 16 // self._count

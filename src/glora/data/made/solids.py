"""Convex solids that rays can be cast at: ellipsoids, boxes and cylinders, all affine images of unit shapes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import cos, hypot, sin, sqrt
from typing import final

import numpy as np

from glora.data.made.draws import Floats

__all__ = ["Box", "Cylinder", "Ellipsoid", "Solid", "rotation"]

_TINY = 1e-12


def rotation(z: float = 0.0, y: float = 0.0, x: float = 0.0) -> Floats:
    """A turn about x, then y, then z, by angles in radians, anticlockwise seen from the axis' tip; float64 (3, 3)."""
    about_x = np.array([[1, 0, 0], [0, cos(x), -sin(x)], [0, sin(x), cos(x)]])
    about_y = np.array([[cos(y), 0, sin(y)], [0, 1, 0], [-sin(y), 0, cos(y)]])
    about_z = np.array([[cos(z), -sin(z), 0], [sin(z), cos(z), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, dtype=np.float64)


class Solid(ABC):
    """A convex solid somewhere in space.

    Args:
        centre: (3,).
        half: its half lengths along its own axes, (3,).
        turn: from its own axes to those of space, a rotation (3, 3); none if not given.
    """

    def __init__(
        self, centre: Sequence[float] | Floats, half: Sequence[float] | Floats, turn: Floats | None = None
    ) -> None:
        self.centre = np.asarray(centre, dtype=np.float64)
        self.half = np.asarray(half, dtype=np.float64)
        self.turn = np.eye(3) if turn is None else turn
        self._to_unit = self.turn.T / self.half[:, None]

    def span(self, origins: Floats, directions: Floats) -> tuple[Floats, Floats]:
        """Where rays enter and leave.

        Args:
            origins: (3,) or (3, N).
            directions: of any length, (3, N).

        Returns:
            Multiples of the directions (N,) and (N,); the first is greater than the second where a ray misses.
        """
        offset = origins - (self.centre if origins.ndim == 1 else self.centre[:, None])
        start = self._to_unit @ offset
        return self._unit_span(start if start.ndim == 2 else start[:, None], self._to_unit @ directions)

    def normals(self, points: Floats) -> Floats:
        """Unit normals (3, N), outwards, at points (3, N) of the surface."""
        found = self._to_unit.T @ self._unit_normals(self._to_unit @ (points - self.centre[:, None]))
        return np.asarray(found / np.sqrt((found * found).sum(0)), dtype=np.float64)

    def corners(self) -> Floats:
        """The corners of the box about it, (3, 8)."""
        signs = np.array([[i, j, k] for i in (-1.0, 1.0) for j in (-1.0, 1.0) for k in (-1.0, 1.0)]).T
        return np.asarray(self.turn @ (signs * self.half[:, None]) + self.centre[:, None], dtype=np.float64)

    @property
    @abstractmethod
    def radius(self) -> float:
        """Of the smallest sphere about its centre that holds it."""

    @abstractmethod
    def _unit_span(self, start: Floats, along: Floats) -> tuple[Floats, Floats]:
        """``span`` for the unit shape."""

    @abstractmethod
    def _unit_normals(self, points: Floats) -> Floats:
        """Normals of the unit shape, of any length."""


@final
class Ellipsoid(Solid):
    """The unit shape is the unit sphere."""

    @property
    def radius(self) -> float:
        """The longest half axis."""
        return float(self.half.max())

    def _unit_span(self, start: Floats, along: Floats) -> tuple[Floats, Floats]:
        return _round_span((along * along).sum(0), (start * along).sum(0), (start * start).sum(0) - 1)

    def _unit_normals(self, points: Floats) -> Floats:
        return points


@final
class Box(Solid):
    """The unit shape is the cube from -1 to 1."""

    @property
    def radius(self) -> float:
        """Half the diagonal."""
        return sqrt(float((self.half**2).sum()))

    def _unit_span(self, start: Floats, along: Floats) -> tuple[Floats, Floats]:
        near, far = _slab_span(start, along)
        return near.max(0), far.min(0)

    def _unit_normals(self, points: Floats) -> Floats:
        largest = np.abs(points).argmax(0)
        return np.where(np.arange(3)[:, None] == largest, np.sign(points), 0.0)


@final
class Cylinder(Solid):
    """The unit shape stands on its z axis: radius 1, z from -1 to 1."""

    @property
    def radius(self) -> float:
        """From the centre to the rim."""
        return hypot(float(self.half[:2].max()), float(self.half[2]))

    def _unit_span(self, start: Floats, along: Floats) -> tuple[Floats, Floats]:
        squares, products, offsets = along[:2] ** 2, start[:2] * along[:2], start[:2] ** 2
        enter, leave = _round_span(squares.sum(0), products.sum(0), offsets.sum(0) - 1)
        near, far = _slab_span(start[2], along[2])
        return np.maximum(enter, near), np.minimum(leave, far)

    def _unit_normals(self, points: Floats) -> Floats:
        side = (points[:2] ** 2).sum(0) >= points[2] ** 2
        return np.where(np.array([[1], [1], [0]]) == side, points, 0.0)


def _round_span(square: Floats, product: Floats, offset: Floats) -> tuple[Floats, Floats]:
    """Between the roots of ``square t^2 + 2 product t + offset``; from inf to -inf where there are none."""
    square = np.maximum(square, _TINY**2)
    inner = product * product - square * offset
    root = np.sqrt(np.maximum(inner, 0.0))
    hit = inner >= 0
    return np.where(hit, (-product - root) / square, np.inf), np.where(hit, (root - product) / square, -np.inf)


def _slab_span(start: Floats, along: Floats) -> tuple[Floats, Floats]:
    """Where a coordinate lies between -1 and 1."""
    along = np.where(np.abs(along) < _TINY, _TINY, along)
    one, other = (-1 - start) / along, (1 - start) / along
    return np.minimum(one, other), np.maximum(one, other)

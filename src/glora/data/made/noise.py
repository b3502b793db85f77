"""Random fields over the plane: smooth noise, sums of its octaves, and cells about scattered points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from glora.data.made.draws import Draw, Floats

__all__ = ["Cells", "Noise", "cells", "smooth_step"]

_PERIOD = 64


def smooth_step(low: float, high: float, values: Floats) -> Floats:
    """0 up to ``low``, 1 from ``high`` on, a smooth step between them."""
    share = np.clip((values - low) / (high - low), 0.0, 1.0)
    return np.asarray(share * share * (3 - 2 * share))


@final
class Noise:
    """Smooth noise of wave length about 1, by slopes on a lattice; it repeats after 64.

    Args:
        draw: what decides the slopes.
    """

    def __init__(self, draw: Draw) -> None:
        self._slopes = 2 * draw.uniforms(2, _PERIOD, _PERIOD) - 1

    def __call__(self, u: Floats, v: Floats) -> Floats:
        """Values of mean 0 and deviation about a third, mostly within [-1, 1], at points."""
        i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        x, y = u - i, v - j
        rows = [self._corner(i, j + dj, x, y - dj, self._fade(x), i + 1) for dj in (0, 1)]
        return 1.6 * (rows[0] + self._fade(y) * (rows[1] - rows[0]))

    def octaves(self, u: Floats, v: Floats, count: int, gain: float) -> Floats:
        """A sum of noise at 1, 2, 4, ... times the frequency, each ``gain`` times as strong as the one before."""
        total = np.zeros_like(u)
        weight, power = 1.0, 0.0
        for octave in range(count):
            # shifted, for else all octaves are 0 at the same points
            total += weight * self(u * 2.0**octave + 17.31 * octave, v * 2.0**octave + 5.87 * octave)
            power += weight * weight
            weight *= gain
        return np.asarray(total / power**0.5)

    def _corner(
        self, i: NDArray[np.int64], j: NDArray[np.int64], x: Floats, y: Floats, share: Floats, right: NDArray[np.int64]
    ) -> Floats:
        left_u, left_v = self._slopes[:, i % _PERIOD, j % _PERIOD]
        right_u, right_v = self._slopes[:, right % _PERIOD, j % _PERIOD]
        left = left_u * x + left_v * y
        return np.asarray(left + share * (right_u * (x - 1) + right_v * y - left))

    @staticmethod
    def _fade(share: Floats) -> Floats:
        return np.asarray(share * share * share * (share * (share * 6 - 15) + 10))


@dataclass(frozen=True)
class Cells:
    """Cells of a plane about one scattered point each.

    Args:
        first: distance to the nearest point.
        second: distance to the second nearest.
        tint: a number in [0, 1) for each cell.
        u, v: from the nearest point.
    """

    first: Floats
    second: Floats
    tint: Floats
    u: Floats
    v: Floats


def cells(draw: Draw, u: Floats, v: Floats, scatter: float) -> Cells:
    """Voronoi's cells, one to a unit square on average.

    Args:
        draw: what decides the points.
        u: where, an array.
        v: where, an array of the same shape.
        scatter: 0 for points on a lattice, 1 for anywhere in their squares.
    """
    shifts = 0.5 + scatter * (draw.uniforms(2, _PERIOD, _PERIOD) - 0.5)
    tints = draw.uniforms(_PERIOD, _PERIOD)
    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    first, second = np.full(u.shape, np.inf), np.full(u.shape, np.inf)
    tint, near_u, near_v = np.zeros(u.shape), np.zeros(u.shape), np.zeros(u.shape)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            a, b = (i + row) % _PERIOD, (j + column) % _PERIOD
            away_u = u - (i + row + shifts[0, a, b])
            away_v = v - (j + column + shifts[1, a, b])
            apart = away_u * away_u + away_v * away_v
            nearer = apart < first
            second = np.where(nearer, first, np.minimum(second, apart))
            first = np.where(nearer, apart, first)
            tint = np.where(nearer, tints[a, b], tint)
            near_u, near_v = np.where(nearer, away_u, near_u), np.where(nearer, away_v, near_v)
    return Cells(np.sqrt(first), np.sqrt(second), tint, near_u, near_v)

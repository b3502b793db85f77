"""A pinhole camera, and which solid each of its pixels sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import radians, tan
from typing import final

import numpy as np
from numpy.typing import NDArray

from glora.data.made.draws import Floats
from glora.data.made.solids import Solid

__all__ = ["Camera", "View", "trace"]


@final
class Camera:
    """A square picture in perspective, upright: the z axis of space points up in it.

    Args:
        position: (3,), not straight above or below the target.
        target: what the middle of the picture shows, (3,).
        degrees: angle of view from edge to edge.

    Attributes:
        position: as given.
        axes: rows to the right, up and forward, a rotation (3, 3).
    """

    def __init__(self, position: Sequence[float] | Floats, target: Sequence[float] | Floats, degrees: float) -> None:
        self.position = np.asarray(position, dtype=np.float64)
        forward = np.asarray(target, dtype=np.float64) - self.position
        right = np.cross(forward, np.array([0.0, 0.0, 1.0]))
        up = np.cross(right, forward)
        self.axes: Floats = np.stack([axis / np.sqrt((axis * axis).sum()) for axis in (right, up, forward)])
        self._half = tan(radians(degrees) / 2)

    def directions(self, pixels: int) -> Floats:
        """Rays through the middles of the pixels, row by row from the top, (3, pixels, pixels).

        Their part along the axis of the camera is 1, so that multiples of them are depths.
        """
        steps = self._half * ((2 * np.arange(pixels) + 1) / pixels - 1)
        right, up, forward = self.axes[:, :, None, None]
        return np.asarray(forward + right * steps[None, :] - up * steps[:, None], dtype=np.float64)

    def project(self, points: Floats) -> Floats:
        """Where points (3, N) are seen: to the right, down (both from -1 to 1 in the picture) and depth, (3, N)."""
        right, up, depth = self.axes @ (points - self.position[:, None])
        return np.stack([right / (depth * self._half), -up / (depth * self._half), depth])

    def window(self, solid: Solid, pixels: int) -> tuple[slice, slice]:
        """Rows and columns of the pixels that may see a solid, which is in front of the camera."""
        x, y, depth = (float(value) for value in self.axes @ (solid.centre - self.position))
        near, far = depth - solid.radius, depth + solid.radius
        if near <= 0:
            return slice(0, pixels), slice(0, pixels)
        found = []
        for middle in (-y, x):
            low, high = middle - solid.radius, middle + solid.radius
            first = low / (self._half * (near if low < 0 else far))
            last = high / (self._half * (far if high < 0 else near))
            edges = np.clip([(first + 1) * pixels / 2 - 1, (last + 1) * pixels / 2 + 1], 0, pixels)
            found.append(slice(int(edges[0]), int(edges[1])))
        return found[0], found[1]


@dataclass(frozen=True)
class View:
    """What the pixels see.

    Args:
        owner: number of the solid, -1 for none, int64 (H, W).
        depth: along the axis of the camera, inf for none, float64 (H, W).
        rays: directions, whose multiples by the depth lead to what is seen, float64 (3, H, W).
    """

    owner: NDArray[np.int64]
    depth: Floats
    rays: Floats


def trace(camera: Camera, solids: Sequence[Solid], pixels: int) -> View:
    """Find the nearest solid in front of each pixel of a picture with ``pixels`` rows and columns."""
    rays = camera.directions(pixels)
    owner = np.full((pixels, pixels), -1, dtype=np.int64)
    depth = np.full((pixels, pixels), np.inf)
    for number, solid in enumerate(solids):
        window = camera.window(solid, pixels)
        part = rays[:, window[0], window[1]]
        enter, leave = (side.reshape(part.shape[1:]) for side in solid.span(camera.position, part.reshape(3, -1)))
        seen = (enter <= leave) & (enter > 0) & (enter < depth[window])
        depth[window] = np.where(seen, enter, depth[window])
        owner[window] = np.where(seen, number, owner[window])
    return View(owner, depth, rays)

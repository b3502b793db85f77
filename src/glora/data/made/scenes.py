"""Scenes in the manner of CLEVR: spheres, cubes and cylinders on a plane, to be counted or measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin, sqrt
from typing import final

import numpy as np

from glora.data.made.camera import Camera, View
from glora.data.made.draws import Draw, Floats, Pixels, balanced_label
from glora.data.made.sets import MadeSet
from glora.data.made.shading import Ground, Light, Surface, render, to_pixels
from glora.data.made.solids import Box, Cylinder, Ellipsoid, Solid, rotation

__all__ = ["COUNTS", "DISTANCE_EDGES", "Scene", "SceneCountSet", "SceneDistanceSet", "draw_scene", "nearest"]

SIDE = 96
COUNTS = range(3, 11)

DISTANCE_EDGES = (8.55, 8.9, 9.25, 9.6, 10.0)
"""Between the classes of ``scene_distance``: the sextiles of 20,000 scenes (8.56, 8.92, 9.26, 9.60, 10.00), rounded."""

_RADII = (0.35, 0.5, 0.7)
_COLOURS = {
    "grey": (0.16, 0.16, 0.16),
    "red": (0.55, 0.03, 0.03),
    "blue": (0.03, 0.09, 0.62),
    "green": (0.02, 0.30, 0.03),
    "brown": (0.22, 0.09, 0.02),
    "purple": (0.30, 0.05, 0.42),
    "cyan": (0.03, 0.45, 0.50),
    "yellow": (0.75, 0.58, 0.04),
}
# Objects stand in a square of this half side about a place at most so far from the middle along each axis (else the
# nearest of ten is nearly always as far); this far apart; each shows at least so many samples, four to a pixel.
_FIELD = 2.6
_OFFSET = 1.2
_GAP = 0.2
_VISIBLE = 96
_TRIES = 40


@dataclass(frozen=True)
class Scene:
    """Everything that is in a picture."""

    camera: Camera
    light: Light
    ground: Ground
    solids: tuple[Solid, ...]
    surfaces: tuple[Surface, ...]


def draw_scene(draw: Draw, count: int) -> tuple[Scene, Floats, View]:
    """Draw a scene of ``count`` objects, all inside the picture and none hidden by others.

    Returns:
        The scene, its picture in linear brightness, float64 (96, 96, 3), and who is seen where.
    """
    while True:
        scene = _place(draw, count)
        if scene is not None:
            picture, view = render(scene.camera, scene.solids, scene.surfaces, scene.light, scene.ground, SIDE)
            if np.bincount(view.owner.ravel() + 1, minlength=count + 1)[1:].min() >= _VISIBLE:
                return scene, picture, view


def nearest(scene: Scene) -> float:
    """Distance from the camera to the centre of the nearest object; objects are about 0.7, 1 or 1.4 wide."""
    apart = np.stack([solid.centre for solid in scene.solids]) - scene.camera.position
    return float(np.sqrt((apart * apart).sum(1)).min())


def _place(draw: Draw, count: int) -> Scene | None:
    """A scene, or None if an object found no place."""
    camera = _draw_camera(draw)
    middle = (draw.uniform(-_OFFSET, _OFFSET), draw.uniform(-_OFFSET, _OFFSET))
    solids: list[Solid] = []
    for _ in range(count):
        for _ in range(_TRIES):
            solid = _draw_solid(draw, middle)
            if _in_picture(camera, solid) and all(_apart(solid, other) for other in solids):
                solids.append(solid)
                break
        else:
            return None
    surfaces = tuple(_draw_surface(draw) for _ in solids)
    tone = draw.uniform(0.28, 0.38)
    ground = Ground((tone, tone, tone), (0.55, 0.56, 0.58), fade=14.0)
    return Scene(camera, _draw_light(draw, camera), ground, tuple(solids), surfaces)


def _draw_camera(draw: Draw) -> Camera:
    jitter = [draw.uniform(-0.25, 0.25) for _ in range(3)]
    position = np.array([0.0, -9.2, 6.2]) + jitter
    return Camera(position, (0.0, 0.0, 0.2), 43.0)


def _draw_solid(draw: Draw, middle: tuple[float, float]) -> Solid:
    radius = draw.choice(_RADII)
    x, y = (place + draw.uniform(-_FIELD, _FIELD) for place in middle)
    turn = rotation(draw.uniform(0.0, 2 * pi))
    make: Callable[..., Solid] = draw.choice((Ellipsoid, Box, Cylinder))
    half = radius / sqrt(2) * 1.15 if make is Box else radius * 0.9 if make is Cylinder else radius
    return make((x, y, half), (half, half, half), turn)


def _draw_surface(draw: Draw) -> Surface:
    colour = _COLOURS[draw.choice(tuple(_COLOURS))]
    tint = tuple(channel * draw.uniform(0.85, 1.15) for channel in colour)
    if draw.uniform() < 0.5:
        return Surface((tint[0], tint[1], tint[2]), gloss=0.05, sharpness=3)
    return Surface((tint[0], tint[1], tint[2]), gloss=0.8, sharpness=5, mirror=0.45)


def _draw_light(draw: Draw, camera: Camera) -> Light:
    """From the left or the right of the camera and behind it, so that fronts are lit and shadows seen."""
    around = draw.choice((-1.0, 1.0)) * draw.uniform(0.5, 1.3)
    height = draw.uniform(0.75, 1.1)
    back = -camera.axes[2, :2] / np.sqrt((camera.axes[2, :2] ** 2).sum())
    turned = np.array([cos(around) * back[0] - sin(around) * back[1], sin(around) * back[0] + cos(around) * back[1]])
    direction = np.array([*(cos(height) * turned), sin(height)])
    return Light(direction, draw.uniform(1.0, 1.25), draw.uniform(0.45, 0.6))


def _in_picture(camera: Camera, solid: Solid) -> bool:
    seen = camera.project(solid.corners())
    return bool(np.abs(seen[:2]).max() < 0.98)


def _apart(solid: Solid, other: Solid) -> bool:
    """Whether the circles about two objects on the ground leave a gap."""
    apart = solid.centre[:2] - other.centre[:2]
    return float((apart * apart).sum()) > (_footprint(solid) + _footprint(other) + _GAP) ** 2


def _footprint(solid: Solid) -> float:
    return float(solid.half[0]) * (sqrt(2) if isinstance(solid, Box) else 1.0)


@final
class SceneCountSet(MadeSet):
    """How many objects there are."""

    name = "scene_count"
    classes = tuple(f"{count} objects" for count in COUNTS)
    label = "number of objects on the ground, 3 to 10, each of them visible"

    def sample(self, seed: int, split: str, index: int) -> tuple[Pixels, int]:
        """One image, uint8 (96, 96, 3), and its label."""
        label = balanced_label(seed, self.name, split, index, len(COUNTS))
        _, picture, _ = draw_scene(Draw(seed, self.name, split, index), COUNTS[label])
        return to_pixels(picture), label


@final
class SceneDistanceSet(MadeSet):
    """How far the nearest object is."""

    name = "scene_distance"
    classes = (
        f"below {DISTANCE_EDGES[0]:g}",
        *(f"{low:g} to {high:g}" for low, high in pairwise(DISTANCE_EDGES)),
        f"{DISTANCE_EDGES[-1]:g} and more",
    )
    label = "distance from the camera to the centre of the nearest of 3 to 10 objects about 0.7, 1 or 1.4 wide, in bins"

    def sample(self, seed: int, split: str, index: int) -> tuple[Pixels, int]:
        """One image, uint8 (96, 96, 3), and its label."""
        draw = Draw(seed, self.name, split, index)
        scene, picture, _ = draw_scene(draw, draw.choice(COUNTS))
        return to_pixels(picture), int(np.searchsorted(DISTANCE_EDGES, nearest(scene), side="right"))

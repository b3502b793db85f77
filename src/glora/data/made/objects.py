"""One grey toy in the manner of smallNORB, seen from a known side and height."""

from __future__ import annotations

from math import cos, pi, radians, sin
from typing import final

import numpy as np

from glora.data.made.camera import Camera
from glora.data.made.draws import Draw, Floats, Pixels, balanced_label
from glora.data.made.figures import FAMILIES, Toy
from glora.data.made.sets import MadeSet
from glora.data.made.shading import Ground, Light, Surface, render, to_pixels

__all__ = ["AZIMUTHS", "ELEVATIONS", "ObjectAzimuthSet", "ObjectElevationSet", "draw_object", "place_camera"]

SIDE = 96
AZIMUTHS = range(0, 360, 20)
ELEVATIONS = range(30, 75, 5)

_VIEW = 30.0
# The toy fits a sphere of radius 1 about the middle of the picture, which touches the edge at this distance.
_NEAR = 1 / sin(radians(_VIEW / 2))


def draw_object(draw: Draw, azimuth: float, elevation: float) -> Floats:
    """A picture of a toy of any family, with proportions and light of its own.

    Args:
        draw: what decides the rest.
        azimuth: degrees by which the camera stands to the left of the toy's own front; 0 sees its face.
        elevation: degrees by which the camera stands above the ground.

    Returns:
        Linear brightness, float64 (96, 96, 3), grey.
    """
    toy = draw.choice(FAMILIES)(draw).normalised()
    camera = place_camera(toy, azimuth, elevation, draw.uniform(1.02, 1.2))
    tone, gloss = draw.uniform(0.3, 0.5), draw.uniform(0.05, 0.35)
    surfaces = [Surface((tone * part,) * 3, gloss, sharpness=4) for part in toy.tones]
    back = draw.uniform(0.25, 0.6)
    picture, _ = render(camera, toy.solids, surfaces, _draw_light(draw), Ground((back,) * 3, (back,) * 3), SIDE)
    return picture


def place_camera(toy: Toy, azimuth: float, elevation: float, far: float) -> Camera:
    """A camera as in ``draw_object``, ``far`` times as far off as it must be to see all of the toy."""
    around, above = radians(azimuth), radians(elevation)
    toward = np.array([cos(above) * cos(around), cos(above) * sin(around), sin(above)])
    return Camera(toy.middle + _NEAR * far * toward, toy.middle, _VIEW)


def _draw_light(draw: Draw) -> Light:
    """From any side, so that shading alone does not tell where the camera stands."""
    around, height = draw.uniform(0.0, 2 * pi), draw.uniform(0.7, 1.3)
    direction = np.array([cos(height) * cos(around), cos(height) * sin(around), sin(height)])
    return Light(direction, draw.uniform(0.7, 1.1), draw.uniform(0.35, 0.6))


def _grey(picture: Floats) -> Pixels:
    return to_pixels(picture[:, :, 0])


@final
class ObjectAzimuthSet(MadeSet):
    """From which side the toy is seen."""

    name = "object_azimuth"
    classes = tuple(f"{degrees} degrees" for degrees in AZIMUTHS)
    label = "azimuth of the camera about the toy, in steps of 20 degrees anticlockwise seen from above; 0 sees its face"

    def sample(self, seed: int, split: str, index: int) -> tuple[Pixels, int]:
        """One image, uint8 (96, 96), and its label."""
        label = balanced_label(seed, self.name, split, index, len(AZIMUTHS))
        draw = Draw(seed, self.name, split, index)
        return _grey(draw_object(draw, AZIMUTHS[label], draw.choice(ELEVATIONS))), label


@final
class ObjectElevationSet(MadeSet):
    """From what height the toy is seen."""

    name = "object_elevation"
    classes = tuple(f"{degrees} degrees" for degrees in ELEVATIONS)
    label = "elevation of the camera above the ground, 30 to 70 degrees in steps of 5"

    def sample(self, seed: int, split: str, index: int) -> tuple[Pixels, int]:
        """One image, uint8 (96, 96), and its label."""
        label = balanced_label(seed, self.name, split, index, len(ELEVATIONS))
        draw = Draw(seed, self.name, split, index)
        return _grey(draw_object(draw, draw.choice(AZIMUTHS), ELEVATIONS[label])), label

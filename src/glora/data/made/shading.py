"""Colours of what a camera sees: Lambert's law, highlights, shadows, reflections of the sky."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glora.data.made.camera import Camera, View, trace
from glora.data.made.draws import Floats, Pixels
from glora.data.made.solids import Solid

__all__ = ["Ground", "Light", "Surface", "render", "to_pixels"]

# Samples of a pixel along each of its sides.
_FINE = 2


@dataclass(frozen=True)
class Surface:
    """How a solid looks.

    Args:
        colour: share of the light that it scatters, red, green and blue.
        gloss: strength of its highlight.
        sharpness: the highlight falls off with the power 2^sharpness of a cosine.
        mirror: share of its colour that it reflects from the surroundings instead.
    """

    colour: tuple[float, float, float]
    gloss: float = 0.1
    sharpness: int = 3
    mirror: float = 0.0


@dataclass(frozen=True)
class Light:
    """A far light, and what comes from all sides.

    Args:
        direction: towards it, a unit vector (3,).
        strength: of the light.
        ambient: strength of what comes from above; half of it comes from the sides, none from below.
    """

    direction: Floats
    strength: float
    ambient: float


@dataclass(frozen=True)
class Ground:
    """The plane z = 0.

    Args:
        colour: share of the light that it scatters.
        sky: what shows above the horizon, and what the ground fades to.
        fade: distance from the middle at which it has faded by half.
    """

    colour: tuple[float, float, float]
    sky: tuple[float, float, float]
    fade: float = float("inf")


def render(
    camera: Camera, solids: Sequence[Solid], surfaces: Sequence[Surface], light: Light, ground: Ground, pixels: int
) -> tuple[Floats, View]:
    """A picture of solids on the ground.

    Args:
        camera: above the ground.
        solids: above the ground.
        surfaces: one for each solid.
        light: above the ground.
        ground: they stand on.
        pixels: along each side of the picture.

    Returns:
        Brightness by linear measure, float64 (pixels, pixels, 3), and the view at twice as many pixels that it comes
        from.
    """
    view = trace(camera, solids, _FINE * pixels)
    rays, owner = view.rays.reshape(3, -1), view.owner.ravel()
    depth = np.where(owner < 0, camera.position[2] / np.maximum(-rays[2], 1e-6), view.depth.ravel())
    points = camera.position[:, None] + rays * depth
    lit = ~_shaded(points, owner, light.direction, solids)
    colours = _ground_colours(points, lit, light, ground)
    sky = np.flatnonzero((owner < 0) & (rays[2] > -1e-6))
    colours[:, sky] = np.array(ground.sky)[:, None]
    for number, (solid, surface) in enumerate(zip(solids, surfaces, strict=True)):
        mine = np.flatnonzero(owner == number)
        if len(mine):
            normals = solid.normals(points[:, mine])
            colours[:, mine] = _surface_colours(normals, rays[:, mine], surface, lit[mine], light, ground)
    fine = colours.reshape(3, pixels, _FINE, pixels, _FINE)
    return np.moveaxis(fine.mean((2, 4)), 0, 2), view


def to_pixels(brightness: Floats) -> Pixels:
    """Linear brightness, 1 for white, as uint8 of the same shape, by a square root for the eye's law."""
    return np.asarray(np.rint(255 * np.sqrt(np.clip(brightness, 0.0, 1.0))), dtype=np.uint8)


def _ground_colours(points: Floats, lit: NDArray[np.bool_], light: Light, ground: Ground) -> Floats:
    bright = light.ambient + light.strength * light.direction[2] * lit
    share = 1 / (1 + (points[:2] ** 2).sum(0) / ground.fade**2)
    own, sky = np.array(ground.colour)[:, None], np.array(ground.sky)[:, None]
    return np.asarray(share * bright * own + (1 - share) * sky)


def _surface_colours(
    normals: Floats, rays: Floats, surface: Surface, lit: NDArray[np.bool_], light: Light, ground: Ground
) -> Floats:
    toward = -rays / np.sqrt((rays * rays).sum(0))
    facing = np.maximum((normals * light.direction[:, None]).sum(0), 0.0)
    colour = np.array(surface.colour)[:, None]
    diffuse = light.ambient * (0.5 + 0.5 * normals[2]) + light.strength * facing * lit
    between = toward + light.direction[:, None]
    shine = (normals * between).sum(0) / np.sqrt((between * between).sum(0))
    shine = np.maximum(shine, 0.0) * (facing > 0)
    for _ in range(surface.sharpness):
        shine = shine * shine
    bright = (1 - surface.mirror) * diffuse * colour + surface.gloss * light.strength * shine * lit
    if surface.mirror:
        upward = 2 * (normals * toward).sum(0) * normals[2] - toward[2]
        # what it mirrors: dark below, the sky above, and a soft step between them
        share = np.clip(0.5 + 1.5 * upward, 0.15, 1.0)
        bright = bright + surface.mirror * colour * share * np.array(ground.sky)[:, None]
    return np.asarray(bright, dtype=np.float64)


def _shaded(points: Floats, owner: NDArray[np.int64], direction: Floats, solids: Sequence[Solid]) -> NDArray[np.bool_]:
    """Whether a solid stands between points (3, N) and a far light; convex, it does not shade what is its own."""
    found = np.zeros(points.shape[1], dtype=np.bool_)
    level = direction @ points
    squares = (points * points).sum(0)
    for number, solid in enumerate(solids):
        centre = solid.centre
        along = float(direction @ centre) - level
        apart = squares - 2 * (centre @ points) + float(centre @ centre) - along * along
        near = np.flatnonzero((apart < solid.radius**2 + 1e-6) & (along > -solid.radius) & (owner != number) & ~found)
        if len(near):
            enter, leave = solid.span(points[:, near], direction[:, None])
            found[near] = (enter < leave) & (leave > 1e-6)
    return found

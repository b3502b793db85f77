"""Scenes: what is said of them, found again by hulls, flood fill and distances."""

from __future__ import annotations

from math import dist, radians, tan

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull

from glora.data.made import MADE
from glora.data.made.draws import Draw
from glora.data.made.scenes import COUNTS, DISTANCE_EDGES, Scene, draw_scene, nearest
from glora.data.made.shading import to_pixels
from glora.data.made.solids import Box, Cylinder, Ellipsoid

FINE = 192


def outline(scene: Scene, number: int) -> np.ndarray:
    """Hull of a solid's picture in pixels of a picture 192 wide, from points on its surface, (N, 2)."""
    solid = scene.solids[number]
    if isinstance(solid, Box):
        points = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
    elif isinstance(solid, Cylinder):
        turn = np.linspace(0, 2 * np.pi, 180)
        points = np.concatenate([np.column_stack([np.cos(turn), np.sin(turn), np.full(180, z)]) for z in (-1, 1)])
    else:
        assert isinstance(solid, Ellipsoid)
        points = np.random.default_rng(0).normal(size=(8000, 3))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    points = (points * solid.half) @ solid.turn.T + solid.centre
    forward = np.array([0, 0, 0.2]) - scene.camera.position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    away = points - scene.camera.position
    seen = np.column_stack([away @ right, -away @ np.cross(right, forward)]) / (away @ forward)[:, None]
    seen = (seen / tan(radians(21.5)) + 1) * FINE / 2
    return seen[ConvexHull(seen).vertices]


def painted(scene: Scene) -> np.ndarray:
    """Number of the solid seen by each pixel, 0 for none, painted from the farthest to the nearest."""
    picture = Image.new("L", (FINE, FINE))
    eye = scene.camera.position
    order = sorted(range(len(scene.solids)), key=lambda i: -dist(scene.solids[i].centre[:2], eye[:2]))
    for number in order:
        ImageDraw.Draw(picture).polygon([(x - 0.5, y - 0.5) for x, y in outline(scene, number)], fill=number + 1)
    return np.asarray(picture)


@pytest.mark.parametrize("index", range(12))
def test_objects_counted_on_a_mask_painted_from_hulls(index: int) -> None:
    made = MADE["scene_count"]
    image, label = made.sample(5, "test", index)
    scene, picture, view = draw_scene(Draw(5, "scene_count", "test", index), COUNTS[label])
    assert np.array_equal(image, to_pixels(picture))
    areas = np.bincount(painted(scene).ravel(), minlength=11)[1:]
    assert (areas > 60).sum() == label + 3 == len(scene.solids)
    traced = np.bincount(view.owner.ravel() + 1, minlength=11)[1:]
    # the painter's outlines are a pixel wide
    assert (np.abs(areas - traced) < 12 + 0.15 * traced + 4 * np.sqrt(traced)).all()
    assert traced[: label + 3].min() >= 96


def test_objects_of_a_few_clear_pictures_counted_by_flood_fill() -> None:
    """Coloured blobs on the grey ground, in scenes whose coloured objects do not touch in the picture."""
    seen = 0
    for index in range(120):
        count = 3 + index % 3
        scene, picture, view = draw_scene(Draw(9, "clear", index), count)
        coloured = [max(surface.colour) > 1.8 * min(surface.colour) for surface in scene.surfaces]
        apart = ndimage.label(ndimage.binary_dilation(view.owner >= 0, iterations=5))[1] == count
        if not (apart and all(coloured)):
            continue
        channels = to_pixels(picture).astype(int)
        blobs, _ = ndimage.label(channels.max(2) - channels.min(2) > 40, structure=np.ones((3, 3)))
        assert (np.bincount(blobs.ravel())[1:] >= 10).sum() == count
        seen += 1
    assert seen >= 8


def test_objects_stand_on_the_ground_apart_and_in_the_picture() -> None:
    for index in range(40):
        scene, _, view = draw_scene(Draw(2, "apart", index), 3 + index % 8)
        assert len(scene.solids) == len(scene.surfaces) == 3 + index % 8
        rims = []
        for solid in scene.solids:
            points = solid.corners() if isinstance(solid, Box) else None
            half = solid.half[0] if points is None else np.linalg.norm(points[:2, 0] - solid.centre[:2])
            rims.append(half)
            assert solid.centre[2] == pytest.approx(solid.half[2])
        for i, one in enumerate(scene.solids):
            for j, other in enumerate(scene.solids[:i]):
                assert dist(one.centre[:2], other.centre[:2]) > rims[i] + rims[j] + 0.19
        edge = np.concatenate([view.owner[0], view.owner[-1], view.owner[:, 0], view.owner[:, -1]])
        assert (edge == -1).all()


def test_distances() -> None:
    made = MADE["scene_distance"]
    for index in range(25):
        image, label = made.sample(4, "val200", index)
        draw = Draw(4, "scene_distance", "val200", index)
        scene, picture, _ = draw_scene(draw, COUNTS[draw.whole(8)])
        assert np.array_equal(image, to_pixels(picture))
        shortest = min(dist(solid.centre, scene.camera.position) for solid in scene.solids)
        assert nearest(scene) == pytest.approx(shortest)
        assert label == sum(shortest >= edge for edge in DISTANCE_EDGES)
    assert made.classes == ("below 8.55", "8.55 to 8.9", "8.9 to 9.25", "9.25 to 9.6", "9.6 to 10", "10 and more")


def test_bins_of_distance_are_about_as_full() -> None:
    labels = [MADE["scene_distance"].sample(0, "train800", index)[1] for index in range(360)]
    shares = np.bincount(labels, minlength=6) / len(labels)
    # four standard errors
    assert np.abs(shares - 1 / 6).max() < 0.08


def test_scenes_vary() -> None:
    scenes = [draw_scene(Draw(1, "vary", index), 6)[0] for index in range(30)]
    solids = [solid for scene in scenes for solid in scene.solids]
    surfaces = [surface for scene in scenes for surface in scene.surfaces]
    assert {type(solid) for solid in solids} == {Box, Cylinder, Ellipsoid}
    assert len({round(float(solid.half[0]), 6) for solid in solids}) == 9
    assert {surface.mirror > 0 for surface in surfaces} == {False, True}
    positions = np.array([scene.camera.position for scene in scenes])
    assert (positions.std(0) > 0.08).all()
    assert (positions.std(0) < 0.25).all()

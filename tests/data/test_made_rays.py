"""The ray caster against closed forms, triangles and hulls."""

from __future__ import annotations

from math import pi, radians, sin, sqrt, tan

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from glora.data.made.camera import Camera, trace
from glora.data.made.shading import Ground, Light, Surface, render, to_pixels
from glora.data.made.solids import Box, Cylinder, Ellipsoid, Solid, rotation

PIXELS = 48
CAMERA = Camera((3.0, -7.0, 4.0), (0.2, 0.1, 0.6), 40.0)
TURN = rotation(0.7, -0.4, 1.1)


def rays() -> np.ndarray:
    """Directions of the camera's pixels by textbook vectors, (N, 3), of depth 1."""
    forward = np.array([0.2, 0.1, 0.6]) - CAMERA.position
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right = right / np.linalg.norm(right)
    up = np.cross(right, forward)
    half = tan(radians(20))
    return np.array(
        [
            forward + half * (2 * (column + 0.5) / PIXELS - 1) * right + half * (1 - 2 * (row + 0.5) / PIXELS) * up
            for row in range(PIXELS)
            for column in range(PIXELS)
        ]
    )


def triangles_depth(corners: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Depth of the nearest of some triangles on each ray by Möller and Trumbore, inf for none."""
    found = np.full(PIXELS**2, np.inf)
    directions = rays()
    for a, b, c in corners[faces]:
        edge, other = b - a, c - a
        across = np.cross(directions, other)
        scale = across @ edge
        away = CAMERA.position - a
        u = across @ away / scale
        turned = np.cross(away, edge)
        v = directions @ turned / scale
        depth = other @ turned / scale
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (depth > 0)
        found = np.where(hit, np.minimum(found, depth), found)
    return found


def hull_depth(points: np.ndarray) -> np.ndarray:
    return triangles_depth(points, ConvexHull(points).simplices)


def seen(solid: Solid) -> np.ndarray:
    return trace(CAMERA, [solid], PIXELS).depth.ravel()


def same_depth(found: np.ndarray, wanted: np.ndarray, tolerance: float, rim: float) -> None:
    """Equal where both are finite, and elsewhere but for a share of the silhouette."""
    both = np.isfinite(found) & np.isfinite(wanted)
    assert both.sum() > 100
    np.testing.assert_allclose(found[both], wanted[both], atol=tolerance)
    assert (np.isfinite(found) != np.isfinite(wanted)).sum() <= rim * both.sum()


def test_camera() -> None:
    np.testing.assert_allclose(CAMERA.directions(PIXELS).reshape(3, -1).T, rays(), atol=1e-12)
    np.testing.assert_allclose(CAMERA.axes @ CAMERA.axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(CAMERA.axes) == pytest.approx(-1)  # right, up, forward: left-handed
    for row, column in ((0, 0), (5, 40), (47, 47)):
        point = CAMERA.position + 6.5 * rays()[row * PIXELS + column]
        x, y, depth = CAMERA.project(point[:, None])[:, 0]
        assert ((x + 1) * PIXELS / 2, (y + 1) * PIXELS / 2, depth) == pytest.approx((column + 0.5, row + 0.5, 6.5))


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (1.2, 0.5, 0.3), (-2.0, 1.0, 2.0)])
def test_sphere_by_its_closed_form(centre: tuple[float, float, float]) -> None:
    radius = 0.9
    found = seen(Ellipsoid(centre, (radius,) * 3, TURN))
    for depth, ray in zip(found, rays(), strict=True):
        length = sqrt(ray @ ray)
        along = (np.array(centre) - CAMERA.position) @ ray / length
        apart = np.array(centre) - CAMERA.position - along * ray / length
        inner = radius**2 - apart @ apart
        if abs(inner) > 1e-9:
            assert np.isfinite(depth) == (inner > 0)
            if inner > 0:
                assert depth == pytest.approx((along - sqrt(inner)) / length, abs=1e-9)


def test_silhouette_of_a_sphere_is_as_large_as_its_angle() -> None:
    camera = Camera((0.0, -5.0, 0.0), (0.0, 0.0, 0.0), 60.0)
    view = trace(camera, [Ellipsoid((0, 0, 0), (1, 1, 1))], 400)
    steps = (2 * np.arange(400) + 1) / 400 - 1
    angle_squared = (steps[:, None] ** 2 + steps[None, :] ** 2) * tan(radians(30)) ** 2
    assert np.array_equal(view.owner == 0, angle_squared <= (1 / 5) ** 2 / (1 - (1 / 5) ** 2))
    assert view.depth.min() == pytest.approx(4, abs=1e-3)


def test_ellipsoid_by_its_quadric() -> None:
    half = np.array([1.2, 0.5, 0.8])
    centre = np.array([0.3, -0.2, 0.5])
    quadric = TURN @ np.diag(1 / half**2) @ TURN.T
    start, found = CAMERA.position - centre, seen(Ellipsoid(centre, half, TURN))
    for depth, ray in zip(found, rays(), strict=True):
        roots = np.roots([ray @ quadric @ ray, 2 * start @ quadric @ ray, start @ quadric @ start - 1])
        if np.isfinite(depth):
            assert np.isreal(roots).all()
            assert depth == pytest.approx(roots.real.min(), abs=1e-8)
        else:
            assert not np.isreal(roots).all()


def test_box_by_its_triangles() -> None:
    half, centre = np.array([0.9, 0.6, 0.4]), np.array([0.2, 0.3, 0.7])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    same_depth(seen(Box(centre, half, TURN)), hull_depth((signs * half) @ TURN.T + centre), 1e-9, 0.0)


def test_cylinder_by_many_triangles() -> None:
    half, centre = np.array([0.7, 0.7, 0.9]), np.array([0.1, 0.2, 0.8])
    angles = np.arange(720) * pi / 360
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    points = np.concatenate([np.column_stack([ring, np.full(720, z)]) for z in (-1.0, 1.0)])
    same_depth(seen(Cylinder(centre, half, TURN)), hull_depth((points * half) @ TURN.T + centre), 1e-3, 0.01)


def test_rays_along_the_sides_of_a_box_and_a_cylinder() -> None:
    straight = Camera((0.0, -4.0, 0.0), (0.0, 0.0, 0.0), 60.0)
    middle = trace(straight, [Box((0, 0, 0), (0.5, 1, 0.5)), Cylinder((0, 1, 0), (1, 1, 1))], 31)
    assert middle.owner[15, 15] == 0
    assert middle.depth[15, 15] == pytest.approx(3)
    down = np.array([[0.0], [0.0], [-1.0]])
    for solid in (Box((0, 0, 0), (0.5, 1, 0.5)), Cylinder((0, 0, 0), (1, 1, 0.5))):
        enter, leave = solid.span(np.array([0.2, 0.1, 3.0]), down)
        assert (enter[0], leave[0]) == pytest.approx((2.5, 3.5))
        enter, leave = solid.span(np.array([2.0, 0.1, 3.0]), down)
        assert enter[0] > leave[0]


@pytest.mark.parametrize("kind", [Ellipsoid, Box, Cylinder])
def test_normals_stand_on_the_surface(kind: type[Solid]) -> None:
    solid = kind((0.2, 0.1, 0.6), (0.9, 0.7, 0.5), TURN)
    view = trace(CAMERA, [solid], PIXELS)
    rows, columns = np.nonzero((view.owner == 0)[:-1, :-1] & (view.owner == 0)[1:, :-1] & (view.owner == 0)[:-1, 1:])
    points = CAMERA.position[:, None, None] + view.rays * np.where(view.owner == 0, view.depth, 1)
    here = points[:, rows, columns]
    normals = solid.normals(here)
    np.testing.assert_allclose((normals**2).sum(0), 1)
    assert (((here - solid.centre[:, None]) * normals).sum(0) > 0).all()
    steps = [points[:, rows + 1, columns] - here, points[:, rows, columns + 1] - here]
    slopes = [np.abs((step * normals).sum(0)) / np.sqrt((step**2).sum(0)) for step in steps]
    # curved surfaces bend within a pixel, and a box and a cylinder have edges
    assert np.median(np.maximum(*slopes)) < (1e-9 if kind is Box else 0.12)


def test_normals_of_an_upright_cylinder_are_those_of_its_side_or_its_cap() -> None:
    angles = np.linspace(0, 6, 50)
    heights = np.linspace(-0.49, 0.49, 50)
    solid = Cylinder((1, 2, 3), (2, 2, 0.5))
    side = np.stack([1 + 2 * np.cos(angles), 2 + 2 * np.sin(angles), 3 + heights])
    expected = np.stack([np.cos(angles), np.sin(angles), 0 * angles])
    np.testing.assert_allclose(solid.normals(side), expected, atol=1e-12)
    cap = np.stack([1 + 1.99 * np.cos(angles), 2 + 1.99 * np.sin(angles), np.full(50, 2.5)])
    np.testing.assert_allclose(solid.normals(cap), np.array([[0], [0], [-1]]) * np.ones(50), atol=1e-12)


def test_nearest_solid_is_seen_whatever_the_order() -> None:
    solids = [
        Box((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        Ellipsoid((1.0, -1.5, 0.6), (0.6, 0.6, 0.6)),
        Cylinder((-1, 1, 1), (1, 1, 1)),
    ]
    view, turned = trace(CAMERA, solids, PIXELS), trace(CAMERA, solids[::-1], PIXELS)
    wanted = np.stack([seen(solid) for solid in solids])
    owner = np.where(np.isfinite(wanted).any(0), wanted.argmin(0), -1)
    assert np.array_equal(view.owner.ravel(), owner)
    assert np.array_equal(np.where(turned.owner < 0, -1, 2 - turned.owner), view.owner)
    assert {-1, 0, 1, 2} == set(owner)


@pytest.mark.parametrize("far", [0.5, 3.0, 30.0])
def test_windows_hold_all_that_is_seen(far: float) -> None:
    """A camera that looks past a solid sees the same with and without the window about it."""
    for kind in (Ellipsoid, Box, Cylinder):
        solid = kind((far, 0.4 * far, 0.3 * far), (0.3 * far, 0.1 * far, 0.2 * far), TURN)
        camera = Camera((0.0, 0.0, 0.0), (1.0, 0.1, 0.1), 70.0)
        enter, leave = solid.span(camera.position, camera.directions(PIXELS).reshape(3, -1))
        assert np.array_equal(trace(camera, [solid], PIXELS).owner.ravel() == 0, (enter <= leave) & (enter > 0))
        assert (enter <= leave).sum() > 20


# Light


TOWARD = np.array([0.48, -0.36, 0.8])


def test_lambert_on_a_sphere() -> None:
    light, ground = Light(TOWARD, 0.9, 0.2), Ground((0.5, 0.5, 0.5), (0, 0, 0))
    solid, surface = Ellipsoid((0, 0, 1), (1, 1, 1)), Surface((0.8, 0.4, 0.2), gloss=0.0)
    picture, view = render(CAMERA, [solid], [surface], light, ground, PIXELS)
    whole = (view.owner == 0).reshape(PIXELS, 2, PIXELS, 2).all((1, 3))
    for row, column in np.argwhere(whole)[::7]:
        expected = 0.0
        for i in (2 * row, 2 * row + 1):
            for j in (2 * column, 2 * column + 1):
                point = CAMERA.position + view.rays[:, i, j] * view.depth[i, j]
                normal = point - [0, 0, 1]
                expected += (0.2 * (1 + normal[2]) / 2 + 0.9 * max(float(normal @ TOWARD), 0.0)) / 4
        np.testing.assert_allclose(picture[row, column], np.array([0.8, 0.4, 0.2]) * expected, atol=1e-9)


def test_shadow_of_a_sphere_on_the_ground() -> None:
    light, ground = Light(TOWARD, 1.0, 0.0), Ground((0.5, 0.5, 0.5), (0, 0, 0))
    picture, view = render(CAMERA, [Ellipsoid((0, 0, 1), (1, 1, 1))], [Surface((1, 1, 1))], light, ground, PIXELS)
    dark = lit = 0
    for row in range(PIXELS):
        for column in range(PIXELS):
            block = np.s_[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            if (view.owner[block] >= 0).any():
                continue
            rays = view.rays[:, block[0], block[1]].reshape(3, 4).T
            spots = [CAMERA.position - ray * CAMERA.position[2] / ray[2] for ray in rays]
            apart = [np.linalg.norm(np.cross(np.array([0, 0, 1]) - spot, TOWARD)) for spot in spots]
            shade = sum(distance < 1 for distance in apart)
            assert picture[row, column, 0] == pytest.approx(0.5 * 0.8 * (4 - shade) / 4)
            dark, lit = dark + (shade == 4), lit + (shade == 0)
    assert dark > 15
    assert lit > 500


def test_a_solid_shades_another_but_not_itself() -> None:
    light, ground = Light(np.array([0.0, 0.0, 1.0]), 1.0, 0.0), Ground((0.5,) * 3, (0, 0, 0))
    table = Box((0, 0, 0.5), (1, 1, 0.5))
    alone, view = render(CAMERA, [table], [Surface((1, 1, 1), gloss=0.0)], light, ground, PIXELS)
    points = CAMERA.position[:, None, None] + view.rays * np.where(view.owner == 0, view.depth, 0)
    top = ((np.abs(points[2] - 1) < 1e-9) & (view.owner == 0)).reshape(PIXELS, 2, PIXELS, 2).all((1, 3))
    np.testing.assert_allclose(alone[top], 1)
    roof = Box((0, 0, 4), (2, 2, 0.1))
    both, _ = render(CAMERA, [table, roof], [Surface((1, 1, 1), gloss=0.0)] * 2, light, ground, PIXELS)
    hidden = trace(CAMERA, [table, roof], 2 * PIXELS).owner.reshape(PIXELS, 2, PIXELS, 2).max((1, 3)) == 1
    np.testing.assert_allclose(both[top & ~hidden], 0)
    assert (top & ~hidden).sum() > 20


def test_highlights_by_the_angle_between_normal_and_halfway() -> None:
    light, ground = Light(TOWARD, 0.7, 0.0), Ground((0.0,) * 3, (0, 0, 0))
    solid, surface = Ellipsoid((0, 0, 2), (1, 1, 1)), Surface((0, 0, 0), gloss=0.9, sharpness=4)
    picture, view = render(CAMERA, [solid], [surface], light, ground, PIXELS)
    whole = (view.owner == 0).reshape(PIXELS, 2, PIXELS, 2).all((1, 3))
    for row, column in np.argwhere(whole)[::3]:
        expected = 0.0
        for i in (2 * row, 2 * row + 1):
            for j in (2 * column, 2 * column + 1):
                normal = CAMERA.position + view.rays[:, i, j] * view.depth[i, j] - [0, 0, 2]
                toward = -view.rays[:, i, j] / np.linalg.norm(view.rays[:, i, j])
                halfway = (toward + TOWARD) / np.linalg.norm(toward + TOWARD)
                if normal @ TOWARD > 0:
                    expected += 0.9 * 0.7 * max(float(normal @ halfway), 0.0) ** 16 / 4
        assert picture[row, column, 0] == pytest.approx(expected, abs=1e-9)
    assert picture.max() > 0.5


def test_ground_fades_to_the_sky_and_ends_at_the_horizon() -> None:
    camera = Camera((0.0, -5.0, 1.0), (0.0, 0.0, 1.0), 60.0)
    picture, _ = render(
        camera, [], [], Light(np.array([0, 0, 1.0]), 1.0, 0.5), Ground((0.4,) * 3, (0.9, 0.8, 0.7), 10.0), 64
    )
    np.testing.assert_allclose(picture[:32], np.broadcast_to([0.9, 0.8, 0.7], (32, 64, 3)))
    down = (2 * np.arange(40, 64) + 1 - 64) / 64 * tan(radians(30))
    faded = ((1 / down - 5) ** 2) / 10.0**2
    wanted = (0.4 * 1.5 + 0.9 * faded) / (1 + faded)
    np.testing.assert_allclose(picture[40:, 31:33, 0].mean(1), wanted, atol=5e-3)


def test_brightness_to_pixels() -> None:
    assert to_pixels(np.array([-1.0, 0.0, 0.25, 1.0, 7.0])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("angles", "start", "end"), [((pi / 2, 0, 0), 0, 1), ((0, pi / 2, 0), 2, 0), ((0, 0, pi / 2), 1, 2)]
)
def test_rotations_turn_one_axis_into_the_next(angles: tuple[float, float, float], start: int, end: int) -> None:
    np.testing.assert_allclose(rotation(*angles) @ np.eye(3)[start], np.eye(3)[end], atol=1e-12)
    assert sin(pi / 6) == pytest.approx(rotation(z=pi / 6)[1, 0])

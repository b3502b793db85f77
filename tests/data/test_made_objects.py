"""Toys: where the camera stands, that nothing is cut off, and that no side looks like another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import cos, radians, sin

import numpy as np
import pytest

from glora.data.made import MADE
from glora.data.made.camera import trace
from glora.data.made.draws import Draw
from glora.data.made.figures import FAMILIES, Toy
from glora.data.made.objects import AZIMUTHS, ELEVATIONS, draw_object, place_camera
from glora.data.made.shading import to_pixels
from glora.data.made.solids import Box, rotation

family = pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)


def toys(make: Callable[[Draw], Toy], count: int) -> list[Toy]:
    return [make(Draw(make.__name__, index)).normalised() for index in range(count)]


@family
def test_toys_stand_on_the_ground_and_fit_a_sphere(make: Callable[[Draw], Toy]) -> None:
    for toy in toys(make, 12):
        corners = np.concatenate([solid.corners() for solid in toy.solids], axis=1)
        assert corners[2].min() == pytest.approx(0, abs=1e-12)
        away = corners - toy.middle[:, None]
        assert np.sqrt((away**2).sum(0)).max() == pytest.approx(1)
        assert len(toy.solids) == len(toy.tones)


def test_pairs_are_mirror_images() -> None:
    toy = Toy()
    toy.pair(Box, (0.3, 0.5, 0.7), (0.1, 0.2, 0.3), rotation(0.4, 0.9, -0.3), tone=0.5)
    left, right = (
        solid.corners() * scale for solid, scale in zip(toy.solids, (1, np.array([[1], [-1], [1]])), strict=True)
    )
    assert {tuple(corner) for corner in left.T.round(9)} == {tuple(corner) for corner in right.T.round(9)}
    assert toy.tones == [0.5, 0.5]
    for solid in toy.solids:
        assert np.linalg.det(solid.turn) == pytest.approx(1)


@family
def test_nothing_is_cut_off(make: Callable[[Draw], Toy]) -> None:
    for index, toy in enumerate(toys(make, 9)):
        view = trace(place_camera(toy, 40.0 * index, 30.0 + 5 * index, 1.02), toy.solids, 48)
        edge = np.concatenate([view.owner[0], view.owner[-1], view.owner[:, 0], view.owner[:, -1]])
        assert (edge == -1).all()
        assert (view.owner >= 0).mean() > 0.05


@pytest.mark.parametrize("elevation", [30, 55, 70])
@pytest.mark.parametrize("azimuth", [0, 20, 90, 160, 180, 270, 340])
def test_where_front_and_top_are_seen(azimuth: int, elevation: int) -> None:
    """By hand: from the left (90) the front lies to the left, from behind (180) it points away, so up."""
    toy = toys(FAMILIES[0], 1)[0]
    camera = place_camera(toy, azimuth, elevation, 1.1)
    steps = np.array([[1.0, 0, 0], [0, 0, 1.0]]).T * 1e-6
    front, top = (camera.project(toy.middle[:, None] + steps)[:2] - camera.project(toy.middle[:, None])[:2]).T / 1e-6
    turned, raised = radians(azimuth), radians(elevation)
    size = top[1] / -cos(raised)
    assert size > 0
    np.testing.assert_allclose(front / size, [-sin(turned), cos(turned) * sin(raised)], atol=1e-4)
    np.testing.assert_allclose(top / size, [0, -cos(raised)], atol=1e-4)


@family
def test_front_and_back_differ(make: Callable[[Draw], Toy]) -> None:
    """Also as outlines, and mirrored: no side is the picture of another, so there is no symmetry about an axis."""
    for toy in toys(make, 4):
        masks = [trace(place_camera(toy, azimuth, 40, 1.1), toy.solids, 48).owner >= 0 for azimuth in AZIMUTHS]
        size = np.mean([mask.sum() for mask in masks])
        for i, mask in enumerate(masks):
            for j, other in enumerate(masks):
                if i != j:
                    assert (mask != other).sum() > 0.04 * size, (i, j)


@family
def test_tones_and_outlines_tell_the_sides_apart(make: Callable[[Draw], Toy], monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything else the same, each azimuth is far more like itself in another light than like any other."""
    monkeypatch.setattr("glora.data.made.objects.FAMILIES", (make,))
    pictures = np.array([draw_object(Draw(3), azimuth, 45)[::2, ::2, 0] for azimuth in AZIMUTHS])
    apart = np.abs(pictures[:, None] - pictures[None]).mean((2, 3)) + np.eye(18)
    assert apart.min() > 0.01


def test_families_and_light_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def noted(make: Callable[[Draw], Toy]) -> Callable[[Draw], Toy]:
        return lambda draw: (made.append(make.__name__), make(draw))[1]

    monkeypatch.setattr("glora.data.made.objects.FAMILIES", tuple(map(noted, FAMILIES)))
    images = [MADE["object_azimuth"].sample(0, "test", index)[0] for index in range(60)]
    assert min(Counter(made).values()) >= 5
    assert len(Counter(made)) == 5
    assert len({int(image[0, 0]) for image in images}) > 25


@pytest.mark.parametrize(("name", "degrees"), [("object_azimuth", AZIMUTHS), ("object_elevation", ELEVATIONS)])
def test_labels_are_degrees(name: str, degrees: range) -> None:
    made = MADE[name]
    assert made.classes == tuple(f"{number} degrees" for number in degrees)
    assert (len(AZIMUTHS), AZIMUTHS[-1], len(ELEVATIONS), ELEVATIONS[0], ELEVATIONS[-1]) == (18, 340, 9, 30, 70)
    for index in range(10):
        image, label = made.sample(2, "val200", index)
        draw = Draw(2, name, "val200", index)
        if name == "object_azimuth":
            again = draw_object(draw, 20 * label, ELEVATIONS[draw.whole(9)])
        else:
            again = draw_object(draw, AZIMUTHS[draw.whole(18)], 30 + 5 * label)
        assert np.array_equal(image, to_pixels(again[:, :, 0]))
        assert image.shape == (96, 96)

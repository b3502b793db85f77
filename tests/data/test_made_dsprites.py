"""dSprites drawn anew: factors read back from the pixels alone."""

from __future__ import annotations

from math import atan2, pi

import numpy as np
import pytest

from glora.data.made import MADE
from glora.data.made.dsprites import SHAPES, SIZES, Factors, draw_sprite, factors, grid_order

STEP = 2 * pi / 39
POINTS = [factors(int(number)) for number in np.random.default_rng(0).integers(0, 737_280, 400)]


def offsets(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """White pixels from their centroid, y upwards."""
    rows, columns = np.nonzero(image)
    return columns - columns.mean(), rows.mean() - rows


def angle(shape: str, image: np.ndarray) -> float:
    """By how much a sprite is turned, up to its symmetry, from the moments of its pixels."""
    x, y = offsets(image)
    if shape == "square":  # its fourth moment points at its corners
        return float(np.angle(((x + 1j * y) ** 4).mean())) / 4 - pi / 4
    across = atan2(2 * (x * y).mean(), (x * x - y * y).mean()) / 2
    if shape == "ellipse":
        return across
    # a heart is a little wider than high, and its third moment points between its lobes
    upward = ((x * x + y * y) * (x * -np.sin(across) + y * np.cos(across))).mean() > 0
    return across if upward else across + pi


def test_numbers_and_factors() -> None:
    assert np.prod(SIZES) == 737_280
    for number in (0, 1, 31, 32, 1024, 40 * 1024, 6 * 40 * 1024, 737_279, 123_456):
        shape, scale, turn, x, y = factors(number)
        assert (((shape * 6 + scale) * 40 + turn) * 32 + x) * 32 + y == number
    assert factors(737_279) == (2, 5, 39, 31, 31)


def test_binary_and_whole_in_the_picture() -> None:
    for shape in range(3):
        for turn in range(40):
            for x, y in ((0, 0), (31, 31)):
                image = draw_sprite(Factors(shape, 5, turn, x, y))
                assert image.shape == (64, 64)
                assert image.dtype == np.uint8
                assert set(np.unique(image)) == {0, 255}
                assert not np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).any()


def test_the_centroid_tells_the_position() -> None:
    for point in POINTS:
        rows, columns = np.nonzero(draw_sprite(point))
        assert abs(columns.mean() - 16 - point.x) < 0.4
        assert abs(rows.mean() - 16 - point.y) < 0.4


def test_positions_move_the_same_picture() -> None:
    first = draw_sprite(Factors(2, 3, 7, 4, 9))
    assert np.array_equal(draw_sprite(Factors(2, 3, 7, 24, 16)), np.roll(first, (7, 20), (0, 1)))


@pytest.mark.parametrize("shape", range(3))
def test_the_area_tells_the_scale(shape: int) -> None:
    areas = [np.mean([(draw_sprite(Factors(shape, s, t, 3, 3)) > 0).sum() for t in range(39)]) for s in range(6)]
    np.testing.assert_allclose(np.sqrt(np.array(areas) / areas[-1]), np.linspace(0.5, 1, 6), atol=0.01)


@pytest.mark.parametrize(("shape", "period"), [(0, pi / 2), (1, pi), (2, 2 * pi)])
@pytest.mark.parametrize("scale", [0, 2, 5])
def test_moments_tell_the_orientation(shape: int, period: float, scale: int) -> None:
    for turn in range(40):
        found = angle(SHAPES[shape], draw_sprite(Factors(shape, scale, turn, 11, 20)))
        error = (found - turn * STEP + period / 2) % period - period / 2
        assert abs(error) < ({0: 0.35, 2: 0.2, 5: 0.12} if shape == 2 else {0: 0.12, 2: 0.06, 5: 0.06})[scale]


def test_a_heart_stands_on_its_tip_at_first() -> None:
    rows = [row for row in draw_sprite(Factors(2, 5, 0, 10, 10)) > 0 if row.any()]
    runs = [int(np.diff(row.astype(int)).clip(0).sum()) for row in rows]
    assert runs[1] == 2
    assert set(runs[8:]) == {1}
    assert rows[-1].sum() < 5 < rows[8].sum()


def test_the_last_orientation_is_a_full_turn() -> None:
    for shape in range(3):
        first, last = (draw_sprite(Factors(shape, 4, turn, 5, 6)) for turn in (0, 39))
        assert np.array_equal(first, last)


def test_a_square_is_a_square() -> None:
    image = draw_sprite(Factors(0, 5, 0, 10, 10)) > 0
    side = image.any(0).sum()
    assert image.sum() == side * side == image.any(1).sum() ** 2
    assert side == 21


@pytest.mark.parametrize("split", ["train800", "val200", "test"])
def test_labels_of_locations_read_from_the_pixels(split: str) -> None:
    for index in range(150):
        image, label = MADE["dsprites_loc"].sample(3, split, index)
        assert round(np.nonzero(image)[1].mean() - 16) // 2 == label


def test_labels_of_orientations_read_from_the_pixels() -> None:
    made, order, seen = MADE["dsprites_ori"], grid_order(3, "dsprites_ori"), 0
    for index in range(600):
        shape, scale, turn, _, _ = factors(int(order[index]))
        image, label = made.sample(3, "train800", index)
        assert label == int(turn / 2.5)
        if SHAPES[shape] == "ellipse" and scale >= 3 and turn != 39:
            # half a turn is 19.5 steps, so that only one of the two angles is a whole number of them
            steps = angle("ellipse", image) % pi / STEP
            found = min((steps, steps + 19.5), key=lambda value: abs(value - round(value)))
            assert int(round(found) % 39 / 2.5) == label
            seen += 1
    assert seen > 60


@pytest.mark.parametrize("name", ["dsprites_loc", "dsprites_ori"])
def test_every_point_once_and_labels_as_a_uniform_draw_gives(name: str) -> None:
    order = grid_order(0, name)
    assert np.array_equal(np.sort(order), np.arange(737_280))
    made = MADE[name]
    labels = np.array([made.sample(0, "test", index)[1] for index in range(2000)])
    wanted = np.full(16, 1 / 16) if name == "dsprites_loc" else np.tile([3, 2], 8) / 40
    assert len(made.classes) == 16
    chi_squared = ((np.bincount(labels, minlength=16) - 2000 * wanted) ** 2 / (2000 * wanted)).sum()
    assert chi_squared < 37.7  # one in a thousand
    assert made.most == 736_280


def test_splits_follow_each_other_on_the_grid() -> None:
    order, made = grid_order(1, "dsprites_loc"), MADE["dsprites_loc"]
    for split, start, index in (("train800", 0, 799), ("val200", 800, 0), ("val200", 800, 199), ("test", 1000, 0)):
        point = factors(int(order[start + index]))
        assert np.array_equal(made.sample(1, split, index)[0], draw_sprite(point))

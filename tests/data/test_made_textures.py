"""Textures and the noise they are made of, by statistics that hold for the kind and not for its neighbour."""

from __future__ import annotations

import numpy as np
import pytest

from glora.data.made import MADE
from glora.data.made.draws import Draw
from glora.data.made.noise import Noise, cells, smooth_step
from glora.data.made.patterns import PATTERNS
from glora.data.made.textures import draw_texture

U, V = np.meshgrid((np.arange(128) + 0.5) / 10, (np.arange(128) + 0.5) / 10)


def fields(name: str, count: int = 6) -> np.ndarray:
    return np.array([PATTERNS[name](Draw("field", index), U, V) for index in range(count)])


# Noise


def test_noise_is_smooth_centred_and_repeats() -> None:
    noise = Noise(Draw(0))
    u, v = Draw(1).uniforms(2, 20_000) * 64
    values = noise(u, v)
    assert abs(values.mean()) < 0.02
    assert 0.25 < values.std() < 0.45
    assert np.abs(values).max() < 1.7
    np.testing.assert_allclose(noise(u + 64, v - 128), values, atol=1e-9)
    assert np.abs(noise(u + 1e-6, v) - values).max() < 1e-5
    whole = np.arange(-5.0, 70.0)
    np.testing.assert_allclose(noise(whole, whole[::-1]), 0, atol=1e-12)


def test_noise_by_its_formula_at_one_place() -> None:
    slopes = 2 * Draw(4).uniforms(2, 64, 64) - 1
    u, v = 3.3, 7.8
    total = 0.0
    for i, j in ((3, 7), (4, 7), (3, 8), (4, 8)):
        weights = [1 - t**3 * (t * (6 * t - 15) + 10) for t in (abs(u - i), abs(v - j))]
        total += weights[0] * weights[1] * (slopes[0, i, j] * (u - i) + slopes[1, i, j] * (v - j))
    assert Noise(Draw(4))(np.array([u]), np.array([v]))[0] == pytest.approx(1.6 * total)


def test_octaves_are_as_strong_as_one() -> None:
    u, v = Draw(1).uniforms(2, 20_000) * 30
    for gain in (0.4, 0.8):
        assert Noise(Draw(2)).octaves(u, v, 5, gain).std() == pytest.approx(Noise(Draw(2))(u, v).std(), rel=0.15)


def test_cells_by_brute_force() -> None:
    u, v = Draw(1).uniforms(2, 3000) * 8 + 20
    found = cells(Draw(5), u, v, 0.5)
    np.testing.assert_allclose(found.first**2, found.u**2 + found.v**2)
    shifts = 0.5 + 0.5 * (Draw(5).uniforms(2, 64, 64) - 0.5)
    i, j = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    points = np.stack([i + shifts[0], j + shifts[1]], -1).reshape(-1, 2)
    apart = np.sort(np.sqrt(((np.stack([u, v], 1)[:, None] - points[None]) ** 2).sum(2)), axis=1)
    np.testing.assert_allclose(found.first, apart[:, 0])
    np.testing.assert_allclose(found.second, apart[:, 1])
    owners = np.round(np.stack([u - found.u, v - found.v], 1), 6)
    assert len({(*owner, tint) for owner, tint in zip(owners.tolist(), found.tint, strict=True)}) == len(
        np.unique(owners, axis=0)
    )


def test_smooth_step() -> None:
    values = smooth_step(1.0, 3.0, np.array([0.0, 1.0, 1.5, 2.0, 3.0, 9.0]))
    assert values.tolist() == [0, 0, 0.15625, 0.5, 1, 1]
    assert smooth_step(3.0, 1.0, np.array([0.0, 2.0, 4.0])).tolist() == [1, 0.5, 0]


# Kinds


def directedness(field: np.ndarray) -> float:
    """0 for gradients in all directions alike, 1 for one direction."""
    down, along = np.gradient(field)
    matrix = np.array([[(along**2).mean(), (along * down).mean()], [(along * down).mean(), (down**2).mean()]])
    small, large = np.linalg.eigvalsh(matrix)
    return float((large - small) / (large + small))


def power_slope(field: np.ndarray) -> float:
    """By which power of the frequency the power falls."""
    window = np.hanning(128)[:, None] * np.hanning(128)[None, :]
    power = np.abs(np.fft.fft2((field - field.mean()) * window)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    rings = [power[(frequency >= low) & (frequency < 1.5 * low)].mean() for low in (0.03, 0.06, 0.12, 0.24)]
    return float(np.polyfit(np.log([0.03, 0.06, 0.12, 0.24]), np.log(rings), 1)[0])


def repeats(field: np.ndarray, u: int, v: int) -> float:
    """Correlation with itself shifted by (u, v) tenths of a unit."""
    one = field[v:, u:]
    other = field[: field.shape[0] - v, : field.shape[1] - u]
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_stripes_have_one_direction_and_waves_wind() -> None:
    assert min(map(directedness, fields("stripes"))) > 0.99
    assert max(map(directedness, fields("waves"))) < 0.9
    assert np.allclose(fields("stripes").std(1), 0, atol=1e-9)


def test_checks_and_gingham_repeat_and_have_two_and_three_or_four_tones() -> None:
    for name in ("checks", "gingham"):
        for field in fields(name):
            assert repeats(field, 20, 0) > 0.99
            assert repeats(field, 0, 20) > 0.99
            assert directedness(field[:120, :120]) < (0.01 if name == "checks" else 0.4)
    for field in fields("checks"):
        assert repeats(field, 10, 0) < -0.99
    for field in fields("gingham"):
        assert repeats(field, 10, 0) > -0.8


def test_courses_of_bricks_are_shifted_and_those_of_tiles_are_not() -> None:
    """A joint that runs through is a column darker than any that bricks have."""

    def darkest(field: np.ndarray) -> float:
        return float(field.mean(0).min() / field.mean())

    assert max(map(darkest, fields("tiles"))) < 0.05
    assert min(map(darkest, fields("bricks"))) > 0.3


def test_dots_are_on_a_lattice_and_spots_are_not() -> None:
    assert min(repeats(field, 10, 0) for field in fields("dots")) > 0.55
    assert max(repeats(field, 10, 0) for field in fields("spots")) < 0.35


def test_clouds_are_smoother_than_plaster_and_fibres_more_directed_than_grains() -> None:
    assert max(map(power_slope, fields("clouds"))) < min(map(power_slope, fields("plaster")))
    assert min(map(directedness, fields("fibres"))) > 0.6
    assert max(map(directedness, fields("grains"))) < 0.2


def test_weave_repeats_after_two_bands_and_twill_after_four() -> None:
    grid = (np.arange(160) + 0.5) / 13  # ten samples to a band
    u, v = np.meshgrid(grid, grid)
    for index in range(4):
        plain, slanted = (PATTERNS[name](Draw("bands", index), u, v) for name in ("weave", "twill"))
        assert repeats(plain, 20, 0) > 0.999
        assert repeats(slanted, 40, 0) > 0.999
        assert repeats(slanted, 20, 0) < 0.9
        assert repeats(plain, 10, 0) < 0.9
        # in a twill each row is the one before, shifted by one
        shifted = slanted[10:, :-10]
        assert np.corrcoef(shifted.ravel(), slanted[:-10, 10:].ravel())[0, 1] > 0.999


def test_cell_walls_are_closed_and_cracks_are_not_even() -> None:
    for walls in fields("cells"):
        assert set(np.round(np.quantile(walls, [0, 0.7]), 3)) == {0.25, 0.75}
    widths = [np.quantile(field, 0.02) for field in fields("cracks")]
    assert max(widths) < 0.5


@pytest.mark.parametrize("name", list(PATTERNS))
def test_every_kind_uses_the_range_of_its_two_colours(name: str) -> None:
    found = fields(name)
    assert np.isfinite(found).all()
    assert found.std((1, 2)).min() > 0.03
    assert -0.6 < np.quantile(found, 0.02)
    assert np.quantile(found, 0.98) < 1.6


def test_contrast_colour_and_direction_vary() -> None:
    images = np.array([draw_texture(Draw("vary", index), PATTERNS["stripes"]) for index in range(40)]).astype(float)
    assert images.shape == (40, 96, 96, 3)
    deviations = images.mean(3).std((1, 2))
    assert deviations.max() > 2 * deviations.min() > 10
    assert (images.mean((1, 2)).std(0) > 15).all()
    horizontal = np.abs(np.diff(images, axis=2)).mean((1, 2, 3)) / np.abs(np.diff(images, axis=1)).mean((1, 2, 3))
    assert horizontal.max() > 1.4
    assert horizontal.min() < 0.7


def test_twenty_classes() -> None:
    assert len(MADE["textures"].classes) == len(PATTERNS) == 20

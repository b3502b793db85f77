"""Corruptions against scipy, colorsys and the published formulas; renderings by their definitions."""

from __future__ import annotations

import colorsys
import io
import itertools
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from data.pictures import fill, picture
from glora.data.shift import shift_data
from glora.data.shifts import CORRUPTIONS, SHIFTS, shifted
from glora.data.shifts.filters import clipped_zoom, convolve, disk, gaussian, motion_blur, plasma, sample
from glora.errors import DataError

SIDE = 64


def smooth(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """A square picture with structure, uint8."""
    small = picture(seed, 6, 6)
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


# Filters, against scipy


@pytest.mark.parametrize(
    ("sigma", "truncate", "mirror"), [(0.7, 4.0, False), (1.5, 4.0, False), (2.44, 3.0, True), (90.0, 3.0, True)]
)
def test_gaussian(sigma: float, truncate: float, mirror: bool) -> None:
    image = generator().random((40, 40, 3))
    mode = "reflect" if mirror else "nearest"
    wanted = np.stack(
        [ndimage.gaussian_filter(image[..., c], sigma, truncate=truncate, mode=mode) for c in range(3)], -1
    )
    np.testing.assert_allclose(gaussian(image, sigma, truncate=truncate, mirror=mirror), wanted, atol=1e-12)
    np.testing.assert_allclose(gaussian(image[..., 0], sigma, truncate=truncate, mirror=mirror), wanted[..., 0])


def test_convolve() -> None:
    image, kernel = generator().random((30, 25, 3)), generator(1).random((5, 7))
    wanted = np.stack([ndimage.correlate(image[..., c], kernel, mode="mirror") for c in range(3)], -1)
    np.testing.assert_allclose(convolve(image, kernel), wanted, atol=1e-12)


@pytest.mark.parametrize("factor", [1, 1.01, 1.13, 1.3, 2.5, 4.5])
def test_clipped_zoom(factor: float) -> None:
    image = generator().random((50, 50, 1))
    inner = math.ceil(50 / factor)
    first = (50 - inner) // 2
    crop = image[first : first + inner, first : first + inner]
    whole = ndimage.zoom(crop, (factor, factor, 1), order=1)
    trim = (len(whole) - 50) // 2
    np.testing.assert_allclose(clipped_zoom(image, factor), whole[trim : trim + 50, trim : trim + 50], atol=1e-9)


@pytest.mark.parametrize(("twice", "mode"), [(True, "reflect"), (False, "mirror")])
def test_sample(twice: bool, mode: str) -> None:
    image = generator().random((20, 20, 3))
    rows, columns = generator(1).uniform(-30, 50, (2, 15, 15))
    wanted = np.stack(
        [ndimage.map_coordinates(image[..., c], [rows, columns], order=1, mode=mode) for c in range(3)], -1
    )
    np.testing.assert_allclose(sample(image, rows, columns, twice=twice), wanted, atol=1e-9)


def test_disk_is_a_disk() -> None:
    assert disk(3, 0.1).shape == (17, 17)
    assert disk(10, 0.5).shape == (21, 21)
    for radius, blur in ((3, 0.1), (6, 0.5), (10, 0.5)):
        kernel = disk(radius, blur)
        assert kernel.sum() == pytest.approx(
            1, abs=2e-2
        )  # mirrored at the border, as published, the widest gains a little
        half = len(kernel) // 2
        assert kernel[half, half] == pytest.approx(
            1 / sum(x * x + y * y <= radius**2 for x, y in itertools.product(range(-radius, radius + 1), repeat=2))
        )


def test_motion_blur_of_a_point_is_half_a_gaussian_along_the_line() -> None:
    image = np.zeros((41, 41, 1))
    image[20, 20] = 1
    found = motion_blur(image, 3, 2.0, 0.0)[20, :, 0]
    weights = [math.exp(-(tap**2) / 8) for tap in range(7)]
    assert found[20 - 6 : 21][::-1].tolist() == pytest.approx([weight / sum(weights) for weight in weights])
    assert motion_blur(image, 3, 2.0, 90.0)[14:21, 20, 0].tolist() == pytest.approx(found[14:21].tolist())


def test_plasma_fills_its_range_and_is_rougher_with_less_decay() -> None:
    rough, even = (plasma(64, decay, generator()) for decay in (1.3, 3.0))
    for heights in (rough, even):
        assert (heights.min(), heights.max()) == (0, 1)
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(even)).mean()


# Corruptions, by the published formula


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_deterministic_and_grows_with_severity(name: str) -> None:
    image = smooth(side=96)
    found = [shifted(image, name, severity, 5, 2) for severity in range(1, 6)]
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in found)
    np.testing.assert_array_equal(found[2], shifted(image, name, 3, 5, 2))
    errors = [np.abs(one.astype(int) - image).mean() for one in found]
    assert errors[4] > 0.5
    if name != "elastic_transform":  # whose last three are of another kind than the first two
        assert errors[4] > errors[0]
    if name in ("gaussian_noise", "shot_noise", "impulse_noise", "fog", "snow", "frost", "glass_blur", "motion_blur"):
        assert (shifted(image, name, 3, 6, 2) != found[2]).any()
        assert (shifted(image, name, 3, 5, 3) != found[2]).any()


def test_noises_have_the_published_strength() -> None:
    grey = np.full((224, 224, 3), 128, np.uint8)
    for severity, wanted in enumerate((0.08, 0.12), 1):
        assert (shifted(grey, "gaussian_noise", severity, 1) / 255).std() == pytest.approx(wanted, rel=0.02)
    for severity, photons in enumerate((60, 25), 1):
        spread = (128 / 255 / photons) ** 0.5
        assert (shifted(grey, "shot_noise", severity, 1) / 255).std() == pytest.approx(spread, rel=0.03)
    for severity, amount in enumerate((0.03, 0.06, 0.09, 0.17, 0.27), 1):
        found = shifted(grey, "impulse_noise", severity, 1)
        assert set(np.unique(found)) == {0, 128, 255}
        assert (found != 128).mean() == pytest.approx(amount, rel=0.05)
        assert (found == 255).mean() == pytest.approx(amount / 2, rel=0.1)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_brightness_and_contrast(severity: int) -> None:
    image = picture(3, 12, 12)
    pixels = np.asarray(image) / 255
    found = shifted(np.asarray(image), "brightness", severity)
    for row, column in ((0, 0), (3, 7), (11, 2)):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixels[row, column])
        wanted = colorsys.hsv_to_rgb(hue, saturation, min(value + severity / 10, 1))
        assert found[row, column] / 255 == pytest.approx(wanted, abs=1.01 / 255)
    scale = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    mean = pixels.reshape(-1, 3).mean(0)
    wanted = (pixels - mean) * scale + mean
    assert np.abs(shifted(np.asarray(image), "contrast", severity) / 255 - wanted).max() <= 1.01 / 255


def test_pixelate_and_jpeg_are_pillow_s() -> None:
    image = Image.fromarray(smooth())
    small = image.resize((int(SIDE * 0.4),) * 2, Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BOX)
    np.testing.assert_array_equal(shifted(np.asarray(image), "pixelate", 3), np.asarray(small))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=15)
    np.testing.assert_array_equal(shifted(np.asarray(image), "jpeg_compression", 3), np.asarray(Image.open(file)))


def test_glass_moves_pixels_no_further_than_published() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    found = shifted(image, "glass_blur", 2, 1)  # one round of steps up to 2, and two blurs of reach 4
    np.testing.assert_array_equal(found[:, : 32 - 10], 0)
    assert found[:, 32 + 10 :].min() >= 250
    assert len(np.unique(found[10:50, 31])) > 5


def test_fog_by_the_formula() -> None:
    image = smooth(side=80)
    seed = np.random.SeedSequence([zlib.crc32(b"fog"), 2, 9])
    haze = plasma(256, 2, np.random.Generator(np.random.PCG64(seed)))[:80, :80, None]
    x = image / 255
    wanted = np.clip((x + 2 * haze) * x.max() / (x.max() + 2), 0, 1) * 255
    assert np.abs(shifted(image, "fog", 2, 9) - wanted).max() <= 1


# Renderings


def test_renderings() -> None:
    image = smooth()
    np.testing.assert_array_equal(shifted(image, "clean"), image)
    np.testing.assert_array_equal(shifted(image, "invert"), 255 - image)
    assert set(np.unique(shifted(picture_square(), "posterise"))) == {0, 85, 170, 255}
    step = np.zeros((32, 32, 3), np.uint8)
    step[:, 16:] = 255
    drawn = shifted(step, "sketch")
    assert (drawn[:, [0, 5, 26, 31]] == 255).all()
    assert (drawn[:, 15:17] == 0).all()


def picture_square() -> np.ndarray:
    return np.asarray(picture(1, 32, 32))


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("gausian_noise", 3, "no corruption or rendering 'gausian_noise': did you mean 'gaussian_noise'"),
        ("xyz", 3, "no corruption or rendering 'xyz': there are gaussian_noise, .*invert"),
        ("fog", 0, "severity 0: it goes from 1, mild, to 5"),
        ("fog", 6, "severity 6: it goes"),
    ],
)
def test_what_does_not_exist(name: str, severity: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        shifted(smooth(), name, severity)
    with pytest.raises(DataError, match=r"is uint8 \(S, S, 3\), not uint8 \(18, 24, 3\)"):
        shifted(np.asarray(picture(0)), "fog")


# Folders


def test_a_shifted_folder(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "x" / name, 3)
    said: list[tuple[int, int]] = []
    about = shift_data(tmp_path / "x", tmp_path / "out", "fog", 2, size=32, seed=4, tell=lambda *at: said.append(at))
    assert said == [(6, 6)]
    assert (about["images"], about["split"], about["severity"]) == (6, "all", 2)
    names = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert names == [f"cat/{i:06d}.png" for i in range(3)] + [f"dog/{i:06d}.png" for i in range(3, 6)]
    # as ImageNet-C is made: the shorter side to 256, here 37, and the centre of 224, here 32
    image = Image.open(tmp_path / "x" / "dog" / "001.png")
    image = image.resize((int(37 * 24 / 18), 37), Image.Resampling.BILINEAR)
    left, top = round((image.width - 32) / 2), round((37 - 32) / 2)
    wanted = shifted(np.asarray(image.crop((left, top, left + 32, top + 32))), "fog", 2, 4, 4)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "dog" / "000004.png")), wanted)
    with pytest.raises(DataError, match="out: holds something: give a new folder"):
        shift_data(tmp_path / "x", tmp_path / "out", "fog")
    (tmp_path / "x" / "cat" / "000.png").write_text("no image")
    with pytest.raises(DataError, match=r"000\.png: is no image"):
        shift_data(tmp_path / "x", tmp_path / "other", "fog")
    assert not (tmp_path / "other").exists()
    assert len(SHIFTS) == 19

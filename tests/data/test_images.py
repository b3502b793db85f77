import re
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from pictures import bomb, cut_short, picture
from PIL import Image

from glora.data import read_image
from glora.errors import DataError


def raises(path: Path, reason: str):
    return pytest.raises(DataError, match=f"^{re.escape(str(path))}: {reason}")


def test_files_that_are_no_images(tmp_path: Path) -> None:
    text, empty, missing = tmp_path / "a note.jpg", tmp_path / "empty.png", tmp_path / "missing.png"
    text.write_text("not an image\n" * 100)
    empty.touch()
    with raises(text, "is no image that can be read"):
        read_image(text)
    with raises(empty, r"is an empty file \(0 bytes\)"):
        read_image(empty)
    with raises(missing, "no such file"):
        read_image(missing)
    with raises(tmp_path, "cannot be opened"):
        read_image(tmp_path)


def test_postscript_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with raises(path, "is no image"):
        read_image(path)


def test_truncated_jpeg_and_damaged_png(tmp_path: Path) -> None:
    jpeg, png = tmp_path / "half.jpg", tmp_path / "broken.png"
    cut_short(jpeg)
    with raises(jpeg, r"is damaged or cut short \(image file is truncated"):
        read_image(jpeg)
    bomb(png, 100, 100)
    with raises(png, "is damaged or cut short"):
        read_image(png)


@pytest.mark.parametrize("size", [(25_000, 20_000), (14_000, 13_000)])
def test_bomb_costs_nothing(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    bomb(path, *size)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with raises(path, rf"{size[0] * size[1] // 1_000_000} megapixels \(limit 179\)"):
            read_image(path)
        assert time.perf_counter() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_bomb_without_pillows_own_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    bomb(tmp_path / "bomb.png", 25_000, 20_000)
    with raises(tmp_path / "bomb.png", "500 megapixels"):
        read_image(tmp_path / "bomb.png")


def test_large_image_gives_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    picture(0).save(tmp_path / "x.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_image(tmp_path / "x.png").size == (24, 18)
        assert not caught
        filters = list(warnings.filters)
        read_image(tmp_path / "x.png")
        assert warnings.filters == filters


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = picture(3).convert(mode)
    path = tmp_path / ("x.jpg" if mode in ("CMYK", "YCbCr") else "x.png")
    image.save(path)
    found = read_image(path)
    assert found.mode == "RGB"
    assert np.array_equal(found, Image.open(path).convert("RGB"))


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = picture(3).quantize(8)
    image.save(tmp_path / "x.png", transparency=bytes([0, 100, 255]))
    assert np.array_equal(read_image(tmp_path / "x.png"), image.convert("RGB"))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 1, 128, 129], [257, 32768, 65534, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"x{suffix}")
    found = np.asarray(read_image(tmp_path / f"x{suffix}"))
    assert np.array_equal(found[:, :, 0], np.rint(values / 257))
    assert (found == found[:, :, :1]).all()


def test_wide_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "i.tif")
    with raises(tmp_path / "f.tif", "has floating-point pixels"):
        read_image(tmp_path / "f.tif")
    with raises(tmp_path / "i.tif", "has 32-bit pixels"):
        read_image(tmp_path / "i.tif")


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(read_image(tmp_path / f"x{suffix}"), frames[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_respected(tmp_path: Path, orientation: int) -> None:
    image = picture(5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    pixels = np.asarray(image)
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    assert np.array_equal(read_image(tmp_path / "x.png"), upright)


def test_damaged_exif_is_passed_over(tmp_path: Path) -> None:
    image = picture(5)
    image.save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert np.array_equal(read_image(tmp_path / "x.png"), image)

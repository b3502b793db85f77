"""Reading image files of any kind as RGB, with one clear line for each that cannot be read."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from glora.errors import DataError

__all__ = ["MAX_PIXELS", "SUFFIXES", "check_header", "decode", "quiet", "read_image"]

MAX_PIXELS = 178_956_970
"""More is taken for a decompression bomb, as PIL does."""

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm .jp2 .j2k .avif "
    # PIL cannot read these, and saying so is better than leaving them out silently
    ".heic .heif".split()
)
"""Suffixes (lower case) of the files that are taken for images."""

# no EPS or PDF, which start other programs, and no TGA, which any bytes may look like
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "MPO", "AVIF")
_QUIET = threading.RLock()


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB.

    The first frame of an animation; upright by its EXIF orientation; 16-bit greys scaled to 8 bits; alpha dropped.

    Raises:
        DataError: naming the file, if it is missing, empty, no image, damaged, cut short, or has more than
            ``MAX_PIXELS`` pixels (found in its header, before anything is decoded).
    """
    with quiet():
        return decode(path)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence PIL's warnings in all threads; one block at a time, since warning filters are global."""
    with _QUIET, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        yield


def check_header(path: str | Path) -> None:
    """Find out, without decoding, what a header tells; for use inside ``quiet``.

    Raises:
        DataError: as ``read_image``, but for files that are damaged behind the header.
    """
    _open(Path(path)).close()


def decode(path: str | Path) -> Image.Image:
    """``read_image`` for the threads of a caller that is inside ``quiet``."""
    with _open(Path(path)) as image:
        try:
            image.load()
            _turn_upright(image)
            return _to_rgb(image, path)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # damaged files make decoders fail in every way
            raise DataError(f"{path}: is damaged or cut short ({_one_line(error)})") from error


def _open(path: Path) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: is an empty file (0 bytes)")
        image = Image.open(path, formats=_formats())
    except (DataError, MemoryError):
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: is no image that can be read ({', '.join(_formats())})") from None
    except Image.DecompressionBombError as error:
        numbers = [int(number) for number in re.findall(r"\d+", str(error))]
        raise DataError(_too_large(path, *(numbers if len(numbers) == 2 else ()))) from None
    except Exception as error:  # headers are read by the same code that fails in every way
        raise DataError(f"{path}: cannot be opened ({_one_line(error)})") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise DataError(_too_large(path, image.width * image.height))
    return image


@cache
def _formats() -> tuple[str, ...]:
    """Of the formats wanted, those that this build of PIL reads."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _too_large(path: Path, pixels: int | None = None, limit: int = MAX_PIXELS) -> str:
    size = "too many" if pixels is None else f"{pixels / 1e6:.0f}"
    return f"{path}: {size} megapixels (limit {limit / 1e6:.0f}): make the image smaller"


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged metadata says nothing about the pixels
        return


def _to_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    if image.mode == "F":
        raise DataError(f"{path}: has floating-point pixels: save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        # PIL's own conversion would cut off at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"{path}: has 32-bit pixels: save it with 8 or 16 bits a channel")
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, PIL objects to some kinds of transparency
    return image if image.mode == "RGB" else image.convert("RGB")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Images and folders of images that the tests of glora.data make for themselves."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 24, height: int = 18, channels: int = 3) -> Image.Image:
    """An image of noise."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def fill(folder: Path, count: int, seed: int = 0, suffix: str = ".png") -> None:
    """Write some images into a new folder."""
    folder.mkdir(parents=True)
    for index in range(count):
        picture(1000 * seed + index).save(folder / f"{index:03d}{suffix}")


def bomb(path: Path, width: int, height: int) -> None:
    """A PNG whose header claims so many pixels and whose body holds a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def cut_short(path: Path) -> None:
    """A JPEG of which the second half is missing."""
    picture(7, 200, 200).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

"""Decoding many images at once, and the memory there is for them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glora.data.images import decode, quiet
from glora.data.preprocess import Preprocessing, rgb
from glora.errors import DataError

__all__ = ["available_memory", "complaint", "decode_images", "decoded", "fits", "image_name"]

_THREADS = 8
_CHUNK = 1024


def decode_images(
    images: Sequence[Any], preprocessing: Preprocessing, target: Tensor | None = None
) -> list[tuple[int, str]]:
    """Decode and resize images in a few threads.

    Args:
        images: paths, PIL images or uint8 arrays (H, W) or (H, W, 3).
        preprocessing: how to resize them.
        target: uint8 (N, 3, size, size), to be filled; without it the images are only tried.

    Returns:
        Position and complaint of each image that cannot be read; its row of ``target`` is left as it was.
    """
    # through numpy: torch would start its own threads in each of these
    rows = None if target is None else target.numpy()

    def work(index: int) -> str | None:
        try:
            pixels = preprocessing.pixels(_load(images[index], index))
        except DataError as error:
            return str(error)
        if rows is not None:
            rows[index] = pixels.numpy()
        return None

    bad: list[tuple[int, str]] = []
    with quiet(), ThreadPoolExecutor(_threads()) as pool:
        # in chunks, so that Ctrl-C does not wait for all of them
        for start in range(0, len(images), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(images)))
            bad += [(index, text) for index, text in zip(chunk, pool.map(work, chunk), strict=True) if text is not None]
    return bad


def decoded(images: Sequence[Any]) -> Generator[Image.Image]:
    """Images in their own size, RGB, in order, decoded in a few threads and only a few ahead of what is asked for.

    To be closed where not all of them are taken.

    Args:
        images: as for :func:`decode_images`.

    Raises:
        DataError: at the first that cannot be read.
    """
    ahead: deque[Future[Image.Image]] = deque()
    with quiet(), ThreadPoolExecutor(_threads()) as pool:
        for index, image in enumerate(images):
            ahead.append(pool.submit(_load, image, index))
            if len(ahead) > 2 * _threads():
                yield rgb(ahead.popleft().result())
        while ahead:
            yield rgb(ahead.popleft().result())


def _threads() -> int:
    return min(_THREADS, os.cpu_count() or 1)


def _load(image: Any, index: int) -> Image.Image:
    if isinstance(image, (str, Path)):
        return decode(image)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3):
            return Image.fromarray(image)
    raise DataError(f"image {index}: is neither a path nor a PIL image nor a uint8 array (H, W) or (H, W, 3)")


def image_name(image: Any, index: int) -> str:
    """What messages call an image by: its path, or its position."""
    return str(image) if isinstance(image, (str, Path)) else f"image {index}"


def complaint(bad: list[tuple[int, str]], count: int) -> str:
    """One line about the bad ones among ``count`` images."""
    if len(bad) == count > 1:
        return f"none of {count} images can be read, the first: {bad[0][1]}"
    more = f"; {len(bad) - 1} more cannot be read either" if len(bad) > 1 else ""
    return f"{bad[0][1]}{more}: mend or remove what is bad, or go on without it (--skip-bad)"


def available_memory() -> int:
    """Bytes that can be had without swapping, as far as the system tells."""
    try:
        # what the file cache holds is available too, which sysconf does not count
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    names: dict[str, int] = getattr(os, "sysconf_names", {})
    for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):
        if name in names:
            return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    return 4 << 30


def fits(pixels: Tensor, device: torch.device) -> bool:
    """Whether pixels take at most a quarter of what is free on a device."""
    if device.type != "cuda" or pixels.device.type == "cuda":
        return True
    free: int = torch.cuda.mem_get_info(device)[0]
    return pixels.nbytes <= free // 4

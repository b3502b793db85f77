"""Writing a shifted copy of test images as a folder of class folders, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glora.data import pick_part
from glora.data.images import decode, quiet
from glora.data.preprocess import Preprocessing
from glora.data.shifts import RENDERINGS, SHIFTS, shifted
from glora.errors import DataError
from glora.files import appearing

__all__ = ["shift_data"]

_CHUNK = 64


def shift_data(
    source: str | Path,
    folder: str | Path,
    name: str,
    severity: int = 3,
    *,
    split: str = "auto",
    size: int = 224,
    seed: int = 0,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write ``folder/<class>/000000.png ...``: resized and cropped as for ImageNet-C, then shifted.

    The shorter side is resized to ``size`` / 0.875 (256 for 224), bilinearly, and the centre is taken. The folder
    appears when it is finished, and holds ``shifted.json`` with all settings.

    Args:
        source: as in :func:`glora.data.list_data`; without splits it is taken as a whole.
        folder: to be made; may exist if it is empty.
        name: of a corruption or rendering.
        severity: of a corruption, 1 to 5.
        split: as in :func:`glora.data.pick_part`.
        size: side of the images in pixels.
        seed: of what is random; an image depends on it, on name and severity and on its place in the list alone.
        tell: called with the number of images done and of all.

    Returns:
        The settings.

    Raises:
        DataError: for bad settings, a bad image, a class whose name can be no folder's, or a folder that is not empty.
        ConfigError: if another process is making the same folder.
    """
    folder, tell = Path(folder), tell or (lambda done, total: None)
    if seed < 0:
        raise DataError(f"the seed of a shift is 0 or more, not {seed}")
    preprocessing = Preprocessing(size=size, resize="crop", crop_ratio=0.875, interpolation="bilinear")
    shifted(np.zeros((2, 2, 3), np.uint8), name if name in RENDERINGS or name not in SHIFTS else "contrast", severity)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: {'holds something' if folder.is_dir() else 'is a file'}: give a new folder")
    picked = pick_part(source, split)
    part, classes = picked.part, picked.listing.classes
    if odd := [own for own in classes if own.startswith(".") or "/" in own or "\\" in own]:
        raise DataError(f"{source}: class {odd[0]!r} can be no folder's name: rename it")

    def work(index: int) -> None:
        image = part.images[index]
        image = decode(image) if isinstance(image, Path) else Image.fromarray(image)
        pixels = preprocessing.pixels(image).numpy().transpose(1, 2, 0)
        made = shifted(np.ascontiguousarray(pixels), name, severity, seed, index)
        Image.fromarray(made).save(temporary / classes[part.labels[index]] / f"{index:06d}.png", compress_level=1)

    about = {
        "source": str(source),
        "split": picked.split,
        "shift": name,
        "severity": None if name in RENDERINGS else severity,
        "size": size,
        "seed": seed,
        "images": len(part),
        "classes": len(set(part.labels)),
    }
    with appearing(folder.resolve()) as temporary:
        for label in sorted(set(part.labels)):
            (temporary / classes[label]).mkdir()
        with quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            # in chunks, so that Ctrl-C does not wait for all of them
            for start in range(0, len(part), _CHUNK):
                done = len(list(pool.map(work, range(start, min(start + _CHUNK, len(part))))))
                tell(start + done, len(part))
        (temporary / "shifted.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return {"data": str(folder), **about}

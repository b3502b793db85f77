"""Writing a data set in VTAB-1k's folder layout, whole or not at all."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from glora.data.made.draws import Draw, Pixels
from glora.data.made.registry import made_set
from glora.data.made.sets import SPLITS, TEST_SIZE, MadeSet
from glora.data.vtab import MADE_FILE, list_vtab
from glora.errors import DataError
from glora.files import appearing

__all__ = ["MadeFolder", "make_data"]

_BOTH = "train800val200"
_CHUNK = 64


@dataclass(frozen=True)
class MadeFolder:
    """A folder that holds a data set.

    Args:
        folder: where it is.
        info: what its ``made.json`` says.
        new: whether it has been made now, rather than found finished.
    """

    folder: Path
    info: dict[str, Any]
    new: bool


def make_data(
    name: str,
    folder: str | Path,
    *,
    seed: int = 0,
    test: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> MadeFolder:
    """Write 800 training, 200 validation and some test images in VTAB-1k's layout.

    The folder appears when it is finished; one that is there already with the same settings is left as it is.

    Args:
        name: of a data set, one of ``MADE``.
        folder: to be made; may exist if it is empty.
        seed: another one gives other images.
        test: how many test images; 2000, or as many as there are, if None.
        tell: called with the number of images done and of all.

    Raises:
        DataError: for a name or a number that does not exist; if the folder holds something else; if what the images
            are taken from is not installed.
        ConfigError: if another process is making the same folder.
    """
    made = made_set(name)
    folder = Path(folder)
    info = _info(made, seed, test)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _check_finished(folder, info)
        return MadeFolder(folder, info, new=False)
    try:
        with appearing(folder.resolve()) as temporary:
            _write_all(made, seed, info, temporary, tell or (lambda done, total: None))
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error})") from error
    return MadeFolder(folder, info, new=True)


def _info(made: MadeSet, seed: int, test: int | None) -> dict[str, Any]:
    if seed < 0:
        raise DataError(f"the seed of a data set is 0 or more, not {seed}")
    size = min(TEST_SIZE, made.most) if test is None else test
    if not 1 <= size <= made.most:
        raise DataError(f"{made.name} has 1 to {made.most:,} test images, not {size:,}")
    return {
        "name": made.name,
        "seed": seed,
        "sizes": {**SPLITS, _BOTH: sum(SPLITS.values()), "test": size},
        "generator": made.version,
        "label": made.label,
        "classes": list(made.classes),
    }


def _check_finished(folder: Path, info: dict[str, Any]) -> None:
    """Find out whether a folder is what would be made."""
    path = folder / MADE_FILE
    if not path.is_file():
        what = "holds something else" if folder.is_dir() else "is a file"
        raise DataError(f"{folder}: {what}: give a folder that is new or empty")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in info if found.get(key) != info[key]]
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({error}): remove the folder, or give another one") from error
    if differing:
        key = differing[0]
        raise DataError(
            f"{folder}: holds {found.get('name')} with another {key} ({_short(found.get(key))}, now "
            f"{_short(info[key])}): remove it, or give another folder"
        )
    try:
        list_vtab(folder)
    except DataError as error:
        raise DataError(f"{error}: {folder} has been changed since it was made: remove it and make it anew") from error


def _short(value: Any) -> str:
    return f"{value.get('test')} test images" if isinstance(value, dict) else repr(value)[:80]


def _write_all(made: MadeSet, seed: int, info: dict[str, Any], folder: Path, tell: Callable[[int, int], None]) -> None:
    """Draw each image once, write it once or twice, and the lists last."""
    sizes: dict[str, int] = info["sizes"]
    for split in sizes:
        (folder / "images" / split).mkdir(parents=True)
    jobs = _jobs(made, seed, sizes)
    lines: dict[str, list[str]] = {split: [""] * size for split, size in sizes.items()}

    def work(job: tuple[str, int, list[tuple[str, int]]]) -> None:
        split, index, copies = job
        pixels, label = made.sample(seed, split, index)
        content = _png(pixels)
        for target, place in [(split, index), *copies]:
            name = f"images/{target}/{place:06d}.png"
            (folder / name).write_bytes(content)
            lines[target][place] = f"{name} {label}\n"

    work(jobs[0])  # before there are threads, which would all read what the images are taken from
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        # in chunks, so that Ctrl-C does not wait for all of them
        for start in range(0, len(jobs), _CHUNK):
            done = len(list(pool.map(work, jobs[start : start + _CHUNK])))
            tell(start + done, len(jobs))
    for split, rows in lines.items():
        (folder / f"{split}.txt").write_text("".join(rows), encoding="utf-8")
    (folder / MADE_FILE).write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _jobs(made: MadeSet, seed: int, sizes: dict[str, int]) -> list[tuple[str, int, list[tuple[str, int]]]]:
    """Split and index of each image, and the other split and place that it is copied to."""
    places = Draw(seed, made.name, _BOTH).permutation(sizes[_BOTH])
    jobs: list[tuple[str, int, list[tuple[str, int]]]] = []
    for split in SPLITS:
        jobs += [(split, index, [(_BOTH, int(places[len(jobs) + index]))]) for index in range(sizes[split])]
    return jobs + [("test", index, []) for index in range(sizes["test"])]


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()

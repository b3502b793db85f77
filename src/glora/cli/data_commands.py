"""``glora data``: data sets that need no download, and whether a folder can be used."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from glora.cli.console import ConsoleProgress, print_json, print_results, stdout
from glora.data import Listing, Part, digest, list_data
from glora.data.images import decode, quiet
from glora.data.made import MADE, make_data
from glora.errors import DataError

__all__ = ["DATA_COMMANDS", "GROUP"]

GROUP = "Make a data set that needs no download, check a folder of images, or list what can be made."
"""What the group of commands is for."""


def make(name: str, dir: str, seed: int = 0, test: int | None = None, json: bool = False) -> None:
    """Make a data set on the spot, in VTAB-1k's layout: 800 training, 200 validation and some test images.

    The folder appears when it is finished; glora run --data DIR reads it. Made again with the same seed it is the same.

    Args:
        name: of the data set; glora data list shows them.
        dir: the folder to be made; one that is finished already is left as it is.
        seed: of everything that is drawn; another one gives other images.
        test: number of test images; 2000, or as many as there are, if not given.
        json: print the results as JSON.
    """
    progress = ConsoleProgress()
    show: list[Callable[[int, str], None]] = []

    def tell(done: int, total: int) -> None:
        if not show:
            show.append(progress.bar(f"{name}: images", total))
        show[0](done, "")

    try:
        made = make_data(name, dir, seed=seed, test=test, tell=tell)
    finally:
        progress.close()
    sizes = made.info["sizes"]
    result = {
        "data": str(made.folder),
        "made": made.info["name"] if made.new else f"{made.info['name']}, there already",
        "label": made.info["label"],
        "classes": len(made.info["classes"]),
        "train": sizes["train800"],
        "val": sizes["val200"],
        "test": sizes["test"],
        "seed": made.info["seed"],
    }
    if json:
        result |= {"made": made.info["name"], "new": made.new, "info": made.info}
    print_results(result | {"next": f"glora run --data {shlex.quote(str(made.folder))} --model NAME"}, json)


def check(dir: str, json: bool = False) -> None:
    """Read a folder of images as glora run would, every image of it, and tell what there is and what is wrong.

    Exit code 0: it can be used as it is; 2: it cannot.

    Args:
        dir: a folder DIR/<class>/*, DIR/{train,val,test}/<class>/*, or one in VTAB-1k's layout.
        json: print the results as JSON.
    """
    found = _look(dir)
    if json:
        print_json(found.values())
    else:
        _print_check(found)
    if found.problems:
        count = len(found.problems)
        what = found.problems[0] if count == 1 else f"{dir}: {count} problems, the first: {found.problems[0]}"
        raise DataError(what)


def list_(json: bool = False) -> None:
    """List the data sets that glora data make can make.

    Args:
        json: print the results as JSON.
    """
    if json:
        print_json([{"name": made.name, "classes": list(made.classes), "label": made.label} for made in MADE.values()])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("classes", justify="right", no_wrap=True)
    table.add_column("the label is")
    for made in MADE.values():
        table.add_row(made.name, str(len(made.classes)), made.label)
    stdout().print(table)


@dataclass(frozen=True)
class _Check:
    """What a folder holds, and what is wrong with it; without a listing if it cannot be listed."""

    folder: str
    listing: Listing | None
    sides: Counter[tuple[int, int]]
    problems: list[str]

    def parts(self) -> dict[str, Part]:
        if self.listing is None:
            return {}
        found = {"train": self.listing.train, "val": self.listing.val, "test": self.listing.test}
        return {name: part for name, part in found.items() if part is not None}

    def digest(self) -> str | None:
        """As a run records it; None if it would not run."""
        if self.problems:
            return None
        return digest(row for name, part in self.parts().items() for row in part.rows(name))

    def counts(self) -> dict[str, dict[str, int]]:
        """Images of each class by part."""
        labels = {name: Counter(part.labels) for name, part in self.parts().items()}
        classes = self.listing.classes if self.listing else ()
        return {name: {part: labels[part][i] for part in labels} for i, name in enumerate(classes)}

    def values(self) -> dict[str, Any]:
        if self.listing is None:
            return {"data": self.folder, "problems": self.problems}
        sides = [{"width": width, "height": height, "images": n} for (width, height), n in sorted(self.sides.items())]
        return {
            "data": self.folder,
            "layout": self.listing.layout,
            **{name: len(part) for name, part in self.parts().items()},
            "classes": self.counts(),
            "digest": self.digest(),
            "sizes": sides,
            "problems": self.problems,
        }


def _look(folder: str) -> _Check:
    """List a folder, and decode all that is in it."""
    try:
        listing = list_data(folder, skip_bad=True)
    except DataError as error:
        return _Check(folder, None, Counter(), [str(error)])
    problems = [f"{path}: {reason}" for path, reason in listing.skipped]
    images = [image for part in (listing.train, listing.val, listing.test) if part for image in part.images]
    progress = ConsoleProgress()
    show = progress.bar("images read", len(images))
    sides: Counter[tuple[int, int]] = Counter()
    with quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(images), 256):
            for found in pool.map(_sides, images[start : start + 256]):
                if isinstance(found, str):
                    problems.append(found)
                else:
                    sides[found] += 1
            show(min(start + 256, len(images)), "")
    progress.close()
    return _Check(folder, listing, sides, problems)


def _sides(image: Any) -> tuple[int, int] | str:
    """Width and height, or what is wrong."""
    if not isinstance(image, Path):
        return int(image.shape[1]), int(image.shape[0])
    try:
        return decode(image).size
    except DataError as error:
        return str(error)


def _print_check(found: _Check) -> None:
    console = stdout()
    if found.listing is not None:
        parts = found.parts()
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("class", no_wrap=True)
        for name in parts:
            table.add_column(name, justify="right", no_wrap=True)
        for name, counts in found.counts().items():
            table.add_row(Text(name), *(f"{counts[part]:,}" for part in parts))
        table.add_row("all", *(f"{len(part):,}" for part in parts.values()), style="bold")
        console.print(table)
        lines = {
            "layout": found.listing.layout,
            "digest": found.digest() or "none, since not all can be read",
            "sizes": _sizes_text(found.sides),
        }
        for name, text in lines.items():
            console.print(f"{name:<8}{text}", markup=False, soft_wrap=True)
    for problem in found.problems:
        console.print(f"problem {problem}", markup=False, soft_wrap=True)
    if not found.problems:
        console.print("no problems: glora run can use it", markup=False)


def _sizes_text(sides: Counter[tuple[int, int]]) -> str:
    """The only size, or the smallest and the largest."""
    if not sides:
        return "none"
    by_area = sorted(sides, key=lambda side: (side[0] * side[1], side))
    first, last = (f"{width} x {height}" for width, height in (by_area[0], by_area[-1]))
    return first if first == last else f"{len(sides)} sizes from {first} to {last}"


DATA_COMMANDS: dict[str, Callable[..., None]] = {"make": make, "check": check, "list": list_}
"""The functions behind ``glora data``, by name."""

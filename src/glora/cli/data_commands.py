"""``glora data``: data sets that need no download, and whether a folder can be used."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from glora.cli.console import ConsoleProgress, print_json, print_results, stdout
from glora.data import Listing, Part, digest, k_shot, list_data, write_table
from glora.data.folder import images_in
from glora.data.images import decode, quiet
from glora.data.made import MADE, make_data
from glora.data.shift import shift_data
from glora.errors import DataError
from glora.protocols import Protocol, check_protocol

__all__ = ["DATA_COMMANDS", "GROUP"]

GROUP = "Make a data set that needs no download, check a folder of images, list what can be made, take few, or shift."
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


def check(
    dir: str, protocol: Literal["vtab", "fewshot", "domain"] | None = None, skip_bad: bool = False, json: bool = False
) -> None:
    """Read a folder of images as glora run would, every image of it, and tell what there is and what is wrong.

    Exit code 0: it can be used as it is; 2: it cannot. With --protocol: the lists and images of all its data sets.

    Args:
        dir: a folder DIR/<class>/*, DIR/{train,val,test}/<class>/*, one in VTAB-1k's layout, or a table.
        protocol: dir holds the data sets of vtab, fewshot or domain, in the folders and lists they are published in.
        skip_bad: take images that cannot be read for skipped, as glora run --skip-bad does, not for problems.
        json: print the results as JSON.
    """
    if protocol is not None:
        problems = _check_protocol(protocol, dir, json)
    else:
        found = _look(dir, skip_bad)
        if json:
            print_json(found.values())
        else:
            _print_check(found)
        problems = found.problems
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{dir} cannot be used as it is: {count}, named above")


def _check_protocol(protocol: Protocol, folder: str, json: bool) -> list[str]:
    found = check_protocol(protocol, folder)
    usable = {(task.name, len(task.listing.train), sum(len(test.part) for test in task.tests)) for task in found.tasks}
    if json:
        tasks = [
            {"task": task.name, "shots": task.shots, "seed": task.seed, "split": task.split} for task in found.tasks
        ]
        print_json({"data": folder, "protocol": protocol, "tasks": tasks, "problems": found.problems})
        return found.problems
    for problem in found.problems:
        stdout().print(f"problem {problem}", markup=False, soft_wrap=True)
    for name, train, test in sorted(usable):
        stdout().print(f"usable  {name}: {train:,} training, {test:,} test images", markup=False, soft_wrap=True)
    if not found.problems:
        stdout().print("no problems", markup=False)
    return found.problems


def shots(source: str, table: str, shots: int, seed: int = 0, json: bool = False) -> None:
    """Write a table of few training images of each class, and all validation and test images, for --data TABLE.

    Args:
        source: a folder or table, as for glora run; parts that it has not are cut off by the seed.
        table: the file to write, .csv, .tsv or .jsonl.
        shots: training images of each class.
        seed: of what is drawn; with the same one, fewer shots are among more of them.
        json: print the results as JSON.
    """
    listing = k_shot(list_data(source, seed=seed), shots, seed)
    write_table(table, listing)
    counts = {"train": len(listing.train), "val": len(listing.val), "test": len(listing.test) if listing.test else 0}
    print_results({"table": table, "classes": len(listing.classes), **counts, "seed": seed}, json)


def shift(
    source: str,
    dir: str,
    corruption: str,
    severity: int = 3,
    split: Literal["auto", "train", "val", "test", "all"] = "auto",
    size: int = 224,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Write a shifted copy of test images, DIR/<class>/*.png, by a corruption of ImageNet-C or a rendering.

    Args:
        source: a folder or table, as for glora run; one without splits is taken as a whole.
        dir: the folder to be made; glora eval FILE --data DIR evaluates on it.
        corruption: gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow,
            frost, fog, brightness, contrast, elastic_transform, pixelate, jpeg_compression; sketch, posterise, invert.
        severity: from 1, mild, to 5; renderings have none.
        split: part of the data; auto is test, or all of a folder that has no splits.
        size: side of the square images in pixels, whose shorter side is resized to it; severities are meant for 224.
        seed: of what is random in a corruption.
        json: print the results as JSON.
    """
    progress = ConsoleProgress()
    show: list[Callable[[int, str], None]] = []

    def tell(done: int, total: int) -> None:
        if not show:
            show.append(progress.bar(f"{corruption}: images", total))
        show[0](done, "")

    try:
        result = shift_data(source, dir, corruption, severity, split=split, size=size, seed=seed, tell=tell)
    finally:
        progress.close()
    print_results(result | {"next": f"glora eval FILE --data {shlex.quote(dir)}"}, json)


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
    skipped: tuple[tuple[str, str], ...] = ()

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
            "skipped": [f"{path}: {reason}" for path, reason in self.skipped],
            "problems": self.problems,
        }


def _look(folder: str, skip_bad: bool) -> _Check:
    """List a folder, and decode all that is in it."""
    try:
        listing = list_data(folder, skip_bad=True)
    except DataError as error:
        path = Path(folder)
        sides, bad = _decoded(list(images_in(path)) if path.is_dir() else [])
        return _Check(folder, None, sides, [str(error), *(text for text in bad.values() if text != str(error))])
    sides, bad = _decoded(
        [image for part in (listing.train, listing.val, listing.test) if part for image in part.images]
    )
    if not skip_bad:
        problems = [f"{path}: {reason}" for path, reason in listing.skipped]
        return _Check(folder, listing, sides, problems + list(bad.values()))
    # As a run does it: the test part stays as it is listed, since it is read at the very end.
    found = replace(listing, train=_without(listing.train, bad), val=_without(listing.val, bad))
    absent = sorted(set(range(len(listing.classes))) - set(found.train.labels)) if listing.complete else []
    problems = [f"class {listing.classes[label]!r} has no training image that can be read: add one" for label in absent]
    skipped = (*listing.skipped, *((path, text.removeprefix(f"{path}: ")) for path, text in bad.items()))
    return _Check(folder, found, sides, problems, skipped)


def _without(part: Part, bad: Mapping[str, str]) -> Part:
    return part.take([index for index, image in enumerate(part.images) if str(image) not in bad]) if bad else part


def _decoded(images: Sequence[Any]) -> tuple[Counter[tuple[int, int]], dict[str, str]]:
    """How many images there are of each size, and what is wrong with the others, by path."""
    progress = ConsoleProgress()
    show = progress.bar("images read", len(images))
    sides: Counter[tuple[int, int]] = Counter()
    bad: dict[str, str] = {}
    with quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(images), 256):
            chunk = images[start : start + 256]
            for image, found in zip(chunk, pool.map(_sides, chunk), strict=True):
                if isinstance(found, str):
                    bad[str(image)] = found
                else:
                    sides[found] += 1
            show(min(start + 256, len(images)), "")
    progress.close()
    return sides, bad


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
    for path, reason in found.skipped:
        console.print(f"skipped {path}: {reason}", markup=False, soft_wrap=True)
    for problem in found.problems:
        console.print(f"problem {problem}", markup=False, soft_wrap=True)
    if not found.problems:
        how = "glora run --skip-bad" if found.skipped else "glora run"
        console.print(f"no problems: {how} can use it", markup=False)


def _sizes_text(sides: Counter[tuple[int, int]]) -> str:
    """The only size, or the smallest and the largest."""
    if not sides:
        return "none"
    by_area = sorted(sides, key=lambda side: (side[0] * side[1], side))
    first, last = (f"{width} x {height}" for width, height in (by_area[0], by_area[-1]))
    return first if first == last else f"{len(sides)} sizes from {first} to {last}"


DATA_COMMANDS: dict[str, Callable[..., None]] = {
    "make": make,
    "check": check,
    "list": list_,
    "shots": shots,
    "shift": shift,
}
"""The functions behind ``glora data``, by name."""

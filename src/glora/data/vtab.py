"""VTAB-1k as it is handed around: lists of 800 training, 200 validation and all test images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from glora.data.listing import Listing, Part
from glora.data.lists import ListRule, read_list
from glora.errors import DataError

__all__ = ["MADE_FILE", "OTHER_NAMES", "VTAB", "VtabTask", "is_vtab", "list_vtab", "survey_vtab"]

MADE_FILE = "made.json"
"""What a folder says of itself that ``glora data make`` made: it is not held to VTAB-1k's numbers."""


@dataclass(frozen=True, slots=True)
class VtabTask:
    """What is known of a data set of VTAB-1k."""

    classes: int
    test_size: int
    group: str


VTAB = {
    "cifar": VtabTask(100, 10000, "Natural"),
    "caltech101": VtabTask(102, 6084, "Natural"),
    "dtd": VtabTask(47, 1880, "Natural"),
    "oxford_flowers102": VtabTask(102, 6149, "Natural"),
    "oxford_iiit_pet": VtabTask(37, 3669, "Natural"),
    "svhn": VtabTask(10, 26032, "Natural"),
    "sun397": VtabTask(397, 21750, "Natural"),
    "patch_camelyon": VtabTask(2, 32768, "Specialized"),
    "eurosat": VtabTask(10, 5400, "Specialized"),
    "resisc45": VtabTask(45, 6300, "Specialized"),
    "diabetic_retinopathy": VtabTask(5, 42670, "Specialized"),
    "clevr_count": VtabTask(8, 15000, "Structured"),
    "clevr_dist": VtabTask(6, 15000, "Structured"),
    "dmlab": VtabTask(6, 22735, "Structured"),
    "kitti": VtabTask(4, 711, "Structured"),
    "dsprites_loc": VtabTask(16, 73728, "Structured"),
    "dsprites_ori": VtabTask(16, 73728, "Structured"),
    "smallnorb_azi": VtabTask(18, 12150, "Structured"),
    "smallnorb_ele": VtabTask(9, 12150, "Structured"),
}
"""The 19 data sets by the name of their folder."""

OTHER_NAMES = {"cifar100": "cifar", "oxford_pet": "oxford_iiit_pet"}
"""What NOAH's scripts call two of the folders."""
_MOST_CLASSES = 100_000
_LISTS = {"train800.txt": 800, "val200.txt": 200, "train800val200.txt": 1000, "test.txt": None}


def is_vtab(root: str | Path) -> bool:
    """Whether a folder is laid out as VTAB-1k is."""
    return (Path(root) / "train800.txt").is_file()


def list_vtab(root: str | Path) -> Listing:
    """Read the lists of one data set, ``{train800,val200,train800val200,test}.txt``, and check them.

    Their lines are ``images/train800/000123.jpg 45``. The images of ``train800val200.txt`` are those of the two other
    lists under other names, so that list is checked where it exists but not used. A folder of an unknown name, or
    one that this package made, may have any number of images and classes.

    Raises:
        DataError: naming the list and the line: for a line of another form, a missing image, a label out of range,
            or a wrong number of lines.
    """
    listing, problems = survey_vtab(root)
    if listing is None or problems:
        raise DataError(problems[0])
    return listing


def survey_vtab(root: str | Path, name: str | None = None) -> tuple[Listing | None, list[str]]:
    """What :func:`list_vtab` does, with a line for everything that is wrong instead of an error for the first of it.

    Args:
        root: folder of the data set.
        name: of the data set, one of ``VTAB``, whose numbers hold; by the folder's name if None.
    """
    root = Path(root)
    own = root.resolve().name
    known = VTAB.get(name or OTHER_NAMES.get(own, own))
    task = None if name is None and (root / MADE_FILE).is_file() else known
    parts: dict[str, Part] = {}
    problems: list[str] = []
    for file, lines in _LISTS.items():
        if (root / file).is_file():
            wanted = (task.test_size if lines is None else lines) if task else None
            rule = ListRule(task.classes if task else _MOST_CLASSES, wanted)
            parts[file], found = read_list(root / file, rule)
            problems += found
        elif file in ("train800.txt", "val200.txt") or name is not None:
            problems.append(f"{root / file}: no such file: VTAB-1k has train800.txt, val200.txt and test.txt")
    if problems:
        return None, problems
    train, val, test = parts["train800.txt"], parts["val200.txt"], parts.get("test.txt")
    highest = max(max(part.labels) for part in (train, val, test) if part is not None)
    count = task.classes if task else highest + 1
    if count < 2:
        return None, [f"{root}: has one class only: two or more are needed"]
    layout = "VTAB-1k" if test is not None else "VTAB-1k; no test images"
    listing = Listing(name or own, layout, tuple(map(str, range(count))), train, val, test, complete=False)
    both = parts.get("train800val200.txt") if task else None
    return listing, _compare_labels(root, train, val, both)


def _compare_labels(root: Path, train: Part, val: Part, both: Part | None) -> list[str]:
    """Whether the list of 1000 can hold the images of the two others, which it names otherwise."""
    if both is None or Counter(both.labels) == Counter(train.labels + val.labels):
        return []
    apart, joined = Counter(train.labels + val.labels), Counter(both.labels)
    label = min(label for label in apart | joined if apart[label] != joined[label])
    return [
        f"{root / 'train800val200.txt'}: has {joined[label]} images of class {label}, train800.txt and val200.txt "
        f"have {apart[label]}: it must hold the same 1000 images"
    ]

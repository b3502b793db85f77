"""VTAB-1k as it is handed around: lists of 800 training, 200 validation and all test images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glora.data.listing import Listing, Part
from glora.errors import DataError

__all__ = ["MADE_FILE", "VTAB", "VtabTask", "is_vtab", "list_vtab"]

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

_OTHER_NAMES = {"cifar100": "cifar", "oxford_pet": "oxford_iiit_pet"}
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
    root = Path(root)
    name = root.resolve().name
    task = None if (root / MADE_FILE).is_file() else VTAB.get(_OTHER_NAMES.get(name, name))
    parts = {file: _read_list(root, file, task) for file in _LISTS}
    train, val, test = parts["train800.txt"], parts["val200.txt"], parts["test.txt"]
    if train is None or val is None:
        raise DataError(f"{root / 'val200.txt'}: no such file: VTAB-1k has train800.txt, val200.txt and test.txt")
    highest = max(max(part.labels) for part in (train, val, test) if part is not None)
    count = task.classes if task else highest + 1
    if count < 2:
        raise DataError(f"{root}: has one class only: two or more are needed")
    layout = "VTAB-1k" if test is not None else "VTAB-1k; no test images"
    return Listing(name, layout, tuple(map(str, range(count))), train, val, test, complete=False)


def _read_list(root: Path, file: str, task: VtabTask | None) -> Part | None:
    path = root / file
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    while lines and not lines[-1].strip():
        lines.pop()
    images: list[Path] = []
    names: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(lines, 1):
        name, label = _parse(line, f"{path}, line {number}", task)
        if not (root / name).is_file():
            raise DataError(f"{path}, line {number}: {root / name}: no such file")
        images.append(root / name)
        names.append(name)
        labels.append(label)
    expected = (task.test_size if file == "test.txt" else _LISTS[file]) if task else None
    if not labels or (expected is not None and len(labels) != expected):
        needed = "one or more are" if expected is None else f"{expected} are"
        raise DataError(f"{path}, line {len(labels)}: ends after {len(labels)} images, {needed} needed")
    return Part(tuple(images), tuple(names), tuple(labels))


def _parse(line: str, where: str, task: VtabTask | None) -> tuple[str, int]:
    fields = line.rsplit(maxsplit=1)
    if len(fields) != 2 or not (fields[1].isascii() and fields[1].isdigit()):
        raise DataError(f"{where}: {line[:80]!r} is not of the form 'images/train800/000123.jpg 45'")
    label = int(fields[1])
    classes = task.classes if task else _MOST_CLASSES
    if label >= classes:
        raise DataError(f"{where}: label {label} is out of range: there are at most {classes} classes")
    return fields[0].strip(), label

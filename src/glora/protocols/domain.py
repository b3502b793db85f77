"""Domain generalisation: sixteen images of each class of ImageNet, tested on ImageNet and four shifted sets of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from glora.data.listing import Listing
from glora.data.lists import ListRule
from glora.protocols.fewshot import AUGMENTATION, PREPROCESSING, SEEDS, find_folder, overlap, read_part
from glora.protocols.task import Survey, Task, TestSet

__all__ = ["CLASSES", "DOMAIN", "IMAGENET", "SEEDS", "SHOTS", "DomainSet", "ImageNet", "survey"]

CLASSES = 1000
SHOTS = 16


@dataclass(frozen=True)
class ImageNet:
    """How many lines ImageNet's own lists have."""

    train: int = CLASSES * SHOTS
    val: int = 2959
    test: int = 50000


@dataclass(frozen=True)
class DomainSet:
    """What is known of a shifted test set.

    Args:
        lines: of its list.
        present: how many of the 1000 classes it has images of.
        folders: names of its folder.
        example: a line of its list.
    """

    lines: int
    present: int
    folders: tuple[str, ...]
    example: str


IMAGENET = ImageNet()
DOMAIN = {
    "imagenet-v2": DomainSet(
        10000, 1000, ("imagenetv2", "imagenet-v2"), "imagenetv2-matched-frequency-format-val/361/0a1b.jpeg 361"
    ),
    "imagenet-sketch": DomainSet(50889, 1000, ("imagenet-sketch",), "images/n03764736/sketch_23.JPEG 653"),
    "imagenet-a": DomainSet(
        7500, 200, ("imagenet-adversarial", "imagenet-a"), "imagenet-a/n07753592/0.003_soap dispenser_0.28.jpg 954"
    ),
    "imagenet-r": DomainSet(
        30000, 200, ("imagenet-rendition", "imagenet-r"), "imagenet-r/n04522168/cartoon_19.jpg 883"
    ),
}
"""The four shifted sets, as NOAH lists them; labels are ImageNet's."""


def survey(root: Path, seeds: Sequence[int]) -> Survey:
    """Look for ``root/imagenet`` and the four shifted sets beside it.

    Choices are made on NOAH's 2,959 further training images (``unofficial_val_list_4_shot16seed0``).
    """
    found = Survey([], [])
    tests, problems = _shifted(root)
    folder = find_folder(root, ("imagenet",))
    if folder is None:
        found.add(None, [f"{root / 'imagenet'}: no such folder: ImageNet is missing", *problems])
        return found
    lists, below = folder / "annotations", _below(folder / "train")
    example = "n01440764/n01440764_10026.JPEG 0"
    own = ListRule(CLASSES, IMAGENET.test, 1, True, "ILSVRC2012_val_00000001.JPEG 65", _by_file_name(folder / "val"))
    whole, wrong = read_part(lists / "val_meta.list", own)
    problems = wrong + problems
    rule = ListRule(CLASSES, IMAGENET.val, 1, filled=True, example=example, locate=below)
    val, wrong = read_part(lists / "unofficial_val_list_4_shot16seed0", rule)
    problems += wrong
    tests = [TestSet.shifted("imagenet", whole, CLASSES), *tests]
    for seed in seeds:
        path = lists / f"train_meta.list.num_shot_{SHOTS}.seed_{seed}"
        train, wrong = read_part(path, ListRule(CLASSES, IMAGENET.train, 1, True, example, below))
        # Drawn beside the training images of seed 0; of those of the other seeds it may hold some.
        if seed == 0:
            wrong += overlap(lists, (path.name, train), ("unofficial_val_list_4_shot16seed0", val))
        task = None
        if not problems and not wrong:
            layout = f"NOAH's lists, {SHOTS} shots, seed {seed}"
            listing = Listing("imagenet", layout, tuple(map(str, range(CLASSES))), train, val, whole)
            task = Task(
                "imagenet",
                "domain",
                listing,
                tuple(tests),
                PREPROCESSING,
                AUGMENTATION,
                shots=SHOTS,
                seed=seed,
            )
        found.add(task, problems + wrong)
    return found


def _shifted(root: Path) -> tuple[list[TestSet], list[str]]:
    """The shifted sets, and what is wrong with them."""
    tests: list[TestSet] = []
    problems: list[str] = []
    for name, known in DOMAIN.items():
        folder = find_folder(root, known.folders)
        if folder is None:
            problems.append(f"{root / known.folders[0]}: no such folder: the test set {name} is missing")
            continue
        path = folder / "annotations" / "val_meta.list"
        part, wrong = read_part(path, ListRule(CLASSES, known.lines, 1, False, known.example, _below(folder)))
        present = len(set(part.labels))
        if not wrong and present != known.present:
            wrong = [f"{path}: has images of {present} classes, {known.present} are needed"]
        problems += wrong
        tests.append(TestSet.shifted(name, part, CLASSES))
    return tests, problems


def _below(folder: Path) -> Callable[[str], Path]:
    return lambda name: folder / name


def _by_file_name(folder: Path) -> Callable[[str], Path | None]:
    """Finds images by their file names, whatever folders for classes there are between."""
    files = {path.name: path for path in sorted(folder.glob("*.JPEG"))}
    files |= {path.name: path for path in sorted(folder.glob("*/*.JPEG"))}
    return lambda name: files.get(Path(name).name)

"""Few-shot learning on five fine-grained data sets, by NOAH's lists (ZhangYuanhan-AI/NOAH, data/few-shot)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glora.data.listing import Listing, Part
from glora.data.lists import ListRule, read_list
from glora.data.preprocess import Preprocessing
from glora.errors import DataError
from glora.protocols.task import Survey, Task, TestSet

__all__ = [
    "AUGMENTATION",
    "FEWSHOT",
    "PREPROCESSING",
    "SEEDS",
    "SHOTS",
    "FewShotSet",
    "find_folder",
    "overlap",
    "read_part",
    "survey",
]

SHOTS = (1, 2, 4, 8, 16)
SEEDS = (0, 1, 2)
PREPROCESSING = Preprocessing(resize="squash-crop", crop_ratio=0.875)
"""Resize to 256 x 256, bicubic, centre of 224, ImageNet's mean and deviation, as in NOAH's and GLoRA's datasets.py."""
AUGMENTATION = "randaugment"
"""Of the training images, as there: timm's random crop, flip, RandAugment and erasing."""


@dataclass(frozen=True)
class FewShotSet:
    """What is known of a data set.

    Args:
        classes: how many.
        val, test: lines of these lists.
        folders: names of its folder, in NOAH's repository and in its loader.
        example: first line of a list.
        images: folder that the paths begin at, below the data set's own.
        doubled: shots of which every line of the training list stands there twice.
    """

    classes: int
    val: int
    test: int
    folders: tuple[str, ...]
    example: str
    images: str = "images"
    doubled: tuple[int, ...] = ()


FEWSHOT = {
    "fgvc-aircraft": FewShotSet(100, 3333, 3333, ("fgvc-aircraft", "fgvc_aircraft"), "0548719.jpg 0"),
    "food-101": FewShotSet(101, 20200, 30300, ("food101", "food-101"), "apple_pie/3277765.jpg 0"),
    "oxford-flowers102": FewShotSet(102, 1633, 2463, ("oxford-flowers102", "oxford_flowers"), "image_00070.jpg 76"),
    "oxford-pets": FewShotSet(37, 736, 3669, ("oxford-pets", "oxford_pets"), "Abyssinian_185.jpg 0", doubled=(1,)),
    "stanford-cars": FewShotSet(
        196, 1635, 8041, ("standford-cars", "stanford-cars", "stanford_cars"), "cars_train/02766.jpg 13", images="."
    ),
}
"""The five data sets. Counts as in NOAH's lists; in that of Oxford Pets for one shot every line stands twice."""


def survey(root: Path, names: Sequence[str], shots: Sequence[int], seeds: Sequence[int]) -> Survey:
    """Look for ``root/<folder>/annotations/{train_meta.list.num_shot_K.seed_S,val_meta.list,test_meta.list}``."""
    found = Survey([], [])
    for name in names:
        known = FEWSHOT[name]
        folder = find_folder(root, known.folders)
        if folder is None:
            found.add(None, [f"{root / known.folders[0]}: no such folder: the few-shot data set {name} is missing"])
            continue
        lists = folder / "annotations"
        val, problems = read_part(lists / "val_meta.list", _rule(folder, known, known.val))
        test, more = read_part(lists / "test_meta.list", _rule(folder, known, known.test))
        problems = problems + more + overlap(lists, ("val", val), ("test", test))
        for count in shots:
            for seed in seeds:
                found.add(*_task(name, known, folder, val, test, problems, count, seed))
    return found


def _task(
    name: str,
    known: FewShotSet,
    folder: Path,
    val: Part,
    test: Part,
    problems: list[str],
    shots: int,
    seed: int,
) -> tuple[Task | None, list[str]]:
    lists = folder / "annotations"
    copies = 2 if shots in known.doubled else 1
    path = lists / f"train_meta.list.num_shot_{shots}.seed_{seed}"
    train, own = read_part(path, _rule(folder, known, known.classes * shots * copies, copies))
    own += overlap(lists, (path.name, train), ("val", val)) + overlap(lists, (path.name, train), ("test", test))
    if problems or own:
        return None, problems + own
    layout = f"NOAH's lists, {shots} shots, seed {seed}"
    listing = Listing(name, layout, tuple(map(str, range(known.classes))), train, val, test)
    tests = (TestSet.plain("test", test),)
    return Task(name, "fewshot", listing, tests, PREPROCESSING, AUGMENTATION, shots=shots, seed=seed), []


def _rule(folder: Path, known: FewShotSet, lines: int, copies: int = 1) -> ListRule:
    images = folder / known.images
    return ListRule(known.classes, lines, copies, filled=True, example=known.example, locate=lambda name: images / name)


def find_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The folder of a data set in ``root``, or where NOAH's repository has it below its ``data``."""
    places = [root / above / name for above in ("", "few-shot", "domain-generalization") for name in names]
    return next((place for place in places if place.is_dir()), None)


def read_part(path: Path, rule: ListRule) -> tuple[Part, list[str]]:
    """As :func:`glora.data.lists.read_list`; a file that cannot be read is one more line."""
    try:
        return read_list(path, rule)
    except DataError as error:
        return Part((), (), ()), [str(error)]


def overlap(folder: Path, one: tuple[str, Part], other: tuple[str, Part]) -> list[str]:
    """A line if two parts, given with their names, share images."""
    shared = sorted(set(map(str, one[1].images)) & set(map(str, other[1].images)))
    if not shared:
        return []
    return [f"{folder}: {one[0]} and {other[0]} share {len(shared)} images, such as {shared[0]}: none may be in both"]

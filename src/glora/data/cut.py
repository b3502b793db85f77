"""Cutting off the parts that data do not come in, and drawing few images of each class."""

from __future__ import annotations

import random
from dataclasses import replace

from glora.data.listing import Listing, Part
from glora.data.splits import stratified_split
from glora.errors import DataError

__all__ = ["cut_off", "k_shot"]


def cut_off(
    parts: dict[str, Part],
    classes: tuple[str, ...],
    layout: str,
    seed: int,
    val_fraction: float,
    test_fraction: float,
) -> tuple[dict[str, Part], str]:
    """Cut validation images from the training images where there are none, and test images from images without parts.

    Args:
        parts: by name: train and perhaps val and test, or all.
        classes: names, by label.
        layout: of the data, in words.
        seed: of the cuts.
        val_fraction: share cut off for validation.
        test_fraction: share cut off for the test; with 0 there is none.

    Returns:
        The parts train, val and perhaps test, and the layout with what was cut off.
    """
    if not 0 < val_fraction < 1 or not 0 <= test_fraction < 1 or val_fraction + test_fraction >= 1:
        given = f"val_fraction {val_fraction:g} and test_fraction {test_fraction:g}"
        raise DataError(f"{given}: the first is above 0, and together they leave some training images")
    if "val" in parts:
        wanted = {"train": 1.0}
    elif "train" in parts or test_fraction == 0:
        wanted = {"train": 1 - val_fraction, "val": val_fraction}
    else:
        wanted = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    found = dict(parts)
    if len(wanted) > 1:
        source = found.pop("train") if "train" in found else found.pop("all")
        files = [str(path) for path in source.images]
        chosen = stratified_split(source.labels, list(wanted.values()), seed, classes=classes, files=files)
        found |= {part: source.take(positions) for part, positions in zip(wanted, chosen, strict=True)}
        shares = " and ".join(f"{part} {100 * wanted[part]:g} %" for part in wanted if part != "train")
        layout += f"; cut off by seed {seed}: {shares}"
    return found, layout if "test" in found else f"{layout}; no test images"


def k_shot(listing: Listing, shots: int, seed: int = 0) -> Listing:
    """Keep ``shots`` training images of each class, drawn by ``seed``; the other parts stay.

    Of one seed, fewer shots are among more of them, so that a curve over shots has less noise.

    Raises:
        DataError: if there are no shots, or a class has fewer training images.
    """
    if shots < 1:
        raise DataError(f"{shots} shots: one or more are needed")
    members: dict[int, list[int]] = {label: [] for label in range(len(listing.classes))}
    for position, label in enumerate(listing.train.labels):
        members[label].append(position)
    chosen: list[int] = []
    for label, found in members.items():
        if len(found) < shots:
            name = listing.classes[label]
            raise DataError(f"{listing.name}: class {name!r} has {len(found)} training images, {shots} are needed")
        random.Random(f"shots {seed} {label}").shuffle(found)
        chosen += found[:shots]
    layout = f"{listing.layout}; {shots} of each class by seed {seed}"
    return replace(listing, train=listing.train.take(sorted(chosen)), layout=layout)

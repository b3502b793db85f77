"""VTAB-1k: nineteen data sets of 1000 training images in three groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glora.data.preprocess import Preprocessing
from glora.data.vtab import OTHER_NAMES, VTAB, survey_vtab
from glora.protocols.task import Survey, Task, TestSet

__all__ = ["survey"]

PREPROCESSING = Preprocessing()
"""Resize to 224 x 224, bicubic, ImageNet's mean and deviation, as in the code of GLoRA, NOAH, FacT and RepAdapter."""


def survey(root: Path, names: Sequence[str]) -> Survey:
    """Look for data sets in ``root/<name>/{train800,val200,train800val200,test}.txt``.

    Structures and settings are chosen on train800 and val200; the figure is that of a training on both, tested once.
    """
    found = Survey([], [])
    for name in names:
        others = [other for other, meant in OTHER_NAMES.items() if meant == name]
        folder = next((root / own for own in (name, *others) if (root / own).is_dir()), None)
        if folder is None:
            found.add(None, [f"{root / name}: no such folder: the data set {name} of VTAB-1k is missing"])
            continue
        listing, problems = survey_vtab(folder, name)
        task = None
        if listing is not None and listing.test is not None:
            task = Task(
                name,
                "vtab",
                listing,
                (TestSet.plain("test", listing.test),),
                PREPROCESSING,
                final_on="train+val",
                group=VTAB[name].group.lower(),
            )
        found.add(task, problems)
    return found

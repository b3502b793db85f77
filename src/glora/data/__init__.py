"""Labelled images as training and evaluation read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glora.data.cut import k_shot
from glora.data.digits import list_digits
from glora.data.folder import has_splits, images_in, list_folder, list_whole
from glora.data.images import read_image
from glora.data.labelled import LabelledData, label_data
from glora.data.listing import Listing, Part
from glora.data.preprocess import Preprocessing
from glora.data.samples import ImageSamples, Samples, TensorSamples, as_samples
from glora.data.splits import digest, stratified_split
from glora.data.table import is_table, list_table, list_whole_table, table_has_splits, write_table
from glora.data.vtab import is_vtab, list_vtab
from glora.errors import DataError

__all__ = [
    "ImageSamples",
    "LabelledData",
    "Listing",
    "Part",
    "PickedPart",
    "Preprocessing",
    "Samples",
    "TensorSamples",
    "as_samples",
    "digest",
    "has_parts",
    "has_splits",
    "images_in",
    "is_table",
    "is_vtab",
    "k_shot",
    "label_data",
    "list_data",
    "list_one_part",
    "list_whole",
    "open_data",
    "pick_part",
    "read_image",
    "stratified_split",
    "write_table",
]


def open_data(
    source: str | Path,
    preprocessing: Preprocessing,
    *,
    seed: int = 0,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    skip_bad: bool = False,
) -> LabelledData:
    """Open a data set: :func:`list_data`, then decode.

    Args:
        source: as in :func:`list_data`.
        preprocessing: what is done to every image.
        seed: of the split, where there is none.
        val_fraction: share of the images cut off for validation, where there is no such part.
        test_fraction: share of the images cut off for the test, where the folder has no parts.
        skip_bad: go on without files that cannot be read.

    Returns:
        Training and validation samples, decoded once, and test samples to be decoded when they are asked for.

    Raises:
        DataError: one line naming the file or folder at fault and what to do.
    """
    listing = list_data(source, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction, skip_bad=skip_bad)
    return label_data(listing, preprocessing, skip_bad=skip_bad)


def list_data(
    source: str | Path, *, seed: int = 0, val_fraction: float = 0.2, test_fraction: float = 0.2, skip_bad: bool = False
) -> Listing:
    """List a data set without decoding it; for :func:`label_data`.

    Args:
        source: a folder ``DIR/<class>/*`` or ``DIR/{train,val,test}/<class>/*``; a folder of VTAB-1k (known by its
            ``train800.txt``); a table .csv, .tsv or .jsonl of path, label and perhaps split; or "digits".
        seed: of the split, where there is none.
        val_fraction: share of the images cut off for validation, where there is no such part.
        test_fraction: share of the images cut off for the test, where the folder has no parts.
        skip_bad: go on without files that cannot be read.

    Raises:
        DataError: one line naming the file or folder at fault and what to do.
    """
    if str(source) == "digits" and not Path(source).is_dir():
        return list_digits(seed)
    if is_vtab(source):
        return list_vtab(source)
    lister = list_table if is_table(source) else list_folder
    return lister(source, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction, skip_bad=skip_bad)


def has_parts(source: str | Path) -> bool:
    """Whether data say themselves which images are to train on and which to test on.

    Raises:
        DataError: for a table that cannot be read.
    """
    if is_table(source):
        return table_has_splits(source)
    return str(source) == "digits" or is_vtab(source) or has_splits(source)


def list_one_part(source: str | Path, *, skip_bad: bool = False) -> Listing:
    """List a folder ``DIR/<class>/*`` or a table as one part, the training part of the listing, to evaluate on.

    Raises:
        DataError: one line naming the file or folder at fault and what to do.
    """
    return (list_whole_table if is_table(source) else list_whole)(source, skip_bad=skip_bad)


@dataclass(frozen=True)
class PickedPart:
    """Images to evaluate on.

    Args:
        listing: that they are from.
        part: the images.
        split: its name: train, val, test or all.
    """

    listing: Listing
    part: Part
    split: str


def pick_part(source: str | Path, split: str = "auto", *, skip_bad: bool = False, **cut: Any) -> PickedPart:
    """List one part of a data set, to evaluate on.

    Args:
        source: as in :func:`list_data`; a folder or table without splits is taken as a whole.
        split: "train", "val", "test" or "all"; "auto" for "test", or "all" where there are no splits.
        skip_bad: go on without files that cannot be read.
        **cut: what else :func:`list_data` takes, where the split is cut by a seed.

    Raises:
        DataError: if there is no such part; as :func:`list_data`.
    """
    plain = not has_parts(source)
    if split == "auto":
        split = "all" if plain and not cut else "test"
    whole = plain and split == "all"
    listing = list_one_part(source, skip_bad=skip_bad) if whole else list_data(source, skip_bad=skip_bad, **cut)
    names = ("train", "val", "test") if split == "all" else (split,)
    parts = [part for name in names if (part := getattr(listing, name)) is not None]
    if not parts:
        raise DataError(f"{source}: has no {split} images: give --split train, val or all, or other --data")
    return PickedPart(listing, Part.joined(parts), split)

"""Labelled images as training and evaluation read them."""

from __future__ import annotations

from pathlib import Path

from glora.data.digits import list_digits
from glora.data.folder import has_splits, images_in, list_folder, list_whole
from glora.data.images import read_image
from glora.data.labelled import LabelledData, label_data
from glora.data.listing import Listing, Part
from glora.data.preprocess import Preprocessing
from glora.data.samples import ImageSamples, Samples, TensorSamples, as_samples
from glora.data.splits import digest, stratified_split
from glora.data.vtab import is_vtab, list_vtab

__all__ = [
    "ImageSamples",
    "LabelledData",
    "Listing",
    "Part",
    "Preprocessing",
    "Samples",
    "TensorSamples",
    "as_samples",
    "digest",
    "has_splits",
    "images_in",
    "is_vtab",
    "label_data",
    "list_data",
    "list_whole",
    "open_data",
    "read_image",
    "stratified_split",
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
            ``train800.txt``); or "digits".
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
    return list_folder(source, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction, skip_bad=skip_bad)

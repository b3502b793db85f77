"""A data set ready for use: samples by part, with what a run records about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from glora.data.listing import Listing, Part
from glora.data.preprocess import Preprocessing
from glora.data.samples import ImageSamples, JoinedSamples, Samples
from glora.data.splits import digest
from glora.errors import DataError

__all__ = ["LabelledData", "label_data"]


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Training, validation and test samples of a data set.

    Args:
        name: of the data set.
        classes: names, by label.
        train: training samples.
        val: validation samples: what structures are chosen by.
        digest: fingerprint of the split: paths, labels and parts (see ``glora.data.splits.digest``).
        layout: how the data lie on disk and what was cut from what, in words.
    """

    name: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    digest: str
    layout: str
    _test: Part | None = field(repr=False)
    _skipped: tuple[tuple[str, str], ...] = field(repr=False)
    _preprocessing: Preprocessing = field(repr=False)
    _skip_bad: bool = field(repr=False)

    @cached_property
    def test(self) -> Samples | None:
        """Test samples, or None if the data have none; nothing of them is decoded before they are asked for.

        Raises:
            DataError: for a bad image, unless bad ones are skipped.
        """
        if self._test is None:
            return None
        return _samples(self._test, self._preprocessing, self._skip_bad)

    @property
    def test_size(self) -> int | None:
        """Number of test images, without decoding any: as listed, until ``test`` has been asked for."""
        if self._test is None:
            return None
        return len(self.__dict__.get("test", self._test))

    @cached_property
    def train_val(self) -> Samples:
        """Training samples followed by validation samples: what VTAB-1k's final figures may be trained on."""
        return JoinedSamples(self.train, self.val)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Path and reason of each file left out; those of the test part as far as they are known yet."""
        return self._skipped + getattr(self.__dict__.get("test"), "skipped", ())

    def summary(self) -> dict[str, Any]:
        """What a run records, as JSON values: name, classes, counts by part, digest, layout, files skipped."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "train": len(self.train),
            "val": len(self.val),
            "test": self.test_size,
            "digest": self.digest,
            "layout": self.layout,
            "skipped": len(self.skipped),
        }


def label_data(listing: Listing, preprocessing: Preprocessing, *, skip_bad: bool = False) -> LabelledData:
    """Decode the training and validation images of a listing.

    Raises:
        DataError: for a bad image, unless ``skip_bad``; if then a class has no training image.
    """
    train = _samples(listing.train, preprocessing, skip_bad)
    val = _samples(listing.val, preprocessing, skip_bad)
    present = set(train.labels.tolist())
    for label, name in enumerate(listing.classes):
        if listing.complete and label not in present:
            raise DataError(f"class {name!r} of {listing.name} has no training image that can be read: add one")
    test_rows = listing.test.rows("test") if listing.test else []
    rows = listing.train.take(train.kept).rows("train") + listing.val.take(val.kept).rows("val") + test_rows
    return LabelledData(
        name=listing.name,
        classes=listing.classes,
        train=train,
        val=val,
        digest=digest(rows),
        layout=listing.layout,
        _test=listing.test,
        _skipped=listing.skipped + train.skipped + val.skipped,
        _preprocessing=preprocessing,
        _skip_bad=skip_bad,
    )


def _samples(part: Part, preprocessing: Preprocessing, skip_bad: bool) -> ImageSamples:
    return ImageSamples(part.images, part.labels, preprocessing, skip_bad=skip_bad)

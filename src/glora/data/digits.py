"""The handwritten digits that come with scikit-learn: 1797 small images that need no download."""

from __future__ import annotations

import numpy as np

from glora.data.listing import Listing, Part
from glora.data.splits import stratified_split
from glora.errors import DataError

__all__ = ["list_digits"]

_COUNTS = (800, 200, 797)


def list_digits(seed: int = 0) -> Listing:
    """800 training, 200 validation and 797 test images of 10 classes, uint8 (8, 8, 3), cut by ``seed``.

    Raises:
        DataError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError('the data set "digits" comes with scikit-learn: pip install "glora[demo]"') from None
    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = tuple(int(label) for label in bunch.target)
    images = tuple(np.repeat(image[:, :, None], 3, axis=2) for image in grey)
    everything = Part(images, tuple(f"{index:04d}" for index in range(len(images))), labels)
    train, val, test = map(everything.take, stratified_split(labels, _COUNTS, seed))
    layout = f"scikit-learn's digits; cut by seed {seed}"
    return Listing("digits", layout, tuple(map(str, range(10))), train, val, test)

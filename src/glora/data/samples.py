"""What training and evaluation read: labels, and input batches by index."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glora.data.augment import draw, training_transform
from glora.data.decoding import available_memory, complaint, decode_images, decoded, fits, image_name
from glora.data.preprocess import Preprocessing
from glora.errors import DataError

__all__ = ["ImageSamples", "JoinedSamples", "Samples", "SubsetSamples", "TensorSamples", "as_samples", "check_labels"]


class Samples(ABC):
    """Labelled inputs, read by index.

    Attributes:
        labels: int64 (N,), on the CPU.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def inputs(self, indices: Tensor) -> Tensor:
        """The model's input for some samples.

        Args:
            indices: int64 (B,), on the CPU, in any order, repeats allowed.

        Returns:
            Floating point (B, ...), normalised, on the device the samples are on.
        """

    def augmented(self, indices: Tensor, augment: str, numbers: Sequence[int]) -> Tensor:
        """As :meth:`inputs`, for training: each sample changed at random, as a number of its own says.

        Args:
            indices: as there.
            augment: such as flip or crop, see :func:`glora.data.augment.training_transform`.
            numbers: from 0 to 2^32 - 1, B of them. A sample's input depends on its number, not on those beside it.

        Raises:
            DataError: if the samples are no images; if one can no longer be read.
        """
        raise DataError(f"augment={augment} is for images, which these samples are not: use augment=none")

    @abstractmethod
    def to(self, device: torch.device | str) -> Samples:
        """The same samples, whose inputs come out on ``device``; kept there as a whole where that has the room."""

    def digest(self) -> str:
        """16 hexadecimal digits that tell these samples from others: other labels, inputs or order."""
        batches = torch.split(torch.arange(len(self)), 50)
        return _digest(self.labels, None, *(_digest(batch, self.inputs(batch)) for batch in batches))

    def subset(self, indices: Tensor | Sequence[int]) -> Samples:
        """Some of the samples, in the order of ``indices``, sharing their storage.

        Raises:
            DataError: for an index out of range.
        """
        return SubsetSamples(self, indices)


@final
class TensorSamples(Samples):
    """Inputs that are one tensor, for models of any kind.

    Args:
        inputs: floating point (N, ...).
        labels: whole numbers from 0, (N,).

    Raises:
        DataError: for other types or shapes, or negative labels.
    """

    def __init__(self, inputs: Tensor, labels: Tensor | Sequence[int]) -> None:
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 1:
            what = f"a {inputs.dtype} tensor" if isinstance(inputs, Tensor) else type(inputs).__name__
            raise DataError(f"inputs are one floating-point tensor (N, ...), not {what}")
        self.labels = check_labels(labels, len(inputs))
        self._inputs = inputs.detach()

    def inputs(self, indices: Tensor) -> Tensor:
        """Rows of the tensor, (B, ...)."""
        return self._inputs[indices.to(self._inputs.device)]

    def to(self, device: torch.device | str) -> TensorSamples:
        """The same, with the tensor on ``device``."""
        return TensorSamples(self._inputs.to(device), self.labels)


@final
class ImageSamples(Samples):
    """Labelled images, resized by PIL and normalised on the device they are used on.

    All images are decoded when the object is made, so that a bad one shows before any work is spent. If the uint8
    pixels (N, 3, size, size) take at most a quarter of the memory that is available they are kept, else every batch
    is decoded anew by a few threads; inputs are the same to the bit.

    Args:
        images: paths, PIL images or uint8 arrays (H, W) or (H, W, 3).
        labels: whole numbers from 0, one for each image.
        preprocessing: resize and normalisation.
        in_memory: keep the pixels or not, whatever the memory.
        skip_bad: leave out images that cannot be read.
        may_be_empty: go on where no image is left, too.

    Attributes:
        labels: int64 (N,), of the images that can be read.
        kept: positions among ``images`` of those that can be read.
        skipped: path and reason of those that cannot.
        in_memory: whether the pixels are kept.

    Raises:
        DataError: for bad labels; for a bad image unless ``skip_bad``; if no image is left, unless ``may_be_empty``.
    """

    def __init__(
        self,
        images: Sequence[str | Path | Image.Image | np.ndarray[Any, Any]],
        labels: Tensor | Sequence[int],
        preprocessing: Preprocessing,
        *,
        in_memory: bool | None = None,
        skip_bad: bool = False,
        may_be_empty: bool = False,
    ) -> None:
        labels = check_labels(labels, len(images))
        needed = len(images) * 3 * preprocessing.size**2
        self.in_memory = needed <= available_memory() // 4 if in_memory is None else in_memory
        self.preprocessing = preprocessing
        self._device = torch.device("cpu")
        pixels = self._room(len(images)) if self.in_memory else None
        bad = decode_images(images, preprocessing, pixels)
        if bad and (not skip_bad or (len(bad) == len(images) and not may_be_empty)):
            raise DataError(complaint(bad, len(images)))
        names = {index: image_name(images[index], index) for index, _ in bad}
        self.kept = tuple(index for index in range(len(images)) if index not in names)
        self.skipped = tuple((names[index], text.removeprefix(f"{names[index]}: ")) for index, text in bad)
        self.labels = labels[list(self.kept)] if bad else labels
        self._images = [images[index] for index in self.kept]
        self._pixels = pixels[list(self.kept)] if pixels is not None and bad else pixels

    def inputs(self, indices: Tensor) -> Tensor:
        """Normalised images, float32 (B, 3, size, size).

        Raises:
            DataError: if an image that is not in memory can no longer be read.
        """
        if self._pixels is not None:
            chosen = self._pixels[indices.to(self._pixels.device)]
        else:
            images = [self._images[index] for index in indices.tolist()]
            chosen = self._room(len(images))
            bad = decode_images(images, self.preprocessing, chosen)
            if bad:
                raise DataError(bad[0][1])
        return self.preprocessing.normalise(chosen.to(self._device))

    def augmented(self, indices: Tensor, augment: str, numbers: Sequence[int]) -> Tensor:
        """As :meth:`Samples.augmented`; but for flip, images are decoded anew, since a crop is one of the original."""
        transform = training_transform(augment, self.preprocessing)
        if augment == "flip":
            plain = self.inputs(indices)
            return draw(transform, plain, numbers, torch.empty_like(plain))
        target = self._room(len(indices), torch.float32)
        with closing(decoded([self._images[index] for index in indices.tolist()])) as originals:
            return draw(transform, originals, numbers, target).to(self._device)

    def digest(self) -> str:
        """Of labels, preprocessing and pixels; for what is not kept in memory, size and time of each file instead."""
        about = repr(self.preprocessing)
        if self._pixels is not None:
            return _digest(self.labels, self._pixels, about)
        return _digest(self.labels, None, about, *(_stamp(image) for image in self._images))

    def to(self, device: torch.device | str) -> ImageSamples:
        """The same images, normalised on ``device``; pixels in memory move there once if a quarter of it is enough."""
        moved = copy.copy(self)
        moved._device = torch.device(device)
        if self._pixels is not None and fits(self._pixels, moved._device):
            moved._pixels = self._pixels.to(moved._device)
        return moved

    def _room(self, count: int, dtype: torch.dtype = torch.uint8) -> Tensor:
        return torch.empty(count, 3, self.preprocessing.size, self.preprocessing.size, dtype=dtype)


@final
class SubsetSamples(Samples):
    """Some samples of another object, in a given order (see ``Samples.subset``)."""

    def __init__(self, base: Samples, indices: Tensor | Sequence[int]) -> None:
        chosen = torch.as_tensor(indices, dtype=torch.long, device="cpu").reshape(-1)
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(base):
            raise DataError(f"indices {int(chosen.min())} to {int(chosen.max())} of {len(base)} samples: out of range")
        self._base, self._indices = base, chosen
        self.labels = base.labels[chosen]

    def inputs(self, indices: Tensor) -> Tensor:
        """Inputs of the base, (B, ...)."""
        return self._base.inputs(self._indices[indices.cpu()])

    def augmented(self, indices: Tensor, augment: str, numbers: Sequence[int]) -> Tensor:
        """Of the base, (B, ...)."""
        return self._base.augmented(self._indices[indices.cpu()], augment, numbers)

    def digest(self) -> str:
        """Of the base and the order."""
        return _digest(self._indices, None, self._base.digest())

    def to(self, device: torch.device | str) -> SubsetSamples:
        """The same subset of the base on ``device``."""
        return SubsetSamples(self._base.to(device), self._indices)


@final
class JoinedSamples(Samples):
    """One object's samples followed by another's, such as training and validation samples."""

    def __init__(self, first: Samples, second: Samples) -> None:
        self._first, self._second = first, second
        self.labels = torch.cat([first.labels, second.labels])

    def inputs(self, indices: Tensor) -> Tensor:
        """Inputs of both, (B, ...), in the order of the indices."""
        return self._of_both(indices, lambda samples, own, _: samples.inputs(own))

    def augmented(self, indices: Tensor, augment: str, numbers: Sequence[int]) -> Tensor:
        """Of both, (B, ...), in the order of the indices."""

        def read(samples: Samples, own: Tensor, places: Tensor) -> Tensor:
            return samples.augmented(own, augment, [numbers[place] for place in places.tolist()])

        return self._of_both(indices, read)

    def _of_both(self, indices: Tensor, read: Callable[[Samples, Tensor, Tensor], Tensor]) -> Tensor:
        """What ``read`` gives for a part, its own indices and their places among all, put in order."""
        indices = indices.cpu()
        first = len(self._first)
        early, late = (mask.nonzero().flatten() for mask in (indices < first, indices >= first))
        found = torch.cat([read(self._first, indices[early], early), read(self._second, indices[late] - first, late)])
        order = torch.cat([early, late]).argsort()
        return found[order.to(found.device)]

    def digest(self) -> str:
        """Of both."""
        return _digest(self.labels, None, self._first.digest(), self._second.digest())

    def to(self, device: torch.device | str) -> JoinedSamples:
        """Both on ``device``."""
        return JoinedSamples(self._first.to(device), self._second.to(device))


def as_samples(source: Any) -> Samples:
    """Take data in any of the ways it may come.

    Args:
        source: a ``Samples`` object; a pair of tensors (inputs, labels); or a map-style dataset of pairs of a
            floating-point tensor, all of one shape, and a whole number, which is read once and stacked.

    Raises:
        DataError: for anything else, or if it holds no samples, naming the first item at fault.
    """
    if isinstance(source, Samples):
        return source
    if isinstance(source, (tuple, list)) and len(source) == 2 and all(isinstance(part, Tensor) for part in source):
        return TensorSamples(source[0], source[1])
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
        raise DataError(
            f"data of type {type(source).__name__}: give Samples, a pair of tensors (inputs, labels) or a dataset with "
            "a length whose items are pairs (tensor, label)"
        )
    if len(source) == 0:
        raise DataError("the data set is empty")
    inputs: list[Tensor] = []
    labels: list[int] = []
    for index in range(len(source)):
        tensor, label = _pair(source[index], index)
        if inputs and tensor.shape != inputs[0].shape:
            raise DataError(f"item {index} has shape {tuple(tensor.shape)}, item 0 has {tuple(inputs[0].shape)}")
        inputs.append(tensor)
        labels.append(label)
    return TensorSamples(torch.stack(inputs), torch.tensor(labels))


def check_labels(labels: Any, count: int) -> Tensor:
    """Labels as int64 (count,) on the CPU.

    Raises:
        DataError: if they are no whole numbers from 0, or not ``count`` of them.
    """
    try:
        found = torch.as_tensor(labels, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"labels are whole numbers (N,): {error}") from error
    if found.numel() == 0:
        found = found.long()
    if found.ndim != 1 or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise DataError(f"labels are whole numbers (N,), not {found.dtype} {tuple(found.shape)}")
    if len(found) != count:
        raise DataError(f"{count} inputs but {len(found)} labels")
    if count and int(found.min()) < 0:
        raise DataError(f"labels count from 0: label {int(found.min())} of sample {int(found.argmin())}")
    return found.long()


def _digest(labels: Tensor, inputs: Tensor | None, *about: str) -> str:
    found = hashlib.sha256("\n".join(about).encode("utf-8", "surrogateescape"))
    for tensor in (labels, inputs):
        if tensor is not None:
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def _stamp(image: str | Path | Image.Image | np.ndarray[Any, Any]) -> str:
    if isinstance(image, (str, Path)):
        status = Path(image).stat()
        return f"{Path(image).name} {status.st_size} {status.st_mtime_ns}"
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def _pair(item: Any, index: int) -> tuple[Tensor, int]:
    if not isinstance(item, (tuple, list)) or len(item) != 2 or not isinstance(item[0], Tensor):
        raise DataError(f"item {index} is no pair (tensor, label)")
    found = item[1].item() if isinstance(item[1], Tensor) and item[1].numel() == 1 else item[1]
    if isinstance(found, bool) or not isinstance(found, (int, np.integer)):
        raise DataError(f"item {index}: label {item[1]!r} is no whole number")
    return item[0], int(found)

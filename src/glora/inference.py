"""Using what a run has made: an adapter or merged file, opened as a classifier of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from glora.backbones import load_backbone
from glora.checkpoint import load, load_merged, read_metadata
from glora.data import ImageSamples, Part, Preprocessing, has_splits, images_in, is_vtab, list_data, list_whole
from glora.errors import CheckpointError, DataError
from glora.evaluate import predict_logits
from glora.model import GLoRAModel
from glora.precision import Precision
from glora.train.processes import Processes

__all__ = ["Classifier", "Prediction", "labelled_part", "open_adapter", "open_classifier", "predict"]

# Images decoded at a time, so that a large folder needs little memory and shows results early.
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model from a file with what its use needs.

    Attributes:
        model: gives logits (N, classes); on the device that ``accelerate`` finds, in eval mode.
        classes: names, by logit.
        preprocessing: of its images.
        file: where it comes from.
        kind: "adapter" or "merged".
    """

    model: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    file: Path
    kind: str


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image with their probabilities, likeliest first."""

    image: str
    classes: tuple[tuple[str, float], ...]


def open_adapter(path: str | Path, checkpoint: str | None = None) -> GLoRAModel:
    """Build the backbone that an adapter file names, and put the adapter on it.

    Args:
        path: of the adapter file.
        checkpoint: local weights of the backbone, if they lie elsewhere than in training.

    Raises:
        BackboneError: if the backbone cannot be had.
        CheckpointError: if the file is no adapter, damaged, or of another backbone.
    """
    values = read_metadata(path).values
    arguments = _arguments(values, path)
    if checkpoint is not None:
        arguments["checkpoint"] = checkpoint
    return load(load_backbone(**arguments).model, path)


def open_classifier(source: str | Path, checkpoint: str | None = None) -> Classifier:
    """Open an adapter file, a merged file, or a run folder, of which the adapter file is taken.

    Args:
        source: the file or folder.
        checkpoint: as in :func:`open_adapter`; a merged file needs none.

    Raises:
        BackboneError: if the backbone cannot be had.
        CheckpointError: if the file is neither, damaged, or of another backbone.
    """
    path = Path(source)
    path = path / "adapter.safetensors" if path.is_dir() else path
    kind, values = read_metadata(path)
    if kind == "adapter":
        model = open_adapter(path, checkpoint).merge(inplace=True)
    elif kind == "merged":
        arguments = _arguments(values, path) | {"checkpoint": None}
        model = load_merged(load_backbone(**arguments, pretrained=False).model, path)
    else:
        raise CheckpointError(f"{path} is a file of kind {kind!r}: give an adapter, a merged file or a run folder")
    preprocessing = Preprocessing.from_dict(values["preprocessing"])
    model = model.to(Processes().device).eval()
    return Classifier(model, tuple(values["classes"]), preprocessing, path, kind)


def predict(
    classifier: Classifier,
    images: Iterable[str | Path],
    *,
    top: int = 1,
    batch_size: int = 50,
    precision: Precision = "fp32",
    skip_bad: bool = False,
    on_skip: Callable[[str, str], None] | None = None,
) -> Iterator[Prediction]:
    """Classify image files, those in folders included, in order.

    Args:
        classifier: from :func:`open_classifier`.
        images: files, or folders of any depth.
        top: how many of the likeliest classes to give.
        batch_size: images in a forward.
        precision: of the forward.
        skip_bad: go on without files that cannot be read.
        on_skip: called with (path, reason) of each of those.

    Raises:
        DataError: naming a path that does not exist, a folder without images, or a bad image.
    """
    files = list(_files(images))
    top = min(top, len(classifier.classes))
    for start in range(0, len(files), _CHUNK):
        chunk = files[start : start + _CHUNK]
        samples = ImageSamples(chunk, [0] * len(chunk), classifier.preprocessing, skip_bad=skip_bad)
        if on_skip is not None:
            for path, reason in samples.skipped:
                on_skip(path, reason)
        logits = predict_logits(classifier.model, samples, batch_size, precision)
        likeliest = logits.double().softmax(1).topk(top)
        for index, values, places in zip(samples.kept, likeliest.values, likeliest.indices, strict=True):
            found = zip(places.tolist(), values.tolist(), strict=True)
            yield Prediction(str(chunk[index]), tuple((classifier.classes[place], value) for place, value in found))


def _files(images: Iterable[str | Path]) -> Iterator[Path]:
    for path in map(Path, images):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if not path.is_dir():
            yield path
            continue
        found = list(images_in(path))
        if not found:
            raise DataError(f"{path}: holds no images")
        yield from found


def labelled_part(
    classifier: Classifier, source: str, split: str | None = None, *, skip_bad: bool = False, **cut: Any
) -> tuple[ImageSamples, str]:
    """Labelled images to evaluate a classifier on.

    Args:
        classifier: whose classes the labels refer to, by name.
        source: as in :func:`glora.data.list_data`; a folder of class folders without splits is taken as a whole.
        split: "train", "val", "test" or "all"; None for "test", or "all" where there are no splits.
        skip_bad: go on without files that cannot be read.
        **cut: what else :func:`glora.data.list_data` takes, where the split is cut by a seed.

    Returns:
        The samples, and the name of the split.

    Raises:
        DataError: if there is no such split, or a class that the classifier does not know.
    """
    plain = source != "digits" and not is_vtab(source) and not has_splits(source)
    if split == "all" or (split is None and plain and not cut):
        classes, part = list_whole(source, skip_bad=skip_bad)
        split = "all"
    else:
        listing = list_data(source, skip_bad=skip_bad, **cut)
        classes, split = listing.classes, split or "test"
        found: Part | None = getattr(listing, split)
        if found is None:
            raise DataError(f"{source}: has no {split} images: give --split train, val or all, or other --data")
        part = found
    if unknown := [name for name in classes if name not in classifier.classes]:
        known = ", ".join(classifier.classes[:6]) + ("" if len(classifier.classes) < 7 else ", …")
        raise DataError(f"{source}: {classifier.file} knows no class {unknown[0]!r}: its classes are {known}")
    labels = [classifier.classes.index(classes[label]) for label in part.labels]
    return ImageSamples(part.images, labels, classifier.preprocessing, skip_bad=skip_bad), split


def _arguments(values: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """What builds the backbone that a file was made with."""
    try:
        name, classes = values["backbone"], values["classes"]
        Preprocessing.from_dict(values["preprocessing"])
        return {"name": name, "num_classes": len(classes), **values["backbone_arguments"]}
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not say what backbone, classes and preprocessing it belongs to ({error}): it was written "
            "by net.save() without them; open it with glora.load()"
        ) from error

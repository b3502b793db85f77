"""Using what a run has made: an adapter or merged file, opened as a classifier of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from glora.backbones import load_backbone
from glora.checkpoint import load, load_merged, read_metadata
from glora.data import ImageSamples, Listing, Part, Preprocessing, images_in, pick_part
from glora.errors import CheckpointError, DataError
from glora.evaluate import predict_logits
from glora.model import GLoRAModel
from glora.precision import Precision
from glora.train.processes import Processes

__all__ = [
    "Classifier",
    "Prediction",
    "adapter_of",
    "labelled_images",
    "labelled_part",
    "open_adapter",
    "open_classifier",
    "predict",
]

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


def adapter_of(source: str | Path) -> Path:
    """The adapter file of a run folder; any other path as it is.

    Raises:
        CheckpointError: if the folder holds none, or is no run folder.
    """
    path = Path(source)
    if not path.is_dir():
        return path
    if (path / "adapter.safetensors").is_file():
        return path / "adapter.safetensors"
    if not (path / "config.yaml").is_file():
        raise CheckpointError(f"{path} is no run folder: it has neither adapter.safetensors nor config.yaml")
    raise CheckpointError(f"{path} has no adapter.safetensors yet: glora search {path} makes it")


def open_adapter(path: str | Path, checkpoint: str | None = None, model: str | None = None) -> GLoRAModel:
    """Build the backbone that an adapter file names, and put the adapter on it.

    Args:
        path: of the adapter file.
        checkpoint: local weights of the backbone, if they lie elsewhere than in training.
        model: name of the backbone, if it is another one than in training (a folder that was moved).

    Raises:
        BackboneError: if the backbone cannot be had.
        CheckpointError: if the file is no adapter, damaged, or of another backbone.
    """
    arguments = _arguments(read_metadata(path).values, path)
    arguments |= {key: value for key, value in (("name", model), ("checkpoint", checkpoint)) if value is not None}
    return load(load_backbone(**arguments).model, path)


def open_classifier(
    source: str | Path, checkpoint: str | None = None, model: str | None = None, *, merge: bool = True
) -> Classifier:
    """Open an adapter file, a merged file, or a run folder, of which the adapter file is taken.

    Args:
        source: the file or folder.
        checkpoint: as in :func:`open_adapter`; a merged file needs none.
        model: as in :func:`open_adapter`.
        merge: fold an adapter into the weights; without it the model stays a ``GLoRAModel``.

    Raises:
        BackboneError: if the backbone cannot be had.
        CheckpointError: if the file is neither, damaged, or of another backbone, or merged where it must not be.
    """
    path = adapter_of(source)
    kind, values = read_metadata(path)
    plain: nn.Module
    if kind == "adapter":
        net = open_adapter(path, checkpoint, model)
        plain = net.merge(inplace=True, keep_hybrids=True) if merge else net
    elif kind == "merged" and not merge:
        raise CheckpointError(f"{path} is merged already: give the adapter file or its run folder")
    elif kind == "merged":
        arguments = _arguments(values, path) | {"checkpoint": None}
        arguments |= {} if model is None else {"name": model}
        plain = load_merged(load_backbone(**arguments, pretrained=False).model, path)
    else:
        raise CheckpointError(f"{path} is a file of kind {kind!r}: give an adapter, a merged file or a run folder")
    preprocessing = Preprocessing.from_dict(values["preprocessing"])
    plain = plain.to(Processes().device).eval()
    return Classifier(plain, tuple(values["classes"]), preprocessing, path, kind)


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
        labels = [0] * len(chunk)
        samples = ImageSamples(chunk, labels, classifier.preprocessing, skip_bad=skip_bad, may_be_empty=True)
        if on_skip is not None:
            for path, reason in samples.skipped:
                on_skip(path, reason)
        if len(samples) == 0:
            continue
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
    classifier: Classifier, source: str, split: str = "auto", *, skip_bad: bool = False, **cut: Any
) -> tuple[ImageSamples, str, int]:
    """Labelled images to evaluate a classifier on, decoded.

    Args:
        classifier: as in :func:`labelled_images`, and so are the others.
        source: the data.
        split: part of them.
        skip_bad: go on without files that cannot be read.
        **cut: of a split by a seed.

    Returns:
        The samples, the name of the split, and how many bad files were left out.

    Raises:
        DataError: as :func:`labelled_images`; for a bad image.
    """
    part, split, skipped = labelled_images(classifier, source, split, skip_bad=skip_bad, **cut)
    samples = ImageSamples(part.images, part.labels, classifier.preprocessing, skip_bad=skip_bad)
    return samples, split, skipped + len(samples.skipped)


def labelled_images(
    classifier: Classifier, source: str, split: str = "auto", *, skip_bad: bool = False, **cut: Any
) -> tuple[Part, str, int]:
    """Labelled images to evaluate a classifier on.

    Args:
        classifier: whose classes the labels refer to, by name.
        source: as in :func:`glora.data.list_data`; a folder or table without splits is taken as a whole.
        split: "train", "val", "test" or "all"; "auto" for "test", or "all" where there are no splits.
        skip_bad: go on without files that cannot be read.
        **cut: what else :func:`glora.data.list_data` takes, where the split is cut by a seed.

    Returns:
        The images, the name of the split, and how many bad files were left out while listing.

    Raises:
        DataError: if there is no such split, or a class that the classifier does not know.
    """
    picked = pick_part(source, split, skip_bad=skip_bad, **cut)
    labels = _known_labels(classifier, picked.listing, source, list(picked.part.labels))
    return replace(picked.part, labels=tuple(labels)), picked.split, len(picked.listing.skipped)


def _known_labels(classifier: Classifier, listing: Listing, source: str, labels: list[int]) -> list[int]:
    """Labels of the data as labels of the classifier, by the names of the classes."""
    places = {name: place for place, name in enumerate(classifier.classes)}
    if unknown := [name for name in listing.classes if name not in places]:
        known = ", ".join(classifier.classes[:6]) + ("" if len(classifier.classes) < 7 else ", …")
        raise DataError(f"{source}: {classifier.file} knows no class {unknown[0]!r}: its classes are {known}")
    return [places[listing.classes[label]] for label in labels]


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

"""Rows that others have published, each with where it stands and under which conditions it came about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glora.data import Preprocessing
from glora.errors import ConfigError
from glora.results.result import Result

__all__ = ["PUBLISHED", "PublishedRow", "differences", "published_rows"]

PUBLISHED = ("vtab",)
"""Benchmarks with published rows: VTAB-1K, top-1 on its test images."""


@dataclass(frozen=True)
class PublishedRow:
    """What a source prints of a method.

    Args:
        method: as the source calls it.
        parameters: trained ones without the head, as the source rounds them.
        backbone: what was adapted.
        preprocessing: of the images, in words; "not stated" where the source does not say.
        protocol: what choices were made on, and what the final model was trained on.
        source: where the row stands.
        accuracies: by name of the data set's folder, shares from 0 to 1.
    """

    method: str
    parameters: int
    backbone: str
    preprocessing: str
    protocol: str
    source: str
    accuracies: Mapping[str, float]


def published_rows(name: str) -> tuple[PublishedRow, ...]:
    """All rows of a benchmark.

    Raises:
        ConfigError: if there are none of that name.
    """
    if name not in PUBLISHED:
        raise ConfigError(f"there are no published rows of {name!r}, but of {', '.join(PUBLISHED)}")
    values = json.loads((Path(__file__).parent / f"published_{name}.json").read_text("utf-8"))
    found = []
    for row in values["rows"]:
        shares = [one / 100 for one in row.pop("accuracies")]
        found.append(PublishedRow(**row, accuracies=dict(zip(values["tasks"], shares, strict=True))))
    return tuple(found)


def differences(rows: Sequence[PublishedRow], cells: Sequence[Result]) -> list[str]:
    """One line for each condition in which our results differ from published rows, or may do so."""
    found = []
    if made := sorted({cell.task for cell in cells if cell.protocol != "vtab"}):
        found.append(
            f"split: {', '.join(made)}: not results of the protocol vtab: other images may stand under the same name"
        )
    if alone := sorted({cell.method for cell in cells if cell.trained_on != "train+val"}):
        found.append(f"split: trained without the 200 validation images, unlike the published: {', '.join(alone)}")
    for model, name in sorted({(cell.model, cell.backbone) for cell in cells}):
        # Timm's names of the checkpoint that the published rows share.
        local = "checkpoint" in model
        if local or not ("vit_base_patch16_224" in name and "in21k" in name and "in1k" not in name):
            found.append(f"backbone: ours {model}; published {', '.join(sorted({row.backbone for row in rows}))}")
    ours = {_preprocessing(cell) for cell in cells}
    for kind in sorted({row.preprocessing for row in rows}):
        if ours != {kind}:
            names = ", ".join(row.method for row in rows if row.preprocessing == kind)
            found.append(f"preprocessing: ours {'; '.join(sorted(ours))}; published {kind}: {names}")
    return [f"warning: {one}" for one in found]


def _preprocessing(cell: Result) -> str:
    """In the words of the published rows, where it is the same."""
    found, plain = Preprocessing.from_dict(cell.preprocessing), Preprocessing()
    imagenet = (found.mean, found.std) == (plain.mean, plain.std)
    colours = "ImageNet mean and deviation" if imagenet else f"mean {found.mean}, deviation {found.std}"
    resized = "squashed" if found.resize == "squash" else "resized and centre crop"
    return f"{found.size} px {resized}, {found.interpolation}, {colours}"

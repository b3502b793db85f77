"""Rows that others have published, each with where it stands and under which conditions it came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glora.data import Preprocessing
from glora.errors import ConfigError

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


def differences(rows: tuple[PublishedRow, ...], lines: list[dict[str, Any]]) -> list[str]:
    """One line for each condition in which our results differ from published rows, or may do so."""
    found = []
    if made := sorted({line["task"] for line in lines if line.get("protocol") != "vtab"}):
        found.append(
            f"split: {', '.join(made)}: not results of the protocol vtab: other images may stand under the same name"
        )
    if alone := sorted({line["method"] for line in lines if line["trained_on"] != "train+val"}):
        found.append(f"split: trained without the 200 validation images, unlike the published: {', '.join(alone)}")
    for model in sorted({_model(line) for line in lines}):
        # Timm's names of the checkpoint that the published rows share.
        if not ("vit_base_patch16_224" in model and "in21k" in model and "in1k" not in model):
            found.append(f"backbone: ours {model}; published {', '.join(sorted({row.backbone for row in rows}))}")
    ours = {_preprocessing(line) for line in lines}
    for kind in sorted({row.preprocessing for row in rows}):
        if ours != {kind}:
            names = ", ".join(row.method for row in rows if row.preprocessing == kind)
            found.append(f"preprocessing: ours {'; '.join(sorted(ours))}; published {kind}: {names}")
    return [f"warning: {one}" for one in found]


def _model(line: Mapping[str, Any]) -> str:
    model = line["model"]
    return str(model["model"] if isinstance(model, Mapping) else model)


def _preprocessing(line: Mapping[str, Any]) -> str:
    """In the words of the published rows, where it is the same."""
    found = line["preprocessing"]
    mean, std = (tuple(found[key]) for key in ("mean", "std"))
    imagenet = (mean, std) == (Preprocessing().mean, Preprocessing().std)
    colours = "ImageNet mean and deviation" if imagenet else f"mean {mean}, deviation {std}"
    resized = "squashed" if found["resize"] == "squash" else "resized and centre crop"
    return f"{found['size']} px {resized}, {found['interpolation']}, {colours}"

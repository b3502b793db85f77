"""The chosen structure as rows of a map: which form every support tensor of every layer has, and what it costs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glora.report.read import Layer
from glora.structure import TENSORS, Form, Structure

__all__ = ["KINDS", "KIND_NAMES", "LayerRow", "TensorRow", "blocks", "by_tensor"]

KINDS = ("none", "scalar", "vector", "rank", "mul")
KIND_NAMES = {
    "none": "none",
    "scalar": "scalar",
    "vector": "vector",
    "rank": "low rank",
    "mul": "multiplicative low rank",
}
ACTS = {
    "A": "scales the weight",
    "B": "shifts the weight",
    "C": "prompts the input",
    "D": "scales the bias",
    "E": "shifts the bias",
}
_SHORT = {"none": "·", "scalar": "s", "vector": "v", "rank": "r", "mul": "m"}


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer: its full name, its name within its block, its forms and their sizes."""

    name: str
    label: str
    forms: dict[str, Form]
    sizes: dict[str, int]

    @property
    def parameters(self) -> int:
        """Adapter parameters of the layer."""
        return sum(self.sizes.values())


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One support tensor over all layers: in how many it has each kind of form, and its parameters."""

    tensor: str
    acts: str
    kinds: dict[str, int]
    parameters: int


def short_form(form: Form) -> str:
    """A form in one or two letters, for a cell of the map."""
    return f"{_SHORT[form.kind]}{form.rank or ''}"


def block_of(name: str) -> str:
    """The numbered module that a layer lies in (``blocks.0`` of ``blocks.0.mlp.fc1``), or nothing."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts[:-1], start=1) if re.search(r"\d$", part)), default=0)
    return ".".join(parts[:last])


def blocks(layers: Iterable[Layer], structure: Structure) -> list[tuple[str, list[LayerRow]]]:
    """The layers in model order with their forms in a structure, neighbours of one block together."""
    groups = itertools.groupby(layers, key=lambda layer: block_of(layer.name))
    return [(block, [_row(layer, block, structure) for layer in own]) for block, own in groups]


def _row(layer: Layer, block: str, structure: Structure) -> LayerRow:
    forms = dict(structure[layer.name].items())
    sizes = {tensor: layer.shape.size(tensor, form) for tensor, form in forms.items()}
    return LayerRow(layer.name, layer.name[len(block) + 1 :] if block else layer.name, forms, sizes)


def kinds_used(rows: Iterable[LayerRow]) -> list[str]:
    """The kinds of form that occur, smallest first."""
    used = {form.kind for row in rows for form in row.forms.values()}
    return [kind for kind in KINDS if kind in used]


def by_tensor(rows: Sequence[LayerRow]) -> list[TensorRow]:
    """What each support tensor does and takes, over all layers."""
    return [
        TensorRow(
            tensor,
            ACTS[tensor],
            {kind: sum(row.forms[tensor].kind == kind for row in rows) for kind in KINDS},
            sum(row.sizes[tensor] for row in rows),
        )
        for tensor in TENSORS
    ]

"""The chosen structure as rows of a map: which form every support tensor of every layer has, and what it costs.

And, in a hybrid, what every block has of prompt and adapter.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glora.results.result import Layer
from glora.shapes import BlockShape
from glora.structure import PARTS, TENSORS, Form, Structure

__all__ = ["KINDS", "KIND_NAMES", "LayerRow", "TensorRow", "block_rows", "blocks", "by_tensor"]

KINDS = ("none", "scalar", "vector", "rank", "mul", "tokens", "bottleneck", "serial")
KIND_NAMES = {
    "none": "none",
    "scalar": "scalar",
    "vector": "vector",
    "rank": "low rank",
    "mul": "multiplicative low rank",
    "tokens": "prompt",
    "bottleneck": "parallel adapter",
    "serial": "serial adapters",
}
ACTS = {
    "A": "scales the weight",
    "B": "shifts the weight",
    "C": "prompts the input",
    "D": "scales the bias",
    "E": "shifts the bias",
    "prompt": "adds tokens to a block",
    "adapter": "adds to a block's output",
}
_SHORT = {
    "none": "·",
    "scalar": "s",
    "vector": "v",
    "rank": "r",
    "mul": "m",
    "tokens": "t",
    "bottleneck": "b",
    "serial": "h",
}


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer, or a block itself: its full name, its name within its block, its forms and their sizes."""

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
    """One support tensor over all layers, or part over all blocks: how often it has each form, and its parameters."""

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
    plain = [layer for layer in layers if not isinstance(layer.shape, BlockShape)]
    groups = itertools.groupby(plain, key=lambda layer: block_of(layer.name))
    return [(block, [_row(layer, block, structure) for layer in own]) for block, own in groups]


def block_rows(layers: Iterable[Layer], structure: Structure) -> list[LayerRow]:
    """The blocks that may have a prompt or an adapter, in model order; none but in a hybrid."""
    return [_row(block, "", structure) for block in layers if isinstance(block.shape, BlockShape)]


def _row(layer: Layer, block: str, structure: Structure) -> LayerRow:
    own = structure[layer.name]
    forms = {gene: own[gene] for gene in layer.shape.structure.genes}
    sizes = {tensor: layer.shape.size(tensor, form) for tensor, form in forms.items()}
    return LayerRow(layer.name, layer.name[len(block) + 1 :] if block else layer.name, forms, sizes)


def kinds_used(rows: Iterable[LayerRow]) -> list[str]:
    """The kinds of form that occur, smallest first."""
    used = {form.kind for row in rows for form in row.forms.values()}
    return [kind for kind in KINDS if kind in used]


def by_tensor(rows: Sequence[LayerRow]) -> list[TensorRow]:
    """What each support tensor, and in a hybrid each part, does and takes, over all layers or blocks."""
    return [
        TensorRow(
            tensor,
            ACTS[tensor],
            {kind: sum(row.forms[tensor].kind == kind for row in rows if tensor in row.forms) for kind in KINDS},
            sum(row.sizes.get(tensor, 0) for row in rows),
        )
        for tensor in (*TENSORS, *PARTS)
        if tensor in TENSORS or any(tensor in row.forms for row in rows)
    ]

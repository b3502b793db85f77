"""What the parameters of a place are sized by, and how many each form of it has (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from glora.structure import BlockStructure, Form, LayerStructure, PlaceStructure

__all__ = ["BlockShape", "LayerShape", "Shape"]


@final
@dataclass(frozen=True, slots=True)
class LayerShape:
    """What a layer's support tensors are sized by: its weight seen as ``out`` x ``in`` and whether it has a bias."""

    out_features: int
    in_features: int
    has_bias: bool = True

    structure: ClassVar[type[PlaceStructure]] = LayerStructure

    def size(self, tensor: str, form: Form) -> int:
        """Parameters of support tensor ``tensor`` in ``form`` (table in docs/method.md)."""
        if form.kind == "none":
            return 0
        if form.kind == "scalar":
            return 1
        if form.kind == "vector":
            return self.in_features if tensor == "C" else self.out_features
        if form.kind == "mul":
            return 2 * form.rank * self.in_features
        if tensor == "C":
            return form.rank * (self.in_features + 1)
        return form.rank * (self.out_features + self.in_features)


@final
@dataclass(frozen=True, slots=True)
class BlockShape:
    """What a block's prompt and adapter are sized by: the width of its tokens."""

    width: int

    structure: ClassVar[type[PlaceStructure]] = BlockStructure

    def size(self, part: str, form: Form) -> int:
        """Parameters of the block's ``part`` ("prompt" or "adapter") in ``form`` (table in docs/hybrids.md)."""
        if form.kind == "tokens":
            return form.rank * self.width
        one = form.rank * (2 * self.width + 1) + self.width  # two matrices and their biases
        return {"none": 0, "bottleneck": one, "serial": 2 * one}[form.kind]


Shape = LayerShape | BlockShape

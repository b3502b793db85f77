"""Adapted layers and structures, as the files of a run and of a bench have them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from glora.errors import StructureError
from glora.fields import Fields
from glora.shapes import BlockShape, LayerShape, Shape
from glora.structure import Structure

__all__ = ["Layer", "read_layer", "read_structure"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One adapted layer, or block that may have a prompt or an adapter, in the model's order."""

    name: str
    shape: Shape
    kind: str


def read_layer(fields: Fields) -> Layer:
    """A layer, or the block of a hybrid.

    Raises:
        CheckpointError: for an entry that is missing or wrong.
    """
    if (width := fields.integer("width", None)) is not None:
        return Layer(fields.text("name", ...), BlockShape(width), "block")
    shape = LayerShape(fields.integer("out"), fields.integer("in"), has_bias=fields.boolean("bias") is not False)
    return Layer(fields.text("name", ...), shape, fields.text("kind"))


def read_structure(fields: Fields, layers: Iterable[Layer] | None) -> Structure:
    """The entry ``structure``, whose places are among the layers unless those are not known.

    Raises:
        CheckpointError: if it is none, or is one of other layers.
    """
    try:
        structure = Structure(fields.mapping("structure"))
    except (StructureError, TypeError, AttributeError) as error:
        raise fields.error(f"'structure' is not a structure ({error})") from error
    if layers is not None and (unknown := set(structure) - {layer.name for layer in layers}):
        raise fields.error(f"'structure' names {min(unknown)!r}, which is not among its 'layers'")
    return structure

"""Adapted layers, one file a kind, and adapted blocks."""

from __future__ import annotations

from torch import nn

from glora.layers.base import AdaptedLayer, Place, Scratch
from glora.layers.block import AdaptedBlock
from glora.layers.linear import AdaptedLinear

__all__ = ["KINDS", "AdaptedBlock", "AdaptedLayer", "AdaptedLinear", "Place", "Scratch"]

KINDS: dict[type[nn.Module], type[AdaptedLayer]] = {nn.Linear: AdaptedLinear}
"""Which adapted layer stands for which module, by exact class: a subclass may not use its weight as we assume."""

"""Adapted layers, one file a kind."""

from __future__ import annotations

from torch import nn

from glora.layers.base import AdaptedLayer, Scratch
from glora.layers.linear import AdaptedLinear

__all__ = ["KINDS", "AdaptedLayer", "AdaptedLinear", "Scratch"]

KINDS: dict[type[nn.Module], type[AdaptedLayer]] = {nn.Linear: AdaptedLinear}
"""Which adapted layer stands for which module, by exact class: a subclass may not use its weight as we assume."""

"""Merged weights of one structure after another, for evaluating many: only what changes is computed anew."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from glora.layers import AdaptedLayer
from glora.structure import PlaceStructure

__all__ = ["Folds"]


@final
class Folds:
    """W* and b* of a model's layers, in one buffer a layer that is written again when the layer's forms change.

    Only as long as no tensor of the model changes.

    Args:
        dtype: to hold them in; the layers' own if None. Under autocast its dtype saves a cast for every batch and
            changes nothing, as the same numbers are rounded in the same way.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self._dtype = dtype
        self._held: dict[str, tuple[PlaceStructure, tuple[Tensor, Tensor | None]]] = {}
        self._buffers: dict[str, Tensor] = {}

    def of(self, name: str, layer: AdaptedLayer) -> tuple[Tensor, Tensor | None] | None:
        """W* and b* of a layer as it is active, valid until the next call for it; None for its frozen weights."""
        own = layer.weight.dtype
        # Autocast leaves float64 alone.
        dtype = own if self._dtype is None or own == torch.float64 else self._dtype
        if layer.structure.is_none and dtype == own:
            return None
        held = self._held.get(name)
        if held is None or held[0] != layer.structure:
            if name not in self._buffers:
                self._buffers[name] = torch.empty(layer.weight.shape, dtype=dtype, device=layer.weight.device)
            held = self._held[name] = (layer.structure, layer.merged(out=self._buffers[name]))
        return held[1]

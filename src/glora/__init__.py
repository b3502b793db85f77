"""GLoRA: adapt a frozen pretrained network by support tensors found layer by layer, then fold them in."""

from __future__ import annotations

from glora import presets
from glora.checkpoint import load
from glora.errors import GloraError
from glora.model import GLoRAModel, adapt
from glora.space import SearchSpace
from glora.structure import Form, LayerStructure, Structure

__all__ = [
    "Form",
    "GLoRAModel",
    "GloraError",
    "LayerStructure",
    "SearchSpace",
    "Structure",
    "adapt",
    "load",
    "presets",
]

"""GLoRA: adapt a frozen pretrained network by support tensors found layer by layer, then fold them in."""

from __future__ import annotations

from glora import presets
from glora.checkpoint import load
from glora.errors import GloraError
from glora.find import search
from glora.model import GLoRAModel, adapt
from glora.space import SearchSpace
from glora.structure import Form, LayerStructure, Structure
from glora.train import TrainSettings, train_supernet

__all__ = [
    "Form",
    "GLoRAModel",
    "GloraError",
    "LayerStructure",
    "SearchSpace",
    "Structure",
    "TrainSettings",
    "adapt",
    "load",
    "presets",
    "search",
    "train_supernet",
]

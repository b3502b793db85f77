"""GLoRA: adapt a frozen pretrained network by support tensors found layer by layer, then fold them in."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glora import peers, presets
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
    "peers",
    "presets",
    "search",
    "train_supernet",
]

_HOMES = {
    "Form": "structure",
    "GLoRAModel": "model",
    "GloraError": "errors",
    "LayerStructure": "structure",
    "SearchSpace": "space",
    "Structure": "structure",
    "TrainSettings": "train",
    "adapt": "model",
    "load": "checkpoint",
    "peers": "",
    "presets": "",
    "search": "find",
    "train_supernet": "train",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: the values need no torch, and the command line starts before torch does."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    if not home:
        return importlib.import_module(f"glora.{name}")
    found = getattr(importlib.import_module(f"glora.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)

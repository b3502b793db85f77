"""What a result was computed on and with, for whoever wants to compare it."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

__all__ = ["machine", "versions"]

_PACKAGES = ("glora", "torch", "timm", "torchvision")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def machine() -> str:
    """Device, kind of processor, and threads of this process."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{device}, {platform.machine()}, {torch.get_num_threads()} threads"

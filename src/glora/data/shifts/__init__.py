"""Images shifted away from those a model was trained on: the corruptions of ImageNet-C, and renderings."""

from __future__ import annotations

from glora.data.shifts.corruptions import CORRUPTIONS
from glora.data.shifts.registry import RENDERINGS, SHIFTS, shifted

__all__ = ["CORRUPTIONS", "RENDERINGS", "SHIFTS", "shifted"]

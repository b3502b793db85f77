"""Data sets that need no download: drawn on the spot, or copied from what other software brings along."""

from __future__ import annotations

from glora.data.made.make import MadeFolder, make_data
from glora.data.made.registry import MADE, made_set
from glora.data.made.sets import MadeSet

__all__ = ["MADE", "MadeFolder", "MadeSet", "made_set", "make_data"]

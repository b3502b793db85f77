"""The command line of glora: adapt a pretrained network to a small data set, search, merge, predict."""

from __future__ import annotations

from glora.cli.main import main

__all__ = ["main"]

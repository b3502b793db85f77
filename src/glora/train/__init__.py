"""Training: the recipe, the supernet's loop, and what resuming needs."""

from __future__ import annotations

from glora.train.loop import EpochRecord
from glora.train.settings import TrainSettings
from glora.train.supernet import fit, train_supernet

__all__ = ["EpochRecord", "TrainSettings", "fit", "train_supernet"]

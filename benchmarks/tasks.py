"""What the benchmarks of training and search share: tasks that need no download, and results that stay on file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import glora
from glora import SearchSpace, TrainSettings
from glora.backbones import Backbone, load_backbone
from glora.data import LabelledData, Preprocessing, label_data, list_data
from glora.data.made import make_data
from glora.model import GLoRAModel

TASKS = ("dsprites_loc", "dsprites_ori", "scene_count", "object_azimuth", "textures", "fashion")
TEST_IMAGES = 1000


class Cells:
    """Results on file, one JSON line each, so that a benchmark that was stopped goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.found: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}

    def __call__(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a key, worked out if it is not there."""
        if key not in self.found:
            row = {"key": key, **work()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(row)}\n")
                file.flush()
                os.fsync(file.fileno())
            self.found[key] = row
            print(f"{key}: done", file=sys.stderr, flush=True)
        return self.found[key]


class Task:
    """A data set of 800 training, 200 validation and some test images, and the backbone: saliency-tuned DINOv2-small.

    Args:
        name: of what ``glora data make`` makes, or "digits".
        folder: where the data sets lie, or are made.
        size: of the input in pixels.
    """

    def __init__(self, name: str, folder: Path, size: int) -> None:
        self.name, self.size = name, size
        source = "digits" if name == "digits" else str(make_data(name, folder / name, test=TEST_IMAGES).folder)
        listing = list_data(source)
        self._classes = len(listing.classes)
        self.data: LabelledData = label_data(listing, Preprocessing.from_dict(self.backbone().preprocessing))

    def backbone(self) -> Backbone:
        """A fresh one."""
        return load_backbone("offline/dinov2-small", num_classes=self._classes, size=self.size)

    def net(self, space: SearchSpace, **how: Any) -> GLoRAModel:
        """A fresh one, adapted."""
        return glora.adapt(self.backbone().model, space, **how)


def settings(epochs: int, seed: int, **more: Any) -> TrainSettings:
    """The recipe of all trainings here: batches of 32 in bf16."""
    return TrainSettings(**{"batch_size": 32, "precision": "bf16", "evaluations": 0} | more, epochs=epochs, seed=seed)


def one_thread() -> None:
    """Compute in one thread: two processes of one thread train more than one process of two."""
    torch.set_num_threads(1)

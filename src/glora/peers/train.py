"""Training of a peer by the supernet's loop: same batches, schedule, checkpoints and precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glora.backbones import Backbone
from glora.data import LabelledData
from glora.evaluate import evaluate
from glora.peers.base import Peer
from glora.peers.registry import peer
from glora.train import EpochRecord, TrainSettings, fit

__all__ = ["TrainedPeer", "train_peer"]


class TrainedPeer(NamedTuple):
    """What training a peer gave.

    Attributes:
        accuracy: top-1 on the validation images, from 0 to 1.
        size: trained parameters beside the head.
        seconds: of training, in this sitting: of a training that was resumed, what was left of it.
        net: the trained peer, in evaluation mode.
    """

    accuracy: float
    size: int
    seconds: float
    net: Peer


def train_peer(
    name: str,
    backbone: Backbone,
    data: LabelledData,
    settings: TrainSettings | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    state: str | Path | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TrainedPeer:
    """Train a method on the training images and score it on the validation images; test images are not looked at.

    Args:
        name: a key of ``PEERS``.
        backbone: whose model is changed in place: load one for each training.
        data: training and validation images.
        settings: of the training, ``TrainSettings()`` if None; its seed is the method's too.
        options: the method's own settings, in place of its defaults.
        state: file to resume from and to write checkpoints to.
        on_epoch: called with each epoch's record.

    Raises:
        GloraError: as :func:`peer` and :func:`glora.train_supernet` do.
    """
    settings = settings or TrainSettings()
    classes = len(data.classes)
    net = peer(name, backbone.model, head=backbone.head, num_classes=classes, seed=settings.seed, **(options or {}))
    start = time.monotonic()
    fit(net, data.train, settings=settings, state=state, on_epoch=on_epoch)
    seconds = time.monotonic() - start
    return TrainedPeer(evaluate(net, data.val, precision=settings.precision).accuracy, net.size, seconds, net)

"""Training of a supernet: one structure a step, drawn by the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glora.data.samples import Samples, as_samples
from glora.errors import DataError
from glora.evaluate import Evaluator
from glora.model import GLoRAModel
from glora.train.checkpointing import checkpointed_blocks
from glora.train.loop import EpochRecord, Loop
from glora.train.probes import probe_structures
from glora.train.settings import TrainSettings
from glora.trainable import Trainable

__all__ = ["fit", "train_supernet"]

# A checkpoint costs little, but not nothing: one at most every so many seconds, and one at the end.
_CHECKPOINT_SECONDS = 20.0


def train_supernet(
    net: GLoRAModel,
    train_data: Any,
    val_data: Any = None,
    settings: TrainSettings | None = None,
    *,
    state: str | Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> tuple[EpochRecord, ...]:
    """Train all support tensors and the head, one structure per optimiser step, random (paper, section 3.3) or not.

    With a space of one point (a preset) this is ordinary fine-tuning of that structure. Under ``accelerate launch``
    or ``torchrun`` every process takes its share of each batch and draws the same structure.

    Args:
        net: the adapted model, trained in place, on the device that ``accelerate`` finds.
        train_data: a ``glora.data`` samples object, a pair of tensors (inputs, labels), or a map-style dataset.
        val_data: likewise, for the fixed probe structures; None for no evaluation along the way.
        settings: the recipe, ``TrainSettings()`` if None.
        state: file to resume from and to write checkpoints to; a finished training found there is not repeated.
        on_step: called with (step, steps in all, loss).
        on_epoch: called with each epoch's record, those of a resumed training included.

    Returns:
        The records of all epochs.

    Raises:
        CheckpointError: if ``state`` is damaged or belongs to a training with other settings or weights.
        ConfigError: if ``checkpoint_blocks`` is asked of a model that cannot, or fp16 of a CPU.
        DataError: if there are no images, or a label has no logit.
        TargetError: if an adapted layer is never called by the model, so that its tensors could not be trained.
        DivergenceError: if the loss is not finite; the last checkpoint stays.
    """
    return fit(net, train_data, val_data, settings, state=state, on_step=on_step, on_epoch=on_epoch)


def fit(
    net: Trainable,
    train_data: Any,
    val_data: Any = None,
    settings: TrainSettings | None = None,
    *,
    state: str | Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> tuple[EpochRecord, ...]:
    """Train any model that says what is trained in it, a peer for one; everything is as in :func:`train_supernet`."""
    settings = settings or TrainSettings()
    train = as_samples(train_data)
    if len(train) == 0:
        raise DataError("there are no training images")
    loop = Loop(net, train, settings)
    path = None if state is None else Path(state)
    history = loop.resume(path)
    if on_epoch is not None:
        for record in history:
            on_epoch(record)
    probes = None if val_data is None else _Probes(net, as_samples(val_data), settings)
    with (
        torch.random.fork_rng(devices=_cuda_devices(loop.device)),
        checkpointed_blocks(net.model, settings.checkpoint_blocks),
    ):
        checkpointed = time.monotonic()
        for epoch in range(len(history), settings.epochs):
            loss = loop.epoch(epoch, on_step)
            with loop.average.in_place():
                scores = probes.scores() if probes and probes.due(epoch) else None
            record = EpochRecord(epoch + 1, loop.step, loss, loop.lr, scores)
            history.append(record)
            late = path is not None and loop.processes.decide(time.monotonic() - checkpointed > _CHECKPOINT_SECONDS)
            if path is not None and (late or epoch + 1 == settings.epochs):
                loop.checkpoint(path, history)
                checkpointed = time.monotonic()
            if on_epoch is not None:
                on_epoch(record)
    loop.average.settle()
    net.eval()
    return tuple(history)


class _Probes:
    """Evaluates the fixed probe structures in some epochs."""

    def __init__(self, net: Trainable, samples: Samples, settings: TrainSettings) -> None:
        self.structures = probe_structures(net.bound, settings.probes, settings.seed)
        self.evaluator = Evaluator(net, samples.to(next(net.parameters()).device), precision=settings.precision)
        count = min(settings.evaluations, settings.epochs)
        self.epochs = {round((i + 1) * settings.epochs / count) for i in range(count)}

    def due(self, epoch: int) -> bool:
        return epoch + 1 in self.epochs

    def scores(self) -> dict[str, float]:
        return {name: self.evaluator(structure).accuracy for name, structure in self.structures.items()}


def _cuda_devices(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []

"""Training of a supernet: one structure a step, drawn by the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glora.checkpoint import fingerprint
from glora.data.samples import Samples, as_samples
from glora.errors import ConfigError, DataError, GloraError, TargetError
from glora.evaluate import Evaluator, logits_of
from glora.model import GLoRAModel
from glora.precision import autocast
from glora.train.checkpointing import checkpointed_blocks, checkpointed_modules
from glora.train.probes import probe_structures
from glora.train.schedule import draw_structure, image_order, learning_rate
from glora.train.settings import TrainSettings
from glora.train.state import load_state, save_state

__all__ = ["EpochRecord", "train_supernet"]

# A checkpoint costs little, but not nothing: one at most every so many seconds, and one at the end.
_CHECKPOINT_SECONDS = 20.0


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training gave: one line of ``train.jsonl``."""

    epoch: int
    step: int
    loss: float
    lr: float
    probes: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; ``probes`` is left out in epochs without evaluation."""
        return {key: value for key, value in asdict(self).items() if value is not None}


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
    """Train all support tensors and the head, one random structure per optimiser step (paper, section 3.3).

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
        DataError: if a batch cannot be filled, or a label has no logit.
        TargetError: if an adapted layer is never called by the model, so that its tensors could not be trained.
        GloraError: if the loss is not finite; the last checkpoint stays.
    """
    settings = settings or TrainSettings()
    train = as_samples(train_data)
    if len(train) < settings.batch_size:
        raise DataError(f"{len(train)} training images do not fill a batch of {settings.batch_size}: lower batch_size")
    loop = _Loop(net, train, settings)
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
            due = probes is not None and probes.due(epoch)
            record = EpochRecord(epoch + 1, loop.step, loss, loop.lr, probes.scores() if probes and due else None)
            history.append(record)
            late = time.monotonic() - checkpointed > _CHECKPOINT_SECONDS
            if path is not None and (late or epoch + 1 == settings.epochs):
                loop.checkpoint(path, history)
                checkpointed = time.monotonic()
            if on_epoch is not None:
                on_epoch(record)
    net.eval()
    return tuple(history)


class _Loop:
    """The optimiser and the position in a training."""

    def __init__(self, net: GLoRAModel, train: Samples, settings: TrainSettings) -> None:
        from accelerate import PartialState  # here, because importing it changes the filters of warnings

        self.net, self.settings = net, settings
        self.processes = PartialState()
        self.device: torch.device = self.processes.device
        if settings.precision == "fp16" and self.device.type == "cpu":
            raise ConfigError("fp16 needs a GPU: use precision=bf16 or fp32 on a CPU")
        net.to(self.device)
        self.train = train.to(self.device)
        self.parameters = net.adapter_parameters() | net.head_parameters()
        if not self.parameters:
            raise TargetError("nothing to train: the search space has no support tensor and the model no head")
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.steps = len(train) // settings.batch_size
        self.step = 0
        self.lr = 0.0
        self.identity: dict[str, Any] = {}

    def resume(self, path: Path | None) -> list[EpochRecord]:
        """Restore a checkpoint, if there is one; the records of the epochs that it holds."""
        if path is None:
            return []
        self.identity = _identity(self.net, self.settings)
        progress = load_state(path, self.parameters, self.optimizer, self.identity)
        if progress is None:
            return []
        if "scaler" in progress:
            self.scaler.load_state_dict(progress["scaler"])
        history = [EpochRecord(**record) for record in progress["history"]]
        self.step = history[-1].step
        return history

    def checkpoint(self, path: Path, history: list[EpochRecord]) -> None:
        """Write what :meth:`resume` reads, by the main process."""
        if self.processes.is_main_process:
            progress = {
                "settings": self.identity,
                "history": [r.to_dict() for r in history],
                "scaler": self.scaler.state_dict(),
            }
            save_state(path, self.parameters, self.optimizer, progress)
        self.processes.wait_for_everyone()

    def epoch(self, epoch: int, on_step: Callable[[int, int, float], None] | None) -> float:
        """One pass over the training set; its mean loss."""
        self.net.train()
        for module in (*_stochastic_depth(self.net), *checkpointed_modules(self.net.model)):
            module.training = True
        torch.manual_seed(1_000_003 * self.settings.seed + 1009 * epoch + self.processes.process_index)
        order = torch.tensor(image_order(len(self.train), self.settings.seed, epoch))
        losses = []
        for i in range(self.steps):
            batch = order[i * self.settings.batch_size : (i + 1) * self.settings.batch_size]
            losses.append(self._step(batch, epoch + i / self.steps))
            if on_step is not None:
                on_step(self.step, self.steps * self.settings.epochs, float(losses[-1]))
        mean = torch.stack(losses).double().mean().item()
        if not math.isfinite(mean):
            raise GloraError(f"the loss of epoch {epoch + 1} is {mean}: lower lr ({self.settings.lr:g})")
        return mean

    def _step(self, batch: Tensor, progress: float) -> Tensor:
        self.lr = learning_rate(self.settings, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.net.activate(draw_structure(self.net.bound, self.settings.seed, self.step))
        mine = batch[self.processes.process_index :: self.processes.num_processes]
        labels = self.train.labels[mine].to(self.device)
        with autocast(self.device, self.settings.precision):
            logits = logits_of(self.net(self.train.inputs(mine).to(self.device)))
            if self.step == 0:
                self._check_first(logits)
            # A share of the global batch's mean, so that the sum over processes is that mean.
            loss = F.cross_entropy(logits.float(), labels, reduction="sum") / len(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        loss = self._sum_over_processes(loss.detach())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return loss

    def _sum_over_processes(self, loss: Tensor) -> Tensor:
        """Sum gradients and loss over processes; all draw one structure, so the same gradients exist everywhere."""
        if self.processes.num_processes == 1:
            return loss
        grads = [p.grad for p in self.parameters.values() if p.grad is not None]
        flat = torch.cat([loss.reshape(1), *(grad.reshape(-1) for grad in grads)])
        torch.distributed.all_reduce(flat)
        for grad, part in zip(grads, torch.split(flat[1:], [grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))
        return flat[0]

    def _check_first(self, logits: Tensor) -> None:
        highest = int(self.train.labels.max())
        if logits.ndim != 2 or logits.shape[1] <= highest:
            raise DataError(
                f"the model gives {list(logits.shape)} and the highest label is {highest}: "
                f"create it with num_classes={highest + 1}"
            )
        if uncalled := self.net.uncalled():
            raise TargetError(
                f"the model never calls {len(uncalled)} adapted layers, the first is {uncalled[0]}: it uses their "
                "weights some other way, and their support tensors would not act; leave them out with layers="
            )


class _Probes:
    """Evaluates the fixed probe structures in some epochs."""

    def __init__(self, net: GLoRAModel, samples: Samples, settings: TrainSettings) -> None:
        self.structures = probe_structures(net.bound, settings.probes, settings.seed)
        self.evaluator = Evaluator(net, samples.to(next(net.parameters()).device), precision=settings.precision)
        count = min(settings.evaluations, settings.epochs)
        self.epochs = {round((i + 1) * settings.epochs / count) for i in range(count)}

    def due(self, epoch: int) -> bool:
        return epoch + 1 in self.epochs

    def scores(self) -> dict[str, float]:
        return {name: self.evaluator(structure).accuracy for name, structure in self.structures.items()}


def _identity(net: GLoRAModel, settings: TrainSettings) -> dict[str, Any]:
    """Plain values that must be the same for a training to be resumed."""
    gains = {name: dict(layer.support.gains) for name, layer in net.layers.items()}
    return asdict(settings) | {"space": net.space.to_dict(), "gains": gains, "frozen weights": fingerprint(net)}


def _stochastic_depth(net: GLoRAModel) -> Iterator[nn.Module]:
    """The modules that drop a residual branch now and then, if in training mode."""
    for module in net.modules():
        # By name, because transformers has a class of its own for each model, without a common ancestor.
        if type(module).__name__.endswith(("DropPath", "StochasticDepth")):
            yield module


def _cuda_devices(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []

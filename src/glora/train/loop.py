"""The training loop: optimiser, position, one structure a step, and what a checkpoint of it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glora.checkpoint import fingerprint
from glora.data.samples import Samples
from glora.errors import CheckpointError, ConfigError, DataError, DivergenceError, TargetError
from glora.evaluate import logits_of
from glora.precision import autocast
from glora.structure import Structure
from glora.train.average import Average
from glora.train.checkpointing import checkpointed_modules
from glora.train.paths import Paths
from glora.train.processes import Processes
from glora.train.rates import Rates
from glora.train.schedule import image_numbers, image_order, learning_rate
from glora.train.settings import TrainSettings
from glora.train.state import load_state, save_state
from glora.trainable import Trainable

__all__ = ["EpochRecord", "Loop"]


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


class Loop:
    """The optimiser and the position in a training (final)."""

    def __init__(self, net: Trainable, train: Samples, settings: TrainSettings) -> None:
        self.net, self.settings = net, settings
        self.processes = Processes()
        self.device = self.processes.device
        if settings.precision == "fp16" and self.device.type == "cpu":
            raise ConfigError("fp16 needs a GPU: use precision=bf16 or fp32 on a CPU")
        net.to(self.device)
        self.train = train.to(self.device)
        self.parameters: dict[str, Tensor] = {**net.adapter_parameters(), **net.head_parameters()}
        if not self.parameters:
            raise TargetError("nothing to train: there is no adapter parameter and no head")
        self.buffers = net.trained_buffers()
        self.average = Average(self.parameters, settings.ema)
        self.rates = Rates(net, settings.lr_scale)
        self.optimizer = torch.optim.AdamW(
            self.rates.groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.steps = math.ceil(len(train) / settings.batch_size)
        self.paths = Paths(net.bound, settings, self.steps * settings.epochs)
        # In a space of one point the second structure would be the first.
        self.twins = settings.consistency > 0 and net.bound.cardinality > 1
        self.step = 0
        self.lr = 0.0
        self.identity: dict[str, Any] = {}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a training changes and a checkpoint holds, beside the optimiser's state."""
        return self.parameters | self.buffers | self.average.tensors

    def resume(self, path: Path | None) -> list[EpochRecord]:
        """Restore a checkpoint, if there is one; the records of the epochs that it holds."""
        history: list[EpochRecord] = []
        if path is not None:
            self.identity = _identity(self.net, self.train, self.settings)
            progress = load_state(path, self.tensors, self.optimizer, self.identity)
            if progress is not None:
                self.scaler.load_state_dict(progress["scaler"])
                history = [EpochRecord(**record) for record in progress["history"]]
                self.step = history[-1].step
        if self.processes.decide(self.step) != self.step:
            raise CheckpointError(f"the processes see different checkpoints at {path}: use a disk that all can read")
        self.processes.share(self.tensors.values())
        return history

    def checkpoint(self, path: Path, history: list[EpochRecord]) -> None:
        """Write what :meth:`resume` reads, by the main process."""
        if self.processes.index == 0:
            progress = {
                "settings": self.identity,
                "history": [r.to_dict() for r in history],
                "scaler": self.scaler.state_dict(),
            }
            save_state(path, self.tensors, self.optimizer, progress)
        self.processes.wait()

    def epoch(self, epoch: int, on_step: Callable[[int, int, float], None] | None) -> float:
        """One pass over the training set; its mean loss."""
        self.net.train()
        for module in (*_stochastic_depth(self.net), *checkpointed_modules(self.net.model)):
            module.training = True
        torch.manual_seed(1_000_003 * self.settings.seed + 1009 * epoch + self.processes.index)
        order = torch.tensor(image_order(len(self.train), self.settings.seed, epoch))
        losses = []
        for i, batch in enumerate(order.tensor_split(self.steps)):
            losses.append(self._step(batch, epoch + i / self.steps))
            if on_step is not None:
                on_step(self.step, self.steps * self.settings.epochs, float(losses[-1]))
        mean = torch.stack(losses).double().mean().item()
        if not math.isfinite(mean):
            raise DivergenceError(f"the loss of epoch {epoch + 1} is {mean}: lower lr ({self.settings.lr:g})")
        return mean

    def _step(self, batch: Tensor, progress: float) -> Tensor:
        self.lr = learning_rate(self.settings, progress)
        structure = self.paths(self.step)
        self.net.activate(structure)
        mine = batch[self.processes.index :: self.processes.count]
        labels, inputs = self.train.labels[mine].to(self.device), self._inputs(mine).to(self.device)
        with autocast(self.device, self.settings.precision):
            wanted = self._twin_logits(inputs, structure) if self.twins else None
            logits = logits_of(self.net(inputs))
            if self.step == 0:
                self._check_first(logits)
            # A share of the global batch's mean, so that the sum over processes is that mean.
            loss = self._loss(logits.float(), labels, wanted) / len(batch)
        self.optimizer.zero_grad(set_to_none=True)  # before the groups change, whose old members have the gradients
        self.rates.apply(self.optimizer.param_groups, structure, self.lr)
        if loss.requires_grad:  # not where no support tensor was drawn and there is no head
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        # All processes draw the same structure, so that the same gradients exist in all of them.
        grads = [p.grad for p in self.parameters.values() if p.grad is not None]
        self.processes.sum([loss, *grads])
        if grads:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.step += 1
        self.average.update(self.step)
        return loss

    def _inputs(self, images: Tensor) -> Tensor:
        augment, epoch = self.settings.augment, self.step // self.steps
        if augment == "none":
            return self.train.inputs(images)
        return self.train.augmented(images, augment, image_numbers(images.tolist(), self.settings.seed, epoch))

    @torch.no_grad()
    def _twin_logits(self, inputs: Tensor, structure: Structure) -> Tensor:
        """What a second structure gives, as it is: a target, so that each backward is of ``structure`` only."""
        self.net.activate(self.paths.twin(self.step))
        logits = logits_of(self.net(inputs)).float()
        self.net.activate(structure)
        return logits

    def _loss(self, logits: Tensor, labels: Tensor, wanted: Tensor | None) -> Tensor:
        """The sum over a batch of cross-entropy and, with ``wanted``, of the divergence from it."""
        loss = F.cross_entropy(logits, labels, reduction="sum")
        if wanted is not None:
            found, target = logits.log_softmax(1), wanted.log_softmax(1)
            loss = loss + self.settings.consistency * F.kl_div(found, target, reduction="sum", log_target=True)
        return loss

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


def _identity(net: Trainable, train: Samples, settings: TrainSettings) -> dict[str, Any]:
    """Plain values that must be the same for a training to be resumed."""
    gains = {name: place.gains for name, place in net.places.items()}
    about = {"space": net.bound.space.to_dict(), "gains": gains, "frozen weights": fingerprint(net)}
    return asdict(settings) | about | {"training data": train.digest()} | dict(net.recipe)


def _stochastic_depth(net: Trainable) -> Iterator[nn.Module]:
    """The modules that drop a residual branch now and then, if in training mode."""
    for module in net.modules():
        # By name, because transformers has a class of its own for each model, without a common ancestor.
        if type(module).__name__.endswith(("DropPath", "StochasticDepth")):
            yield module

"""Accuracy and loss of a model, or of one subnet of a supernet, on labelled samples: deterministic."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glora.blend import folded
from glora.data.samples import Samples
from glora.equivalence import Equivalence
from glora.errors import DataError
from glora.folds import Folds
from glora.precision import Precision, autocast, autocast_dtype
from glora.soup import Soup
from glora.strategies.score import Fitness, Key, Merit, Score, loss_levels, pack_bits
from glora.strategies.scorer import Batches, Scorer
from glora.structure import Structure
from glora.trainable import Trainable

__all__ = ["Evaluator", "Outcomes", "evaluate", "evaluate_spaces", "logits_of", "outcomes", "predict_logits"]


@dataclass(frozen=True, eq=False, slots=True)
class Outcomes:
    """What a model does on every sample: what may be compared with another model's, sample by sample.

    Attributes:
        correct: whether the likeliest class is the label, bool (N,).
        losses: cross-entropies, float64 (N,).
    """

    correct: Tensor
    losses: Tensor

    def merits(self, fitness: Fitness) -> Tensor:
        """What the fitness is the mean of, float64 (N,); greater is better."""
        return self.correct.double() if fitness == "accuracy" else -self.losses

    def score(self, fitness: Fitness = "accuracy") -> Score:
        """Accuracy, mean loss and the loss's standard error (NaN for a single sample)."""
        count = len(self.losses)
        return Score(
            int(self.correct.sum()) / count,
            self.losses.mean().item(),
            count,
            pack_bits(self.correct.tolist()),
            loss_error=self.losses.std().item() / count**0.5 if count > 1 else math.nan,
            fitness=fitness,
            levels=loss_levels(self.losses.tolist()),
        )


def logits_of(output: Any) -> Tensor:
    """The logits (N, classes) in what a model's forward gave: a tensor, or an object with ``logits``.

    Raises:
        DataError: if there are none.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise DataError(f"the model gives a {type(output).__name__}: neither a tensor nor an object with .logits")
    return logits


@contextmanager
def _evaluating(model: nn.Module, precision: Precision) -> Iterator[torch.device]:
    """Eval mode without gradients in a precision for a block, and modes as they were afterwards; gives the device."""
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), autocast(device, precision):
            yield device
    finally:
        for module, mode in modes.items():
            module.training = mode


def _logits(model: nn.Module, samples: Samples, indices: Tensor, device: torch.device) -> Tensor:
    """Logits of some samples, (N, classes) float32 on the CPU."""
    logits = logits_of(model(samples.inputs(indices).to(device)))
    if logits.ndim != 2 or len(logits) != len(indices):
        raise DataError(f"the model gives {list(logits.shape)} for {len(indices)} samples, not (N, classes)")
    return logits.float().cpu()


def _in_order(count: int, batch_size: int) -> list[Tensor]:
    return [torch.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


def predict_logits(model: nn.Module, samples: Samples, batch_size: int = 50, precision: Precision = "fp32") -> Tensor:
    """Logits of all samples in order, (N, classes) float32 on the CPU, in eval mode, which is left as it was."""
    with _evaluating(model, precision) as device:
        batches = _in_order(len(samples), batch_size)
        return torch.cat([_logits(model, samples, batch, device) for batch in batches])


def evaluate(model: nn.Module, samples: Samples, batch_size: int = 50, precision: Precision = "fp32") -> Score:
    """Top-1 accuracy and mean cross-entropy of ``model`` on ``samples``.

    Args:
        model: gives logits; a ``GLoRAModel`` is evaluated as its active structure is.
        samples: inputs with labels.
        batch_size: 25 to 50 is fastest on a CPU; the result does not depend on it but for rounding.
        precision: as in training.

    Raises:
        DataError: if there are no samples, or a label has no logit.
    """
    return outcomes(model, samples, _in_order(len(samples), batch_size), precision).score()


def outcomes(model: nn.Module, samples: Samples, batches: Sequence[Tensor], precision: Precision) -> Outcomes:
    """What ``model`` does on each of ``samples``, of which ``batches`` holds all indices; else as :func:`evaluate`."""
    found = _outcomes(model, samples, batches, precision)
    assert isinstance(found, Outcomes)
    return found


def _outcomes(
    model: nn.Module, samples: Samples, batches: Sequence[Tensor], precision: Precision, bar: Key | None = None
) -> Outcomes | Score:
    """The outcomes on all samples, or a bound below ``bar``, an accuracy's, from the first batches that prove one."""
    count, labels = len(samples), samples.labels.cpu()
    if count == 0:
        raise DataError("there are no samples to evaluate on")
    right, losses = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.float64)
    seen = torch.zeros(count, dtype=torch.bool)
    with _evaluating(model, precision) as device:
        for batch in batches:
            logits, own = _logits(model, samples, batch, device), labels[batch]
            _check_logits(int(labels.max()), logits)
            judged = _judge(logits, own)
            right[batch], losses[batch] = judged.correct, judged.losses
            seen[batch] = True
            if bar is not None and not seen.all():
                bound = _bound(int((right | ~seen).sum()), losses)
                if bound.key("accuracy") < bar:
                    levels = loss_levels(losses.tolist(), seen.tolist())
                    return Score.stopped(bound, int(seen.sum()), count, levels=levels)
    return Outcomes(right, losses)


def _judge(logits: Tensor, labels: Tensor) -> Outcomes:
    """What logits (N, classes) make of each sample."""
    losses = F.cross_entropy(logits.double(), labels, reduction="none").clamp(min=0)
    return Outcomes(logits.argmax(1) == labels, losses)


def _check_logits(label: int, logits: Tensor) -> None:
    if label >= logits.shape[1]:
        raise DataError(f"label {label} has no logit: the model's head has {logits.shape[1]} outputs")


def evaluate_spaces(
    model: nn.Module,
    samples: Samples,
    spaces: Mapping[str, Sequence[int] | None],
    batch_size: int = 50,
    precision: Precision = "fp32",
) -> dict[str, Score]:
    """As :func:`evaluate`, once for each choice of the logits that count, with one forward for all of them.

    Args:
        model: gives logits.
        samples: inputs with labels.
        spaces: by name, the classes whose logits count, the others being as if they were not there; None for all.
        batch_size: images in a forward.
        precision: as in training.

    Raises:
        DataError: if there are no samples, a label has no logit, or does not count itself.
    """
    if len(samples) == 0:
        raise DataError("there are no samples to evaluate on")
    labels = samples.labels.cpu()
    found: dict[str, list[Outcomes]] = {name: [] for name in spaces}
    with _evaluating(model, precision) as device:
        for batch in _in_order(len(samples), batch_size):
            logits, own = _logits(model, samples, batch, device), labels[batch]
            for name, classes in spaces.items():
                _check_logits(max(int(own.max()), *(classes or (0,))), logits)
                found[name].append(_judge(*_restricted(logits, own, classes, name)))
    return {
        name: Outcomes(torch.cat([o.correct for o in parts]), torch.cat([o.losses for o in parts])).score()
        for name, parts in found.items()
    }


def _restricted(logits: Tensor, labels: Tensor, classes: Sequence[int] | None, name: str) -> tuple[Tensor, Tensor]:
    """The columns that count, and the labels as places among them."""
    if classes is None:
        return logits, labels
    places = torch.full((logits.shape[1],), -1)
    places[list(classes)] = torch.arange(len(classes))
    if bool((places[labels] < 0).any()):
        raise DataError(f"{name}: label {int(labels[places[labels] < 0][0])} is none of the classes that count")
    return logits[:, list(classes)], places[labels]


def _bound(right: int, losses: Tensor) -> Merit:
    """The best there could still be, if ``right`` samples could be; no loss is negative, and those to come are 0."""
    # A sum in another order may differ by rounding, which is far below this margin.
    loss = losses.sum().item() / len(losses) * (1 - 1e-9)
    return Merit(right / len(losses), loss if math.isfinite(loss) else 0.0)


@final
class Evaluator(Scorer):
    """Scores structures of one supernet on fixed samples: the bridge between a search and a model.

    Each structure is folded into plain weights first, so that an evaluation costs what a plain model's does.

    Args:
        net: the supernet, which is left as it was after each evaluation.
        samples: inputs with labels.
        batch_size: of the evaluations.
        precision: of the evaluations.
        fitness: what ranks first.
    """

    def __init__(
        self,
        net: Trainable,
        samples: Samples,
        batch_size: int = 50,
        precision: Precision = "fp32",
        fitness: Fitness = "accuracy",
    ) -> None:
        self.net, self.data = net, samples
        self.samples, self.batch_size = len(samples), batch_size
        self.precision: Precision = precision
        self.fitness: Fitness = fitness

    def __call__(self, structure: Structure | Soup) -> Score:
        """Validation accuracy and loss with inherited weights; nothing is trained."""
        return self.outcomes(structure).score(self.fitness)

    def outcomes(self, structure: Structure | Soup) -> Outcomes:
        """The same, sample by sample."""
        with folded(self.net, structure, self.folds()):
            return outcomes(self.net, self.data, _in_order(self.samples, self.batch_size), self.precision)

    def scores(self, structures: Sequence[Structure], batches: Batches, bar: Key | None) -> Generator[Score]:
        """Score structures one after another, merging anew only what changes; no tensor of the net may change."""
        folds, indices = self.folds(), [torch.tensor(batch) for batch in batches]
        for structure in structures:
            yield self.score(structure, indices, bar, folds)

    def canonical(self, structure: Structure) -> Structure:
        """The structure without the forms that do nothing in this net, whose tensors must not change from now on."""
        return self._equivalence.canonical(structure)

    @cached_property
    def _equivalence(self) -> Equivalence:
        return Equivalence(self.net)

    def score(
        self, structure: Structure, batches: Sequence[Tensor], bar: Key | None = None, folds: Folds | None = None
    ) -> Score:
        """Score one structure on batches of indices, see :meth:`glora.strategies.Scorer.scores`.

        Where the loss ranks first nothing is stopped: it would save nothing (docs/search.md).
        """
        with self.net.folded(structure, folds or self.folds()):
            bar = bar if self.fitness == "accuracy" else None
            found = _outcomes(self.net, self.data, batches, self.precision, bar)
        return found if isinstance(found, Score) else found.score(self.fitness)

    def folds(self) -> Folds:
        """Room for merged weights that evaluations of this precision read as they are."""
        return Folds(autocast_dtype(self.precision))

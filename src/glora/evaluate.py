"""Accuracy and loss of a model, or of one subnet of a supernet, on labelled samples: deterministic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glora.blend import folded
from glora.data.samples import Samples
from glora.errors import DataError
from glora.model import GLoRAModel
from glora.precision import Precision, autocast
from glora.soup import Soup
from glora.strategies.score import Fitness, Score
from glora.structure import Structure

__all__ = ["Evaluator", "Outcomes", "evaluate", "logits_of", "outcomes", "predict_logits"]


@dataclass(frozen=True, eq=False, slots=True)
class Outcomes:
    """What a model does on every sample: what may be compared with another model's, sample by sample.

    Attributes:
        correct: whether the likeliest class is the label, bool (N,).
        losses: cross-entropies, float64 (N,).
    """

    correct: Tensor
    losses: Tensor

    def score(self, fitness: Fitness = "accuracy") -> Score:
        """Accuracy, mean loss and the loss's standard error (NaN for a single sample)."""
        count = len(self.losses)
        error = self.losses.std().item() / count**0.5 if count > 1 else float("nan")
        return Score(self.correct.double().mean().item(), self.losses.mean().item(), count, error, fitness)


def logits_of(output: Any) -> Tensor:
    """The logits (N, classes) in what a model's forward gave: a tensor, or an object with ``logits``.

    Raises:
        DataError: if there are none.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise DataError(f"the model gives a {type(output).__name__}: neither a tensor nor an object with .logits")
    return logits


@torch.no_grad()
def predict_logits(model: nn.Module, samples: Samples, batch_size: int = 50, precision: Precision = "fp32") -> Tensor:
    """Logits of all samples in order, (N, classes) float32 on the CPU, in eval mode, which is left as it was."""
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    found = []
    try:
        with autocast(device, precision):
            for start in range(0, len(samples), batch_size):
                indices = torch.arange(start, min(start + batch_size, len(samples)))
                logits = logits_of(model(samples.inputs(indices).to(device)))
                if logits.ndim != 2 or len(logits) != len(indices):
                    raise DataError(
                        f"the model gives {list(logits.shape)} for {len(indices)} samples, not (N, classes)"
                    )
                found.append(logits.float().cpu())
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(found)


def outcomes(model: nn.Module, samples: Samples, batch_size: int = 50, precision: Precision = "fp32") -> Outcomes:
    """What ``model`` does on each of ``samples``; arguments and errors as in :func:`evaluate`."""
    if len(samples) == 0:
        raise DataError("there are no samples to evaluate on")
    logits = predict_logits(model, samples, batch_size, precision)
    labels = samples.labels.cpu()
    if int(labels.max()) >= logits.shape[1]:
        raise DataError(f"label {int(labels.max())} has no logit: the model's head has {logits.shape[1]} outputs")
    return Outcomes(logits.argmax(1) == labels, F.cross_entropy(logits.double(), labels, reduction="none"))


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
    return outcomes(model, samples, batch_size, precision).score()


class Evaluator:
    """Scores structures of one supernet on fixed samples: the bridge between a search and a model (final).

    Each structure is folded into plain weights first, so that an evaluation costs what a plain model's does.
    """

    def __init__(
        self,
        net: GLoRAModel,
        samples: Samples,
        batch_size: int = 50,
        precision: Precision = "fp32",
        fitness: Fitness = "accuracy",
    ) -> None:
        self.net = net
        self.samples = samples
        self.batch_size = batch_size
        self.precision: Precision = precision
        self.fitness: Fitness = fitness

    def __call__(self, structure: Structure | Soup) -> Score:
        """Validation accuracy and loss with inherited weights; nothing is trained."""
        return self.outcomes(structure).score(self.fitness)

    def outcomes(self, structure: Structure | Soup) -> Outcomes:
        """The same, sample by sample."""
        with folded(self.net, structure):
            return outcomes(self.net, self.samples, self.batch_size, self.precision)

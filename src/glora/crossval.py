"""Cross-validated fitness: a supernet a fold, a structure scored on the samples that its fold's supernet never saw."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from glora.data.samples import Samples, as_samples
from glora.data.splits import stratified_split
from glora.errors import ConfigError
from glora.evaluate import Evaluator, Outcomes
from glora.model import GLoRAModel
from glora.precision import Precision
from glora.soup import Soup
from glora.strategies import Batches, Fitness, Key, Score, Scorer
from glora.structure import Structure
from glora.train import TrainSettings, train_supernet

__all__ = ["CrossEvaluator", "Fold", "train_folds"]


class Fold(NamedTuple):
    """A trained supernet, as the values of what was trained, and the samples that it has not seen."""

    tensors: dict[str, Tensor]
    samples: Samples


def train_folds(
    net: GLoRAModel,
    data: Any,
    settings: TrainSettings | None = None,
    count: int = 5,
    *,
    fit: Callable[[GLoRAModel, Samples, int], None] | None = None,
) -> tuple[Fold, ...]:
    """Cut labelled samples into folds and train one supernet for each, on all the others, from the same start.

    Args:
        net: the adapted model as it is before training, which is how it is left.
        data: training and validation samples together, as for ``train_supernet``. Never test data.
        settings: of each training; its seed also cuts the folds, with the same share of each class.
        count: of folds, at least 2.
        fit: trains ``net`` on the samples given, for the fold of the index given, if not ``train_supernet``.

    Raises:
        ConfigError: for fewer than two folds.
        DataError: if a class has a single sample.
    """
    settings = settings or TrainSettings()
    if count < 2:
        raise ConfigError(f"cross-validation takes 2 folds or more, not {count}")
    samples = as_samples(data)
    parts = stratified_split(samples.labels.tolist(), [1 / count] * count, settings.seed)
    start = _values(net)
    folds = []
    for index, part in enumerate(parts):
        _fill(net, start)
        rest = samples.subset(sorted(set(range(len(samples))) - set(part)))
        if fit is None:
            train_supernet(net, rest, settings=settings)
        else:
            fit(net, rest, index)
        folds.append(Fold(_values(net), samples.subset(part)))
    _fill(net, start)
    return tuple(folds)


@final
class CrossEvaluator(Scorer):
    """Scores structures over all folds: every labelled sample counts once, by the supernet that has not seen it.

    Five times the samples of a single validation part of a fifth, for five times the forwards.

    Args:
        net: any model adapted as the folds' was; its own values are left as they are.
        folds: from :func:`train_folds`.
        batch_size: as in ``Evaluator``.
        precision: as in ``Evaluator``.
        fitness: what ranks first.
    """

    def __init__(
        self,
        net: GLoRAModel,
        folds: Sequence[Fold],
        batch_size: int = 50,
        precision: Precision = "fp32",
        fitness: Fitness = "accuracy",
    ) -> None:
        device = next(net.parameters()).device
        self.net = net
        self.samples, self.batch_size = sum(len(fold.samples) for fold in folds), batch_size
        self.fitness: Fitness = fitness
        self._tensors = [fold.tensors for fold in folds]
        self._evaluators = [Evaluator(net, fold.samples.to(device), batch_size, precision, fitness) for fold in folds]

    def __call__(self, structure: Structure | Soup) -> Score:
        """Accuracy and loss over the held-out samples of all folds."""
        return self.outcomes(structure).score(self.fitness)

    def outcomes(self, structure: Structure | Soup) -> Outcomes:
        """The same, sample by sample, fold after fold."""
        own, found = _values(self.net), []
        try:
            for tensors, evaluator in zip(self._tensors, self._evaluators, strict=True):
                _fill(self.net, tensors)
                found.append(evaluator.outcomes(structure))
        finally:
            _fill(self.net, own)
        return Outcomes(torch.cat([one.correct for one in found]), torch.cat([one.losses for one in found]))

    def scores(self, structures: Sequence[Structure], batches: Batches, bar: Key | None) -> Generator[Score]:
        """Score structures as wholes, each fold in batches of its own: no bar stops any, no batch is as asked."""
        for structure in structures:
            yield self(structure)


def _trained(net: GLoRAModel) -> dict[str, Tensor]:
    """Support tensors, and parameters and buffers of the head."""
    return {**net.adapter_parameters(), **net.head_parameters(), **net.trained_buffers()}


def _values(net: GLoRAModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _trained(net).items()}


@torch.no_grad()
def _fill(net: GLoRAModel, values: dict[str, Tensor]) -> None:
    for name, tensor in _trained(net).items():
        tensor.copy_(values[name])

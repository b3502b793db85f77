"""Finding the best subnet of a trained supernet: the bridge between the search strategies and a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from glora.blend import check_blendable
from glora.checkpoint import fingerprint, tensors_digest
from glora.data.samples import Samples, as_samples
from glora.errors import ConfigError
from glora.evaluate import Evaluator
from glora.folds import CrossEvaluator, Fold
from glora.model import GLoRAModel
from glora.precision import Precision
from glora.selection import choose
from glora.strategies import Candidate, Evolution, Fitness, SearchResult, Select, run_search

__all__ = ["Signal", "check_signal", "search"]

Signal = Literal["accuracy", "loss", "cv", "cv-loss"]
_SIGNALS = ("accuracy", "loss", "cv", "cv-loss")
_SELECTS = ("best", "smallest", "soup")


def check_signal(fitness: str, select: str | None) -> None:
    """Raise ConfigError for a fitness or selection that does not exist."""
    if fitness not in _SIGNALS:
        raise ConfigError(f"fitness must be one of {', '.join(_SIGNALS)}, not {fitness!r}")
    if select is not None and select not in _SELECTS:
        raise ConfigError(f"select must be one of {', '.join(_SELECTS)}, not {select!r}")


def search(
    net: GLoRAModel,
    val_data: Any,
    budget: int | None = None,
    *,
    generations: int = 20,
    population: int = 50,
    parents: int = 10,
    mutants: int = 25,
    crossovers: int = 25,
    probability: float = 0.2,
    fitness: Signal = "accuracy",
    folds: Sequence[Fold] | None = None,
    select: Select | None = "best",
    known: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 50,
    precision: Precision = "fp32",
    history: str | Path | None = None,
    on_candidate: Callable[[Candidate], None] | None = None,
) -> SearchResult:
    """Evolve the best structure under a parameter budget, by its fitness with inherited weights.

    The authors' procedure with the authors' numbers (paper, section 3.3): nothing is trained, fitness is validation
    accuracy, ties go to the lower validation loss, then to fewer parameters, and the last generation counts.

    Args:
        net: a trained supernet.
        val_data: a ``glora.data`` samples object, a pair of tensors (inputs, labels), or a map-style dataset. Never
            give test data: the choice would fit it.
        budget: most adapter parameters, a hard limit; None for no limit.
        generations: of the evolution, after a first one of random structures.
        population: candidates a generation.
        parents: best candidates ever that the next generation is bred from.
        mutants: of a generation, made by mutation.
        crossovers: of a generation, made by crossover.
        probability: with which a mutation redraws each form.
        fitness: what ranks first: "accuracy" or "loss" on ``val_data``, or "cv" or "cv-loss", the same over the
            held-out samples of ``folds``.
        folds: from :func:`glora.folds.train_folds`, for "cv" and "cv-loss"; ``val_data`` is not used then.
        select: "best"; "smallest" of those that are not distinguishably worse; or "soup", the mean of several, see
            :func:`glora.selection.choose`. None takes the best and judges none of them once more.
        known: what ``to_dict`` gave of the result of this very search, whose selection is read instead of repeated.
        seed: of the evolution's draws.
        batch_size: of the evaluations; 25 to 50 is fastest on a CPU.
        precision: of the evaluations.
        history: ``search.jsonl`` file; a search recorded there goes on where it ended.
        on_candidate: called with every candidate, replayed ones included.

    Returns:
        The winner, the soup if one was selected and found, those that are not distinguishably worse than the best
        candidate, the front of fitness against parameters, and all candidates.

    Raises:
        BudgetError: at once, with the feasible range, if no structure meets the budget.
        CheckpointError: if ``history`` belongs to a search with other settings, weights or data.
        ConfigError: for an unknown fitness or selection, or a cross-validated fitness without folds.
        StructureError: if a soup is asked for of a space whose subnets have no mean.
    """
    check_signal(fitness, select)
    if select == "soup":
        check_blendable(net.bound)
    strategy = Evolution(
        net.bound,
        budget,
        seed=seed,
        generations=generations,
        population=population,
        parents=parents,
        mutants=mutants,
        crossovers=crossovers,
        probability=probability,
    )
    by: Fitness = "loss" if fitness.endswith("loss") else "accuracy"
    evaluator: Evaluator | CrossEvaluator
    if fitness.startswith("cv"):
        if not folds:
            raise ConfigError(f"fitness={fitness} needs folds=: glora.folds.train_folds makes them")
        evaluator = CrossEvaluator(net, folds, batch_size, precision, by)
        supernet = [tensor for fold in folds for tensor in fold.tensors.values()]
        parts = [fold.samples for fold in folds]
    else:
        parts = [as_samples(val_data).to(next(net.parameters()).device)]
        evaluator = Evaluator(net, parts[0], batch_size, precision, by)
        supernet = [*net.adapter_parameters().values(), *net.head_parameters().values()]
    path = None if history is None else Path(history)
    about: dict[str, Any] | None = None
    if path is not None:
        settings = {"fitness": fitness, "batch_size": batch_size, "precision": precision}
        about = _scored_by(net, supernet, parts) | settings
    found = run_search(strategy, evaluator, path, on_candidate, about=about)
    return found if select is None else choose(found, evaluator.outcomes, select, by, known)


def _scored_by(net: GLoRAModel, supernet: Sequence[Tensor], parts: Sequence[Samples]) -> dict[str, str]:
    """Digests of what the scores depend on: the supernet or supernets, their backbone, and the validation data."""
    gains = {name: dict(layer.support.gains) for name, layer in net.layers.items()}
    fixed = json.dumps([fingerprint(net), gains], sort_keys=True)
    return {
        "supernet": tensors_digest(supernet),
        "backbone": hashlib.sha256(fixed.encode()).hexdigest()[:16],
        "data": tensors_digest([tensor for part in parts for tensor in (part.labels, _first(part))]),
    }


def _first(samples: Samples) -> Tensor:
    """A few inputs stand for all."""
    return samples.inputs(torch.arange(min(8, len(samples))))

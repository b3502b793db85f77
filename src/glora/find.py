"""Finding the best subnet of a trained supernet: the bridge between the search strategies and a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from glora.blend import check_blendable
from glora.checkpoint import fingerprint, tensors_digest
from glora.crossval import CrossEvaluator, Fold
from glora.data.samples import Samples, as_samples
from glora.errors import ConfigError, near_miss
from glora.evaluate import Evaluator
from glora.model import GLoRAModel
from glora.precision import Precision
from glora.selection import POOL, choose
from glora.strategies import (
    Candidate,
    Fitness,
    Scorer,
    SearchResult,
    Select,
    Strategy,
    StrategyName,
    make_strategy,
    run_search,
)
from glora.workers import scorer_of

__all__ = ["Signal", "check_signal", "check_workers", "search"]

Signal = Literal["accuracy", "loss", "cv", "cv-loss"]
_SIGNALS = ("accuracy", "loss", "cv", "cv-loss")
_SELECTS = ("best", "smallest", "soup")


def check_signal(fitness: str, select: str | None) -> None:
    """Raise ConfigError for a fitness or selection that does not exist."""
    if fitness not in _SIGNALS:
        near = near_miss(fitness, _SIGNALS)
        raise ConfigError(f"fitness must be one of {', '.join(_SIGNALS)}, not {fitness!r}{near}")
    if select is not None and select not in _SELECTS:
        near = near_miss(select, _SELECTS)
        raise ConfigError(f"select must be one of {', '.join(_SELECTS)}, not {select!r}{near}")


def check_workers(fitness: str, workers: int, ray: str | None) -> None:
    """Raise ConfigError for a fitness that workers cannot evaluate."""
    if fitness.startswith("cv") and (workers != 1 or ray is not None):
        raise ConfigError(f"fitness={fitness} is evaluated in one process: leave out workers and ray")


def search(
    net: GLoRAModel,
    val_data: Any,
    budget: int | None = None,
    *,
    strategy: StrategyName | Strategy = "evolution",
    generations: int = 20,
    population: int = 50,
    parents: int | None = None,
    mutants: int | None = None,
    crossovers: int | None = None,
    probability: float | None = None,
    fitness: Signal = "accuracy",
    folds: Sequence[Fold] | None = None,
    select: Select | None = "best",
    known: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 50,
    precision: Precision = "fp32",
    history: str | Path | None = None,
    on_candidate: Callable[[Candidate], None] | None = None,
    prune: bool = True,
    workers: int = 1,
    ray: str | None = None,
) -> SearchResult:
    """Find the best structure under a parameter budget, by its fitness with inherited weights.

    By default the authors' evolution with the authors' numbers (paper, section 3.3): nothing is trained, fitness is
    validation accuracy, ties go to the lower validation loss, then to fewer parameters, and the last generation counts.

    Args:
        net: a trained supernet.
        val_data: a ``glora.data`` samples object, a pair of tensors (inputs, labels), or a map-style dataset. Never
            give test data: the choice would fit it.
        budget: most adapter parameters, a hard limit; None for no limit.
        strategy: "evolution", "random", "ageing", "nsga2", "surrogate" or "samplewise" (docs/search.md), with equally
            many evaluations; or a strategy already made for ``net.bound``, with its own budget, seed and numbers.
        generations: after a first one of random structures.
        population: candidates a generation.
        parents: of evolution: best candidates ever that are bred from; a fifth of the population if None.
        mutants: of evolution: of a generation, made by mutation; half of it if None.
        crossovers: of evolution: of a generation, made by crossover; half of it if None.
        probability: with which a mutation redraws each form; the strategy's own default if None (0.2 for evolution).
        fitness: what ranks first: "accuracy" or "loss" on ``val_data``, or "cv" or "cv-loss", the same over the
            held-out samples of ``folds``.
        folds: from :func:`glora.crossval.train_folds`, for "cv" and "cv-loss"; ``val_data`` is not used then.
        select: "best"; "smallest" of those that are not distinguishably worse; or "soup", the mean of several, see
            :func:`glora.selection.choose`. None takes the best and compares none of them.
        known: what ``to_dict`` gave of the result of this very search, whose selection is read instead of repeated.
        seed: of the strategy's draws.
        batch_size: of the evaluations; 25 to 50 is fastest on a CPU.
        precision: of the evaluations.
        history: ``search.jsonl`` file; a search recorded there goes on where it ended.
        on_candidate: called with every candidate, replayed ones included.
        prune: stop the evaluation of a candidate once it can no longer be bred from, and complete those at the end
            that may be on the front or among those that are selected from; everything that is found is the same
            without. Only where the accuracy on ``val_data`` ranks first, and the strategy does not need every score:
            "evolution", "random" and "samplewise", which without it asks for other structures.
        workers: processes that evaluate; with more than one, or with ``ray``, they are Ray's and hold a replica of
            the net each. The result and the history are the same for any number.
        ray: address of a Ray cluster for them, "auto" for one that runs here; None to start one of their own.

    Returns:
        The winner, the soup if one was selected and found, those that are not distinguishably worse than the best
        candidate, the front of fitness against parameters, and all candidates.

    Raises:
        BudgetError: at once, with the feasible range, if no structure meets the budget.
        CheckpointError: if ``history`` belongs to a search with other settings, weights or data.
        ConfigError: for a setting that is out of range or unknown; for a ready strategy for another model or budget;
            for a cross-validated fitness without folds or with workers; where workers are asked for and ``ray`` is not
            installed, or its cluster not to be had.
        StructureError: if a soup is asked for of a space whose subnets have no mean.
    """
    check_signal(fitness, select)
    if select == "soup":
        check_blendable(net.bound)
    if isinstance(strategy, Strategy):
        _check_made(strategy, net, budget)
    else:
        strategy = make_strategy(
            strategy,
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
    scoring: AbstractContextManager[Scorer]
    if fitness.startswith("cv"):
        if not folds:
            raise ConfigError(f"fitness={fitness} needs folds=: glora.crossval.train_folds makes them")
        check_workers(fitness, workers, ray)
        evaluator = CrossEvaluator(net, folds, batch_size, precision, by)
        scoring = nullcontext(evaluator)
        supernet = [tensor for fold in folds for tensor in fold.tensors.values()]
        parts = [fold.samples for fold in folds]
    else:
        parts = [as_samples(val_data).to(next(net.parameters()).device)]
        evaluator = Evaluator(net, parts[0], batch_size, precision, by)
        scoring = scorer_of(evaluator, workers, ray)
        trained = net.adapter_parameters() | net.head_parameters()
        supernet = [*trained.values(), *net.trained_buffers().values()]
    path, about, keep = None if history is None else Path(history), None, 0 if select is None else POOL
    if path is not None:
        settings = {"fitness": fitness, "batch_size": batch_size, "precision": precision, "prune": prune}
        # What is completed at the end depends on how many are selected from.
        about = {**_scored_by(net, supernet, parts), **settings, **({"keep": keep} if prune else {})}
    with scoring as scorer:
        found = run_search(strategy, scorer, path, on_candidate, about=about, prune=prune, keep=keep)
    return found if select is None else choose(found, evaluator.outcomes, select, by, known)


def _check_made(strategy: Strategy, net: GLoRAModel, budget: int | None) -> None:
    """Raise ConfigError for a strategy whose structures are not those of ``net`` or within ``budget``."""
    if any(getattr(strategy.space, part) != getattr(net.bound, part) for part in ("space", "shapes", "bias")):
        raise ConfigError("this strategy was made for another space or model: make it with net.bound")
    if budget is not None and budget != strategy.budget:
        raise ConfigError(
            f"this strategy has the budget {strategy.budget}, not {budget}: give it to the strategy alone"
        )


def _scored_by(net: GLoRAModel, supernet: Sequence[Tensor], parts: Sequence[Samples]) -> dict[str, str]:
    """Digests of what the scores depend on: the supernet or supernets, their backbone, and the validation data."""
    gains = {name: place.gains for name, place in net.places.items()}
    fixed = json.dumps([fingerprint(net), gains], sort_keys=True)
    return {
        "supernet": tensors_digest(supernet),
        "backbone": hashlib.sha256(fixed.encode()).hexdigest()[:16],
        "data": " ".join(part.digest() for part in parts),
    }

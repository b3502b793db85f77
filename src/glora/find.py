"""Finding the best subnet of a trained supernet: the bridge between the search strategies and a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glora.checkpoint import fingerprint, tensors_digest
from glora.data.samples import Samples, as_samples
from glora.errors import ConfigError
from glora.evaluate import Evaluator
from glora.model import GLoRAModel
from glora.precision import Precision
from glora.strategies import Candidate, SearchResult, Strategy, StrategyName, make_strategy, run_search
from glora.workers import scorer_of

__all__ = ["search"]


def search(
    net: GLoRAModel,
    val_data: Any,
    budget: int | None = None,
    *,
    strategy: StrategyName | Strategy = "evolution",
    generations: int = 20,
    population: int = 50,
    parents: int = 10,
    mutants: int = 25,
    crossovers: int = 25,
    probability: float | None = None,
    seed: int = 0,
    batch_size: int = 50,
    precision: Precision = "fp32",
    history: str | Path | None = None,
    on_candidate: Callable[[Candidate], None] | None = None,
    prune: bool = True,
    workers: int = 1,
    ray: str | None = None,
) -> SearchResult:
    """Find the best structure under a parameter budget, by validation accuracy with inherited weights.

    By default the authors' evolution with the authors' numbers (paper, section 3.3). Nothing is trained, ties go to
    the lower validation loss, then to fewer parameters, and the last generation counts.

    Args:
        net: a trained supernet.
        val_data: a ``glora.data`` samples object, a pair of tensors (inputs, labels), or a map-style dataset. Never
            give test data: the choice would fit it.
        budget: most adapter parameters, a hard limit; None for no limit.
        strategy: "evolution", "random", "ageing", "nsga2" or "surrogate" (docs/search.md), with equally many
            evaluations; or a strategy already made for ``net.bound``, with its own budget, seed and numbers.
        generations: after a first one of random structures.
        population: candidates a generation.
        parents: of evolution: best candidates ever that the next generation is bred from.
        mutants: of evolution: of a generation, made by mutation.
        crossovers: of evolution: of a generation, made by crossover.
        probability: with which a mutation redraws each form; the strategy's own default if None (0.2 for evolution).
        seed: of the strategy's draws.
        batch_size: of the evaluations; 25 to 50 is fastest on a CPU.
        precision: of the evaluations.
        history: ``search.jsonl`` file; a search recorded there goes on where it ended.
        on_candidate: called with every candidate, replayed ones included.
        prune: stop the evaluation of a candidate once it can neither be bred from nor be on the front; winner, front
            and the structures asked for are the same without.
        workers: processes that evaluate; with more than one, or with ``ray``, they are Ray's and hold a replica of
            the net each. The result and the history are the same for any number.
        ray: address of a Ray cluster for them, "auto" for one that runs here; None to start one of their own.

    Returns:
        The best candidate, the front of accuracy against parameters, and all candidates.

    Raises:
        BudgetError: at once, with the feasible range, if no structure meets the budget.
        ConfigError: for a setting that is out of range, or a ready strategy for another model or budget.
        CheckpointError: if ``history`` belongs to a search with other settings, weights or data.
        ConfigError: for settings out of range; where workers are asked for and ``ray`` is not installed, or its
            cluster not to be had.
    """
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
    samples = as_samples(val_data).to(next(net.parameters()).device)
    evaluator = Evaluator(net, samples, batch_size, precision)
    path = None if history is None else Path(history)
    settings = {"batch_size": batch_size, "precision": precision, "prune": prune}
    about = None if path is None else _scored_by(net, samples) | settings
    with scorer_of(evaluator, workers, ray) as scorer:
        return run_search(strategy, scorer, path, on_candidate, about=about, prune=prune)


def _check_made(strategy: Strategy, net: GLoRAModel, budget: int | None) -> None:
    """Raise ConfigError for a strategy whose structures are not those of ``net`` or within ``budget``."""
    if any(getattr(strategy.space, part) != getattr(net.bound, part) for part in ("space", "shapes", "bias")):
        raise ConfigError("this strategy was made for another space or model: make it with net.bound")
    if budget is not None and budget != strategy.budget:
        raise ConfigError(
            f"this strategy has the budget {strategy.budget}, not {budget}: give it to the strategy alone"
        )


def _scored_by(net: GLoRAModel, samples: Samples) -> dict[str, str]:
    """Digests of what the scores depend on: the supernet, its backbone, and the validation data."""
    heads = [tensor for head in net.heads.values() for tensor in (*head.parameters(), *head.buffers())]
    gains = {name: dict(layer.support.gains) for name, layer in net.layers.items()}
    fixed = json.dumps([fingerprint(net), gains], sort_keys=True)
    return {
        "supernet": tensors_digest([*net.adapter_parameters().values(), *heads]),
        "backbone": hashlib.sha256(fixed.encode()).hexdigest()[:16],
        "data": samples.digest(),
    }

"""Finding the best subnet of a trained supernet: the bridge between the search strategies and a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glora.checkpoint import fingerprint, tensors_digest
from glora.data.samples import Samples, as_samples
from glora.evaluate import Evaluator
from glora.model import GLoRAModel
from glora.precision import Precision
from glora.strategies import Candidate, Evolution, SearchResult, run_search
from glora.workers import scorer_of

__all__ = ["search"]


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
    seed: int = 0,
    batch_size: int = 50,
    precision: Precision = "fp32",
    history: str | Path | None = None,
    on_candidate: Callable[[Candidate], None] | None = None,
    prune: bool = True,
    workers: int = 1,
    ray: str | None = None,
) -> SearchResult:
    """Evolve the best structure under a parameter budget, by validation accuracy with inherited weights.

    The authors' procedure with the authors' numbers (paper, section 3.3): nothing is trained, ties go to the lower
    validation loss, then to fewer parameters, and the last generation counts.

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
        seed: of the evolution's draws.
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
        CheckpointError: if ``history`` belongs to a search with other settings, weights or data.
        ConfigError: for settings out of range; where workers are asked for and ``ray`` is not installed, or its
            cluster not to be had.
    """
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
    samples = as_samples(val_data).to(next(net.parameters()).device)
    evaluator = Evaluator(net, samples, batch_size, precision)
    path = None if history is None else Path(history)
    settings = {"batch_size": batch_size, "precision": precision, "prune": prune}
    about = None if path is None else _scored_by(net, samples) | settings
    with scorer_of(evaluator, workers, ray) as scorer:
        return run_search(strategy, scorer, path, on_candidate, about=about, prune=prune)


def _scored_by(net: GLoRAModel, samples: Samples) -> dict[str, str]:
    """Digests of what the scores depend on: the supernet, its backbone, and the validation data."""
    trained = net.adapter_parameters() | net.head_parameters()
    gains = {name: dict(layer.support.gains) for name, layer in net.layers.items()}
    fixed = json.dumps([fingerprint(net), gains], sort_keys=True)
    first = samples.inputs(torch.arange(min(8, len(samples))))
    return {
        "supernet": tensors_digest(trained.values()),
        "backbone": hashlib.sha256(fixed.encode()).hexdigest()[:16],
        "data": tensors_digest([samples.labels, first]),
    }

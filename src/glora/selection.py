"""Choosing among the candidates of a search with an eye to noise: what is really worse, the smallest, the soup."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glora.errors import CheckpointError
from glora.evaluate import Outcomes
from glora.soup import Soup
from glora.strategies import Candidate, Fitness, Score, SearchResult, Select, Tie
from glora.strategies.score import bits
from glora.structure import Structure

__all__ = ["POOL", "choose", "greedy_soup", "known_choice", "paired"]

# How many of the best candidates are compared with the best one, beside those of the front, and may go into a soup.
POOL = 20
# How often the pool is gone through for a soup: the second time, a subnet may get more weight.
_ROUNDS = 3
# A single sample more that is right makes difference and error equal but for rounding: it is no evidence.
_ROUNDING = 1 + 1e-9

Judge = Callable[[Structure | Soup], Outcomes]


def choose(
    found: SearchResult,
    judge: Judge,
    select: Select = "best",
    fitness: Fitness = "accuracy",
    known: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Find the candidates that are not distinguishably worse than the best, and select what to use.

    The front and the 20 best candidates are compared sample by sample: one counts as worse than the best only if the
    mean of the differences on the same samples is above its own standard error. ``smallest`` takes the smallest of
    those that are not (the one-standard-error rule of Breiman et al. 1984, paired), ``soup`` the greedy soup.

    Args:
        found: what :func:`glora.strategies.run_search` gave.
        judge: outcomes of a structure or soup on the samples that the search was scored on; asked only where the
            candidates' scores do not tell, which they do of what each is right on.
        select: "best", "smallest" or "soup".
        fitness: what the search ranked by.
        known: what ``to_dict`` of the result of this very choice gave before; read instead of judging anew.
    """
    if known is not None and known.get("select") == select:
        ties = [Tie(found.history[tie["index"]], tie["difference"], tie["error"]) for tie in known["ties"]]
        made = (Soup.from_dict(known["soup"]), Score.from_dict(known["soup"])) if "soup" in known else (None, None)
        winner = found.history[known["best"]["index"]]
        return replace(found, winner=winner, ties=tuple(ties), soup=made[0], soup_score=made[1], select=select)
    top = found.winner
    pool = sorted((c for c in found.history if not c.score.failed), key=Candidate.rank_key, reverse=True)[:POOL]
    best = _merits(top, judge, fitness)
    ties = []
    for candidate in {c.index: c for c in (*pool, *found.front)}.values():
        difference, error = paired(best, _merits(candidate, judge, fitness)) if candidate is not top else (0.0, 0.0)
        if difference <= error * _ROUNDING:
            ties.append(Tie(candidate, difference, error))
    ties.sort(key=lambda tie: (tie.candidate.size, *(-x for x in tie.candidate.score.key), tie.candidate.index))
    winner = ties[0].candidate if select == "smallest" else top
    soup, score = greedy_soup(pool, judge, fitness) if select == "soup" else (None, None)
    return replace(found, winner=winner, ties=tuple(ties), soup=soup, soup_score=score, select=select)


def known_choice(path: Path) -> dict[str, Any] | None:
    """What ``structure.json`` says was chosen, for :func:`choose`; None if there is no such file.

    Raises:
        CheckpointError: if it is damaged.
    """
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): delete it to select once more") from error


def _merits(candidate: Candidate, judge: Judge, fitness: Fitness) -> Tensor:
    """What the fitness is the mean of, as the search recorded it if it did."""
    score = candidate.score
    if fitness == "accuracy" and score.right:
        return torch.tensor([bit == "1" for bit in bits(score.right, score.samples)], dtype=torch.float64)
    return judge(candidate.structure).merits(fitness)


def paired(best: Tensor, other: Tensor) -> tuple[float, float]:
    """By how much the first is better on the same samples in the mean, and the standard error of that."""
    better = best - other
    error = better.std().item() / len(better) ** 0.5 if len(better) > 1 else 0.0
    return better.mean().item(), error


def greedy_soup(
    pool: Sequence[Candidate], judge: Judge, fitness: Fitness = "accuracy"
) -> tuple[Soup, Score] | tuple[None, None]:
    """Add subnets to a soup, best first, as long as each makes it better (Wortsman et al. 2022, arXiv 2203.05482).

    Gone through up to three times, so that a subnet that helps again weighs twice (Caruana et al. 2004). Better means
    what it means in the search, on the same samples.

    Args:
        pool: candidates, the best first.
        judge: as in :func:`choose`.
        fitness: what ranks first.

    Returns:
        The soup and its score, or None twice if none is better than the best subnet alone.
    """
    counts = {pool[0].structure: 1}
    best = judge(pool[0].structure).score(fitness)
    for turn in range(_ROUNDS):
        before = dict(counts)
        for candidate in pool[1:] if turn == 0 else pool:
            trial = counts | {candidate.structure: counts.get(candidate.structure, 0) + 1}
            if len(trial) == 1:
                continue
            score = judge(Soup.of(trial)).score(fitness)
            if not score.failed and score.key > best.key:
                counts, best = trial, score
        if counts == before:
            break
    return (Soup.of(counts), best) if len(counts) > 1 else (None, None)

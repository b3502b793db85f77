"""How sure a ranking of methods is: bootstrap over tasks and seeds, and Nemenyi's critical difference."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glora.errors import ConfigError

__all__ = ["Estimate", "critical_difference", "difference", "mean_ranks"]

_DRAWS = 10_000
_LIMITS = (2.5, 97.5)

Scores = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A figure with its 95 % bootstrap interval (percentiles)."""

    value: float
    low: float
    high: float


def mean_ranks(scores: Scores, seed: int = 0) -> list[Estimate]:
    """Mean rank of each method over tasks; 1 is best, equal ones share the mean of their ranks.

    Args:
        scores: float64 (methods, tasks, seeds), greater is better; ranked are means over seeds.
        seed: of the draws: tasks with replacement, and within each its seeds, the same for all methods.
    """
    rank = _scipy().rankdata
    tasks, seeds = _draws(scores.shape[1], scores.shape[2], seed)
    # Rounded, so that equal means are equal in whatever order their terms were added.
    drawn = scores[:, tasks[:, :, None], seeds].mean(axis=3).round(9)
    found = rank(-scores.mean(axis=2).round(9), axis=0).mean(axis=1)
    spread = rank(-drawn, axis=0).mean(axis=2)
    return [_estimate(float(value), draws) for value, draws in zip(found, spread, strict=True)]


def difference(ours: Scores, reference: Scores, seed: int = 0) -> Estimate:
    """Mean over tasks of what a method is better by than a reference, paired by task and seed.

    Args:
        ours: float64 (tasks, seeds).
        reference: likewise, of the same tasks and seeds.
        seed: of the draws: tasks with replacement, and within each its seeds.
    """
    gaps = ours - reference
    tasks, seeds = _draws(gaps.shape[0], gaps.shape[1], seed)
    return _estimate(float(gaps.mean()), gaps[tasks[:, :, None], seeds].mean(axis=(1, 2)))


def critical_difference(methods: int, tasks: int) -> float:
    """How far two mean ranks must be apart at the 5 % level (Nemenyi; Demšar 2006, section 3.2.2).

    Args:
        methods: that are ranked, 2 or more.
        tasks: that they are ranked on.
    """
    q = float(_scipy().studentized_range.ppf(0.95, methods, np.inf)) / 2**0.5
    return q * float((methods * (methods + 1) / (6 * tasks)) ** 0.5)


def _draws(tasks: int, seeds: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of tasks (draws, tasks), and of seeds (draws, tasks, seeds)."""
    generator = np.random.default_rng(seed)
    return generator.integers(tasks, size=(_DRAWS, tasks)), generator.integers(seeds, size=(_DRAWS, tasks, seeds))


def _estimate(value: float, draws: Scores) -> Estimate:
    low, high = (float(one) for one in np.percentile(draws, _LIMITS))
    return Estimate(value, low, high)


def _scipy() -> Any:
    try:
        return importlib.import_module("scipy.stats")
    except ImportError:
        raise ConfigError("ranks and their intervals need scipy: pip install 'glora[bench]'") from None

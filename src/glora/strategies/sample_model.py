"""How high the loss of every single sample is, as a linear model of the forms, also from evaluations that were stopped.

An accuracy is one number of many samples, and most of what an evaluation showed is lost in it. Which form moves which
sample is not: the logarithm of a sample's loss is nearly a sum over the forms, where accuracy and mean loss are not,
since a sample that is right already, or hopelessly wrong, counts for nothing in the one and for all in the other.
"""

from __future__ import annotations

import math
import random
from typing import final

import numpy as np
from numpy.typing import NDArray

from glora.strategies.additive import Array, Table, covariances, fitted, normal
from glora.strategies.score import UNSEEN

__all__ = ["Outlook", "SampleModel", "edge_of", "unpacked"]

# A logistic curve of this slope is the normal distribution function to 0.01.
_PROBIT = 1.702
# Variance that rounding to whole levels has: what is missed is never less.
_ROUNDING = 1 / 12


@final
class SampleModel:
    """What is known of every sample's loss level after some structures were evaluated, some of them not to the end.

    Each sample has a ridge regression of its own, over the candidates that it was looked at for; the weight of what
    forms share and the noise are the same for all, chosen on those that were evaluated as wholes.

    Args:
        table: the space.
        rows: one a structure, as of :meth:`Table.row`; float64, structures x columns.
        levels: of the losses (:func:`glora.strategies.score.loss_levels`), NaN where a sample was not looked at;
            float64, structures x samples. At least two structures have all.
    """

    def __init__(self, table: Table, rows: Array, levels: Array) -> None:
        self._table, self._center = table, rows.mean(axis=0)
        self._rows = rows - self._center
        known = ~np.isnan(levels)
        whole = known.all(axis=1)
        x, y = rows[whole] - rows[whole].mean(axis=0), levels[whole] - levels[whole].mean(axis=0)
        self._covariance, self._noise, variance = fitted(covariances(table), x, y)
        self._scale = np.sqrt(np.maximum(variance, 0.0))
        self._worth = np.zeros((len(table), levels.shape[1]))
        self._base, self._missed = np.zeros(levels.shape[1]), np.zeros(levels.shape[1])
        patterns, which = np.unique(known.T, axis=0, return_inverse=True)
        for i, pattern in enumerate(patterns):
            self._regress(pattern, which.reshape(-1) == i, levels)
        self._inverse = np.linalg.inv(self._kernel(self._rows))

    def _kernel(self, rows: Array) -> Array:
        kernel = np.asarray(rows @ self._covariance.times(rows).T)
        kernel[np.diag_indices_from(kernel)] += self._noise
        return kernel

    def _regress(self, seen: NDArray[np.bool_], samples: NDArray[np.bool_], levels: Array) -> None:
        """Fit the samples that were looked at for the structures ``seen``, with a mean of their own."""
        rows, values = self._rows[seen], levels[np.ix_(seen, samples)]
        inverse = np.linalg.inv(self._kernel(rows))
        weights = inverse.sum(axis=0)
        base = weights @ values / weights.sum()
        solved = inverse @ (values - base)
        self._worth[:, samples] = self._covariance.times(rows).T @ solved
        self._base[samples] = base
        left_out = inverse.diagonal() - weights**2 / weights.sum()
        self._missed[samples] = np.mean(np.square(solved / left_out[:, None]), axis=0)

    def draw(self, rng: random.Random, spread: float, edge: float | None) -> Outlook:
        """How the samples' losses may depend on the forms, drawn from what is still possible.

        The draw moves all samples alike, each by its own scale: what a form does to them is mostly one thing.

        Args:
            rng: source of the draw.
            spread: what the deviation from the mean is multiplied by; 0 gives the mean.
            edge: level from which on a sample is wrong; None to judge by the loss.
        """
        before = self._covariance.draws(1, rng)[0]
        noise = self._noise**0.5 * normal(1, len(self._rows), rng)[0]
        seen = self._inverse @ (self._rows @ before + noise)
        moved = spread * (before - self._covariance.times(self._rows).T @ seen)
        worth = self._worth + np.outer(moved, self._scale)
        return Outlook(self._table, worth, self._base - self._center @ worth, np.maximum(self._missed, _ROUNDING), edge)


@final
class Outlook:
    """Expected accuracies or losses of structures, by one possible dependence of the losses on the forms.

    Args:
        table: the space.
        worth: what each column adds to each sample's level; float64, columns x samples.
        base: level of each sample without any.
        variance: of what is not predicted of each sample's level.
        edge: level from which on a sample is wrong; None to judge by the loss.
    """

    def __init__(self, table: Table, worth: Array, base: Array, variance: Array, edge: float | None) -> None:
        self._table, self._worth, self._base, self._edge = table, worth, base, edge
        self._slope = _PROBIT / np.sqrt(variance)
        # The mean of a loss whose logarithm is normal.
        self._above = np.exp(variance * (math.log(2) / 2) ** 2 / 2)

    def merits(self, levels: Array) -> Array:
        """Expected accuracy, or loss with its sign turned, where the samples' levels (any x samples) are expected."""
        if self._edge is None:
            return np.asarray(-np.mean(self._above * 2 ** ((levels + 0.5 - 10) / 2), axis=-1))
        return np.asarray(np.mean(1 + np.tanh(self._slope * (self._edge - levels) / 2), axis=-1) / 2)

    def climbed(self, chosen: NDArray[np.int64], budget: int | None, changes: int) -> NDArray[np.int64]:
        """Change one form after another, each time the one that gains most within the budget, while any gains.

        Args:
            chosen: column of each gene.
            budget: most parameters.
            changes: at most so many.
        """
        options, costs = self._table.options, self._table.costs
        chosen, new = chosen.copy(), options.reshape(-1)
        levels = self._base + self._worth[chosen].sum(axis=0)
        best, size = float(self.merits(levels)), int(costs[chosen].sum())
        for _ in range(changes):
            old = np.repeat(chosen, options.shape[1])
            merits = self.merits(levels + self._worth[new] - self._worth[old])
            if budget is not None:
                merits[size + costs[new] - costs[old] > budget] = -np.inf
            place = int(merits.argmax()) if len(merits) else 0
            if not len(merits) or merits[place] <= best:
                break
            levels = levels + self._worth[new[place]] - self._worth[old[place]]
            size += int(costs[new[place]] - costs[old[place]])
            best, chosen[place // options.shape[1]] = float(merits[place]), new[place]
        return chosen


def unpacked(levels: str) -> list[float]:
    """Levels (:func:`glora.strategies.score.loss_levels`) as numbers, NaN for samples that were not looked at."""
    return [math.nan if digit == UNSEEN else float(int(digit, 16)) for digit in levels]


def edge_of(levels: Array, right: NDArray[np.bool_]) -> float:
    """The level from which on most samples are wrong.

    Args:
        levels: whole numbers from 0 to 15; float64 of any shape.
        right: which samples are right, of the same shape.
    """
    rights, wrongs = (np.bincount(levels[which].astype(np.int64), minlength=16) for which in (right, ~right))
    # Errors of calling all below a level right, and all from it on wrong.
    errors = np.concatenate([[0], np.cumsum(wrongs[:-1])]) + np.cumsum(rights[::-1])[::-1]
    return float(errors.argmin()) - 0.5

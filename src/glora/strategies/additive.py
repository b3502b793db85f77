"""A linear model of how much each form of each gene is worth, and the best structure by it within a budget.

Bayesian ridge regression in closed form. The worth of a form is a sum of three normal parts: its own, one that it
shares with the same form of the same support tensor in all layers of the same shape, and one shared over all layers;
so a form says something about places where it was never tried. What a part is worth beside the others, and the noise,
are chosen by the leave-one-out error on the structures scored.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from glora.space import BoundSpace
from glora.structure import Form, Structure

__all__ = ["AdditiveModel", "Array", "Covariance", "Table", "covariances", "fitted", "normal"]

Array = NDArray[np.float64]
Priors = Mapping[tuple[str, str], Mapping[Form, float]]

# Shares of the variance of a form's worth that the shared parts are given, and of priors where there are any.
_SHARED = (0.05, 0.4, 0.9)
_PRIOR = (0.0, 0.5, 0.9)
# Variance of the noise, as multiples of the variance that the forms explain.
_NOISE = tuple(4.0**power for power in range(-5, 6))


@final
class Table:
    """A space as columns, one for each form of each gene, and structures as the columns they choose.

    Args:
        space: the space.
    """

    def __init__(self, space: BoundSpace) -> None:
        self.space = space
        self.genes = space.genes
        columns = [(gene, form) for gene in self.genes for form in space.choices(*gene)]
        self._column = {column: i for i, column in enumerate(columns)}
        self.costs = np.array([space.cost(*gene, form) for gene, form in columns], dtype=np.int64)
        self.everywhere = _numbered([(tensor, form) for (_, tensor), form in columns])
        self.by_shape = _numbered([(space.shapes[layer], tensor, form) for (layer, tensor), form in columns])
        # Columns of each gene, the cheapest first, padded with their last one to the same number.
        ordered = [
            sorted((self._column[gene, form] for form in space.choices(*gene)), key=lambda i: (self.costs[i], i))
            for gene in self.genes
        ]
        most = max(map(len, ordered), default=1)
        self.options = np.array([own + own[-1:] * (most - len(own)) for own in ordered], dtype=np.int64)
        self.options = self.options.reshape(len(self.genes), most)
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns)

    def row(self, structure: Structure) -> Array:
        """1 in the columns that the structure chooses, 0 in the others."""
        row = np.zeros(len(self))
        row[self.chosen(structure)] = 1.0
        return row

    def chosen(self, structure: Structure) -> NDArray[np.int64]:
        """The column that the structure chooses of each gene."""
        columns = [self._column[(layer, tensor), structure[layer][tensor]] for layer, tensor in self.genes]
        return np.array(columns, dtype=np.int64)

    def structure(self, chosen: NDArray[np.int64]) -> Structure:
        """The structure of these columns, one of each gene."""
        return self.space.build({self._columns[i][0]: self._columns[i][1] for i in chosen})

    def values(self, by_form: Priors) -> Array:
        """Values given by gene and form, as columns; 0 for those that are not named."""
        return np.array([float(by_form.get(gene, {}).get(form, 0.0)) for gene, form in self._columns])

    def best(self, worth: Array, budget: int | None) -> Structure:
        """The structure of the greatest sum of ``worth`` (one value a column) within the budget, or nearly.

        A knapsack with a choice in every gene: the price of a parameter at which everybody's best bargain just fits
        gives a structure, and what room is left goes to the changes that then gain most. The sum is short of the
        greatest one by less than a single change of form gains.
        """
        chosen = self._at_price(worth, 0.0)
        if budget is not None and int(self.costs[chosen].sum()) > budget:
            chosen = self._filled(worth, self._bargain(worth, budget), budget)
        return self.structure(chosen)

    def _at_price(self, worth: Array, price: float) -> NDArray[np.int64]:
        net = worth[self.options] - price * self.costs[self.options]
        found: NDArray[np.int64] = self.options[np.arange(len(self.genes)), net.argmax(axis=1)]
        return found

    def _bargain(self, worth: Array, budget: int) -> NDArray[np.int64]:
        """The choices at the lowest price of a parameter at which they fit, to within 50 halvings."""
        low, high = 0.0, float(np.ptp(worth)) + 1.0  # at which no parameter is worth its price
        for _ in range(50):
            price = (low + high) / 2
            if int(self.costs[self._at_price(worth, price)].sum()) > budget:
                low = price
            else:
                high = price
        return self._at_price(worth, high)

    def _filled(self, worth: Array, chosen: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
        """Spend what is left: the change of one form that gains most and fits, until none does."""
        chosen = chosen.copy()
        while True:
            room = budget - int(self.costs[chosen].sum())
            gain = worth[self.options] - worth[chosen][:, None]
            gain[self.costs[self.options] - self.costs[chosen][:, None] > room] = 0.0
            gene, option = np.unravel_index(int(gain.argmax()), gain.shape)
            if gain[gene, option] <= 0:
                return chosen
            chosen[gene] = self.options[gene, option]


@final
class Covariance:
    """Of the worth of columns before any score: each one's own, and what columns share.

    Args:
        table: the space.
        shared: share of the variance that the shared parts have.
        prior: share of it that ``priors`` have.
        priors: predicted worth of each column, of mean square 1; None for none.
    """

    def __init__(self, table: Table, shared: float, prior: float = 0.0, priors: Array | None = None) -> None:
        self._shared, self._prior = shared, prior
        self._priors = np.zeros(len(table)) if priors is None else priors
        self._pools = (table.by_shape, table.everywhere)

    def times(self, rows: Array) -> Array:
        """Rows times the covariance."""
        own: Array = (1 - self._prior) * (1 - self._shared) * rows
        for pool in self._pools:
            own += (1 - self._prior) * self._shared / len(self._pools) * _sums(rows, pool)[:, pool]
        own += self._prior * np.outer(rows @ self._priors, self._priors)
        return own

    def draws(self, count: int, rng: random.Random) -> Array:
        """Draws with that covariance: count x columns."""
        drawn = (1 - self._shared) ** 0.5 * normal(count, len(self._priors), rng)
        for pool in self._pools:
            drawn += (self._shared / len(self._pools)) ** 0.5 * normal(count, pool.max(initial=-1) + 1, rng)[:, pool]
        common = self._prior**0.5 * normal(count, 1, rng) * self._priors
        return np.asarray((1 - self._prior) ** 0.5 * drawn + common)


@final
class AdditiveModel:
    """What is known of the worth of forms after some structures were scored.

    Args:
        table: the space.
        rows: one a structure, as of :meth:`Table.row`; float64, structures x columns.
        gains: of each structure; higher is better, any unit.
        priors: predicted worth of each column, in any unit; all 0 for none.
    """

    def __init__(self, table: Table, rows: Array, gains: Array, priors: Array) -> None:
        size = float(np.sqrt(np.mean(np.square(priors)))) if len(priors) else 0.0
        self._priors = priors / size if size > 0 else priors
        self._rows = rows - rows.mean(axis=0) if len(rows) else rows
        self._gains = gains - gains.mean() if len(gains) else gains
        self._covariance, self._noise, self._variance = Covariance(table, _SHARED[1]), 1.0, 1.0
        if len(rows) > 1 and self._gains.any():
            shares = _PRIOR if size > 0 else _PRIOR[:1]
            found = fitted(covariances(table, shares, self._priors), self._rows, self._gains, mean_known=True)
            self._covariance, self._noise, self._variance = found[0], found[1], float(found[2])

    def draws(self, count: int, rng: random.Random, spread: float = 1.0) -> Array:
        """Worth of every column, drawn from the posterior: float64, count x columns.

        Drawn from what was thought before any score, then corrected by what was seen (Matheron's rule): unlike a
        factor of the covariance this is a continuous function of the scores, the same on two machines to rounding.

        Args:
            count: of draws.
            rng: source of all draws.
            spread: what their deviation from the mean is multiplied by; 0 gives the mean.
        """
        before = spread * self._variance**0.5 * self._covariance.draws(count, rng)
        if not len(self._rows):
            return np.asarray(self._priors + before)
        noise = spread * (self._variance * self._noise) ** 0.5 * normal(count, len(self._rows), rng)
        missed = self._gains - before @ self._rows.T - noise
        kernel = self._rows @ self._covariance.times(self._rows).T
        kernel[np.diag_indices_from(kernel)] += self._noise
        return np.asarray(before + self._covariance.times(np.linalg.solve(kernel, missed.T).T @ self._rows))


def covariances(table: Table, shares: Sequence[float] = (0.0,), priors: Array | None = None) -> list[Covariance]:
    """Those to choose from; ``shares`` are what the priors may have of the variance."""
    return [Covariance(table, shared, share, priors) for shared in _SHARED for share in shares]


def fitted(
    choice: Sequence[Covariance], rows: Array, values: Array, mean_known: bool = False
) -> tuple[Covariance, float, Array]:
    """Which covariance and noise predict best, by the leave-one-out error (Rasmussen & Williams 2006, equation 5.12).

    Args:
        choice: covariances to choose from.
        rows: one a structure, less their mean; float64, structures x columns.
        values: what was found of each structure, less its mean; float64, structures or structures x any number, which
            are predicted apart and judged together.
        mean_known: take that mean for known, though a value that is left out is part of it. Too little noise is
            believed then where structures are few; the surrogate's recorded results have it.

    Returns:
        The covariance, the variance of the noise in units of what scales the covariance, and that scale, of each of
        the values.
    """
    best = np.inf
    for covariance in choice:
        spectrum, vectors = np.linalg.eigh(rows @ covariance.times(rows).T)
        turned = (vectors.T @ values).T
        for noise in np.array(_NOISE) * max(float(spectrum.mean()), 1e-12):
            inverse = 1.0 / (np.maximum(spectrum, 0.0) + noise)
            solved = vectors @ (inverse * turned).T
            diagonal = np.square(vectors) @ inverse
            if not mean_known:
                # What a value says of the mean: rows are less their mean, so that 1 is an eigenvector of no variance.
                diagonal -= 1 / (len(rows) * noise)
            error = float(np.mean(np.square(solved.T / diagonal)))
            if error < best * (1 - 1e-6):  # beyond rounding
                best = error
                found = (covariance, float(noise), np.sum(values * solved, axis=0) / len(values))
    return found


def _numbered(labels: Sequence[object]) -> NDArray[np.int64]:
    """Equal labels get equal numbers, from 0 in order of appearance."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def _sums(rows: Array, pool: NDArray[np.int64]) -> Array:
    """The sum of the columns of each pool, row by row."""
    members = np.zeros((len(pool), int(pool.max(initial=-1)) + 1))
    members[np.arange(len(pool)), pool] = 1.0
    return np.asarray(rows @ members)


def normal(count: int, size: int, rng: random.Random) -> Array:
    """Standard normal draws: float64, count x size."""
    return np.array([rng.gauss(0.0, 1.0) for _ in range(count * size)]).reshape(count, size)

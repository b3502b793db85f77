"""Means and deviations of a bench over seeds, tasks and groups: the one definition of every average."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from glora.errors import DataError
from glora.results.result import Result

__all__ = ["Column", "Row", "Spread", "Tally", "labels", "mean_of_groups", "mean_of_tasks", "spread", "tallies"]

Part = TypeVar("Part", bound=Hashable)


class Spread(NamedTuple):
    """A mean over seeds, and the sample standard deviation where there are two seeds or more."""

    mean: float
    deviation: float | None
    seeds: int

    @property
    def low(self) -> float:
        """One deviation below the mean."""
        return self.mean - (self.deviation or 0.0)

    @property
    def high(self) -> float:
        """One deviation above the mean."""
        return self.mean + (self.deviation or 0.0)


class Column(NamedTuple):
    """One accuracy of a table: a task, and which of its tests where it has several."""

    group: str
    task: str
    test: str = "test"

    @property
    def label(self) -> str:
        """The task, and its test where that is not plain."""
        return self.task if self.test == "test" else f"{self.task}: {self.test}"


class Row(NamedTuple):
    """One line of a table: a method of the plan at one rank."""

    method: str
    rank: int | None


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and deviation of the values of some seeds; None of none."""
    if not values:
        return None
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def labels(cells: Iterable[Result]) -> dict[Row, str]:
    """Rows in the order of the plan, with their names: the rank is part of it where the method has several."""
    rows = list(dict.fromkeys(Row(cell.method, cell.rank) for cell in cells))
    count = Counter(row.method for row in rows)
    ranked = {row for row in rows if count[row.method] > 1 and row.rank is not None}
    return {row: f"{row.method}, rank {row.rank}" if row in ranked else row.method for row in rows}


def mean_of_tasks(accuracies: Mapping[Column, float]) -> float:
    """The mean of all columns."""
    return statistics.mean(accuracies.values())


def mean_of_groups(accuracies: Mapping[Column, float]) -> float:
    """The mean of the groups' means, in which a small group counts as much as a large one."""
    groups: dict[str, list[float]] = {}
    for column, accuracy in accuracies.items():
        groups.setdefault(column.group, []).append(accuracy)
    return statistics.mean(map(statistics.mean, groups.values()))


class Tally:
    """Accuracies of rows on columns, seed by seed (final).

    An average over tasks is taken for each seed that a row has on all of them, and then over these seeds. There is
    none for a row that lacks a task, as it would be one over other tasks; none where no seed has all of them, as it
    would pair seeds by chance; and none where a task has several tests, which are figures of the same training.

    Args:
        cells: one at most of each method, rank, task and seed.
        among: cells whose columns it has, some of them perhaps empty: those of all tallies that are points of one
            curve; ``cells`` if None. The group of a task is that of its last cell.

    Raises:
        DataError: if there are two.
    """

    def __init__(self, cells: Sequence[Result], among: Sequence[Result] | None = None) -> None:
        self.cells = cells
        self.rows = labels(cells)
        among = cells if among is None else among
        group = {cell.task: cell.group for cell in among}
        self.columns = list(dict.fromkeys(Column(group[c.task], c.task, test) for c in among for test in c.accuracies))
        self.groups = list(dict.fromkeys(column.group for column in self.columns))
        self.columns.sort(key=lambda column: self.groups.index(column.group))
        self._values: dict[tuple[Row, Column], dict[int, float]] = {}
        for cell in cells:
            for test, value in cell.accuracies.items():
                place = Row(cell.method, cell.rank), Column(group[cell.task], cell.task, test)
                seeds = self._values.setdefault(place, {})
                if cell.seed in seeds:
                    raise DataError(
                        f"two results of {cell.method} on {cell.task} with seed {cell.seed} differ in their settings: "
                        "give results of one plan"
                    )
                seeds[cell.seed] = value

    @property
    def methods(self) -> list[str]:
        """The methods of the rows, each once."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @property
    def averaged(self) -> bool:
        """Whether an average over the columns says more than they do: several, with one test a task."""
        return len(self.columns) > 1 and not self.several_tests

    @property
    def several_tests(self) -> list[str]:
        """The tasks that have more than one test."""
        return [task for task, count in Counter(column.task for column in self.columns).items() if count > 1]

    @property
    def grouped(self) -> bool:
        """Whether the tasks come in several groups."""
        return self.averaged and len(self.groups) > 1

    def at(self, row: Row, column: Column) -> Spread | None:
        """A row's accuracy in one column."""
        return spread(list(self._values.get((row, column), {}).values()))

    def missing(self, row: Row) -> int:
        """How many columns a row lacks."""
        return sum((row, column) not in self._values for column in self.columns)

    def mean_of_tasks(self, row: Row) -> Spread | None:
        """The mean of all columns."""
        return self._mean(row, mean_of_tasks)

    def mean_of_groups(self, row: Row) -> Spread | None:
        """The mean of the groups' means."""
        return self._mean(row, mean_of_groups)

    def seeds(self, rows: Sequence[Row], columns: Sequence[Column]) -> list[int]:
        """The seeds that all these rows have on all these columns."""
        known = [set(self._values.get((row, column), {})) for row in rows for column in columns]
        return sorted(set.intersection(*known)) if known else []

    def scores(self, rows: Sequence[Row], columns: Sequence[Column]) -> npt.NDArray[np.float64]:
        """Accuracies, float64 (rows, columns, seeds), of all seeds that these rows have on all these columns."""
        seeds = self.seeds(rows, columns)
        values = [[[self._values[row, column][seed] for seed in seeds] for column in columns] for row in rows]
        return np.array(values, dtype=np.float64).reshape(len(rows), len(columns), len(seeds))

    def parameters(self, row: Row) -> tuple[int, int]:
        """Fewest and most parameters of a row's cells."""
        sizes = [cell.parameters for cell in self.cells if Row(cell.method, cell.rank) == row]
        return min(sizes), max(sizes)

    def mean_parameters(self, row: Row, column: Column | None = None) -> float:
        """Parameters in the mean of a row's cells, of all or of one task."""
        return statistics.mean(
            cell.parameters
            for cell in self.cells
            if Row(cell.method, cell.rank) == row and (column is None or cell.task == column.task)
        )

    def _mean(self, row: Row, average: Callable[[Mapping[Column, float]], float]) -> Spread | None:
        if self.several_tests:
            return None
        (scores,) = self.scores([row], self.columns)
        return spread([average(dict(zip(self.columns, own, strict=True))) for own in scores.T.tolist()])


def tallies(cells: Iterable[Result], part: Callable[[Result], Part], curve: bool = False) -> dict[Part, Tally]:
    """Cells apart by what stands in tables of its own, in the order of their first ones.

    Args:
        cells: any.
        part: of a cell.
        curve: whether the parts are points of one curve, each an average over the columns of all.
    """
    cells, parts = list(cells), dict[Part, list[Result]]()
    for cell in cells:
        parts.setdefault(part(cell), []).append(cell)
    return {name: Tally(own, cells if curve else None) for name, own in parts.items()}

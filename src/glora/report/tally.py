"""Means and deviations of a bench over seeds and tasks."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from glora.report.cells import Cell

__all__ = ["Column", "Row", "Spread", "Table", "by_shots", "labels", "spread", "tables"]


@dataclass(frozen=True, slots=True)
class Spread:
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
    test: str


class Row(NamedTuple):
    """One line of a table: a method of the plan at one rank."""

    method: str
    rank: int | None


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and deviation of the values of some seeds; None of none."""
    if not values:
        return None
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def labels(cells: Iterable[Cell]) -> dict[Row, str]:
    """Rows in the order of the plan, with their names: the rank is part of it where the method has several."""
    rows = list(dict.fromkeys(Row(cell.method, cell.rank) for cell in cells))
    count = Counter(row.method for row in rows)
    ranked = {row for row in rows if count[row.method] > 1 and row.rank is not None}
    return {row: f"{row.method}, rank {row.rank}" if row in ranked else row.method for row in rows}


class Table:
    """Accuracies of rows on columns, seed by seed (final).

    An average over tasks is taken for each seed that a row has on all of them, and then over these seeds; a row that
    lacks a task has none, as it would be one over other tasks.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells
        self.rows = labels(cells)
        self.columns = list(dict.fromkeys(Column(c.group, c.task, test) for c in cells for test in c.accuracies))
        self.groups = list(dict.fromkeys(column.group for column in self.columns))
        self.columns.sort(key=lambda column: self.groups.index(column.group))
        self._values: dict[tuple[Row, Column], dict[int, float]] = {}
        for cell in cells:
            for test, value in cell.accuracies.items():
                place = Row(cell.method, cell.rank), Column(cell.group, cell.task, test)
                self._values.setdefault(place, {})[cell.seed] = value

    @property
    def methods(self) -> list[str]:
        """The methods of the rows, each once."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @property
    def averaged(self) -> bool:
        """Whether an average over the columns means something: several, with one test a task."""
        return len(self.columns) > 1 and len({column.task for column in self.columns}) == len(self.columns)

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
        return self._over_seeds(row, lambda seed: statistics.mean(self._seed(row, seed, self.columns)))

    def mean(self, row: Row) -> Spread | None:
        """The mean of tasks, or the only accuracy where there is one column."""
        return self.at(row, self.columns[0]) if len(self.columns) == 1 else self.mean_of_tasks(row)

    def mean_of_groups(self, row: Row) -> Spread | None:
        """The mean of the groups' means, in which a small group counts as much as a large one."""
        groups = [[column for column in self.columns if column.group == group] for group in self.groups]
        return self._over_seeds(
            row, lambda seed: statistics.mean(statistics.mean(self._seed(row, seed, group)) for group in groups)
        )

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

    def _seed(self, row: Row, seed: int, columns: Iterable[Column]) -> list[float]:
        return [self._values[row, column][seed] for column in columns]

    def _over_seeds(self, row: Row, average: Callable[[int], float]) -> Spread | None:
        seeds = [set(self._values.get((row, column), {})) for column in self.columns]
        return spread([average(seed) for seed in sorted(set.intersection(*seeds))])


def tables(cells: Iterable[Cell]) -> list[tuple[str, Table]]:
    """A table for each protocol that is no curve over shots, with its title."""
    parts: dict[tuple[str, int | None], list[Cell]] = {}
    for cell in cells:
        if not cell.few_shot:
            parts.setdefault((cell.protocol, cell.shots), []).append(cell)
    return [(_title(*part), Table(own)) for part, own in parts.items()]


def by_shots(cells: Iterable[Cell]) -> dict[int, Table]:
    """A table for each number of training images a class, fewest first."""
    parts: dict[int, list[Cell]] = {}
    for cell in cells:
        if cell.few_shot and cell.shots is not None:
            parts.setdefault(cell.shots, []).append(cell)
    return {shots: Table(parts[shots]) for shots in sorted(parts)}


def _title(protocol: str, shots: int | None) -> str:
    name = {"vtab": "VTAB-1k", "domain": "Domain generalisation", "": "Tasks"}.get(protocol, protocol)
    return name if shots is None else f"{name}, {shots} {'image' if shots == 1 else 'images'} a class"

"""The table of results: methods by tasks, both averages, ranks, and what it all may not be taken for."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from glora.bench.published import PublishedRow, differences
from glora.bench.statistics import Estimate, critical_difference, difference, mean_ranks
from glora.errors import ConfigError, DataError

__all__ = ["Column", "Figure", "Table", "TableRow", "make_table"]

_UNGROUPED = "without a group"


class Column(NamedTuple):
    """What accuracies stand under: a task, one of its tests, and the number of shots if it has one."""

    group: str
    task: str
    test: str = "test"
    shots: int | None = None

    @property
    def label(self) -> str:
        """As it is printed."""
        test = "" if self.test == "test" else f": {self.test}"
        shots = "" if self.shots is None else f", {self.shots} shot{'s' if self.shots > 1 else ''}"
        return f"{self.task}{test}{shots}"


class Figure(NamedTuple):
    """Mean accuracy over seeds, from 0 to 1, sample deviation (None for one seed), and number of seeds."""

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class TableRow:
    """A method.

    Args:
        name: with the rank if the results have several of the method.
        parameters: trained ones without the head, mean over tasks and seeds.
        figures: one a column, None where there is no result.
        group_mean: mean over groups of the mean over their columns; None without all figures.
        task_mean: mean over all columns, likewise.
        rank: mean rank over columns among the complete methods, or None.
        gap: how much better than the reference over columns and seeds that both have, or None.
        source: of a published row, or None.
    """

    name: str
    parameters: int
    figures: tuple[Figure | None, ...]
    group_mean: float | None
    task_mean: float | None
    rank: Estimate | None = None
    gap: Estimate | None = None
    source: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows over columns.

    Args:
        columns: by group and task.
        rows: ours, by mean over tasks, incomplete ones last; then the published ones likewise.
        reference: the method that gaps are to, or None.
        notes: what must be said below it.
    """

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    reference: str | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; accuracies are shares from 0 to 1."""
        columns = [{**column._asdict(), "label": column.label} for column in self.columns]
        rows = [
            {
                **vars(row),
                "figures": [figure and figure._asdict() for figure in row.figures],
                "rank": row.rank and row.rank._asdict(),
                "gap": row.gap and row.gap._asdict(),
            }
            for row in self.rows
        ]
        return {"columns": columns, "rows": rows, "reference": self.reference, "notes": list(self.notes)}


# Accuracies of one method: by column, then by seed.
_Scores = dict[Column, dict[int, float]]


def make_table(
    lines: Sequence[Mapping[str, Any]], reference: str | None = None, published: Sequence[PublishedRow] = ()
) -> Table:
    """Make the table of results; their order does not matter.

    Args:
        lines: as :func:`glora.bench.read_results` gives them.
        reference: name of a row that the others are compared with.
        published: rows to print beside ours, in the columns that are theirs too.

    Raises:
        DataError: if there is no finished result.
        ConfigError: if there is no row of the reference's name; if scipy is not installed.
    """
    done = [dict(line) for line in lines if "error" not in line]
    if not done:
        raise DataError("there is no finished result to make a table of")
    named = _named(done)
    scores = {name: _scores(own) for name, own in named.items()}
    columns = _sorted({column for own in scores.values() for column in own})
    if reference is not None and reference not in scores:
        raise ConfigError(f"there is no method {reference!r} in the results, but {', '.join(sorted(scores))}")
    ranks, ranked = _ranks(scores, columns)
    rows = []
    for name, own in scores.items():
        figures = tuple(_figure(own[column].values()) if column in own else None for column in columns)
        parameters = round(statistics.mean(line["parameters"] for line in named[name]))
        gap = None if reference in (None, name) else _gap(own, scores[str(reference)])
        rows.append(TableRow(name, parameters, figures, *_averages(columns, figures), ranks.get(name), gap))
    others = [_published(row, columns) for row in published]
    notes = [*_notes(columns, rows, reference, ranked), *_mixed(done), *_failures(lines)]
    if published:
        notes += differences(tuple(published), done)
    return Table(columns, (*sorted(rows, key=_order), *sorted(others, key=_order)), reference, tuple(notes))


def _named(lines: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Results by the name of their row."""
    ranks: dict[str, set[Any]] = {}
    lines = list(lines)
    for line in lines:
        ranks.setdefault(line["method"], set()).add(line.get("rank"))
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        several = len(ranks[line["method"]]) > 1
        found.setdefault(f"{line['method']}, rank {line['rank']}" if several else line["method"], []).append(line)
    return found


def _scores(lines: Iterable[Mapping[str, Any]]) -> _Scores:
    found: _Scores = {}
    for line in lines:
        for test, accuracy in line["tests"].items():
            column = Column(line.get("group") or _UNGROUPED, line["task"], test, line.get("shots"))
            seeds = found.setdefault(column, {})
            if line["seed"] in seeds:
                raise DataError(
                    f"two results of {line['method']} on {column.label} with seed {line['seed']} differ in their "
                    "settings: give results of one plan"
                )
            seeds[line["seed"]] = float(accuracy)
    return found


def _sorted(columns: Iterable[Column]) -> tuple[Column, ...]:
    return tuple(sorted(columns, key=lambda column: column._replace(shots=column.shots or 0)))


def _figure(accuracies: Iterable[float]) -> Figure:
    values = list(accuracies)
    return Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def _averages(columns: Sequence[Column], figures: Sequence[Figure | None]) -> tuple[float | None, float | None]:
    """Mean of groups and mean of tasks; None where a figure is missing."""
    groups: dict[str, list[float]] = {}
    for column, figure in zip(columns, figures, strict=True):
        if figure is None:
            return None, None
        groups.setdefault(column.group, []).append(figure.mean)
    means = [one for group in groups.values() for one in group]
    return statistics.fmean(statistics.fmean(group) for group in groups.values()), statistics.fmean(means)


def _common(rows: Sequence[_Scores], columns: Iterable[Column]) -> list[int]:
    """The seeds that all rows have in all columns."""
    seeds = [set(row[column]) for row in rows for column in columns]
    return sorted(set.intersection(*seeds)) if seeds else []


def _array(row: _Scores, columns: Sequence[Column], seeds: Sequence[int]) -> Any:
    return np.array([[row[column][seed] for seed in seeds] for column in columns], dtype=np.float64)


def _ranks(scores: Mapping[str, _Scores], columns: Sequence[Column]) -> tuple[dict[str, Estimate], int]:
    """Mean ranks of the complete methods over the seeds that they have in common; how many columns those are on."""
    complete = {name: own for name, own in sorted(scores.items()) if own.keys() >= set(columns)}
    seeds = _common(list(complete.values()), columns)
    if len(complete) < 2 or not seeds:
        return {}, 0
    stacked = np.stack([_array(own, columns, seeds) for own in complete.values()])
    return dict(zip(complete, mean_ranks(stacked), strict=True)), len(columns)


def _gap(ours: _Scores, reference: _Scores) -> Estimate | None:
    columns = _sorted(ours.keys() & reference.keys())
    seeds = _common([ours, reference], columns)
    return difference(_array(ours, columns, seeds), _array(reference, columns, seeds)) if columns and seeds else None


def _published(row: PublishedRow, columns: Sequence[Column]) -> TableRow:
    figures = tuple(
        Figure(row.accuracies[column.task], None, 1)
        if column.task in row.accuracies and column.test == "test" and column.shots is None
        else None
        for column in columns
    )
    return TableRow(row.method, row.parameters, figures, *_averages(columns, figures), source=row.source)


def _order(row: TableRow) -> tuple[bool, float, str]:
    return row.task_mean is None, -(row.task_mean or 0.0), row.name


def _notes(columns: Sequence[Column], rows: Sequence[TableRow], reference: str | None, ranked: int) -> list[str]:
    groups = sorted({column.group for column in columns})
    seeds = sorted({figure.seeds for row in rows for figure in row.figures if figure is not None})
    spread = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' if seeds[0] > 1 else ''}"
    found = [
        f"Test accuracy in %, mean ± sample deviation over {spread}. Mean of groups: over {', '.join(groups)}, each "
        f"the mean of its tasks; mean of tasks: over all {len(columns)}. Parameters without the head."
    ]
    if ranked:
        count = sum(row.rank is not None for row in rows)
        found.append(
            f"Rank: mean over {ranked} tasks of {count} methods, with a 95 % bootstrap interval over tasks and seeds; "
            f"two that are {critical_difference(count, ranked):.2f} apart differ at the 5 % level (Nemenyi)."
        )
    if reference is not None:
        found.append(f"Against {reference}: points, paired by task and seed, with a 95 % bootstrap interval over both.")
    if len(columns) < 5 and (ranked or reference is not None):
        found.append(f"warning: intervals over {len(columns)} tasks are narrower than they should be")
    found += [
        f"warning: {row.name} has no result on {sum(one is None for one in row.figures)} of {len(columns)} tasks: no "
        "average, no rank"
        for row in sorted(rows, key=_order)
        if row.task_mean is None
    ]
    return found


def _mixed(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs among the results though it should not in one table."""
    found = []
    for key, words in (
        ("model", "backbones"),
        ("preprocessing", "preprocessings"),
        ("trained_on", "parts of the data"),
    ):
        values = sorted({str(line[key]) for line in lines})
        if len(values) > 1:
            found.append(f"warning: results of several {words}: {'; '.join(values)}")
    splits: dict[str, set[str]] = {}
    for line in lines:
        splits.setdefault(line["task"], set()).add(line["split"])
    return found + [
        f"warning: {task}: results on several splits" for task, own in sorted(splits.items()) if len(own) > 1
    ]


def _failures(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"warning: failed: {line['method']} on {line['task']}, seed {line['seed']}: {line['error']}"
        for line in lines
        if "error" in line
    ]

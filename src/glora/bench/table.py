"""The table of results: methods by tasks, both averages, ranks, and what it all may not be taken for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glora.bench.published import PublishedRow, differences
from glora.bench.statistics import Estimate, critical_difference, difference, mean_ranks
from glora.errors import ConfigError, DataError
from glora.results.conditions import cautions
from glora.results.file import Results
from glora.results.tally import Column, Row, Spread, Tally, labels, mean_of_groups, mean_of_tasks, tallies

__all__ = ["Table", "TableRow", "make_table"]


@dataclass(frozen=True)
class TableRow:
    """A method, with one number of shots.

    Args:
        name: with the rank if the results have several of the method.
        shots: training images a class, where the results count them.
        parameters: trained ones without the head, mean over tasks and seeds.
        figures: one a column, None where there is no result.
        group_mean: mean of the groups' means as :class:`glora.results.tally.Tally` takes it, or None.
        task_mean: mean over all columns, likewise.
        rank: mean rank over columns among the complete methods with as many shots, or None.
        gap: how much better than the reference over columns and seeds that both have, or None.
            Neither rank nor gap where a task has several tests, which are figures of one training.
        source: of a published row, or None.
    """

    name: str
    shots: int | None
    parameters: int
    figures: tuple[Spread | None, ...]
    group_mean: float | None
    task_mean: float | None
    rank: Estimate | None = None
    gap: Estimate | None = None
    source: str | None = None

    def __str__(self) -> str:
        """As it is told to people."""
        return self.name if self.shots is None else f"{self.name}, {_images(self.shots)}"


@dataclass(frozen=True)
class Table:
    """Rows over columns.

    Args:
        columns: by group and task.
        rows: ours, by mean over tasks, incomplete ones last, each method by shots; then the published ones likewise.
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


# Results by training images a class; None are those of tasks that do not count them.
_Parts = Mapping[int | None, Tally]


def make_table(results: Results, reference: str | None = None, published: Sequence[PublishedRow] = ()) -> Table:
    """Make the table of results; their order does not matter.

    Results with shots have a row for each number of them; averages and ranks are among results with as many shots.

    Args:
        results: as :func:`glora.results.read_results` gives them.
        reference: name of a method, with its rank if there are several, that the others are compared with.
        published: rows to print beside ours, in the columns that are theirs too.

    Raises:
        DataError: if there is no finished result; if they are of several protocols; if two are of the same method,
            rank, task and seed.
        ConfigError: if there is no row of the reference's name; if scipy is not installed.
    """
    if not results.cells:
        raise DataError("there is no finished result to make a table of")
    if len(protocols := sorted({cell.protocol or "none" for cell in results.cells})) > 1:
        raise DataError(f"results of several protocols have no table in common: give {', '.join(protocols)} apart")
    names = labels(results.cells)
    found = {name: row for row, name in names.items()}
    if reference is not None and reference not in found:
        raise ConfigError(f"there is no method {reference!r} in the results, but {', '.join(sorted(found))}")
    parts: dict[int | None, Tally] = {}
    for curve in (False, True):
        own = tallies((c for c in results.cells if curve == (c.shots is not None)), lambda cell: cell.shots, curve)
        parts |= dict(sorted(own.items(), key=lambda part: part[0] or 0))
    columns = sorted({column for tally in parts.values() for column in tally.columns}, key=_grouped)
    to = None if reference is None else found[reference]
    rows = _ordered([row for shots in parts for row in _rows(parts[shots], shots, names, columns, to)])
    theirs = [column for column in columns if None in parts and column in parts[None].columns]
    others = _ordered([_published(row, columns, theirs) for row in published])
    notes = [_what(columns, rows, parts), *_comparisons(rows, parts, reference), *_incomplete(rows, parts, found)]
    notes += _uneven(rows, parts, found, to)
    notes += [f"warning: {caution}" for caution in cautions(results.cells)]
    notes += [f"warning: {failure}" for failure in results.told_failures()]
    notes += differences(published, results.cells) if published else []
    return Table(tuple(map(_grouped, columns)), (*rows, *others), reference, tuple(notes))


def _grouped(column: Column) -> Column:
    """A column as it is shown."""
    return column._replace(group=column.group or "without a group")


def _rows(
    tally: Tally, shots: int | None, names: Mapping[Row, str], columns: Sequence[Column], reference: Row | None
) -> list[TableRow]:
    own = [column for column in columns if column in tally.columns]
    ranks = _ranks(tally, own)
    found = []
    for row in tally.rows:
        groups, tasks = tally.mean_of_groups(row), tally.mean_of_tasks(row)
        found.append(
            TableRow(
                names[row],
                shots,
                round(tally.mean_parameters(row)),
                tuple(tally.at(row, column) for column in columns),
                groups and groups.mean,
                tasks and tasks.mean,
                ranks.get(row),
                None if reference is None or reference == row else _gap(tally, row, reference, own),
            )
        )
    return found


def _ranks(tally: Tally, columns: Sequence[Column]) -> dict[Row, Estimate]:
    """Mean ranks of the complete methods over the seeds that they have in common."""
    if tally.several_tests:
        return {}
    complete = [row for row in tally.rows if tally.scores([row], columns).size]
    scores = tally.scores(complete, columns)
    return dict(zip(complete, mean_ranks(scores), strict=True)) if len(complete) > 1 and scores.size else {}


def _gap(tally: Tally, row: Row, reference: Row, columns: Sequence[Column]) -> Estimate | None:
    """Over the columns that both have, and the seeds that both have on all of these."""
    if tally.several_tests:
        return None
    both = [column for column in columns if tally.at(row, column) and tally.at(reference, column)]
    scores = tally.scores([row, reference], both)
    return difference(*scores) if scores.size else None


def _published(row: PublishedRow, columns: Sequence[Column], theirs: Sequence[Column]) -> TableRow:
    """A row of the columns that it has among those of results without shots; with averages if it has all of these."""
    known = {
        column: row.accuracies[column.task]
        for column in theirs
        if column.test == "test" and column.task in row.accuracies
    }
    figures = tuple(Spread(known[column], None, 1) if column in known else None for column in columns)
    whole = known and len(known) == len(theirs)
    groups, tasks = (mean_of_groups(known), mean_of_tasks(known)) if whole else (None, None)
    return TableRow(row.method, None, row.parameters, figures, groups, tasks, source=row.source)


def _ordered(rows: Sequence[TableRow]) -> list[TableRow]:
    """Methods by their means, incomplete ones last, or by rank where there are no means; each by shots."""
    own: dict[str, list[TableRow]] = {}
    for row in rows:
        own.setdefault(row.name, []).append(row)

    def place(name: str) -> tuple[int, float, int, float, str]:
        means = [row.task_mean for row in own[name] if row.task_mean is not None]
        ranks = [row.rank.value for row in own[name] if row.rank]
        return -len(means), -sum(means), -len(ranks), sum(ranks), name

    return [row for name in sorted(own, key=place) for row in own[name]]


def _what(columns: Sequence[Column], rows: Sequence[TableRow], parts: _Parts) -> str:
    """What the figures are."""
    groups = sorted({_grouped(column).group for column in columns})
    seeds = _span(figure.seeds for row in rows for figure in row.figures if figure is not None)
    tasks = _span(len(tally.columns) for tally in parts.values())
    return (
        f"Test accuracy in %, mean ± sample deviation over {seeds} seed{'' if seeds == '1' else 's'}. Mean of groups: "
        f"over {', '.join(groups)}, each the mean of its tasks; mean of tasks: over all {tasks}. Parameters without "
        "the head."
    )


def _span(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _comparisons(rows: Sequence[TableRow], parts: _Parts, reference: str | None) -> list[str]:
    """What ranks and gaps are."""
    ranked: dict[tuple[int, int], list[str]] = {}
    for shots, tally in parts.items():
        if count := sum(row.rank is not None for row in rows if row.shots == shots):
            ranked.setdefault((len(tally.columns), count), []).append(_images(shots))
    found = [
        f"Rank{'' if len(ranked) == 1 else ' with ' + ', '.join(shots)}: mean over {tasks} tasks of {count} methods, "
        "with a 95 % bootstrap interval over tasks and seeds; two that are "
        f"{critical_difference(count, tasks):.2f} apart differ at the 5 % level (Nemenyi)."
        for (tasks, count), shots in ranked.items()
    ]
    if reference is not None:
        found.append(f"Against {reference}: points, paired by task and seed, with a 95 % bootstrap interval over both.")
    fewest = min(len(tally.columns) for tally in parts.values())
    if fewest < 5 and found:
        found.append(f"warning: intervals over {fewest} tasks are narrower than they should be")
    return found


def _incomplete(rows: Sequence[TableRow], parts: _Parts, found: Mapping[str, Row]) -> list[str]:
    """Why rows have no average."""
    notes = []
    for row in rows:
        tally = parts[row.shots]
        if missing := tally.missing(found[row.name]):
            notes.append(f"{row} has no result on {missing} of {len(tally.columns)} tasks: no average, no rank")
        elif not tally.several_tests and row.task_mean is None:
            notes.append(f"{row} has no seed with a result on all {len(tally.columns)} tasks: no average, no rank")
    several = {task for tally in parts.values() for task in tally.several_tests}
    if several:
        notes.append(f"no average, no rank over several tests of one training: {', '.join(sorted(several))}")
    return [f"warning: {note}" for note in notes]


def _uneven(rows: Sequence[TableRow], parts: _Parts, found: Mapping[str, Row], reference: Row | None) -> list[str]:
    """Which ranks and gaps are over less than the table has."""
    notes = []
    for row in rows:
        tally, own = parts[row.shots], found[row.name]
        every = {cell.seed for cell in tally.cells}
        if row.task_mean is not None and len(seeds := tally.seeds([own], tally.columns)) < len(every):
            notes.append(
                f"{row} has {len(seeds)} of {len(every)} seeds on all tasks: all ranks, and its difference, are over "
                "seeds in common"
            )
        if row.gap is not None and reference is not None:
            both = [c for c in tally.columns if tally.at(own, c) and tally.at(reference, c)]
            if len(both) < len(tally.columns):
                notes.append(f"the difference of {row} is over {len(both)} of {len(tally.columns)} tasks")
    return [f"warning: {note}" for note in notes]


def _images(shots: int | None) -> str:
    return "all images" if shots is None else f"{shots} shot{'' if shots == 1 else 's'}"

"""The figures of a bench about accuracy: against parameters, over shots, between pretrained and tuned weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from glora.report import words
from glora.report.chart import Axis, Chart
from glora.report.figures import Figure, in_percent
from glora.results.result import Result
from glora.results.tally import Column, Row, Spread, Tally, labels, spread

__all__ = ["Series", "costs", "few_shot", "interpolation", "said"]

Series = Mapping[str, int]
"""The number of each method's series, the same in all figures."""


def said(found: Spread | None) -> str:
    """Mean and deviation in percent."""
    if found is None:
        return words.MISSING
    mean = words.percent(found.mean)
    return mean if found.deviation is None else f"{mean} ± {words.percent(found.deviation)}"


def costs(key: str, table: Tally, series: Series) -> list[Figure]:
    """Accuracy against parameters: the mean of tasks where it means something, then each column."""
    drawn = [_costs(f"{key}-mean", table, series)] if table.averaged else []
    drawn += [_costs(f"{key}-{index}", table, series, column) for index, column in enumerate(table.columns)]
    return [figure for figure in drawn if figure]


def _costs(key: str, table: Tally, series: Series, column: Column | None = None) -> Figure | None:
    """A mark a row that has the column, or all of them for the mean of tasks."""
    scores = {row: table.mean_of_tasks(row) if column is None else table.at(row, column) for row in table.rows}
    points = [(row, table.mean_parameters(row, column), score) for row, score in scores.items() if score is not None]
    if not points:
        return None
    ends = [end for _, _, score in points for end in (score.low, score.high)]
    sizes = [size for _, size, _ in points]
    chart = Chart(
        Axis.fit("parameters beside the head", sizes, words.short, log=True),
        Axis.fit("accuracy, %", ends, in_percent, pad=0.08, most=max(1.0, *ends)),
        height=330 if column is None else 250,
    )
    front = _front(points)
    on_front = {row for row, _, _ in front}
    chart.line([(size, score.mean) for _, size, score in front], "frontier", stepped=True)
    for method in dict.fromkeys(row.method for row, _, _ in points):
        own = sorted((size, score.mean) for row, size, score in points if row.method == method)
        if len(own) > 1:
            chart.line(own, f"thin series-{series[method]}")
    for row, size, score in points:
        number = series[row.method]
        chart.whisker(size, score.low, score.high, f"series-{number}")
        tip = f"{table.rows[row]}: {said(score)} % with {size:,.0f} parameters"
        chart.symbol((size, score.mean), number, tip, "front" if row in on_front else "")
    where = column.label if column else "the mean of all tasks"
    return Figure(
        key=key,
        title="The mean of all tasks" if column is None else column.label,
        caption=_COST if column is None else "",
        svg=chart.svg(f"Accuracy against parameters of {len(points)} methods on {where}"),
        columns=("method", "parameters", "accuracy", "deviation", "seeds", "on the front"),
        rows=tuple(
            (table.rows[row], f"{size:.0f}", *_exact(score), "yes" if row in on_front else "no")
            for row, size, score in points
        ),
        wide=column is None,
    )


_COST = (
    "Only methods that have every task. Up and to the left is better. The thin vertical lines are one standard "
    "deviation over the seeds each way; ringed, and on the grey step line, are those that no other one beats with as "
    "few parameters. Ranks of one method are joined."
)


def _exact(score: Spread) -> tuple[str, str, str]:
    deviation = "" if score.deviation is None else f"{score.deviation:.4f}"
    return f"{score.mean:.4f}", deviation, str(score.seeds)


def _front(points: Iterable[tuple[Row, float, Spread]]) -> list[tuple[Row, float, Spread]]:
    front: list[tuple[Row, float, Spread]] = []
    for point in sorted(points, key=lambda p: (p[1], -p[2].mean)):
        if not front or point[2].mean > front[-1][2].mean:
            front.append(point)
    return front


def few_shot(tables: Mapping[int, Tally], series: Series) -> list[Figure]:
    """Accuracy over images a class: the mean of all tasks where there are several, and each task."""
    columns = list(dict.fromkeys(column for table in tables.values() for column in table.columns))
    drawn = [_shots("mean", "The mean of all tasks", tables, series, Tally.mean_of_tasks)] if len(columns) > 1 else []
    for index, column in enumerate(columns):
        drawn.append(_shots(str(index), column.label, tables, series, _in(column)))
    return drawn


def _in(column: Column) -> Callable[[Tally, Row], Spread | None]:
    return lambda table, row: table.at(row, column)


def _shots(
    key: str, title: str, tables: Mapping[int, Tally], series: Series, score: Callable[[Tally, Row], Spread | None]
) -> Figure:
    names = labels(cell for table in tables.values() for cell in table.cells)
    curves = [
        _Curve(
            series[row.method],
            name,
            [(shots, one) for shots, table in tables.items() if (one := score(table, row)) is not None],
        )
        for row, name in names.items()
    ]
    axis = Axis.fit("training images a class", list(tables), log=True)
    axis = replace(axis, named=tuple((float(shots), str(shots)) for shots in tables))
    return Figure(
        key=f"shots-{key}",
        title=title,
        caption="The band is one standard deviation over the seeds each way.",
        svg=_banded(axis, curves, "a class").svg(
            f"{title}: accuracy over {len(tables)} numbers of training images a class"
        ),
        columns=("method", "images a class", "accuracy", "deviation", "seeds"),
        rows=_points(curves),
    )


class _Curve(NamedTuple):
    series: int
    name: str
    points: list[tuple[float, Spread]]


def _banded(axis: Axis, curves: Sequence[_Curve], what: str) -> Chart:
    """Curves with a band of one deviation each way."""
    edges = [end for curve in curves for _, one in curve.points for end in (one.low, one.high)]
    chart = Chart(axis, Axis.fit("accuracy, %", edges, in_percent, most=max(1.0, *edges)))
    for number, _, points in curves:
        chart.band([(x, one.low, one.high) for x, one in points], f"series-{number}")
        chart.line([(x, one.mean) for x, one in points], f"series-{number}")
    for number, name, points in curves:
        for x, one in points:
            chart.symbol((x, one.mean), number, f"{name}, {x:g} {what}: {said(one)} %")
    return chart


def _points(curves: Sequence[_Curve]) -> tuple[tuple[str, ...], ...]:
    return tuple((curve.name, f"{x:g}", *_exact(one)) for curve in curves for x, one in curve.points)


def interpolation(cells: Sequence[Result]) -> list[Figure]:
    """Accuracy of weights between the pretrained and the tuned: a figure a method and training, a series a test."""
    parts: dict[tuple[str, str, str, int | None], list[Result]] = {}
    names = labels(cells)
    for cell in cells:
        if cell.alphas:
            part = names[Row(cell.method, cell.rank)], cell.task, cell.protocol, cell.shots
            parts.setdefault(part, []).append(cell)
    several = len({shots for *_, shots in parts}) > 1
    return [
        _between(index, name, task if shots is None or not several else f"{task}, {shots} a class", own)
        for index, ((name, task, _, shots), own) in enumerate(parts.items())
    ]


def _between(index: int, method: str, task: str, cells: Sequence[Result]) -> Figure:
    values: dict[str, dict[float, list[float]]] = {}
    for cell in cells:
        for alpha, tests in cell.alphas.items():
            for test, value in tests.items():
                values.setdefault(test, {}).setdefault(alpha, []).append(value)
    curves = [
        _Curve(number, test, [(a, one) for a in sorted(own) if (one := spread(own[a])) is not None])
        for number, (test, own) in enumerate(values.items())
    ]
    axis = Axis.fit("weights: 0 pretrained, 1 tuned", [x for curve in curves for x, _ in curve.points], pad=0.03)
    return Figure(
        key=f"between-{index}",
        title=f"{method}, trained on {task}",
        caption="Merged a part of the way. Where a curve falls to the right while another rises, tuning traded one "
        "set of images for the other.",
        svg=_banded(axis, curves, "of the way").svg(
            f"{method} on {task}: accuracy over the share of the way from pretrained to tuned weights"
        ),
        columns=("test", "share of the way", "accuracy", "deviation", "seeds"),
        rows=_points(curves),
        series=tuple((curve.series, curve.name) for curve in curves),
    )

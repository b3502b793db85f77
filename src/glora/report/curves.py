"""The figures of a bench about accuracy: against parameters, over shots, between pretrained and tuned weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from glora.report import words
from glora.report.chart import Axis, Chart
from glora.report.figures import Figure, in_percent
from glora.results import Column, Result, Row, Spread, Tally, labels, spread

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
        Axis.fit("accuracy, %", ends, in_percent, pad=0.08),
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
    found = {
        row: [(shots, one) for shots, table in tables.items() if (one := score(table, row)) is not None]
        for row in names
    }
    edges = [end for own in found.values() for _, one in own for end in (one.low, one.high)]
    axis = Axis.fit("training images a class", list(tables), log=True)
    chart = Chart(
        replace(axis, named=tuple((float(shots), str(shots)) for shots in tables)),
        Axis.fit("accuracy, %", edges, in_percent),
    )
    for row, own in found.items():
        style = f"series-{series[row.method]}"
        chart.band([(shots, one.low, one.high) for shots, one in own], style)
        chart.line([(shots, one.mean) for shots, one in own], style)
    for row, own in found.items():
        for shots, one in own:
            chart.symbol((shots, one.mean), series[row.method], f"{names[row]}, {shots} a class: {said(one)} %")
    return Figure(
        key=f"shots-{key}",
        title=title,
        caption="The band is one standard deviation over the seeds each way.",
        svg=chart.svg(f"{title}: accuracy over {len(tables)} numbers of training images a class"),
        columns=("method", "images a class", "accuracy", "deviation", "seeds"),
        rows=tuple((names[row], str(shots), *_exact(one)) for row, own in found.items() for shots, one in own),
    )


def interpolation(cells: Sequence[Result]) -> list[Figure]:
    """Accuracy of weights between the pretrained and the tuned ones: a figure a method and task, a series a test."""
    parts: dict[tuple[str, str], list[Result]] = {}
    names = labels(cells)
    for cell in cells:
        if cell.alphas:
            parts.setdefault((names[Row(cell.method, cell.rank)], cell.task), []).append(cell)
    return [_between(index, *part, own) for index, (part, own) in enumerate(parts.items())]


def _between(index: int, method: str, task: str, cells: Sequence[Result]) -> Figure:
    values: dict[str, dict[float, list[float]]] = {}
    for cell in cells:
        for alpha, tests in cell.alphas.items():
            for test, value in tests.items():
                values.setdefault(test, {}).setdefault(alpha, []).append(value)
    found = {
        test: [(alpha, one) for alpha in sorted(own) if (one := spread(own[alpha])) is not None]
        for test, own in values.items()
    }
    edges = [end for own in found.values() for _, one in own for end in (one.low, one.high)]
    alphas = [alpha for own in found.values() for alpha, _ in own]
    chart = Chart(
        Axis.fit("weights: 0 pretrained, 1 tuned", alphas, pad=0.03), Axis.fit("accuracy, %", edges, in_percent)
    )
    for number, own in enumerate(found.values()):
        chart.band([(alpha, one.low, one.high) for alpha, one in own], f"series-{number}")
        chart.line([(alpha, one.mean) for alpha, one in own], f"series-{number}")
    for number, (test, own) in enumerate(found.items()):
        for alpha, one in own:
            chart.symbol((alpha, one.mean), number, f"{test}, {alpha:g} of the way: {said(one)} %")
    return Figure(
        key=f"between-{index}",
        title=f"{method}, trained on {task}",
        caption="Merged a part of the way. Where a curve falls to the right while another rises, tuning traded one "
        "set of images for the other.",
        svg=chart.svg(f"{method} on {task}: accuracy over the share of the way from pretrained to tuned weights"),
        columns=("test", "share of the way", "accuracy", "deviation", "seeds"),
        rows=tuple((test, f"{alpha:g}", *_exact(one)) for test, own in found.items() for alpha, one in own),
        series=tuple(enumerate(found)),
    )

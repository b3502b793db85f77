"""A table as Markdown, LaTeX (booktabs) or CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal, TypeVar

from glora.bench.statistics import Estimate
from glora.bench.table import Table, TableRow
from glora.results.tally import Spread

__all__ = ["FORMATS", "TableFormat", "render"]

TableFormat = Literal["markdown", "latex", "csv"]
T = TypeVar("T")

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}


def render(table: Table, form: TableFormat = "markdown") -> str:
    """The table as text that ends in a newline; CSV has shares from 0 to 1 and no notes."""
    return FORMATS[form](table)


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    header = _header(table, [f"{column.label} ({column.group})" for column in table.columns])
    rule = "|---|" + "---:|" * (len(header) - 1)
    rows = [line(_cells(table, row)) for row in table.rows]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([line(header), rule, *rows, "", *notes]) + "\n"


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_escaped, cells)) + r" \\"

    groups = [(name, len(list(own))) for name, own in groupby(table.columns, lambda column: column.group)]
    spans = [rf"\multicolumn{{{count}}}{{c}}{{{_escaped(name)}}}" for name, count in groups]
    header = _header(table, [column.label for column in table.columns])
    first = 2 + len(_shots(table, ""))
    rest = len(header) - first - len(table.columns)
    ours = [line(_cells(table, row)) for row in table.rows if row.source is None]
    others = [line(_cells(table, row)) for row in table.rows if row.source is not None]
    return (
        "\n".join(
            [
                *(f"% {note}" for note in table.notes),
                rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
                r"\toprule",
                " & ".join([*[""] * first, *spans, *[""] * rest]) + r" \\",
                line(header),
                r"\midrule",
                *ours,
                *([r"\midrule", *others] if others else []),
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )
        + "\n"
    )


def _csv(table: Table) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [f"{column.group}: {column.label}" for column in table.columns]
    pairs = [name for column in names for name in (column, f"{column}, deviation", f"{column}, seeds")]
    estimates = [f"{name}{end}" for name in ("rank", "gap") for end in ("", ", low", ", high")]
    head = ["method", *_shots(table, "shots"), "parameters"]
    writer.writerow([*head, *pairs, "mean of groups", "mean of tasks", *estimates, "source"])
    for row in table.rows:
        figures = [value for figure in row.figures for value in (figure or (None, None, None))]
        ends = [value for one in (row.rank, row.gap) for value in (one or (None, None, None))]
        shown = [row.name, *_shots(table, row.shots), row.parameters]
        writer.writerow([*shown, *figures, row.group_mean, row.task_mean, *ends, row.source])
    return file.getvalue()


def _header(table: Table, columns: Sequence[str]) -> list[str]:
    found = ["method", *_shots(table, "shots"), "parameters", *columns, "mean of groups", "mean of tasks", "rank"]
    found += [] if table.reference is None else [f"against {table.reference}"]
    return [*found, *(["source"] if any(row.source for row in table.rows) else [])]


def _cells(table: Table, row: TableRow) -> list[str]:
    shots = _shots(table, "-" if row.shots is None else str(row.shots))
    found = [row.name, *shots, f"{row.parameters:,}", *map(_accuracy, row.figures)]
    found += [_percent(row.group_mean), _percent(row.task_mean), _interval(row.rank, 1, "")]
    found += [] if table.reference is None else [_interval(row.gap, 100, "+")]
    return [*found, *([row.source or "these results"] if any(one.source for one in table.rows) else [])]


def _shots(table: Table, entry: T) -> list[T]:
    """What stands in the column of shots, which only tables with some have."""
    return [entry] if any(row.shots is not None for row in table.rows) else []


def _accuracy(figure: Spread | None) -> str:
    if figure is None:
        return "-"
    return _percent(figure.mean) + ("" if figure.deviation is None else f" ± {100 * figure.deviation:.1f}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _interval(value: Estimate | None, scale: int, sign: str) -> str:
    if value is None:
        return "-"
    return f"{scale * value.value:{sign}.1f} ({scale * value.low:{sign}.1f} to {scale * value.high:{sign}.1f})"


def _escaped(text: str) -> str:
    plain = re.sub("[" + re.escape("".join(_LATEX)) + "]", lambda found: _LATEX[found[0]], text)
    return re.sub(r"(?<![^ (])-(?=\d)", "$-$", plain)  # a minus, and no hyphen


FORMATS: dict[TableFormat, Callable[[Table], str]] = {"markdown": _markdown, "latex": _latex, "csv": _csv}
"""What a table can be printed as."""

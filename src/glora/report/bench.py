"""The report of a bench: everything that its ``results.jsonl`` tells, as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glora.errors import CheckpointError
from glora.report import words
from glora.report.choices import choices
from glora.report.curves import Series, costs, few_shot, interpolation, said
from glora.report.page import render, write_page
from glora.results.conditions import cautions
from glora.results.file import NAME, Results, read_results
from glora.results.result import Result
from glora.results.tally import Column, Row, Spread, Tally, labels, tallies
from glora.structure import TENSORS

__all__ = ["by_shots", "tables", "write_bench_report"]


def write_bench_report(folder: Path, out: Path | None = None) -> Path:
    """Make the report of a bench: one HTML file without scripts, links to other files or network requests.

    The same results give the same bytes.

    Args:
        folder: the folder of the bench, which has a ``results.jsonl``.
        out: the file to write, ``report.html`` in the folder by default; it appears whole or not at all.

    Returns:
        The file written.

    Raises:
        CheckpointError: if there are no results, or a line of them is damaged.
    """
    folder = Path(folder)
    results = read_results([folder])
    if not results.cells and not results.failures:
        raise CheckpointError(f"{folder / NAME} holds no finished cell yet: `glora bench PLAN.yaml` makes them")
    target = folder / "report.html" if out is None else Path(out)
    write_page(target, render("bench.html.jinja", _context(folder, results)))
    return target


def tables(cells: Iterable[Result]) -> list[tuple[str, Tally]]:
    """A table for each protocol that is no curve over shots, with its title."""
    parts = tallies((cell for cell in cells if not cell.few_shot), lambda cell: (cell.protocol, cell.shots))
    return [(_title(*part), tally) for part, tally in parts.items()]


def by_shots(cells: Iterable[Result]) -> dict[int, Tally]:
    """A table for each number of training images a class, fewest first."""
    parts = tallies((cell for cell in cells if cell.few_shot), lambda cell: cell.shots or 0, curve=True)
    return dict(sorted(parts.items()))


def _title(protocol: str, shots: int | None) -> str:
    name = {"vtab": "VTAB-1k", "domain": "Domain generalisation", "": "Tasks"}.get(protocol, protocol)
    return name if shots is None else f"{name}, {shots} {'image' if shots == 1 else 'images'} a class"


def _context(folder: Path, results: Results) -> dict[str, Any]:
    cells, failures = results.latest.cells, results.latest.failures
    series = {method: number for number, method in enumerate(dict.fromkeys(cell.method for cell in cells))}
    parts, shots = tables(cells), by_shots(cells)
    compared = next((table for _, table in parts if table.averaged), None)
    return {
        "title": folder.resolve().name,
        "subject": _subject(cells),
        "headline": _headline(compared) if compared else "",
        "cautions": [*cautions(cells), *_left_out(len(results.cells) - len(cells), len(failures))],
        "series_count": max([len(series), *(len(tests) for cell in cells for tests in cell.alphas.values())]),
        "tables": [*(_shown(title, table) for title, table in parts), *([_shown_shots(shots)] if shots else [])],
        "costs": [
            (title, _entries(series, table.methods), costs(f"cost-{index}", table, series))
            for index, (title, table) in enumerate(parts)
        ],
        "shots": few_shot(shots, series),
        "shots_series": _entries(series, (method for table in shots.values() for method in table.methods)),
        "between": interpolation(cells),
        "choices": choices(cells),
        "shapeless": sum(cell.structure is not None and not cell.layers for cell in cells),
        "tensors": TENSORS,
        "conditions": _conditions(cells),
        "failures": failures,
        "facts": _facts(cells),
    }


def _entries(series: Series, methods: Iterable[str]) -> list[tuple[int, str]]:
    """Methods as a legend has them."""
    return [(series[method], method) for method in dict.fromkeys(methods)]


def _subject(cells: Sequence[Result]) -> str:
    parts = [
        _counted(len({cell.method for cell in cells}), "method"),
        _counted(len({cell.task for cell in cells}), "task"),
        _counted(len({cell.seed for cell in cells}), "seed"),
        f"{_counted(len(cells), 'cell')} finished",
    ]
    return " · ".join([*(f"{m}" for m in dict.fromkeys(c.model for c in cells) if m), *parts])


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _headline(table: Tally) -> str:
    """Who has the highest mean, by how much, and whether that is more than the seeds differ."""
    mean = table.mean_of_groups if table.grouped else table.mean_of_tasks
    found = [(score, name, row) for row, name in table.rows.items() if (score := mean(row)) is not None]
    if len(found) < 2:
        return ""
    (best, name, row), (second, rival, _) = sorted(found, key=lambda one: -one[0].mean)[:2]
    what = f"mean of {len(table.groups)} groups of tasks" if table.grouped else f"mean of {len(table.columns)} tasks"
    gap = best.mean - second.mean
    text = (
        f"{name} has the highest {what}: {said(best)} % with {_size(table.parameters(row))} parameters, "
        f"{words.points(gap)} points above {rival}"
    )
    if best.deviation is None or second.deviation is None:
        return f"{text}; from one seed, which cannot tell a difference from noise."
    if gap < max(best.deviation, second.deviation):
        return f"{text}; less than the seeds differ."
    return f"{text}."


def _size(ends: tuple[int, int]) -> str:
    return f"{ends[0]:,}" if ends[0] == ends[1] else f"{ends[0]:,} to {ends[1]:,}"


def _sizes(ends: Iterable[tuple[int, int]]) -> str:
    low, high = zip(*ends, strict=True)
    return _size((min(low), max(high)))


def _left_out(replaced: int, failed: int) -> list[str]:
    found = [f"{_counted(replaced, 'cell')} left out for a later one with other settings."] if replaced else []
    return found + ([f"{_counted(failed, 'cell')} not finished; they are listed below."] if failed else [])


@dataclass(frozen=True, slots=True)
class _Entry:
    """One cell of a table as text."""

    text: str
    best: bool = False
    note: str = ""


def _shown(title: str, table: Tally) -> dict[str, Any]:
    """A table as text; the best of each column is marked."""
    means = {f"mean of {len(table.columns)} tasks": table.mean_of_tasks} if table.averaged else {}
    means |= {f"mean of {len(table.groups)} groups": table.mean_of_groups} if table.grouped else {}
    columns = [_marked([table.at(row, column) for row in table.rows]) for column in table.columns]
    lacking = [f"{n} missing" if (n := table.missing(row)) else "no seed has all" for row in table.rows]
    averages = [_marked([mean(row) for row in table.rows], lacking) for mean in means.values()]
    groups = [(group, sum(column.group == group for column in table.columns)) for group in table.groups]
    return {
        "title": title,
        "groups": groups if any(group for group, _ in groups) else [],
        "heads": [_head(column, table.columns) for column in table.columns],
        "means": list(means),
        "rows": [
            {
                "name": name,
                "cells": [column[place] for column in columns],
                "means": [column[place] for column in averages],
                "parameters": _size(table.parameters(row)),
            }
            for place, (row, name) in enumerate(table.rows.items())
        ],
    }


def _shown_shots(tables: Mapping[int, Tally]) -> dict[str, Any]:
    """One table of all numbers of shots: the mean of tasks for each."""
    names = labels(cell for table in tables.values() for cell in table.cells)
    columns = [_marked([table.mean_of_tasks(row) for row in names]) for table in tables.values()]
    sizes = [_sizes(t.parameters(row) for t in tables.values() if row in t.rows) for row in names]
    tasks = _counted(len({cell.task for table in tables.values() for cell in table.cells}), "task")
    return {
        "title": f"Few images a class, mean of {tasks}",
        "groups": [],
        "heads": [(f"{shots} a class", "") for shots in tables],
        "means": [],
        "rows": [
            {"name": name, "cells": [column[place] for column in columns], "means": [], "parameters": sizes[place]}
            for place, name in enumerate(names.values())
        ],
    }


def _head(column: Column, columns: Sequence[Column]) -> tuple[str, str]:
    """Name of a task, and of its test where that is not plain."""
    plain = column.test == "test" and sum(other.task == column.task for other in columns) == 1
    return column.task, "" if plain else column.test


def _marked(scores: Sequence[Spread | None], lacking: Sequence[str] = ()) -> list[_Entry]:
    top = max((score.mean for score in scores if score), default=None)
    return [
        _Entry(said(score), best=score.mean == top)
        if score
        else _Entry(words.MISSING, note=lacking[place] if lacking else "")
        for place, score in enumerate(scores)
    ]


def _conditions(cells: Sequence[Result]) -> list[tuple[str, ...]]:
    """What each method was given and took, over all its cells."""
    names = labels(cells)
    return [(name, *_condition([c for c in cells if Row(c.method, c.rank) == row])) for row, name in names.items()]


def _condition(cells: Sequence[Result]) -> tuple[str, ...]:
    seconds = [cell.seconds for cell in cells if cell.seconds is not None]
    memory = [cell.memory for cell in cells if cell.memory is not None]
    return (
        _listed(cell.peer for cell in cells),
        str(len(cells)),
        _listed(str(cell.trials) for cell in cells),
        _listed(words.tiny(lr) for lr in sorted({cell.lr for cell in cells if cell.lr is not None})),
        _listed(cell.trained_on for cell in cells),
        _size((min(cell.parameters for cell in cells), max(cell.parameters for cell in cells))),
        words.duration(statistics.mean(seconds)) if seconds else words.MISSING,
        f"{max(memory) / 2**20:,.0f} MiB" if memory else words.MISSING,
    )


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value)) or words.MISSING


def _facts(cells: Sequence[Result]) -> list[tuple[str, str]]:
    """What it takes to repeat the bench; several values where cells differ."""
    versions: dict[str, list[str]] = {}
    for cell in cells:
        for name, version in cell.versions.items():
            versions.setdefault(name, []).append(str(version))
    facts = {
        "backbone": [cell.model for cell in cells],
        "preprocessing": [json.dumps(cell.preprocessing, sort_keys=True) for cell in cells],
        "machine": [cell.machine for cell in cells],
        "seeds": [str(seed) for seed in sorted({cell.seed for cell in cells})],
        **versions,
    }
    return [(name, _listed(values)) for name, values in facts.items()]

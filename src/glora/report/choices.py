"""What the structures of a bench have in common: maps of forms, shares of parameters, how often a form is chosen."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from glora.report import words
from glora.report.chart import Axis, Chart
from glora.report.figures import Figure, in_percent, layer_chart
from glora.report.forms import KIND_NAMES, KINDS, LayerRow, blocks, kinds_used
from glora.results.result import Result
from glora.results.tally import Row, labels
from glora.structure import TENSORS

__all__ = ["Choices", "FormMap", "choices"]


# Tasks in one map.
_BESIDE = 6


@dataclass(frozen=True, slots=True)
class FormMap:
    """Forms of every layer on every task, of one seed: for a layer its name and, task by task, its row."""

    tasks: tuple[str, ...]
    layers: tuple[tuple[str, tuple[LayerRow, ...]], ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Choices:
    """Everything that is shown of the structures that one method found."""

    method: str
    maps: tuple[FormMap, ...]
    kinds: tuple[str, ...]
    figures: tuple[Figure, ...]


def choices(cells: Sequence[Result]) -> list[Choices]:
    """For every method whose structures differ from layer to layer; those without ``layers`` are left out."""
    parts: dict[Row, list[Result]] = {}
    for cell in cells:
        if _found(cell):
            parts.setdefault(Row(cell.method, cell.rank), []).append(cell)
    names = labels(cells)
    return [_choices(index, names[row], own) for index, (row, own) in enumerate(parts.items())]


def _found(cell: Result) -> bool:
    structure = cell.structure
    return structure is not None and len({structure[layer.name] for layer in cell.layers}) > 1


def _choices(index: int, method: str, cells: Sequence[Result]) -> Choices:
    rows = [_rows(cell) for cell in cells]
    used = kinds_used(row for own in rows for row in own)
    figures = (
        _tensor_shares(index, cells, rows),
        *_layer_shares(index, cells, rows),
        *(
            _frequencies(f"{index}-{n}", group, own, used)
            for n, (group, own) in enumerate(_groups(cells, rows).items())
        ),
    )
    return Choices(method, tuple(_maps(cells)), tuple(used), figures)


def _rows(cell: Result) -> list[LayerRow]:
    assert cell.structure is not None
    return [row for _, group in blocks(cell.layers, cell.structure) for row in group]


def _task(cell: Result) -> str:
    return cell.task if cell.shots is None else f"{cell.task}, {cell.shots} a class"


def _maps(cells: Sequence[Result]) -> list[FormMap]:
    """A few tasks side by side, those that share the layers; of each the structure of its lowest seed."""
    first: dict[str, Result] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        first.setdefault(_task(cell), cell)
    parts: dict[tuple[int, tuple[str, ...]], list[Result]] = {}
    for task in dict.fromkeys(map(_task, cells)):
        cell = first[task]
        parts.setdefault((cell.seed, tuple(layer.name for layer in cell.layers)), []).append(cell)
    return [
        FormMap(
            tuple(map(_task, few)),
            tuple(zip(layers, zip(*(_rows(cell) for cell in few), strict=True), strict=True)),
            seed,
        )
        for (seed, layers), own in parts.items()
        for few in _even(own)
    ]


def _even(cells: Sequence[Result]) -> list[Sequence[Result]]:
    """Parts of as equal a length as can be, of no more than fit beside each other on a page."""
    count = math.ceil(len(cells) / _BESIDE)
    ends = [round(len(cells) * part / count) for part in range(count + 1)]
    return [cells[start:end] for start, end in itertools.pairwise(ends)]


def _groups(cells: Sequence[Result], rows: Sequence[list[LayerRow]]) -> dict[str, list[list[LayerRow]]]:
    groups: dict[str, list[list[LayerRow]]] = {}
    for cell, own in zip(cells, rows, strict=True):
        groups.setdefault(cell.group, []).append(own)
    return groups


def _tensor_shares(index: int, cells: Sequence[Result], rows: Sequence[list[LayerRow]]) -> Figure:
    """A stacked bar a task: the share of the parameters that each tensor has, in the mean over the seeds."""
    by_task: dict[str, list[list[LayerRow]]] = defaultdict(list)
    for cell, own in zip(cells, rows, strict=True):
        by_task[_task(cell)].append(own)
    named = tuple((place + 0.5, str(place + 1)) for place in range(len(by_task)))
    chart = Chart(Axis("task", 0, len(by_task), named=named), Axis("share of parameters, %", 0, 1, in_percent))
    table = []
    for place, (task, structures) in enumerate(by_task.items()):
        shares = {tensor: statistics.mean(_share(one, tensor) for one in structures) for tensor in TENSORS}
        base = 0.0
        for tensor, share in shares.items():
            if share:
                tip = f"{task}: {tensor} {words.percent(share)} % of the parameters"
                chart.bar(place + 0.15, place + 0.85, base, base + share, f"tensor-{tensor}", tip)
            base += share
        table.append((f"{place + 1} {task}", *(words.percent(share) for share in shares.values())))
    return Figure(
        key=f"tensor-shares-{index}",
        title="Which tensor has the parameters",
        caption="One bar a task, in the mean over the seeds: "
        + ", ".join(f"{place} {task}" for place, task in enumerate(by_task, start=1))
        + ".",
        svg=chart.svg(f"Stacked bars: share of each support tensor in the parameters, for {len(by_task)} tasks"),
        columns=("task", *(f"{tensor}, %" for tensor in TENSORS)),
        rows=tuple(table),
        legend=tuple((f"tensor-{tensor}", tensor) for tensor in TENSORS),
    )


def _share(rows: Sequence[LayerRow], tensor: str) -> float:
    return sum(row.sizes[tensor] for row in rows) / max(1, sum(row.parameters for row in rows))


def _layer_shares(index: int, cells: Sequence[Result], rows: Sequence[list[LayerRow]]) -> list[Figure]:
    """Where tasks share the layers: the share of the parameters that each layer has, by tensor, in the mean."""
    if len({tuple(layer.name for layer in cell.layers) for cell in cells}) > 1:
        return []
    totals = [max(1, sum(row.parameters for row in own)) for own in rows]
    assert cells[0].structure is not None
    layout = blocks(cells[0].layers, cells[0].structure)
    means = [
        {
            tensor: statistics.mean(row.sizes[tensor] / total for row, total in zip(layer, totals, strict=True))
            for tensor in TENSORS
        }
        for layer in zip(*rows, strict=True)
    ]
    top = max(sum(shares.values()) for shares in means)
    chart, gap = layer_chart(layout, Axis("share of parameters, %", 0, 1.06 * top or 1, in_percent))
    for place, (shares, row) in enumerate(zip(means, rows[0], strict=True)):
        base = 0.0
        for tensor, share in shares.items():
            if share:
                tip = f"{row.name}: {tensor} {100 * share:.2f} of {100 * sum(shares.values()):.2f} %"
                chart.bar(place + gap, place + 1 - gap, base, base + share, f"tensor-{tensor}", tip)
            base += share
    return [
        Figure(
            key=f"layer-shares-{index}",
            title="Which layers have the parameters",
            caption=f"The mean of {len(rows)} structures: every task and seed counts the same.",
            svg=chart.svg(f"Stacked bars: share of each of {len(means)} layers in the parameters, by support tensor"),
            columns=("layer", *(f"{tensor}, %" for tensor in TENSORS)),
            rows=tuple(
                (row.name, *(f"{100 * share:.2f}" for share in shares.values()))
                for row, shares in zip(rows[0], means, strict=True)
            ),
            legend=tuple((f"tensor-{tensor}", tensor) for tensor in TENSORS),
        )
    ]


def _frequencies(key: str, group: str, rows: Sequence[list[LayerRow]], used: Sequence[str]) -> Figure:
    """For each tensor, how often each kind of form is chosen in a group of tasks."""
    named = tuple((place + 0.5, tensor) for place, tensor in enumerate(TENSORS))
    chart = Chart(
        Axis("support tensor", 0, len(TENSORS), named=named), Axis("share of layers, %", 0, 1, in_percent), height=250
    )
    everything = [row for own in rows for row in own]
    table = []
    for place, tensor in enumerate(TENSORS):
        base, shares = 0.0, []
        for kind in used:
            share = sum(row.forms[tensor].kind == kind for row in everything) / len(everything)
            if share:
                tip = f"{tensor}: {KIND_NAMES[kind]} in {words.percent(share)} % of the layers"
                chart.bar(place + 0.15, place + 0.85, base, base + share, f"form-{kind}", tip)
            base += share
            shares.append(words.percent(share))
        table.append((tensor, *shares))
    return Figure(
        key=f"form-choices-{key}",
        title=f"Forms chosen: {group}" if group else "Forms chosen",
        caption=f"Over {len(everything):,} layers of {len(rows)} {'structure' if len(rows) == 1 else 'structures'}.",
        svg=chart.svg(f"Stacked bars: how often each form is chosen for each support tensor, {group or 'all tasks'}"),
        columns=("tensor", *(f"{KIND_NAMES[kind]}, %" for kind in used)),
        rows=tuple(table),
        legend=tuple((f"form-{kind}", KIND_NAMES[kind]) for kind in KINDS if kind in used),
    )

"""Results as a bench writes them, made up: three methods on three tasks, and lines with whatever is asked for."""

from __future__ import annotations

from typing import Any

from glora.bench import Table, make_table
from glora.bench.table import TableRow
from glora.fields import Fields
from glora.results.file import Results
from glora.results.result import Failure, Result

# By method, task and seed.
SCORES: dict[str, dict[str, list[float]]] = {
    "good": {"svhn": [0.9, 0.8], "dtd": [0.7, 0.7], "kitti": [0.5, 0.6]},
    "fair": {"svhn": [0.8, 0.7], "dtd": [0.7, 0.7], "kitti": [0.6, 0.7]},
    "poor": {"svhn": [0.1, 0.2], "dtd": [0.3, 0.4], "kitti": [0.2, 0.1]},
}
GROUPS = {"svhn": "natural", "dtd": "natural", "kitti": "structured"}


def result(method: str, task: str, seed: int, accuracy: float, **changes: Any) -> dict[str, Any]:
    line = {
        "format": 1,
        "task": task,
        "group": GROUPS.get(task),
        "protocol": "vtab",
        "shots": None,
        "method": method,
        "rank": None,
        "seed": seed,
        "model": {"model": "vit_base_patch16_224.augreg_in21k"},
        "preprocessing": {
            "size": 224,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "interpolation": "bicubic",
            "resize": "squash",
        },
        "parameters": 1000,
        "tests": {"test": accuracy},
        "trained_on": "train+val",
        "split": task,
        **changes,
    }
    own = (line[part] for part in ("method", "rank", "task", "shots", "seed"))
    return {"key": " ".join(map(str, own)), **line}


def results(**changes: Any) -> list[dict[str, Any]]:
    return [
        result(method, task, seed, accuracy, **changes)
        for method, tasks in SCORES.items()
        for task, seeds in tasks.items()
        for seed, accuracy in enumerate(seeds)
    ]


def read(lines: list[dict[str, Any]]) -> Results:
    fields = [(line, Fields(line, "line")) for line in lines]
    return Results(
        tuple(Result.read(one) for line, one in fields if "error" not in line),
        tuple(Failure.read(one) for line, one in fields if "error" in line),
    )


def table_of(lines: list[dict[str, Any]], *more: Any, **options: Any) -> Table:
    return make_table(read(lines), *more, **options)


def rows(table: Table) -> dict[str, TableRow]:
    """By name; the last of a method with several numbers of shots."""
    return {row.name: row for row in table.rows}

"""Sweeps of methods over data sets and seeds, and the tables of what came out; see docs/bench.md."""

from __future__ import annotations

from glora.bench.cells import Cell
from glora.bench.plan import Plan
from glora.bench.published import PublishedRow, published_rows
from glora.bench.render import render
from glora.bench.sweep import make_tasks, run_cells
from glora.bench.table import Table, make_table
from glora.bench.tasks import Task

__all__ = [
    "Cell",
    "Plan",
    "PublishedRow",
    "Table",
    "Task",
    "make_table",
    "make_tasks",
    "published_rows",
    "render",
    "run_cells",
]

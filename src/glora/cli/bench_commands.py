"""The commands about many trainings: doing a plan, and the table of what came out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from glora.bench import Plan, make_table, make_tasks, published_rows, render, run_cells
from glora.cli.console import ConsoleProgress, print_json
from glora.files import locked
from glora.results.file import NAME, Results, ResultsFile, read_results

__all__ = ["bench", "table"]


def bench(
    plan: str,
    out: str = "runs/bench",
    root: str | None = None,
    workers: int = 1,
    ray: str | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Methods on data sets with several seeds and ranks, each tuned by equally many trials; see docs/bench.md.

    Finished cells are skipped, unfinished ones go on, and one that fails does not stop the others; then the exit code
    is 1, and the same command tries it again.

    Args:
        plan: a YAML file, see docs/bench.md.
        out: the folder of results.jsonl and of all that is needed to go on.
        root: the folder of the data sets of a protocol, in place of the plan's.
        workers: cells done at the same time, in processes that divide the threads.
        ray: address of a Ray cluster where the workers shall be ("auto" for one that runs here, "local" to start
            one); it must see the folder.
        dry_run: list the cells and what is done, and do nothing.
        json: print the results as JSON.
    """
    folder = Path(out)
    read = Plan.read(plan, folder, root)
    if dry_run:
        _list(read, folder, json)
        return 0
    with ConsoleProgress() as progress, locked(folder):
        make_tasks(read.tasks, progress)
        file = ResultsFile(folder / NAME)
        failed = run_cells(read.cells, file, folder, progress, workers=workers, ray=ray, threads=read.threads)
    keys = {cell.key for cell in read.cells}
    results = read_results([folder]).of(keys)
    if json:
        about = {"results": str(file.path), "cells": len(keys), "failed": failed}
        print_json(about | ({"table": make_table(results).to_dict()} if results.cells else {}))
    elif results.cells:
        print(render(make_table(results)), end="")
    for line in results.told_failures():
        print(line, file=sys.stderr)
    return 1 if failed else 0


def table(
    results: list[str],
    format: Literal["markdown", "latex", "csv"] = "markdown",
    reference: str | None = None,
    published: Literal["vtab"] | None = None,
    json: bool = False,
) -> None:
    """The table of one or several benches: means over seeds, both averages, ranks, and what it does not show.

    Args:
        results: files results.jsonl, or folders of a bench.
        format: markdown, latex (needs the package booktabs) or csv, whose notes are told on stderr.
        reference: a method that the others are compared with.
        published: print published rows beside ours, with warnings where the conditions differ.
        json: print the table as JSON.
    """
    made = make_table(_merged(results), reference, published_rows(published) if published else ())
    if json:
        print_json(made.to_dict())
        return
    print(render(made, format), end="")
    for note in made.notes if format == "csv" else ():
        print(note, file=sys.stderr)


def _merged(paths: list[str]) -> Results:
    """Of each bench the latest cells; of a key, what any of them has finished."""
    each = [read_results([path]).latest for path in paths]
    keys = {cell.key for one in each for cell in one.cells} | {fail.key for one in each for fail in one.failures}
    return read_results(paths).of(keys)


def _list(plan: Plan, folder: Path, as_json: bool) -> None:
    results = read_results([folder]) if (folder / NAME).is_file() else Results(())
    known = {failure.key: "failed" for failure in results.failures} | {cell.key: "done" for cell in results.cells}
    states = [known.get(cell.key, "to do") for cell in plan.cells]
    if as_json:
        rows = [{"cell": str(cell), "key": cell.key, "state": s} for cell, s in zip(plan.cells, states, strict=True)]
        print_json({"cells": rows})
        return
    for cell, state in zip(plan.cells, states, strict=True):
        print(f"{state:<8}{cell}")
    print(f"{states.count('done')} of {len(states)} cells done, {states.count('failed')} failed")

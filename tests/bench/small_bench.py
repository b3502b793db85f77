"""A bench so small that it takes seconds: three methods on the coloured pictures, two rates, two seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from glora.bench import Plan, run_cells
from glora.results.file import ResultsFile
from helpers import one_thread
from small_run import SIDE, Told, pictures, weights

# What two doings of the same cell may differ in.
_TIMES = ("seconds", "memory", "machine")


def plan(**changes: Any) -> dict[str, Any]:
    return {
        "model": "test_vit",
        "checkpoint": str(weights()),
        "size": SIDE,
        "data": {"colours": {"folder": str(pictures()), "group": "natural"}},
        "methods": {
            "linear": {"peer": "linear"},
            "lora": {"peer": "lora", "rank": 2},
            "ours": {"peer": "glora", "rank": 2, "options": {"budget": 3000, "generations": 1, "population": 6}},
        },
        "seeds": [0, 1],
        "train": {"epochs": 2, "batch_size": 12, "precision": "fp32"},
        "lr": {"values": [1e-4, 1e-3], "seed": 0},
        "threads": 1,
        **changes,
    }


def write(folder: Path, value: Any) -> Path:
    path = folder / "plan.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False), "utf-8")
    return path


def do(folder: Path, out: Path, workers: int = 1, ray: str | None = None, **changes: Any) -> list[dict[str, Any]]:
    """Do a plan; what failed."""
    read = Plan.read(write(folder, plan(**changes)), out)
    with one_thread():
        file = ResultsFile(out / "results.jsonl")
        return run_cells(read.cells, file, out, Told(), workers=workers, ray=ray, threads=read.threads)


def lines_of(out: Path) -> list[dict[str, Any]]:
    """The last line of each cell, as it was written, by task, shots, method and seed."""
    read = map(json.loads, (out / "results.jsonl").read_text("utf-8").splitlines())
    last = {line["key"]: line for line in read}
    return sorted(last.values(), key=lambda line: (line["task"], line["shots"] or 0, line["method"], line["seed"]))


def comparable(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [{key: value for key, value in line.items() if key not in _TIMES} for line in lines]
    return sorted(kept, key=lambda line: str(line["key"]))

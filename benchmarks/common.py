"""What the benchmarks share: interleaved rounds, the machine in words, JSON and tables."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from glora.files import write_json

RESULTS = Path(__file__).parent / "results"


def parser(doc: str, name: str, rounds: int = 15) -> argparse.ArgumentParser:
    """Arguments that every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds (default: %(default)s)")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="JSON file (default: %(default)s)")
    made.add_argument("--quick", action="store_true", help="a small setting that only shows that everything runs")
    return made


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "cpu": processor,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("glora", "torch", "timm", "peft", "transformers")},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def seconds(work: Callable[[], object], device: str) -> float:
    """How long one call takes, until the device has finished."""
    if device.startswith("cuda"):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def interleaved(
    works: Mapping[str, Callable[[], object]], rounds: int, device: str, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of every piece of work in every round; all of them once a round, each round in another order."""
    names = list(works)
    for name in names:
        for _ in range(warmup):
            works[name]()
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order if turn % 2 == 0 else order[::-1]:
            found[name].append(seconds(works[name], device))
    return found


def paired(times: Mapping[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Median seconds, and the median and quartiles of the ratio to ``base`` in the same round."""
    rows = {}
    for name, own in times.items():
        ratios = sorted(a / b for a, b in zip(own, times[base], strict=True))
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        rows[name] = {
            "seconds": statistics.median(own),
            "ratio": statistics.median(ratios),
            "low": low,
            "high": high,
        }
    return rows


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table in Markdown."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"

    print(f"\n{title}\n\n{line(columns)}\n|{'|'.join('-' * (width + 2) for width in widths)}|", flush=True)
    for row in rows:
        print(line(row), flush=True)


def save(path: Path, command: str, device: str, results: Any) -> None:
    """Write the results with the machine's description."""
    write_json(path, {"command": command, "machine": machine(device), "results": results})
    print(f"\n{json.dumps(machine(device))}\nwritten to {path}")

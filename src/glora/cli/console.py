"""What the commands show: progress on stderr, results on stdout."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

__all__ = ["ConsoleProgress", "print_json", "print_lines", "print_results", "print_table", "stdout"]

# Off a terminal, a bar becomes a line every so many seconds.
_LINE_SECONDS = 15.0


class ConsoleProgress:
    """Progress bars with rate, time left and the running figure on a terminal; plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live: RichProgress | None = None

    def say(self, text: str) -> None:
        """One line of news."""
        self.close()
        self._console.print(text, markup=False, soft_wrap=True)

    def bar(self, label: str, total: int) -> Callable[[int, str], None]:
        """Open a bar; call what it gives with (done, figure)."""
        self.close()
        return self._rich_bar(label, total) if self._console.is_terminal else self._lines(label, total)

    def __enter__(self) -> ConsoleProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the bar that is open, if any, which holds the standard output while it lasts."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _rich_bar(self, label: str, total: int) -> Callable[[int, str], None]:
        live = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figure]}"),
            console=self._console,
        )
        task = live.add_task(label, total=total, figure="")
        live.start()
        self._live = live
        return lambda done, figure: live.update(task, completed=done, figure=figure)

    def _lines(self, label: str, total: int) -> Callable[[int, str], None]:
        began = last = time.monotonic()

        def show(done: int, figure: str) -> None:
            nonlocal last
            now = time.monotonic()
            if done < total and now - last < _LINE_SECONDS:
                return
            last = now
            left = (now - began) / max(done, 1) * (total - done)
            ahead = f", {left:.0f} s left" if done < total else f", {now - began:.0f} s"
            self._console.print(f"{label} {done}/{total}{ahead}  {figure}", markup=False, soft_wrap=True)

        return show


def stdout() -> Console:
    """A console for results: as wide as the terminal, or wide enough for any table elsewhere."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def print_json(value: Any) -> None:
    """One JSON document."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_results(values: Mapping[str, Any], as_json: bool) -> None:
    """Names and values, one a line, or as JSON."""
    if as_json:
        print_json(dict(values))
        return
    width = max(map(len, values)) + 2
    for name, value in values.items():
        if value not in ([], None):
            print(f"{name.replace('_', ' '):<{width}}{_text(name, value)}")


def print_lines(found: Iterable[tuple[str, tuple[tuple[str, float], ...]]], as_json: bool) -> None:
    """Predictions as they come: tab-separated, or one JSON object a line."""
    for image, classes in found:
        if as_json:
            pairs = [{"class": name, "probability": round(p, 6)} for name, p in classes]
            print(json.dumps({"image": image, "predictions": pairs}, ensure_ascii=False), flush=True)
        else:
            print("\t".join([image, *(cell for name, p in classes for cell in (name, f"{p:.4f}"))]), flush=True)


def print_table(folder: Path, metrics: Mapping[str, Any], as_json: bool) -> None:
    """The final table of a run, how far merged and adapted model differ, and where the files are."""
    files = {
        name: str(folder / file)
        for name, file in {
            "adapter": "adapter.safetensors",
            "merged": "merged.safetensors",
            "report": "report.html",
        }.items()
    }
    check = metrics["verification"]
    if as_json:
        found = {key: metrics[key] for key in ("gains", "verdict", "tau") if key in metrics}
        print_json({"table": metrics["table"], **found, "verification": check, **files})
        return
    console = stdout()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method", no_wrap=True)
    for name in ("val %", "test %", "parameters", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in metrics["table"]:
        table.add_row(
            row["method"],
            _percent(row["val_accuracy"], row["val_spread"]),
            _percent(row["test_accuracy"], row["test_spread"]),
            f"{row['parameters']:,}",
            f"{row['seconds']:.0f}",
            row["note"],
        )
    console.print(table)
    if verdict := metrics.get("verdict"):
        console.print(f"\n{verdict}", markup=False, soft_wrap=True)
    same = "same predictions" if check["same_predictions"] else "predictions differ"
    console.print(
        f"\nmerged = adapted: logits differ by at most {check['max_difference']:.1e} on {check['batch']} images, {same}"
    )
    for name, path in files.items():
        console.print(f"{name:<9}{path}", markup=False, soft_wrap=True)


def _text(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.2%}" if name in ("accuracy", "val_accuracy", "standard_error") else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _percent(value: float | None, spread: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")

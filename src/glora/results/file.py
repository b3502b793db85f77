"""The file of a bench, one JSON line a cell: appended to by the sweep, read by it, by the tables and by the report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glora.errors import CheckpointError, DataError
from glora.fields import lines
from glora.results.result import Failure, Result

__all__ = ["FORMAT", "NAME", "Results", "ResultsFile", "read_results"]

FORMAT = 1
NAME = "results.jsonl"
_MEND = "give files that glora bench wrote; of a damaged line, remove it, and its cell is done again"


@dataclass(frozen=True, slots=True)
class Results:
    """What is known of the cells of one or several benches.

    Attributes:
        cells: finished ones, in the order of their first lines.
        failures: of those that were never finished.
    """

    cells: tuple[Result, ...]
    failures: tuple[Failure, ...] = ()

    @property
    def latest(self) -> Results:
        """Without what a cell with other settings has been done in place of since, and its failures."""
        cells = {cell.place: cell for cell in self.cells}
        failures = {one.place: one for one in self.failures if one.place not in cells}
        return Results(tuple(cells.values()), tuple(failures.values()))

    def told_failures(self) -> list[str]:
        """What failed, a line for each error: one that many cells share is told once."""
        errors: dict[str, list[Failure]] = {}
        for one in sorted(self.failures, key=lambda one: str(one.place)):
            errors.setdefault(one.error, []).append(one)
        return [
            f"failed: {own[0]}" if len(own) == 1 else f"failed: {own[0].place} and {len(own) - 1} more cells: {error}"
            for error, own in errors.items()
        ]

    def of(self, keys: Iterable[str]) -> Results:
        """What is known of the cells with these keys."""
        kept = set(keys)
        return Results(
            tuple(cell for cell in self.cells if cell.key in kept),
            tuple(failure for failure in self.failures if failure.key in kept),
        )


class ResultsFile:
    """The results of one bench, as it goes on (final).

    Args:
        path: of the file; made when the first line comes. What a kill left of a line is cut off.

    Attributes:
        path: of the file.

    Raises:
        CheckpointError: naming the line that is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _cut_torn(path)
        self._done = {cell.key for cell in read_results([path]).cells} if path.is_file() else set()

    def done(self, key: str) -> bool:
        """Whether the cell is finished; one that failed is not."""
        return key in self._done

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line, which is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if "error" not in line:
            self._done.add(line["key"])


def read_results(paths: Iterable[str | Path]) -> Results:
    """Read results; of a key the line that is no failure counts, in whatever order the files come.

    A line that is not finished by a newline, because its bench was killed or is at work, is left out.

    Args:
        paths: files, or folders with a ``results.jsonl``.

    Raises:
        CheckpointError: if there is no such file; naming the line and the entry that is damaged or none of ours.
        DataError: if two files have the same cell with other accuracies.
    """
    found: dict[str, Result | Failure] = {}
    for path in map(Path, paths):
        file = path / NAME if path.is_dir() else path
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file: glora bench PLAN.yaml --out DIR writes DIR/{NAME}")
        for fields in lines(file, _MEND):
            fields.check_format(FORMAT)
            one = Failure.read(fields) if fields.text("error") else Result.read(fields)
            before = found.get(one.key)
            if isinstance(one, Result) and isinstance(before, Result) and one.accuracies != before.accuracies:
                raise DataError(
                    f"{fields.where}: {one.place} has other accuracies than in the file before: give one of the two"
                )
            if isinstance(one, Result) or not isinstance(before, Result):
                found[one.key] = one
    return Results(
        tuple(one for one in found.values() if isinstance(one, Result)),
        tuple(one for one in found.values() if isinstance(one, Failure)),
    )


def _cut_torn(path: Path) -> None:
    """Take off a last line without its end."""
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(content.rfind(b"\n") + 1)

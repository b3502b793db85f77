"""The file of a bench, one JSON line a finished cell: appended to, and read by whoever makes tables of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from glora.errors import DataError

__all__ = ["FORMAT", "NAME", "Results", "read_results"]

FORMAT = 1
NAME = "results.jsonl"
_NEEDED = frozenset({"key", "task", "method", "seed"})


class Results:
    """The results of one bench (final).

    Args:
        path: of the file; made when the first line comes. What a kill left of a line is cut off.

    Attributes:
        path: of the file.
        lines: the last line of each key, by key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _cut_torn(path)
        self.lines = {line["key"]: line for line in _lines(path)} if path.is_file() else {}

    def done(self, key: str) -> bool:
        """Whether the cell is finished; one that failed is not."""
        return key in self.lines and "error" not in self.lines[key]

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line, which is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines[line["key"]] = dict(line)


def read_results(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The last line of each key in files of results, sorted by task, method, rank and seed.

    A line that is not finished by a newline, because its bench was killed or is at work, is left out.

    Args:
        paths: files, or folders with a ``results.jsonl``.

    Raises:
        DataError: if there is no such file, or a line is none of ours.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in map(Path, paths):
        file = path / NAME if path.is_dir() else path
        if not file.is_file():
            raise DataError(f"{file}: no such file: glora bench PLAN.yaml --out DIR writes DIR/{NAME}")
        for line in _lines(file):
            # A failure never hides a success, in whatever order the files come.
            if "error" not in line or "error" in found.get(line["key"], line):
                found[line["key"]] = line
    return sorted(
        found.values(),
        key=lambda one: (one["task"], one.get("shots") or 0, one["method"], one.get("rank") or 0, one["seed"]),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    found = []
    for number, text in enumerate(whole.split(b"\n") if whole else [], 1):
        try:
            line = json.loads(text)
        except ValueError:
            raise DataError(f"{path}, line {number}: no JSON: remove the line, and the cell is done again") from None
        if not isinstance(line, dict) or line.get("format") != FORMAT or not line.keys() >= _NEEDED:
            raise DataError(f"{path}, line {number}: no result of format {FORMAT}: give files that glora bench wrote")
        found.append(line)
    return found


def _cut_torn(path: Path) -> None:
    """Take off a last line without its end."""
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(content.rfind(b"\n") + 1)

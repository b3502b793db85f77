"""The figures of a run: ``metrics.json``, written anew after every change."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glora.errors import CheckpointError
from glora.files import write_json

__all__ = ["Metrics", "Row"]


@dataclass(frozen=True)
class Row:
    """One line of the final table."""

    method: str
    val_accuracy: float
    parameters: int
    seconds: float
    note: str = ""


class Metrics:
    """The contents of ``metrics.json`` (final)."""

    def __init__(self, path: Path | None, values: dict[str, Any]) -> None:
        self._path = path
        self.values = values

    @classmethod
    def open(cls, path: Path, writes: bool = True) -> Metrics:
        """Read the file, if it is there; without ``writes`` it will be left as it is.

        Raises:
            CheckpointError: if it is damaged.
        """
        values: dict[str, Any] = {"format": 1, "seconds": {}, "table": []}
        if path.is_file():
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
                values["seconds"].items()
                for row in values["table"]:
                    row["method"]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(f"{path} is damaged or not ours ({error!r}): delete it") from error
        return cls(path if writes else None, values)

    def update(self, **values: Any) -> None:
        """Set entries and write the file."""
        self.values |= values
        if self._path is not None:
            write_json(self._path, self.values)

    def seconds(self, stage: str) -> float:
        """What a stage has taken so far, over all sittings."""
        return float(self.values["seconds"].get(stage, 0.0))

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to what a stage has taken."""
        self.values["seconds"][stage] = round(self.seconds(stage) + seconds, 3)
        self.update()

    def has(self, method: str) -> bool:
        """Whether the table has that line."""
        return any(row["method"] == method for row in self.values["table"])

    def row(self, row: Row, spread: float | None = None) -> None:
        """Add a line to the table, or replace the one of the same method; test figures stay."""
        value = {
            "method": row.method,
            "val_accuracy": row.val_accuracy,
            "val_spread": spread,
            "test_accuracy": None,
            "test_spread": None,
            "parameters": row.parameters,
            "seconds": round(row.seconds, 1),
            "note": row.note,
        }
        for there in self.values["table"]:
            if there["method"] == row.method:
                there |= {k: v for k, v in value.items() if not k.startswith("test")}
                break
        else:
            self.values["table"].append(value)
        self.update()

    @property
    def tested(self) -> bool:
        """Whether the test data has been looked at."""
        return bool(self.values.get("tested"))

    def test(self, accuracies: dict[str, list[float]]) -> None:
        """Enter the test accuracies of the table's lines, and that the test data has been used."""
        for row in self.values["table"]:
            if found := accuracies.get(row["method"]):
                row["test_accuracy"] = statistics.mean(found)
                row["test_spread"] = statistics.pstdev(found) if len(found) > 1 else None
        self.update(tested=True)

"""The table of a run folder, read and forgotten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glora.run import Run


def table(run: Run) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in run.metrics.values["table"]}


def forget(folder: Path, **values: Any) -> None:
    """Make a run folder forget its table and that it was tested."""
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"table": [], "tested": False} | values))

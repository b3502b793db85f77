"""What cells must have in common to be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable

from glora.results.result import Result

__all__ = ["cautions"]


def cautions(cells: Iterable[Result]) -> list[str]:
    """A sentence for each condition that differs among cells that stand in one table."""
    cells, found = list(cells), []
    packages = sorted({name for cell in cells for name in cell.versions})
    conditions = {
        "backbones": {cell.model for cell in cells},
        "preprocessings": {json.dumps(cell.preprocessing, sort_keys=True) for cell in cells},
        "numbers of learning rates tried": {str(cell.trials) for cell in cells},
        "parts trained on": {cell.trained_on for cell in cells},
        **{f"versions of {name}": {str(cell.versions.get(name)) for cell in cells} for name in packages},
    }
    for what, values in conditions.items():
        if len(values) > 1:
            found.append(f"The cells have {len(values)} different {what}: {', '.join(sorted(values))}.")
    splits: dict[tuple[str, int | None, int | None], set[str]] = {}
    for cell in cells:
        # Lists of few training images are drawn for each seed; other splits are the same for all.
        seed = None if cell.shots is None else cell.seed
        splits.setdefault((cell.task, cell.shots, seed), set()).add(cell.split)
    if unlike := sorted({task for (task, _, _), own in splits.items() if len(own) > 1}):
        found.append(f"Methods were not given the same split of {', '.join(unlike)}.")
    return found

"""What a search has found so far: the file it goes on from, and the front of fitness against size."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, final

from glora.errors import CheckpointError
from glora.files import replacing
from glora.strategies.score import Candidate

__all__ = ["History", "front"]

_FORMAT = 3
_MEND = "cut the file off before that line to go on from there, or delete it to search anew"


def front(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The Pareto front, from small to large: no other candidate is as small and as good, and better in one.

    Good by what ranks first, the accuracy mostly. Failed candidates, and those whose evaluation was stopped, are left
    out; of several with the same size and fitness the best by rank is kept.
    """
    able = sorted((c for c in candidates if not c.score.failed), key=Candidate.rank_key, reverse=True)
    kept: list[Candidate] = []
    for candidate in sorted(able, key=lambda c: c.size):
        if not kept or candidate.score.key[0] > kept[-1].score.key[0]:
            kept.append(candidate)
    return tuple(kept)


@final
class History:
    """The file ``search.jsonl``: a header with the settings, then one line per candidate, appended and synced.

    At the end those that were stopped and evaluated as wholes after all have a second line.

    Lines hold no times, so a search that was resumed leaves the same bytes as one that never stopped. A last line
    that was cut off by a kill is dropped on opening.

    Args:
        path: the file, made if it is not there.
        settings: what identifies the search, as plain values.

    Raises:
        CheckpointError: if the file has other settings, is damaged, or is something else.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        header = _line({"format": _FORMAT, "settings": settings})
        there = self.path.read_bytes() if self.path.exists() else b""
        whole = there[: there.rfind(b"\n") + 1]
        self.recorded: tuple[Candidate, ...] = ()
        if not whole and header.startswith(there):
            with replacing(self.path) as temporary:
                temporary.write_bytes(header)
        else:
            lines = (whole or there).splitlines(keepends=True)
            self._check_header(lines[0], json.loads(header)["settings"])
            self.recorded = tuple(self._candidate(line, index) for index, line in enumerate(lines[1:]))
        self._file = self.path.open("ab")
        if whole and len(whole) < len(there):
            self._file.truncate(len(whole))

    def append(self, candidate: Candidate) -> None:
        """Write one line; once this returns, a kill or a power cut no longer loses it."""
        self._file.write(_line(candidate.to_dict()))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _check_header(self, line: bytes, settings: dict[str, Any]) -> None:
        try:
            header = json.loads(line)
            version, there = header["format"], dict(header["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path}, line 1: not the header of a search history; delete the file"
            ) from error
        if version != _FORMAT:
            raise CheckpointError(
                f"{self.path} has format {version}; this version of glora reads format {_FORMAT}: delete the file to "
                "search anew, or go on with the version that wrote it"
            )
        if found := _difference(there, settings):
            raise CheckpointError(
                f"{self.path} belongs to another search: {found}; search with the same settings or delete the file"
            )

    def _candidate(self, line: bytes, index: int) -> Candidate:
        try:
            candidate = Candidate.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.path}, line {index + 2}: damaged; {_MEND}") from error
        # Writing it again finds what reading forgives: further entries, other types. A line of an earlier candidate
        # completes it; whether that is due the search itself finds.
        if not 0 <= candidate.index <= index or _line(candidate.to_dict()) != line:
            raise CheckpointError(f"{self.path}, line {index + 2}: not as this search wrote it; {_MEND}")
        return candidate


def _line(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, allow_nan=False) + "\n").encode()


def _difference(there: Any, here: Any, name: str = "") -> str:
    """The first setting that differs, named with both values; empty if none does."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**here, **there}:
            if found := _difference(there.get(key), here.get(key), f"{name}.{key}" if name else key):
                return found
        return ""
    return "" if there == here else f"{name} is {json.dumps(there)} there and {json.dumps(here)} here"

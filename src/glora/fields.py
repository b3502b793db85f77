"""JSON that someone else wrote, read with a check of every entry: what is wrong is named, with its file and line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glora.errors import CheckpointError

__all__ = ["Fields", "lines", "parse", "read_text", "shown"]

FORMAT = 1
MEND = "the file is damaged: delete it and repeat the step that makes it"


class Fields:
    """A JSON object whose entries are read with a check (final).

    An entry that is null counts as missing: it is the default, or an error where there is none.

    Args:
        value: the object.
        where: opens the messages.
        mend: ends them.
    """

    def __init__(self, value: Any, where: str, mend: str = MEND) -> None:
        self.where, self._mend = where, mend
        if not isinstance(value, dict):
            raise self.error(f"expected an object, found {shown(value)}")
        self._value = value

    def error(self, what: str) -> CheckpointError:
        """The error that says what is wrong here."""
        return CheckpointError(f"{self.where}: {what}; {self._mend}")

    def _get(self, key: str, kinds: tuple[type, ...], what: str, default: Any) -> Any:
        value = self._value.get(key)
        if value is None:
            if default is ...:
                raise self.error(f"no {key!r}")
            return default
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.error(f"{key!r} is {shown(value)}, not {what}")
        return value

    def text(self, key: str, default: Any = "") -> str:
        """A text."""
        return str(self._get(key, (str,), "a text", default))

    def integer(self, key: str, default: Any = ...) -> Any:
        """A whole number."""
        return self._get(key, (int,), "a whole number", default)

    def number(self, key: str, default: Any = ...) -> Any:
        """A number, as a float."""
        value = self._get(key, (int, float), "a number", default)
        return value if value is None else float(value)

    def share(self, key: str, default: Any = ...) -> Any:
        """A number from 0 to 1."""
        value = self.number(key, default)
        if value is not None and not 0 <= value <= 1:
            raise self.error(f"{key!r} is {shown(value)}, no share from 0 to 1")
        return value

    def boolean(self, key: str) -> bool | None:
        """True, false or None."""
        value: bool | None = self._get(key, (bool,), "true or false", None)
        return value

    def items(self, key: str) -> list[Any]:
        """A list, empty if missing."""
        value: list[Any] = self._get(key, (list,), "a list", [])
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """An object, empty if missing."""
        value: dict[str, Any] = self._get(key, (dict,), "an object", {})
        return value

    def inside(self, key: str) -> Fields:
        """The fields of an object, none if missing."""
        return Fields(self.mapping(key), f"{self.where}, {key!r}", self._mend)

    def each(self, key: str) -> list[Fields]:
        """The fields of the objects of a list, which is empty if missing."""
        return [Fields(item, f"{self.where}, {key!r}", self._mend) for item in self.items(key)]

    def numbers(self, key: str) -> dict[str, float]:
        """An object of numbers; NaN for those that are null."""
        inner = self.inside(key)
        return {name: inner.number(name, math.nan) for name in inner.names()}

    def names(self) -> list[str]:
        """The names of the entries, in order."""
        return list(self._value)

    def check_format(self, wanted: int = FORMAT) -> None:
        """Raise CheckpointError for a format that is not read here."""
        if (found := self.integer("format")) != wanted:
            raise CheckpointError(f"{self.where}: format {found}, but this version of glora reads format {wanted}")


def shown(value: Any) -> str:
    """A value, cut to what fits in a message."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_text(path: Path) -> str:
    """The text of a file, empty if there is none.

    Raises:
        CheckpointError: if it cannot be read as UTF-8.
    """
    try:
        return _content(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def parse(text: str | bytes, where: str, mend: str = MEND) -> Fields:
    """The JSON object that a text holds.

    Raises:
        CheckpointError: if it holds something else.
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not JSON ({error}); {mend}") from error
    return Fields(value, where, mend)


def lines(path: Path, mend: str = MEND) -> Iterator[Fields]:
    """The JSON objects of a file of lines, none if there is no file.

    Raises:
        CheckpointError: naming the line that holds something else.
    """
    # A line is appended in one go, so only a last one without its newline can be half written: a stage was killed.
    whole, _, _ = _content(path).rpartition(b"\n")
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        yield parse(line, f"{path}, line {number}", mend)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error

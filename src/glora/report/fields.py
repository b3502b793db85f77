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
    """A JSON object whose entries are read with a check; ``where`` opens the messages (final).

    An entry that is null counts as missing: it is the default, or an error where there is none.
    """

    def __init__(self, value: Any, where: str) -> None:
        self.where = where
        if not isinstance(value, dict):
            raise self.error(f"expected an object, found {shown(value)}")
        self._value = value

    def error(self, what: str) -> CheckpointError:
        """The error that says what is wrong here."""
        return CheckpointError(f"{self.where}: {what}; {MEND}")

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

    def numbers(self, key: str) -> dict[str, float]:
        """An object of numbers; NaN for those that are null."""
        inner = Fields(self.mapping(key), f"{self.where}, {key!r}")
        return {name: inner.number(name, math.nan) for name in inner.names()}

    def names(self) -> list[str]:
        """The names of the entries, in order."""
        return list(self._value)

    def plain(self, key: str) -> str:
        """Any value as one text, the same for equal values."""
        value = self._value.get(key)
        return value if isinstance(value, str) else "" if value is None else json.dumps(value, sort_keys=True)

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
    if not path.is_file():
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def parse(text: str, where: str) -> Fields:
    """The JSON object that a text holds.

    Raises:
        CheckpointError: if it holds something else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not JSON ({error}); {MEND}") from error
    return Fields(value, where)


def lines(path: Path) -> Iterator[Fields]:
    """The JSON objects of a file of lines, none if there is no file.

    Raises:
        CheckpointError: naming the line that holds something else.
    """
    text = read_text(path)
    # A line is appended in one go, so only a last one without its newline can be half written: a stage was killed.
    whole = text[: text.rfind("\n") + 1]
    for number, line in enumerate(whole.split("\n")[:-1], start=1):
        yield parse(line, f"{path}, line {number}")

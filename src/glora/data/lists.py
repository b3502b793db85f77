"""Lists of labelled images, as benchmarks publish them: text files of lines ``path label``, checked line by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from glora.data.listing import Part
from glora.errors import DataError

__all__ = ["ListRule", "read_list"]


@dataclass(frozen=True)
class ListRule:
    """What a list must be like.

    Args:
        classes: labels run from 0 to one less.
        lines: how many there are; None for any number above 0.
        copies: how often every line stands in it; None for any number of times.
        filled: whether every class must be there.
        example: a line as it should be, for messages.
        locate: where an image of that path is; None if nowhere. The path below the list's folder if not given.
    """

    classes: int
    lines: int | None = None
    copies: int | None = None
    filled: bool = False
    example: str = "images/train800/000123.jpg 45"
    locate: Callable[[str], Path | None] | None = None


@dataclass
class _Complaints:
    """Complaints in order, where the second and further ones of a kind are only counted."""

    first: dict[str, str] = field(default_factory=dict)
    count: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, text: str) -> None:
        self.first.setdefault(kind, text)
        self.count[kind] += 1

    def lines(self) -> list[str]:
        more = {kind: count - 1 for kind, count in self.count.items()}
        return [f"{text}; {more[kind]:,} more like it" if more[kind] else text for kind, text in self.first.items()]


def read_list(path: Path, rule: ListRule) -> tuple[Part, list[str]]:
    """Read a list, and hold it to a rule.

    A line is split at its last blank, so that paths may have blanks in them; empty lines at the end are passed over.

    Returns:
        The images of all lines that can be used, in order, and a line for everything that is wrong.

    Raises:
        DataError: if the file cannot be read at all.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    while lines and not lines[-1].strip():
        lines.pop()
    wrong = _Complaints()
    found: list[tuple[Path, str, int]] = []
    seen: dict[str, list[int]] = {}
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if (parsed := _parse(line, where, rule, wrong)) is None:
            continue
        name, label = parsed
        image = path.parent / name if rule.locate is None else rule.locate(name)
        if image is None or not image.is_file():
            wrong.add("missing", f"{where}: {image or name}: no such file")
            continue
        found.append((image, name, label))
        seen.setdefault(name, []).append(number)
    _check_whole(path, rule, len(lines), seen, {label for _, _, label in found}, wrong)
    return Part.of(found), wrong.lines()


def _parse(line: str, where: str, rule: ListRule, wrong: _Complaints) -> tuple[str, int] | None:
    fields = line.rsplit(maxsplit=1)
    if len(fields) != 2 or not (fields[1].isascii() and fields[1].isdigit()):
        wrong.add("form", f"{where}: {line[:80]!r} is not of the form {rule.example!r}")
        return None
    if int(fields[1]) >= rule.classes:
        wrong.add("label", f"{where}: label {fields[1]} is out of range: there are at most {rule.classes} classes")
        return None
    return fields[0].strip(), int(fields[1])


def _check_whole(
    path: Path, rule: ListRule, count: int, seen: dict[str, list[int]], labels: set[int], wrong: _Complaints
) -> None:
    if not count or (rule.lines is not None and count != rule.lines):
        needed = "one or more are" if rule.lines is None else f"{rule.lines} are"
        wrong.add("count", f"{path}, line {count}: ends after {count} images, {needed} needed")
    for name, numbers in seen.items():
        if rule.copies is not None and len(numbers) != rule.copies:
            times = "once" if rule.copies == 1 else f"{rule.copies} times, as published"
            wrong.add(
                "copies", f"{path}, line {numbers[-1]}: {name}: stands there {len(numbers)} times, needed is {times}"
            )
    absent = sorted(set(range(rule.classes)) - labels) if rule.filled and not wrong.first else []
    if absent:
        others = f", nor of {len(absent) - 1} others" if absent[1:] else ""
        wrong.add("absent", f"{path}: has no image of class {absent[0]}{others}: every class is needed")

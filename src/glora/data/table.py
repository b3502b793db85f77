"""Tables of labelled images: CSV, TSV or JSON lines with the columns path, label and perhaps split."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glora.data.cut import cut_off
from glora.data.folder import SPLIT_NAMES, check_files
from glora.data.listing import Listing, Part
from glora.errors import DataError
from glora.files import write_text

__all__ = ["is_table", "list_table", "list_whole_table", "table_has_splits", "write_table"]

_COLUMNS = ("path", "label", "split")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def is_table(source: str | Path) -> bool:
    """Whether data are a table, by the suffix of the file: .csv, .tsv or .jsonl."""
    return Path(source).suffix.lower() in (*_DELIMITERS, ".jsonl") and not Path(source).is_dir()


def table_has_splits(path: str | Path) -> bool:
    """Whether a table says which images are to train on and which to test on.

    Raises:
        DataError: as :func:`list_table`.
    """
    return "split" in next(_rows(Path(path)))[1]


def list_table(
    path: str | Path,
    *,
    seed: int = 0,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    skip_bad: bool = False,
) -> Listing:
    """List the images of a table whose columns are path, label and perhaps split, reading no more than their headers.

    Paths are absolute or begin at the table's folder. Labels are names of classes, which count in the order of
    sorting, whole numbers by size. Splits are train, val and test; what is missing is cut off as from a folder.

    Args:
        path: of the table: .csv or .tsv with a head line, or .jsonl with an object a line.
        seed: of the cuts.
        val_fraction: share cut off for validation.
        test_fraction: share cut off for the test; with 0 there is none.
        skip_bad: go on without files that are no images.

    Raises:
        DataError: one line naming the table's line or the image at fault and what to do.
    """
    path = Path(path)
    parts, classes, skipped = _read(path, skip_bad)
    if len(classes) == 1:
        raise DataError(f"{path}: has one class only ({classes[0]!r}): two or more are needed")
    if "all" not in parts and "train" not in parts:
        raise DataError(f"{path}: has {', '.join(parts)} but no split train")
    found, layout = cut_off(parts, classes, _layout(parts), seed, val_fraction, test_fraction)
    return Listing(path.stem, layout, classes, found["train"], found["val"], found.get("test"), tuple(skipped))


def list_whole_table(path: str | Path, *, skip_bad: bool = False) -> Listing:
    """List a table as one part, to evaluate on, as :func:`glora.data.list_whole` does a folder."""
    path = Path(path)
    parts, classes, skipped = _read(path, skip_bad)
    whole = Part.joined(parts.values())
    return Listing(path.stem, "table, as a whole", classes, whole, whole.take(()), None, tuple(skipped))


def write_table(path: str | Path, listing: Listing) -> None:
    """Write the images of a listing, which are files, as a table with splits and absolute paths.

    Raises:
        DataError: if the images are no files, or the suffix is no table's.
    """
    path = Path(path)
    if not is_table(path):
        raise DataError(f"{path}: a table ends in .csv, .tsv or .jsonl")
    rows: list[dict[str, str]] = []
    for split, part in (("train", listing.train), ("val", listing.val), ("test", listing.test)):
        for image, label in zip(part.images, part.labels, strict=True) if part else ():
            if not isinstance(image, Path):
                raise DataError(f"{listing.name}: its images are no files, which a table could name")
            rows.append({"path": str(image.resolve()), "label": listing.classes[label], "split": split})
    if path.suffix.lower() == ".jsonl":
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, delimiter=_DELIMITERS[path.suffix.lower()], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _layout(parts: dict[str, Part]) -> str:
    return "table" if "all" in parts else f"table with {', '.join(parts)}"


def _read(path: Path, skip_bad: bool) -> tuple[dict[str, Part], tuple[str, ...], list[tuple[str, str]]]:
    """Parts, classes, and what is left out."""
    rows = list(_rows(path))
    names = {row["label"] for _, row in rows}
    whole = all(name.isascii() and name.isdigit() for name in names)
    classes = tuple(sorted(names, key=lambda name: (int(name), name) if whole else (0, name)))
    places = {name: place for place, name in enumerate(classes)}
    usable, skipped = check_files([path.parent / row["path"] for _, row in rows], skip_bad)
    good = set(usable)
    found: dict[str, list[tuple[Path, str, int]]] = {}
    seen: dict[Path, int] = {}
    for number, row in rows:
        image = path.parent / row["path"]
        if image in seen:
            raise DataError(f"{path}, line {number}: {row['path']}: stands in line {seen[image]} already: remove one")
        seen[image] = number
        split = SPLIT_NAMES.get(row["split"].lower()) if "split" in row else "all"
        if split is None:
            raise DataError(f"{path}, line {number}: split {row['split']!r} is none of train, val, test")
        if image in good:
            found.setdefault(split, []).append((image, Path(row["path"]).as_posix(), places[row["label"]]))
    if "all" in found and len(found) > 1:
        raise DataError(f"{path}: some lines have a split and some have none: give all of them one")
    if not found:
        raise DataError(f"{path}: none of its {len(rows)} images can be read")
    parts: dict[str, Part] = {
        split: Part.of(found[split]) for split in ("all", "train", "val", "test") if split in found
    }
    return parts, classes, skipped


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and values of each line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            count = 0
            reader = _objects if path.suffix.lower() == ".jsonl" else _records
            for number, row in reader(path, file):
                yield number, _checked(row, f"{path}, line {number}")
                count += 1
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not count:
        raise DataError(f"{path}: holds no images: a line each, with path, label and perhaps split")


def _records(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file, delimiter=_DELIMITERS[path.suffix.lower()], strict=True)
    if missing := [name for name in _COLUMNS[:2] if name not in (reader.fieldnames or ())]:
        raise DataError(f"{path}, line 1: has no column {missing[0]!r}: its columns are path, label and perhaps split")
    for row in reader:
        yield reader.line_num, row


def _objects(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: is no JSON object with path, label and perhaps split")
            yield number, row


def _checked(row: dict[str, Any], where: str) -> dict[str, str]:
    """The columns that count, as text."""
    values = {name: row[name] for name in _COLUMNS if name in row}
    for name in _COLUMNS[:2] if "split" not in values else _COLUMNS:
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and name == "label":
            values[name] = value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: has no {name}")
    return values

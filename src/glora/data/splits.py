"""Stratified splits that a seed decides, and the digest a run records them by."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Sequence

from glora.errors import DataError

__all__ = ["digest", "stratified_split"]


def stratified_split(
    labels: Sequence[int],
    parts: Sequence[float] | Sequence[int],
    seed: int = 0,
    *,
    classes: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Cut samples into parts with the same share of each class, as far as whole numbers allow.

    Every class with at least as many samples as there are parts is in each of them; a smaller one in the first parts.

    Args:
        labels: class of each sample.
        parts: fractions that sum to 1, met as nearly as the rule above allows; or counts that sum to the number of
            samples, met exactly.
        seed: decides which samples go where; the same arguments always give the same split.
        classes: names, for messages.
        files: path of each sample, for messages.

    Returns:
        For each part the sorted positions of its samples; each position is in one part.

    Raises:
        DataError: if a class has one sample only, or the parts do not add up or are too small for the classes.
    """
    members: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(int(label), []).append(position)
    counted = _check_parts(parts, len(labels))
    for label, found in members.items():
        if len(found) == 1 and len(parts) > 1:
            name = repr(classes[label]) if classes else str(label)
            where = f" ({files[found[0]]})" if files else ""
            raise DataError(f"class {name} has one image{where}: a split needs at least two of each class")
        random.Random(f"split {seed} {label}").shuffle(found)
    names = sorted(members)
    pool = [members[label] for label in names]
    cut: list[list[int]] = []
    for index in range(len(parts) - 1, 0, -1):
        shares = _allot([len(found) for found in pool], parts[index], len(labels), index, counted)
        cut.append([position for found, share in zip(pool, shares, strict=True) for position in found[:share]])
        pool = [found[share:] for found, share in zip(pool, shares, strict=True)]
    cut.append([position for found in pool for position in found])
    return tuple(tuple(sorted(part)) for part in reversed(cut))


def digest(rows: Iterable[tuple[str, int, str]]) -> str:
    """A fingerprint of a split, whatever the order of its rows.

    Args:
        rows: relative path (with "/"), label and part of each sample.

    Returns:
        The first 16 hexadecimal digits of a SHA-256.
    """
    lines = sorted(f"{path}\0{label}\0{part}\n" for path, label, part in rows)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _check_parts(parts: Sequence[float] | Sequence[int], count: int) -> bool:
    """Whether the parts are counts rather than fractions."""
    if not parts or any(part <= 0 for part in parts):
        raise DataError(f"parts {list(parts)} of a split: each must be above 0")
    if all(isinstance(part, int) for part in parts) and len(parts) > 1:
        if sum(parts) != count:
            raise DataError(f"parts {list(parts)} of a split hold {sum(parts)} samples, not {count}")
        return True
    if not math.isclose(sum(parts), 1):
        raise DataError(f"parts {list(parts)} of a split: fractions sum to 1, not to {sum(parts):g}")
    return False


def _allot(sizes: list[int], part: float, total: int, earlier: int, counted: bool) -> list[int]:
    """How many of each class to cut off, in proportion to what is left of it.

    One at least of each class that leaves one to each of the ``earlier`` parts, which come first.
    """
    low = [int(size > earlier) for size in sizes]
    high = [max(0, size - earlier) for size in sizes]
    take = int(part) if counted else min(max(round(part * total), sum(low)), sum(high))
    if take > sum(high):
        raise DataError(f"a part of {take} leaves too few samples of each of {len(sizes)} classes to the others")
    if take < sum(low):
        low = [0] * len(sizes)
    ideal = [take * size / sum(sizes) for size in sizes]
    shares = [min(max(math.floor(want), least), most) for want, least, most in zip(ideal, low, high, strict=True)]
    while sum(shares) != take:
        step = 1 if sum(shares) < take else -1
        free = [
            index for index, share in enumerate(shares) if (share < high[index] if step > 0 else share > low[index])
        ]
        chosen = max(free, key=lambda index: step * (ideal[index] - shares[index]))
        shares[chosen] += step
    return shares

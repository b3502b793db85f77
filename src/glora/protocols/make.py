"""From the name of a protocol and a folder to tasks, or to a line for everything that is wrong with the folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, TypeVar, get_args

from glora.data import k_shot, list_data
from glora.data.preprocess import Preprocessing
from glora.data.vtab import OTHER_NAMES, VTAB
from glora.errors import DataError, near_miss
from glora.protocols import domain, fewshot, vtab
from glora.protocols.task import Survey, Task, TestSet

__all__ = ["PROTOCOLS", "Protocol", "check_protocol", "tasks"]

Protocol = Literal["vtab", "fewshot", "domain", "own"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
"""VTAB-1k, few-shot, domain generalisation, and any data of one's own."""

_NAMES: dict[str, Collection[str]] = {"vtab": VTAB, "fewshot": fewshot.FEWSHOT, "domain": ("imagenet",)}
_FEWSHOT_NAMES = {name: own for own, known in fewshot.FEWSHOT.items() for name in known.folders}
Item = TypeVar("Item")


def tasks(
    protocol: Protocol,
    root: str | Path,
    *,
    names: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Task]:
    """The tasks of a protocol, in its order: data set by data set, within one by shots, then by seeds.

    No image is decoded; that the listed images exist, their numbers and labels are checked.

    Args:
        protocol: "vtab", "fewshot", "domain", or "own" for any data that :func:`glora.data.list_data` takes.
        root: the folder that holds the data sets; the data themselves with "own".
        names: of data sets, those of ``glora.data.vtab.VTAB`` or ``glora.protocols.fewshot.FEWSHOT``; all if None.
        shots: "fewshot": some of 1, 2, 4, 8, 16, all if None. "own": any; all training images if None.
        seeds: "fewshot" and "domain": some of 0, 1, 2, all if None. "own": of split and shots, 0 if None.

    Raises:
        DataError: for a choice that the protocol does not have; naming the first thing that is missing or wrong.
    """
    found = _survey(protocol, Path(root), names, shots, seeds)
    if found.problems:
        more = len(found.problems) - 1
        rest = f"; {more} more: glora data check {root} --protocol {protocol}" if more else ""
        raise DataError(f"{found.problems[0]}{rest}")
    return found.tasks


def check_protocol(protocol: Protocol, root: str | Path, names: Sequence[str] | None = None) -> Survey:
    """Everything that is missing or wrong, a line each, and the tasks that can be used.

    Args:
        protocol: as in :func:`tasks`.
        root: as in :func:`tasks`.
        names: the data sets to look for; all if None.

    Raises:
        DataError: for a choice that the protocol does not have.
    """
    return _survey(protocol, Path(root), names, None, None)


def _survey(
    protocol: str,
    root: Path,
    names: Sequence[str] | None,
    shots: Sequence[int] | None,
    seeds: Sequence[int] | None,
) -> Survey:
    if protocol not in PROTOCOLS:
        raise DataError(f"protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
    if protocol == "own":
        if names is not None:
            raise DataError("data of one's own have no names to choose from: give the folder or table itself")
        return Survey([_own(root, count, seed) for count in shots or (None,) for seed in seeds or (0,)], [])
    if not root.is_dir():
        raise DataError(f"{root}: {'is no folder' if root.exists() else 'no such folder'}")
    chosen = [_known_name(protocol, name) for name in names] if names is not None else list(_NAMES[protocol])
    if protocol == "vtab":
        _choose(protocol, "shots", shots, ())
        _choose(protocol, "seeds", seeds, ())
        return vtab.survey(root, chosen)
    drawn = _choose(protocol, "seeds", seeds, fewshot.SEEDS)
    if protocol == "fewshot":
        return fewshot.survey(root, chosen, _choose(protocol, "shots", shots, fewshot.SHOTS), drawn)
    _choose(protocol, "shots", shots, (domain.SHOTS,))
    return domain.survey(root, drawn)


def _known_name(protocol: str, name: str) -> str:
    known = {"vtab": OTHER_NAMES, "fewshot": _FEWSHOT_NAMES}.get(protocol, {}).get(name, name)
    if known not in _NAMES[protocol]:
        names = _NAMES[protocol]
        raise DataError(
            f"protocol {protocol} has no data set {name!r}: there are {', '.join(names)}{near_miss(name, names)}"
        )
    return known


def _choose(protocol: str, what: str, given: Sequence[Item] | None, allowed: Sequence[Item]) -> Sequence[Item]:
    """The values given, or all there are."""
    for value in given or ():
        if value not in allowed:
            among = f"there are {', '.join(map(str, allowed))}" if allowed else f"it has no {what}"
            raise DataError(f"protocol {protocol}, {what} {value}: {among}")
    return allowed if given is None else given


def _own(source: Path, shots: int | None, seed: int) -> Task:
    listing = list_data(source, seed=seed)
    if listing.test is None:
        raise DataError(f"{source}: has no test images to compare methods on: add a test part")
    tests = (TestSet.plain("test", listing.test),)
    listing = listing if shots is None else k_shot(listing, shots, seed)
    return Task(listing.name, None, listing, tests, Preprocessing(), shots=shots, seed=seed)

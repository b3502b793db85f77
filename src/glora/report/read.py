"""Reading a run folder: every file optional, each checked, a damaged one named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glora.errors import CheckpointError
from glora.evidence import Gain
from glora.fields import Fields, lines, parse, read_text, shown
from glora.results.result import Layer, read_layer, read_structure
from glora.structure import Structure

__all__ = [
    "Candidate",
    "Chosen",
    "Data",
    "Epoch",
    "Metrics",
    "Result",
    "Run",
    "Search",
    "Tau",
    "read_run",
]

_SEARCH_FORMAT = 3
FILES = ("structure.json", "search.jsonl", "train.jsonl", "metrics.json", "config.yaml")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One structure that the search scored; an accuracy or loss that is not a number is NaN.

    Of an evaluation that was stopped, ``bound`` is the accuracy that it could still have come to, else NaN.
    """

    index: int
    generation: int
    origin: str
    size: int
    accuracy: float
    loss: float
    bound: float = math.nan

    @property
    def shown(self) -> float:
        """Where it stands in a picture: its accuracy, or the most that was left to it."""
        return self.accuracy if math.isnan(self.bound) else self.bound


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the search chose, and among what; of a soup of ``soup_of`` subnets, the one that their mean is."""

    best: Candidate
    structure: Structure
    front: tuple[Candidate, ...]
    layers: tuple[Layer, ...]
    space: dict[str, Any]
    budget: int | None
    range: tuple[int, int] | None
    soup_of: int = 0
    no_worse: int = 0


@dataclass(frozen=True, slots=True)
class Search:
    """Every scored candidate, in order, and the settings of the search."""

    settings: dict[str, Any]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of supernet training; ``probes`` is empty where nothing was evaluated."""

    epoch: int
    step: int
    loss: float
    lr: float
    probes: dict[str, float]


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the final table."""

    method: str
    val_accuracy: float | None
    val_spread: float | None
    test_accuracy: float | None
    test_spread: float | None
    parameters: int | None
    seconds: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Data:
    """What is known of the data set."""

    name: str
    classes: tuple[str, ...]
    train: int | None
    val: int | None
    test: int | None
    digest: str
    layout: str
    skipped: int | None


@dataclass(frozen=True, slots=True)
class Tau:
    """How well ranks in the supernet agree with those of structures trained alone; ``value`` may not exist."""

    value: float | None
    gap: float
    structures: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is known of the run as a whole; a field the file lacks is empty or None."""

    title: str
    backbone: str
    backbone_source: str
    data: Data | None
    machine: str
    versions: dict[str, Any]
    seed: int | None
    head_size: int | None
    seconds: dict[str, float]
    table: tuple[Result, ...]
    effort: dict[str, float]
    max_difference: float | None
    verified_on: int | None
    same_predictions: bool | None
    command: str
    verdict: str = ""
    gains: tuple[tuple[str, Gain], ...] = ()
    tau: Tau | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as far as it exists."""

    folder: Path
    config: str
    chosen: Chosen | None
    search: Search | None
    train: tuple[Epoch, ...]
    metrics: Metrics | None


def read_run(folder: Path) -> Run:
    """Read what there is in a run folder.

    Raises:
        CheckpointError: if the folder holds no file of a run, or one of them is damaged.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in FILES):
        raise CheckpointError(f"{folder} is not a run folder: it has none of {', '.join(FILES)}; `glora run` makes one")
    return Run(
        folder=folder,
        config=read_text(folder / "config.yaml"),
        chosen=_chosen(folder / "structure.json"),
        search=_search(folder / "search.jsonl"),
        train=_train(folder / "train.jsonl"),
        metrics=_metrics(folder / "metrics.json"),
    )


def _candidate(fields: Fields) -> Candidate:
    return Candidate(
        index=fields.integer("index"),
        generation=fields.integer("generation", 0),
        origin=fields.text("origin", "unknown"),
        size=fields.integer("size"),
        accuracy=fields.number("accuracy", math.nan),
        loss=fields.number("loss", math.nan),
        bound=fields.inside("bound").number("accuracy", math.nan),
    )


def _chosen(path: Path) -> Chosen | None:
    if not path.is_file():
        return None
    fields = parse(read_text(path), str(path))
    fields.check_format()
    best = Fields(fields.mapping("best") | fields.mapping("soup"), f"{path}, 'best'")
    layers = tuple(read_layer(item) for key in ("layers", "blocks") for item in fields.each(key))
    span = fields.items("range")
    if span and (len(span) != 2 or not all(isinstance(size, int) for size in span)):
        raise fields.error(f"'range' is {shown(span)}, not two whole numbers")
    return Chosen(
        best=_candidate(best),
        structure=read_structure(best, layers),
        front=tuple(map(_candidate, fields.each("front"))),
        layers=layers,
        space=fields.mapping("space"),
        budget=fields.integer("budget", None),
        range=(span[0], span[1]) if span else None,
        soup_of=len(fields.inside("soup").items("weights")),
        no_worse=len(fields.items("ties")),
    )


def _search(path: Path) -> Search | None:
    rows = lines(path)
    if (header := next(rows, None)) is None:
        return None
    header.check_format(_SEARCH_FORMAT)
    # An evaluation that was stopped may be completed at the end: the last line of an index counts.
    found = {candidate.index: candidate for candidate in map(_candidate, rows)}
    return Search(header.mapping("settings"), tuple(found.values()))


def _train(path: Path) -> tuple[Epoch, ...]:
    found: dict[int, Epoch] = {}
    for fields in lines(path):
        epoch = fields.integer("epoch")
        found[epoch] = Epoch(
            epoch=epoch,
            step=fields.integer("step", 0),
            loss=fields.number("loss", math.nan),
            lr=fields.number("lr", math.nan),
            probes=fields.numbers("probes"),
        )
    return tuple(found[epoch] for epoch in sorted(found))


def _metrics(path: Path) -> Metrics | None:
    if not path.is_file():
        return None
    fields = parse(read_text(path), str(path))
    fields.check_format()
    verification = fields.inside("verification")
    return Metrics(
        title=fields.text("title"),
        backbone=fields.text("backbone"),
        backbone_source=fields.text("backbone_source"),
        data=_data(fields.inside("data")) if fields.mapping("data") else None,
        machine=fields.text("machine"),
        versions=fields.mapping("versions"),
        seed=fields.integer("seed", None),
        head_size=fields.integer("head_size", None),
        seconds=fields.numbers("seconds"),
        table=tuple(map(_result, fields.each("table"))),
        effort=fields.numbers("search"),
        max_difference=verification.number("max_difference", None),
        verified_on=verification.integer("batch", None),
        same_predictions=verification.boolean("same_predictions"),
        command=fields.text("command"),
        verdict=fields.text("verdict"),
        gains=tuple(_gains(fields.inside("gains"))),
        tau=_tau(fields.inside("tau")) if fields.mapping("tau") else None,
    )


def _gains(fields: Fields) -> Iterator[tuple[str, Gain]]:
    for part in ("val", "test"):
        for one in fields.each(part):
            difference, low, high = (one.number(name) for name in ("difference", "low", "high"))
            yield part, Gain(one.text("over", ...), difference, low, high, one.integer("images"))


def _tau(fields: Fields) -> Tau:
    numbers = fields.number("value", None), fields.number("gap")
    return Tau(*numbers, structures=fields.integer("structures"), epochs=fields.integer("epochs"))


def _data(fields: Fields) -> Data:
    return Data(
        name=fields.text("name"),
        classes=tuple(str(name) for name in fields.items("classes")),
        train=fields.integer("train", None),
        val=fields.integer("val", None),
        test=fields.integer("test", None),
        digest=fields.text("digest"),
        layout=fields.text("layout"),
        skipped=fields.integer("skipped", None),
    )


def _result(fields: Fields) -> Result:
    return Result(
        method=fields.text("method", ...),
        val_accuracy=fields.number("val_accuracy", None),
        val_spread=fields.number("val_spread", None),
        test_accuracy=fields.number("test_accuracy", None),
        test_spread=fields.number("test_spread", None),
        parameters=fields.integer("parameters", None),
        seconds=fields.number("seconds", None),
        note=fields.text("note"),
    )

"""Reading the results of a bench: one line a finished cell of methods, data sets, ranks and seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glora.errors import CheckpointError, StructureError
from glora.report.fields import Fields, lines, shown
from glora.report.read import Layer, read_layer
from glora.structure import Structure

__all__ = ["RESULTS", "Bench", "Cell", "Failure", "read_bench"]

RESULTS = "results.jsonl"


@dataclass(frozen=True, slots=True)
class Cell:
    """One training of one method on one task; accuracies are shares from 0 to 1.

    Attributes:
        task, group: the data set, and its group ("" for none).
        protocol: "vtab", "fewshot", "domain", or "".
        shots: training images a class, if the protocol counts them.
        method, peer: its name in the plan, and what it is.
        rank, seed, lr: of this cell.
        trials: learning rates that were tried.
        parameters, head: trained numbers beside the head, and of it.
        val, tests: accuracies; ``tests`` by name of the test set and label space.
        alphas: of weights a part of the way from pretrained (0) to tuned (1), ``tests`` of each.
        structure, layers: forms by layer where there is a structure, and the shapes of all adapted layers in the
            model's order where the line has them.
        trained_on, split, model, preprocessing: what a comparison must have in common, as text.
        seconds, memory: of the training; peak bytes.
        versions, machine: what it ran on.
    """

    task: str
    group: str
    protocol: str
    shots: int | None
    method: str
    peer: str
    rank: int | None
    seed: int
    lr: float | None
    trials: int
    parameters: int
    head: int | None
    val: float | None
    tests: dict[str, float]
    alphas: dict[float, dict[str, float]]
    structure: Structure | None
    layers: tuple[Layer, ...]
    trained_on: str
    split: str
    model: str
    preprocessing: str
    seconds: float | None
    memory: int | None
    versions: dict[str, Any]
    machine: str

    @property
    def few_shot(self) -> bool:
        """Whether it is a point of a curve over shots."""
        return self.protocol == "fewshot" or (not self.protocol and self.shots is not None)

    @property
    def accuracies(self) -> dict[str, float]:
        """What is shown of it: the test accuracies, or the one on validation images where nothing was tested."""
        return self.tests or ({} if self.val is None else {"validation": self.val})


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that ended in an error, and has not been finished since."""

    task: str
    method: str
    seed: int
    error: str


@dataclass(frozen=True, slots=True)
class Bench:
    """All cells of a bench, in the order of their first lines; ``replaced`` by later ones with other settings."""

    folder: Path
    cells: tuple[Cell, ...]
    failures: tuple[Failure, ...]
    replaced: int = 0


def read_bench(folder: Path) -> Bench:
    """Read the results of a bench; of a key the last line that is no failure counts, and of a place in a table too.

    Raises:
        CheckpointError: if the folder holds no results, or a line of them is damaged.
    """
    path = Path(folder) / RESULTS
    found: dict[str, Cell | Failure] = {}
    for fields in lines(path):
        fields.check_format()
        key = fields.text("key", ...)
        if not fields.text("error"):
            found[key] = _cell(fields)
        elif not isinstance(found.get(key), Cell):
            found[key] = _failure(fields)
    if not found:
        raise CheckpointError(f"{path} holds no finished cell yet: `glora bench PLAN.yaml` makes them")
    cells = [one for one in found.values() if isinstance(one, Cell)]
    placed = {(c.protocol, c.shots, c.group, c.task, c.method, c.rank, c.seed): c for c in cells}
    failures = tuple(one for one in found.values() if isinstance(one, Failure))
    return Bench(Path(folder), tuple(placed.values()), failures, len(cells) - len(placed))


def _failure(fields: Fields) -> Failure:
    return Failure(fields.text("task", ...), fields.text("method", ...), fields.integer("seed"), fields.text("error"))


def _cell(fields: Fields) -> Cell:
    layers = tuple(read_layer(Fields(item, f"{fields.where}, 'layers'")) for item in fields.items("layers"))
    return Cell(
        task=fields.text("task", ...),
        group=fields.text("group"),
        protocol=fields.text("protocol"),
        shots=fields.integer("shots", None),
        method=fields.text("method", ...),
        peer=fields.text("peer"),
        rank=fields.integer("rank", None),
        seed=fields.integer("seed"),
        lr=fields.number("lr", None),
        trials=max(1, len(fields.items("trials"))),  # one rate is taken without a trial
        parameters=fields.integer("parameters"),
        head=fields.integer("head", None),
        val=_share(fields, "val", fields.number("val", None)),
        tests=_shares(fields, "tests"),
        alphas=_alphas(Fields(fields.mapping("alphas"), f"{fields.where}, 'alphas'")),
        structure=_structure(fields, layers),
        layers=layers,
        trained_on=fields.text("trained_on"),
        split=fields.text("split"),
        model=fields.plain("model"),
        preprocessing=fields.plain("preprocessing"),
        seconds=fields.number("seconds", None),
        memory=fields.integer("memory", None),
        versions=fields.mapping("versions"),
        machine=fields.text("machine"),
    )


def _share(fields: Fields, name: str, value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise fields.error(f"{name!r} is {shown(value)}, no share from 0 to 1")
    return value


def _shares(fields: Fields, key: str) -> dict[str, float]:
    found = fields.numbers(key)
    for name, value in found.items():
        _share(fields, name, value)
    return found


def _alphas(fields: Fields) -> dict[float, dict[str, float]]:
    found: dict[float, dict[str, float]] = {}
    for text in fields.names():
        try:
            alpha = float(text)
        except ValueError:
            raise fields.error(f"{text!r} is no number") from None
        found[alpha] = _shares(fields, text)
    return dict(sorted(found.items()))


def _structure(fields: Fields, layers: Iterable[Layer]) -> Structure | None:
    given = fields.mapping("structure")
    if not given:
        return None
    try:
        structure = Structure(given)
    except (StructureError, TypeError, AttributeError) as error:
        raise fields.error(f"'structure' is not a structure ({error})") from error
    known = {layer.name for layer in layers}
    if known and (unknown := set(structure) - known):
        raise fields.error(f"'structure' names {min(unknown)!r}, which is not among its 'layers'")
    return structure

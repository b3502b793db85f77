"""One line of a bench's results: a finished cell, or one that failed, read with a check of every entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from glora.errors import StructureError
from glora.fields import Fields
from glora.shapes import BlockShape, LayerShape, Shape
from glora.structure import Structure

__all__ = ["Failure", "Layer", "Place", "Result", "read_layer", "read_structure"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One adapted layer, or block that may have a prompt or an adapter, in the model's order."""

    name: str
    shape: Shape
    kind: str


def read_layer(fields: Fields) -> Layer:
    """A layer, or the block of a hybrid.

    Raises:
        CheckpointError: for an entry that is missing or wrong.
    """
    if (width := fields.integer("width", None)) is not None:
        return Layer(fields.text("name", ...), BlockShape(width), "block")
    shape = LayerShape(fields.integer("out"), fields.integer("in"), has_bias=fields.boolean("bias") is not False)
    return Layer(fields.text("name", ...), shape, fields.text("kind"))


def read_structure(fields: Fields, layers: Iterable[Layer] | None) -> Structure:
    """The entry ``structure``, whose places are among the layers unless those are not known.

    Raises:
        CheckpointError: if it is none, or is one of other layers.
    """
    try:
        structure = Structure(fields.mapping("structure"))
    except (StructureError, TypeError, AttributeError) as error:
        raise fields.error(f"'structure' is not a structure ({error})") from error
    if layers is not None and (unknown := set(structure) - {layer.name for layer in layers}):
        raise fields.error(f"'structure' names {min(unknown)!r}, which is not among its 'layers'")
    return structure


class Place(NamedTuple):
    """Where a cell stands in the tables, whatever its settings are."""

    protocol: str
    task: str
    shots: int | None
    method: str
    rank: int | None
    seed: int

    def __str__(self) -> str:
        """As it is told to people."""
        rank = "" if self.rank is None else f", rank {self.rank}"
        shots = "" if self.shots is None else f", {self.shots} shot{'' if self.shots == 1 else 's'}"
        return f"{self.method}{rank} on {self.task}{shots}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Result:
    """A finished cell: one method trained on one task with one seed; accuracies are shares from 0 to 1.

    Attributes:
        key: digest of all that it depends on.
        task, group: the data set, and its group ("" for none).
        protocol: "vtab", "fewshot", "domain", or "".
        shots: training images a class, if the protocol counts them.
        method, peer: its name in the plan, and what it is.
        rank, seed, lr: of this cell.
        trials: learning rates that were tried.
        parameters: trained numbers beside the head.
        val, tests: accuracies; ``tests`` by name of the test set and label space.
        alphas: of weights a part of the way from pretrained (0) to tuned (1), ``tests`` of each.
        structure, layers: forms by layer where there is a structure, and the shapes of all adapted layers in the
            model's order where the line has them.
        trained_on, split: what a comparison must have in common.
        backbone, model: the name alone, and with size, checkpoint and drop path where they are given.
        preprocessing: as ``glora.data.Preprocessing`` writes it.
        seconds, memory: of the training; peak bytes.
        versions, machine: what it ran on.
    """

    key: str
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
    val: float | None
    tests: dict[str, float]
    alphas: dict[float, dict[str, float]]
    structure: Structure | None
    layers: tuple[Layer, ...]
    trained_on: str
    split: str
    backbone: str
    model: str
    preprocessing: Mapping[str, Any]
    seconds: float | None
    memory: int | None
    versions: Mapping[str, Any]
    machine: str

    @classmethod
    def read(cls, fields: Fields) -> Result:
        """Read a line.

        Raises:
            CheckpointError: naming the entry that is missing or wrong.
        """
        layers = tuple(map(read_layer, fields.each("layers")))
        model = fields.inside("model")
        found = cls(
            key=fields.text("key", ...),
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
            val=fields.share("val", None),
            tests=_shares(fields.inside("tests")),
            alphas=_alphas(fields.inside("alphas")),
            structure=read_structure(fields, layers or None) or None,
            layers=layers,
            trained_on=fields.text("trained_on"),
            split=fields.text("split"),
            backbone=model.text("model"),
            model=_model(model),
            preprocessing=fields.mapping("preprocessing"),
            seconds=fields.number("seconds", None),
            memory=fields.integer("memory", None),
            versions=fields.mapping("versions"),
            machine=fields.text("machine"),
        )
        if not found.accuracies:
            raise fields.error("no accuracy in 'tests', and no 'val'")
        if found.shots is not None and found.shots < 1:
            raise fields.error(f"'shots' is {found.shots}, not 1 or more")
        return found

    @property
    def place(self) -> Place:
        """Where it stands in the tables."""
        return Place(self.protocol, self.task, self.shots, self.method, self.rank, self.seed)

    @property
    def few_shot(self) -> bool:
        """Whether it is a point of a curve over shots."""
        return self.shots is not None and self.protocol in ("fewshot", "")

    @property
    def accuracies(self) -> dict[str, float]:
        """What is shown of it: the test accuracies, or the one on validation images where nothing was tested."""
        return self.tests or ({} if self.val is None else {"validation": self.val})


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that ended in an error, and has not been finished since."""

    key: str
    place: Place
    error: str

    @classmethod
    def read(cls, fields: Fields) -> Failure:
        """Read a line that has an ``error``.

        Raises:
            CheckpointError: naming the entry that is missing or wrong.
        """
        return cls(
            key=fields.text("key", ...),
            place=Place(
                fields.text("protocol"),
                fields.text("task", ...),
                fields.integer("shots", None),
                fields.text("method", ...),
                fields.integer("rank", None),
                fields.integer("seed"),
            ),
            error=fields.text("error"),
        )

    def __str__(self) -> str:
        """As it is told to people."""
        return f"{self.place}: {self.error}"


def _model(fields: Fields) -> str:
    given = {
        "size": fields.integer("size", None),
        "checkpoint": fields.text("checkpoint") or None,
        "drop_path": fields.number("drop_path", None),
    }
    more = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
    return fields.text("model") + (f" ({more})" if more else "")


def _shares(fields: Fields) -> dict[str, float]:
    return {name: fields.share(name) for name in fields.names()}


def _alphas(fields: Fields) -> dict[float, dict[str, float]]:
    found: dict[float, dict[str, float]] = {}
    for text in fields.names():
        try:
            alpha = float(text)
        except ValueError:
            raise fields.error(f"{text!r} is no number") from None
        found[alpha] = _shares(fields.inside(text))
    return dict(sorted(found.items()))

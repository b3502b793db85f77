"""What a search talks about: proposals, scores, candidates, and the order of candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from glora.structure import Structure

__all__ = ["Candidate", "Fitness", "Merit", "Origin", "Proposal", "Score", "bits", "pack_bits"]

Fitness = Literal["accuracy", "loss"]
Origin = Literal["initial", "random", "mutant", "crossover", "predicted"]


class Merit(NamedTuple):
    """What scores are compared by where accuracy ranks first: a higher accuracy, then a lower loss."""

    accuracy: float
    loss: float

    def below(self, other: Merit) -> bool:
        """Whether this is strictly worse; never of values that are not numbers."""
        return self.accuracy < other.accuracy or (self.accuracy == other.accuracy and self.loss > other.loss)


@dataclass(frozen=True, slots=True)
class Score:
    """How well a structure does on validation data.

    A value that is not finite is kept as NaN, so that a score read back from a file equals the one written.

    Args:
        accuracy: fraction of the samples that are classified correctly; higher is better.
        loss: mean loss; lower is better.
        samples: number of samples it was measured on.
        right: which of them are classified correctly, see :func:`pack_bits`; empty if not known.
        bound: of an evaluation that was stopped, the highest accuracy and the lowest loss it could still have come
            to; then accuracy and loss are NaN.
        of: number of samples that a whole evaluation is measured on; ``samples`` if None.
        same_as: index of the candidate whose score this is, because both structures compute the same.
        loss_error: standard error of the loss, NaN if unknown.
        fitness: which of the two ranks first; the other decides between equals.
    """

    accuracy: float
    loss: float
    samples: int = 0
    right: str = ""
    bound: Merit | None = None
    of: int | None = None
    same_as: int | None = None
    loss_error: float = math.nan
    fitness: Fitness = "accuracy"

    def __post_init__(self) -> None:
        for name in ("accuracy", "loss", "loss_error"):
            value = float(getattr(self, name))
            object.__setattr__(self, name, value if math.isfinite(value) and self.bound is None else math.nan)
        object.__setattr__(self, "samples", int(self.samples))
        object.__setattr__(self, "of", self.samples if self.of is None else int(self.of))

    @classmethod
    def stopped(cls, bound: Merit, samples: int, of: int) -> Score:
        """The score of an evaluation that was stopped after ``samples`` of its samples."""
        return cls(math.nan, math.nan, samples, bound=bound, of=of)

    @property
    def failed(self) -> bool:
        """Whether there is nothing to rank by: accuracy or loss is not a number, or the evaluation was stopped."""
        return math.isnan(self.accuracy) or math.isnan(self.loss)

    @property
    def merit(self) -> Merit:
        """Accuracy and loss."""
        return Merit(self.accuracy, self.loss)

    @property
    def key(self) -> tuple[float, float]:
        """What ranks first and what decides between equals; greater is better."""
        return (self.accuracy, -self.loss) if self.fitness == "accuracy" else (-self.loss, self.accuracy)

    @property
    def accuracy_error(self) -> float:
        """Binomial standard error of the accuracy, NaN if unknown."""
        if self.samples < 1 or not 0 <= self.accuracy <= 1:
            return math.nan
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.samples)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, NaN as None; what is not known or does not apply is left out."""
        value: dict[str, Any] = {
            "accuracy": None if math.isnan(self.accuracy) else self.accuracy,
            "loss": None if math.isnan(self.loss) else self.loss,
            "samples": self.samples,
        }
        if not math.isnan(self.loss_error):
            value["loss_error"] = self.loss_error
        if self.fitness != "accuracy":
            value["fitness"] = self.fitness
        if self.bound is not None:
            value |= {"of": self.of, "bound": self.bound._asdict()}
        if self.right:
            value["right"] = self.right
        if self.same_as is not None:
            value["same_as"] = self.same_as
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Score:
        """Read what :meth:`to_dict` gave; further entries are passed over.

        Raises:
            KeyError: for a missing entry.
            TypeError: for an entry of another type.
        """
        accuracy, loss = (math.nan if value[name] is None else value[name] for name in ("accuracy", "loss"))
        bound = Merit(**value["bound"]) if "bound" in value else None
        return cls(
            accuracy,
            loss,
            value["samples"],
            value.get("right", ""),
            bound,
            value.get("of"),
            value.get("same_as"),
            value.get("loss_error", math.nan),
            value.get("fitness", "accuracy"),
        )


def pack_bits(right: Iterable[bool]) -> str:
    """Booleans as hexadecimal digits, four to a digit, the first one highest; filled up with zeros at the end."""
    binary = "".join("1" if one else "0" for one in right)
    digits = -(-len(binary) // 4)
    return f"{int(binary.ljust(4 * digits, '0'), 2):0{digits}x}" if binary else ""


def bits(packed: str, count: int) -> str:
    """The first ``count`` of the booleans that :func:`pack_bits` packed, as characters 0 and 1."""
    return f"{int(packed, 16):0{4 * len(packed)}b}"[:count] if packed else ""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A structure that a strategy wants scored; ``index`` counts all proposals of a search from 0."""

    index: int
    generation: int
    origin: Origin
    structure: Structure
    size: int

    def scored(self, score: Score) -> Candidate:
        """This proposal with its score."""
        return Candidate(self.index, self.generation, self.origin, self.structure, self.size, score)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A structure that was scored; ``size`` is its number of adapter parameters."""

    index: int
    generation: int
    origin: Origin
    structure: Structure
    size: int
    score: Score

    def rank_key(self) -> tuple[bool, float, float, int, int]:
        """Greater is better: accuracy, then lower loss (or the other way round), then fewer parameters, then earlier.

        A failed score ranks below every other. No two candidates of a search have equal keys.
        """
        if self.score.failed:
            return (False, 0.0, 0.0, -self.size, -self.index)
        return (True, *self.score.key, -self.size, -self.index)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, NaN as None; :meth:`from_dict` is the inverse."""
        return {
            "index": self.index,
            "generation": self.generation,
            "origin": self.origin,
            "size": self.size,
            **self.score.to_dict(),
            "structure": self.structure.to_dict(),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Candidate:
        """Read what :meth:`to_dict` gave.

        Raises:
            StructureError: for a structure that does not exist.
            KeyError: for a missing entry.
            TypeError: for an entry of another type.
        """
        return cls(
            index=value["index"],
            generation=value["generation"],
            origin=value["origin"],
            structure=Structure(value["structure"]),
            size=value["size"],
            score=Score.from_dict(value),
        )

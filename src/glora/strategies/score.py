"""What a search talks about: proposals, scores, candidates, and the order of candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from glora.structure import Structure

__all__ = [
    "UNSEEN",
    "Candidate",
    "Fitness",
    "Key",
    "Merit",
    "Origin",
    "Proposal",
    "Score",
    "bits",
    "loss_levels",
    "pack_bits",
]

Fitness = Literal["accuracy", "loss"]
Origin = Literal["initial", "random", "mutant", "crossover", "predicted"]
Key = tuple[float, float]
"""What ranks first and what decides between equals; greater is better, and nothing is less than what is no number."""

UNSEEN = "-"
"""Stands for the level of a sample that a stopped evaluation did not come to."""


class Merit(NamedTuple):
    """An accuracy and a loss."""

    accuracy: float
    loss: float

    def key(self, fitness: Fitness) -> Key:
        """What they are compared by where ``fitness`` ranks first."""
        return (self.accuracy, -self.loss) if fitness == "accuracy" else (-self.loss, self.accuracy)


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
        levels: how high the loss of each sample is, see :func:`loss_levels`, with :data:`UNSEEN` where an evaluation
            was stopped before it; empty if not known.
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
    levels: str = ""

    def __post_init__(self) -> None:
        for name in ("accuracy", "loss", "loss_error"):
            value = float(getattr(self, name))
            object.__setattr__(self, name, value if math.isfinite(value) and self.bound is None else math.nan)
        object.__setattr__(self, "samples", int(self.samples))
        object.__setattr__(self, "of", self.samples if self.of is None else int(self.of))

    @classmethod
    def stopped(cls, bound: Merit, samples: int, of: int, fitness: Fitness = "accuracy", levels: str = "") -> Score:
        """The score of an evaluation that was stopped after ``samples`` of its samples."""
        return cls(math.nan, math.nan, samples, bound=bound, of=of, fitness=fitness, levels=levels)

    @property
    def hoped(self) -> Score:
        """The best that it could still be: of a stopped evaluation its bound, else itself."""
        return self if self.bound is None else Score(*self.bound, self.samples, fitness=self.fitness)

    @property
    def failed(self) -> bool:
        """Whether there is nothing to rank by: accuracy or loss is not a number, or the evaluation was stopped."""
        return math.isnan(self.accuracy) or math.isnan(self.loss)

    @property
    def key(self) -> Key:
        """What ranks first and what decides between equals; greater is better."""
        return Merit(self.accuracy, self.loss).key(self.fitness)

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
        if self.levels:
            value["levels"] = self.levels
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
            value.get("levels", ""),
        )


def pack_bits(right: Iterable[bool]) -> str:
    """Booleans as hexadecimal digits, four to a digit, the first one highest; filled up with zeros at the end."""
    binary = "".join("1" if one else "0" for one in right)
    digits = -(-len(binary) // 4)
    return f"{int(binary.ljust(4 * digits, '0'), 2):0{digits}x}" if binary else ""


def bits(packed: str, count: int) -> str:
    """The first ``count`` of the booleans that :func:`pack_bits` packed, as characters 0 and 1."""
    return f"{int(packed, 16):0{4 * len(packed)}b}"[:count] if packed else ""


def loss_levels(losses: Sequence[float], seen: Sequence[bool] | None = None) -> str:
    """How high losses are, a hexadecimal digit each: the logarithm to the base of the square root of 2, plus 10.

    So 0 is all below 0.044, a is 1 to 1.41, and f is all above 5.66, and what is no number. :data:`UNSEEN` stands
    where a sample was not looked at.
    """
    looked = [True] * len(losses) if seen is None else seen
    return "".join(f"{_level(loss):x}" if one else UNSEEN for loss, one in zip(losses, looked, strict=True))


def _level(loss: float) -> int:
    if not loss < math.inf:
        return 15
    return min(15, max(0, math.floor(2 * math.log2(loss) + 10))) if loss > 0 else 0


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

    @property
    def proposal(self) -> Proposal:
        """What was scored."""
        return Proposal(self.index, self.generation, self.origin, self.structure, self.size)

    @property
    def hoped(self) -> Candidate:
        """The best that it could still be."""
        return self.proposal.scored(self.score.hoped)

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

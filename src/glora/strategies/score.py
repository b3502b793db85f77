"""What a search talks about: proposals, scores, candidates, and the order of candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from glora.structure import Structure

__all__ = ["Candidate", "Fitness", "Origin", "Proposal", "Score"]

Fitness = Literal["accuracy", "loss"]
Origin = Literal["initial", "random", "mutant", "crossover"]


@dataclass(frozen=True, slots=True)
class Score:
    """How well a structure does on validation data.

    A value that is not finite is kept as NaN, so that a score read back from a file equals the one written.

    Args:
        accuracy: fraction of the samples that are classified correctly; higher is better.
        loss: mean loss; lower is better.
        samples: number of samples it was measured on.
        loss_error: standard error of the loss, NaN if unknown.
        fitness: which of the two ranks first; the other decides between equals.
    """

    accuracy: float
    loss: float
    samples: int = 0
    loss_error: float = math.nan
    fitness: Fitness = "accuracy"

    def __post_init__(self) -> None:
        for name in ("accuracy", "loss", "loss_error"):
            value = float(getattr(self, name))
            object.__setattr__(self, name, value if math.isfinite(value) else math.nan)
        object.__setattr__(self, "samples", int(self.samples))

    @property
    def failed(self) -> bool:
        """Whether the accuracy or the loss is not a number."""
        return math.isnan(self.accuracy) or math.isnan(self.loss)

    @property
    def accuracy_error(self) -> float:
        """Binomial standard error of the accuracy, NaN if unknown."""
        if self.samples < 1 or not 0 <= self.accuracy <= 1:
            return math.nan
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.samples)

    @property
    def key(self) -> tuple[float, float]:
        """What ranks first and what decides between equals; greater is better."""
        return (self.accuracy, -self.loss) if self.fitness == "accuracy" else (-self.loss, self.accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, NaN as None; which ranks first only where it is not the accuracy."""
        names = ("accuracy", "accuracy_error", "loss", "loss_error")
        values = {name: None if math.isnan(getattr(self, name)) else getattr(self, name) for name in names}
        return values | {"samples": self.samples} | ({} if self.fitness == "accuracy" else {"fitness": self.fitness})

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Score:
        """Read what :meth:`to_dict` gave, among other entries.

        Raises:
            KeyError: for a missing entry.
        """
        accuracy, loss, error = (
            math.nan if value[name] is None else value[name] for name in ("accuracy", "loss", "loss_error")
        )
        return cls(accuracy, loss, value["samples"], error, value.get("fitness", "accuracy"))


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
        """
        return cls(
            index=value["index"],
            generation=value["generation"],
            origin=value["origin"],
            structure=Structure(value["structure"]),
            size=value["size"],
            score=Score.from_dict(value),
        )

"""What a search talks about: proposals, scores, candidates, and the order of candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from glora.structure import Structure

__all__ = ["Candidate", "Origin", "Proposal", "Score"]

Origin = Literal["initial", "random", "mutant", "crossover", "predicted"]


@dataclass(frozen=True, slots=True)
class Score:
    """How well a structure does on validation data.

    A value that is not finite is kept as NaN, so that a score read back from a file equals the one written.

    Args:
        accuracy: fraction of the samples that are classified correctly; higher is better.
        loss: mean loss; decides between equal accuracies.
        samples: number of samples it was measured on.
    """

    accuracy: float
    loss: float
    samples: int = 0

    def __post_init__(self) -> None:
        for name in ("accuracy", "loss"):
            value = float(getattr(self, name))
            object.__setattr__(self, name, value if math.isfinite(value) else math.nan)
        object.__setattr__(self, "samples", int(self.samples))

    @property
    def failed(self) -> bool:
        """Whether the accuracy or the loss is not a number."""
        return math.isnan(self.accuracy) or math.isnan(self.loss)


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
        """Greater is better: accuracy, then lower loss, then fewer parameters, then the earlier one.

        A failed score ranks below every other. No two candidates of a search have equal keys.
        """
        if self.score.failed:
            return (False, 0.0, 0.0, -self.size, -self.index)
        return (True, self.score.accuracy, -self.score.loss, -self.size, -self.index)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, NaN as None; :meth:`from_dict` is the inverse."""
        return {
            "index": self.index,
            "generation": self.generation,
            "origin": self.origin,
            "size": self.size,
            "accuracy": None if math.isnan(self.score.accuracy) else self.score.accuracy,
            "loss": None if math.isnan(self.score.loss) else self.score.loss,
            "samples": self.score.samples,
            "structure": self.structure.to_dict(),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Candidate:
        """Read what :meth:`to_dict` gave.

        Raises:
            StructureError: for a structure that does not exist.
            KeyError: for a missing entry.
        """
        accuracy, loss = (math.nan if value[name] is None else value[name] for name in ("accuracy", "loss"))
        return cls(
            index=value["index"],
            generation=value["generation"],
            origin=value["origin"],
            structure=Structure(value["structure"]),
            size=value["size"],
            score=Score(accuracy, loss, value["samples"]),
        )

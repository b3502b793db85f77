"""A soup: the weighted mean of the merged weights of several subnets of one supernet, as a value (no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from glora.errors import StructureError
from glora.structure import Form, Structure

__all__ = ["Soup"]


@final
@dataclass(frozen=True, slots=True)
class Soup:
    """Subnets of one supernet and what each weighs: W* = W0 + sum of w_i (W*_i - W0), and b* likewise.

    W* and b* are linear in the five support tensors, so this mean is one plain model again (Wortsman et al. 2022,
    arXiv 2203.05482, of models that share a start; here they share a supernet).

    Args:
        structures: the subnets, all different.
        weights: positive, one for each; they sum to 1.

    Raises:
        StructureError: for other weights, or a subnet twice.
    """

    structures: tuple[Structure, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "structures", tuple(self.structures))
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))
        if not self.structures or len(self.structures) != len(self.weights):
            raise StructureError(f"a soup has a weight for each subnet: {len(self.structures)} and {len(self.weights)}")
        if not all(weight > 0 for weight in self.weights) or not math.isclose(sum(self.weights), 1):
            raise StructureError(f"the weights of a soup are positive and sum to 1, not {list(self.weights)}")
        if len(set(self.structures)) != len(self.structures):
            raise StructureError("a soup holds each subnet once: add up the weights of equal ones")

    @classmethod
    def of(cls, counts: Mapping[Structure, int]) -> Soup:
        """Each subnet weighs as much as it was taken."""
        total = sum(counts.values())
        return cls(tuple(counts), tuple(count / total for count in counts.values()))

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers on which any of the subnets acts."""
        return tuple(dict.fromkeys(name for structure in self.structures for name in structure))

    def shares(self, layer: str, tensor: str) -> dict[Form, float]:
        """The forms that a support tensor has in the subnets, and what each weighs; none is left out."""
        found: dict[Form, float] = {}
        for structure, weight in zip(self.structures, self.weights, strict=True):
            if (form := structure[layer][tensor]).kind != "none":
                found[form] = found.get(form, 0.0) + weight
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file; :meth:`from_dict` gives an equal soup back."""
        return {"weights": list(self.weights), "structures": [s.to_dict() for s in self.structures]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Soup:
        """Read what :meth:`to_dict` gave.

        Raises:
            StructureError: for structures that do not exist, or wrong weights.
            KeyError: for a missing entry.
        """
        return cls(tuple(map(Structure, value["structures"])), tuple(value["weights"]))

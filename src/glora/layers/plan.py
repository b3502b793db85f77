"""What a layer's forward and backward need to know of its structure, worked out once when it is activated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from glora.functional import Values
from glora.structure import TENSORS, Form, PlaceStructure
from glora.support import SupportTensors, read_form, slice_down

__all__ = ["Found", "Plan"]

Found = Mapping[str, tuple[Tensor, Tensor | None]]
"""Gradients of the support tensors' values: of ``down`` or the vector, and of ``up``; gains not yet applied."""


class Active(NamedTuple):
    """One support tensor that acts: its form, its gain, and whether two parameters hold it."""

    tensor: str
    form: Form
    gain: float
    has_up: bool


class Plan(NamedTuple):
    """The support tensors that act, in the order A to E, and the names of their parameters.

    Names and not parameters, which may be replaced: by loading with assign=True, or by functional_call.
    """

    active: tuple[Active, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, structure: PlaceStructure, support: SupportTensors) -> Plan:
        """The plan of a layer structure whose forms have storage."""
        active: list[Active] = []
        names: list[str] = []
        for tensor in TENSORS:
            form = structure[tensor]
            if form.kind != "none":
                down, up = support.names(tensor, form)
                active.append(Active(tensor, form, support.gain(tensor, form), up is not None))
                names += [down] if up is None else [down, up]
        return cls(tuple(active), tuple(names))

    def values(self, parts: Sequence[Tensor]) -> Values:
        """What the support tensors are worth, from their parameters in the order of ``names``."""
        read: dict[str, Any] = {}
        left = iter(parts)
        for tensor, form, gain, has_up in self.active:
            down = next(left)
            read[tensor] = read_form(down, next(left) if has_up else None, form, gain)
        return Values(**read)

    def stored(self, found: Found, parts: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
        """Gradients in the shapes of the parameters: zero where the active form does not read them."""
        gradients: list[Tensor | None] = []
        for tensor, form, gain, has_up in self.active:
            place = len(gradients)
            if not any(wanted[place : place + 1 + has_up]):
                gradients += [None] * (1 + has_up)
                continue
            d_down, d_up = found[tensor]
            gradients.append(_into(parts[place], form, d_down if gain == 1.0 else d_down * gain))
            if has_up:
                up, d_up = parts[place + 1], cast(Tensor, d_up)
                rest = len(up) - form.rank
                gradients.append(torch.cat([d_up, d_up.new_zeros(rest, up.shape[1])]) if rest else d_up)
        return gradients


def _into(down: Tensor, form: Form, gradient: Tensor) -> Tensor:
    if form.kind == "scalar":
        gradient = gradient.sum().reshape(1)
    if gradient.shape == down.shape:
        return gradient
    full = torch.zeros_like(down)
    slice_down(full, form).copy_(gradient)
    return full

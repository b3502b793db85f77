"""The trainable storage of a layer's support tensors: parameters that the forms read, all the same or each its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from glora.errors import StructureError
from glora.functional import LowRank, Multiplicative, Values
from glora.shapes import LayerShape
from glora.structure import TENSORS, Form, PlaceStructure

__all__ = ["Gains", "Storage", "SupportTensors"]

Gains = Mapping[str, float]
"""Gain of each tensor's kind of form, keyed ``"B.vector"``; a missing key is 1."""


Storage = Literal["shared", "separate"]
"""Whether low-rank forms, vector and scalar of a support tensor share one set of parameters or have their own."""


class SupportTensors(nn.Module):
    """Storage for the forms that a layer's support tensors may take.

    The low-rank form r reads ``down[:, :r] @ up[:r]``, so that all ranks share one pair of factors. In ``"shared"``
    storage (the released code's weight entanglement) the vector reads the first column of ``down`` and the scalar its
    first element; in ``"separate"`` storage each has a parameter of its own. ``down``, vectors and scalars start at
    zero and ``up`` Xavier-uniform, so that every subnet starts as the frozen layer. Each form is multiplied by its
    fixed gain.

    Only what the allowed forms need is allocated, always in float32 unless ``dtype`` says otherwise.

    Args:
        shape: the layer's sizes.
        forms: the allowed forms of each tensor.
        gains: see :data:`Gains`.
        storage: see :data:`Storage`; the same for a tensor with forms of one kind.
        generator: draws the initial ``up``.
        dtype, device: of the parameters.
    """

    def __init__(
        self,
        shape: LayerShape,
        forms: Mapping[str, Iterable[Form]],
        gains: Gains,
        storage: Storage = "shared",
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self._gains = dict(gains)
        for tensor in TENSORS:
            for name, size in sizes_of(shape, tensor, forms.get(tensor, ()), storage).items():
                self.register_parameter(name, _start(name, size, generator, dtype, device))

    @property
    def gains(self) -> dict[str, float]:
        """The gains it was made with (a copy: they are fixed), see :data:`Gains`."""
        return dict(self._gains)

    def parts(self, tensor: str, form: Form) -> tuple[nn.Parameter, nn.Parameter | None]:
        """The parameters that ``form`` of ``tensor`` reads: (down or vector, up or None).

        Raises:
            StructureError: if they were not allocated, because the search space lacks that form.
        """
        down, up = self.names(tensor, form)
        return self.get_parameter(down), None if up is None else self.get_parameter(up)

    def names(self, tensor: str, form: Form) -> tuple[str, str | None]:
        """The names of the parameters that :meth:`parts` gives, with the same error."""
        if form.kind == "mul":
            down, up = f"{tensor}_mul_down", f"{tensor}_mul_up"
        else:
            own = f"{tensor}_{form.kind}"
            down, up = own if own in self._parameters else tensor, f"{tensor}_up"
        first = self._parameters.get(down)
        second = self._parameters.get(up) if form.rank else None
        if first is None or not _holds(first, second, form, self.shape.size(tensor, Form.VECTOR)):
            raise StructureError(f"{tensor}={form} has no storage here: the search space does not contain it")
        return down, None if second is None else up

    def gain(self, tensor: str, form: Form) -> float:
        """The constant that multiplies ``form`` of ``tensor``."""
        return self._gains.get(f"{tensor}.{form.kind}", 1.0)

    def values(self, structure: PlaceStructure, dtype: torch.dtype | None = None) -> Values:
        """What the support tensors are worth under ``structure``, gains included, differentiable.

        Args:
            structure: the forms to read.
            dtype: to compute in; the parameters' own if None.
        """
        read: dict[str, Tensor | LowRank | Multiplicative] = {}
        for tensor, form in structure.items():
            if form.kind != "none":
                down, up = self.parts(tensor, form)
                read[tensor] = read_form(down, up, form, self.gain(tensor, form), dtype)
        return Values(**read)  # type: ignore[arg-type]


def sizes_of(shape: LayerShape, tensor: str, forms: Iterable[Form], storage: Storage) -> dict[str, tuple[int, ...]]:
    """Names and sizes of the parameters that hold the given forms of one support tensor.

    The largest kind has the tensor's name; in separate storage the others have their kind in their names.
    """
    forms = list(forms)
    rows = shape.size(tensor, Form.VECTOR)
    rank = max((f.rank for f in forms if f.kind == "rank"), default=0)
    kinds = {"rank": (rows, rank), "vector": (rows,), "scalar": (1,)}
    held = [kind for kind in kinds if any(f.kind == kind for f in forms)]
    sizes: dict[str, tuple[int, ...]] = {}
    for kind in held if storage == "separate" else held[:1]:
        sizes[tensor if kind == held[0] else f"{tensor}_{kind}"] = kinds[kind]
    if rank:
        sizes[f"{tensor}_up"] = (rank, 1 if tensor == "C" else shape.in_features)
    if rank := max((f.rank for f in forms if f.kind == "mul"), default=0):
        sizes[f"{tensor}_mul_down"] = (shape.in_features, rank)
        sizes[f"{tensor}_mul_up"] = (rank, shape.in_features)
    return sizes


def read_form(
    down: Tensor, up: Tensor | None, form: Form, gain: float, dtype: torch.dtype | None = None
) -> Tensor | LowRank | Multiplicative:
    """The value of one form from the shared storage, times its gain."""
    value = slice_down(down, form)
    if dtype is not None:
        value = value.to(dtype)
    if gain != 1.0:
        value = value * gain
    if up is None:
        return value
    part = up if len(up) == form.rank else up[: form.rank]
    if dtype is not None:
        part = part.to(dtype)
    return Multiplicative(value, part) if form.kind == "mul" else LowRank(value, part)


def slice_down(down: Tensor, form: Form) -> Tensor:
    """The view of ``down`` that ``form`` reads: (rows, r), (rows,) or (1,)."""
    if form.rank:
        return down if down.shape[1] == form.rank else down[:, : form.rank]
    vector = down[:, 0] if down.ndim == 2 else down
    return vector if form.kind == "vector" else vector[:1]


def _holds(first: Tensor, second: Tensor | None, form: Form, rows: int) -> bool:
    if form.rank:
        return second is not None and first.ndim == 2 and first.shape[1] >= form.rank
    return form.kind == "scalar" or first.shape[0] == rows


def _start(
    name: str,
    size: tuple[int, ...],
    generator: torch.Generator | None,
    dtype: torch.dtype,
    device: torch.device | None,
) -> nn.Parameter:
    if not name.endswith("_up"):
        return nn.Parameter(torch.zeros(size, dtype=dtype, device=device))
    if device is not None and device.type == "meta":
        return nn.Parameter(torch.empty(size, dtype=dtype, device=device))
    bound = math.sqrt(6 / (size[0] + size[1]))  # Xavier-uniform
    # Drawn on the CPU so that one seed gives one start on every device.
    start = torch.rand(size, generator=generator, dtype=torch.float64).mul_(2 * bound).sub_(bound)
    return nn.Parameter(start.to(device=device, dtype=dtype))

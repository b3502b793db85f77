"""The equation of GLoRA, written out slowly and densely in float64 from its definition.

Independent of the package: takes plain tensors (the storage by name: a vector or scalar is read where it has a tensor
of its own, else from the one that all forms of its support tensor share), forms as text and gains by
``"<tensor>.<kind>"``, and is differentiable by autograd.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Storage = Mapping[str, Tensor]
Forms = Mapping[str, str]


def support(tensor: str, forms: Forms, storage: Storage, gains: Mapping[str, float], out: int, into: int) -> Tensor:
    """The dense value of one support tensor: (out, in) for A and B, (in,) for C, (out,) for D and E."""
    form = forms.get(tensor, "none")
    kind, _, rank = form.partition("-")
    gain = gains.get(f"{tensor}.{kind}", 1.0)
    matrix = tensor in "AB"
    rows = into if tensor == "C" else out
    columns = into if matrix else 1
    value = torch.zeros(rows, columns, dtype=torch.float64)
    if kind == "rank":
        down, up = storage[tensor].double(), storage[f"{tensor}_up"].double()
        for k in range(int(rank)):
            value = value + gain * down[:, k].reshape(rows, 1) * up[k].reshape(1, columns)
    elif kind in ("vector", "scalar"):
        stored = storage.get(f"{tensor}_{kind}", storage[tensor]).double()
        column = stored[:, 0] if stored.ndim == 2 else stored
        entries = [column[0 if kind == "scalar" else row] for row in range(rows)]
        value = value + gain * torch.stack(entries).reshape(rows, 1) * torch.ones(1, columns, dtype=torch.float64)
    return value if matrix else value[:, 0]


def merged(
    weight: Tensor, bias: Tensor | None, forms: Forms, storage: Storage, gains: Mapping[str, float]
) -> tuple[Tensor, Tensor]:
    """W* and b* in float64; without a bias b0 counts as zero."""
    w0 = weight.double()
    out, into = w0.shape
    b0 = torch.zeros(out, dtype=torch.float64) if bias is None else bias.double()
    value = {t: support(t, forms, storage, gains, out, into) for t in "ABCDE"}
    kind, _, rank = forms.get("A", "none").partition("-")
    if kind == "mul":
        gain = gains.get("A.mul", 1.0)
        down, up = storage["A_mul_down"].double(), storage["A_mul_up"].double()
        product = torch.zeros(into, into, dtype=torch.float64)
        for k in range(int(rank)):
            product = product + gain * down[:, k].reshape(into, 1) * up[k].reshape(1, into)
        w = w0 + w0 @ product + value["B"]
    else:
        w = w0 + w0 * value["A"] + value["B"]
    b = b0 + b0 * value["D"] + value["E"] + w0 @ value["C"]
    return w, b


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, forms: Forms, storage: Storage, gains: Mapping[str, float]
) -> Tensor:
    """f(x) = (W0 + W0 o A + B) x + b0 + b0 o D + E + W0 C for x (..., in), in float64."""
    w, b = merged(weight, bias, forms, storage, gains)
    return (x.double().unsqueeze(-2) * w).sum(-1) + b


def size(forms: Forms, out: int, into: int) -> int:
    """Adapter parameters of a layer, counted from the definitions of the forms."""
    total = 0
    for tensor, form in forms.items():
        kind, _, rank = form.partition("-")
        rows, columns = (into, 1) if tensor == "C" else (out, into)
        if kind == "rank":
            total += int(rank) * (rows + columns)
        elif kind == "mul":
            total += int(rank) * (into + into)
        elif kind == "vector":
            total += rows
        elif kind == "scalar":
            total += 1
    return total

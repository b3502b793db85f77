"""Gradients of a linear layer's support tensors, with no more products than the active forms need."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from glora.functional import LowRank, Multiplicative, Values
from glora.layers.base import Scratch

__all__ = ["Gradients"]

# Rows of a product summed at a time on a CPU, in a buffer that stays: a fresh one costs more than the sum, in page
# faults.
_CHUNK = 256
# Rows summed in the dtype that they have before going on in a wider one, which would need a copy of them all.
_BLOCK = 32


class Gradients:
    """Gradients of the support tensors' values, per output channel where a vector or scalar is one (final).

    Args:
        g: gradient of the output, (N, out).
        x: the input, (N, in), where a low-rank tensor acts or A's output was not kept.
        weight: the frozen W0, (out, in).
        values: the support tensors.
        scratch: buffers for what is as large as W0.
        scale: whether :meth:`scale` will be called.
    """

    def __init__(
        self, g: Tensor, x: Tensor | None, weight: Tensor, values: Values, scratch: Scratch, scale: bool
    ) -> None:
        self.g, self.x, self.weight, self.values, self.scratch = g, x, weight, values, scratch
        present = next(value for value in values if value is not None)
        self.wide = (present if isinstance(present, Tensor) else present.down).dtype
        self.found: dict[str, tuple[Tensor, Tensor | None]] = {}
        self.total: Tensor | None = None  # the sum of g over tokens, (out,)
        if scale:
            # Precise, because the gradient of A is a difference in which it may nearly cancel.
            self.total = _column_sum(g, self.wide)
        elif any(value is not None for value in values[2:]):
            self.total = g.sum(0).to(self.wide)

    def matrices(self, row_mean: Tensor | None) -> None:
        """Gradients of B and of a low-rank or multiplicative A; ``row_mean`` is x's over its channels, (N,)."""
        a, b = self.values.A, self.values.B
        if isinstance(a, LowRank):
            full = self._full()  # (out, in)
            if isinstance(b, LowRank):
                self.found["B"] = (full @ b.up.t(), b.down.t() @ full)
            elif b is not None:
                self.found["B"] = (full.sum(1), None)
            full.mul_(self.weight)
            self.found["A"] = (full @ a.up.t(), a.down.t() @ full)
            return
        if isinstance(a, Multiplicative):
            through = self.weight.to(self.wide) @ a.down  # (out, r)
            d_through, d_up = self._factors(LowRank(through, a.up))
            self.found["A"] = (self.weight.to(self.wide).t() @ d_through, d_up)
        if isinstance(b, LowRank):
            self.found["B"] = self._factors(b)
        elif b is not None:
            mean = cast(Tensor, self.x).mean(1) if row_mean is None else row_mean
            self.found["B"] = ((mean @ self.g).to(self.wide) * self.weight.shape[1], None)

    def _full(self) -> Tensor:
        """g^T x, the gradient of the whole weight, in scratch: only a low-rank elementwise A needs it."""
        narrow = self.scratch.get("g", self.weight, self.g.dtype)
        torch.mm(self.g.t(), cast(Tensor, self.x), out=narrow)
        return narrow if narrow.dtype == self.wide else self.scratch.get("g", self.weight, self.wide).copy_(narrow)

    def _factors(self, value: LowRank) -> tuple[Tensor, Tensor]:
        """Gradients of ``down`` and ``up`` of a matrix applied to x, without forming the matrix."""
        x, g = cast(Tensor, self.x), self.g
        # Transposed as the products with few rows or columns are fastest on a CPU, up to six times.
        inner = F.linear(x, value.up.to(x.dtype))  # (N, r)
        back = F.linear(g, value.down.t().to(x.dtype).contiguous())  # (N, r)
        return (inner.t() @ g).t().to(self.wide), (back.t() @ x).to(self.wide)

    def bias(self, bias: Tensor | None) -> None:
        """Gradients of C, D and E, all from the sum of g over tokens."""
        if self.total is None:
            return
        if self.values.C is not None:
            prompt = self.weight.to(self.wide).t() @ self.total  # (in,)
            if isinstance(self.values.C, LowRank):
                down, up = self.values.C
                self.found["C"] = (torch.outer(prompt, up[:, 0]), (down.t() @ prompt).unsqueeze(1))
            else:
                self.found["C"] = (prompt, None)
        if self.values.D is not None:
            self.found["D"] = (self.total * cast(Tensor, bias).to(self.wide), None)
        if self.values.E is not None:
            self.found["E"] = (self.total, None)

    def scale(self, y: Tensor | None, shift: Tensor | None) -> None:
        """Gradient of a vector or scalar A, sum over tokens of g * (W0 x), without a further product if y is kept.

        W0 x is read back out of the output: (1 + A) W0 x = y - B x - b*.

        Args:
            y: the output, (N, out), or None if it was not kept.
            shift: b*, (out,), or None if it is zero.
        """
        a = cast(Tensor, self.values.A)
        if y is None:
            x = cast(Tensor, self.x)
            frozen = self.weight if self.weight.dtype == x.dtype else self.weight.to(x.dtype)
            self.found["A"] = (_sum_of_products(self.g, x @ frozen.t(), self.wide, self.scratch), None)
            return
        rest = _sum_of_products(self.g, y, self.wide, self.scratch)
        b = self.values.B
        if isinstance(b, LowRank):
            rest -= (b.down * self.found["B"][0]).sum(1)
        elif b is not None:
            rest -= b * self.found["B"][0]
        if shift is not None:
            rest -= shift * cast(Tensor, self.total)
        self.found["A"] = (rest / (1 + a), None)


def _sum_of_products(g: Tensor, y: Tensor, dtype: torch.dtype, scratch: Scratch) -> Tensor:
    """Sum over rows of g * y, (out,)."""
    if g.device.type != "cpu" or len(g) <= _CHUNK:
        return _column_sum(g * y, dtype)
    buffer = scratch.get("gy", g[:_CHUNK], g.dtype)
    total = torch.zeros(g.shape[1], dtype=dtype)
    for rows, others in zip(torch.split(g, _CHUNK), torch.split(y, _CHUNK), strict=True):
        total += _column_sum(torch.mul(rows, others, out=buffer[: len(rows)]), dtype)
    return total


def _column_sum(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over rows, (columns,), in ``dtype``."""
    if rows.dtype == dtype or rows.device.type != "cpu":
        return rows.sum(0, dtype=dtype)
    whole = len(rows) // _BLOCK * _BLOCK
    total = rows[:whole].view(-1, _BLOCK, rows.shape[1]).sum(1).sum(0, dtype=dtype)
    return total if whole == len(rows) else total + rows[whole:].sum(0, dtype=dtype)

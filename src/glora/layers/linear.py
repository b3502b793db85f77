"""The adapted linear layer: one autograd Function that plans the equation by the forms that act.

Two routes give the same result. The *weight* route builds W* in a scratch buffer, uses it for one product and
forgets it (rebuilt in backward): best for many tokens, and the only one for an elementwise low-rank A. The *side*
route leaves W0 alone and adds the low-rank parts to the output: best for few tokens. docs/performance.md has the
measurements.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from glora.errors import TargetError
from glora.functional import LowRank, Multiplicative, Values, effective_bias, effective_weight
from glora.layers.base import AdaptedLayer, Scratch
from glora.layers.recompute import Source, source_of
from glora.space import LayerShape
from glora.structure import TENSORS, Form, LayerStructure
from glora.support import read_form, slice_down

__all__ = ["AdaptedLinear"]

# Tokens above which building W* beats the side route; the optimum is flat, within 10 % from 800 on.
_WEIGHT_ROUTE_TOKENS = 700
# Below this |1 + A|, the gradient of a vector A is taken from the input rather than divided out of the output.
_SMALL_SCALE = 0.1
# Rows of a product summed at a time on a CPU, so that the temporary stays in cache.
_CHUNK = 256


class _Plan(NamedTuple):
    """What the Function needs besides tensors: the forms that act, their gains and how to save."""

    structure: LayerStructure
    gains: tuple[float, ...]
    scratch: Scratch
    save_output: bool
    source: tuple[Source, Tensor] | None


class AdaptedLinear(AdaptedLayer):
    """``torch.nn.Linear`` with support tensors: f(x) = x W*^T + b*, see :mod:`glora.functional` (final).

    Takes (..., in) and gives (..., out), in the dtype that ``nn.Linear`` would. The gradients of the input and of
    the active support tensors are exact; a second derivative is refused. What is kept for backward is the input,
    only where a low-rank tensor needs it, and the output, only where A is a vector or scalar.
    """

    @staticmethod
    def shape_of(original: nn.Module) -> LayerShape:
        """The sizes of an ``nn.Linear``."""
        linear = cast(nn.Linear, original)
        return LayerShape(linear.out_features, linear.in_features, linear.bias is not None)

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.shape.in_features

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.shape.out_features

    def matrix(self) -> Tensor:
        """The frozen weight, (out, in)."""
        return self.weight

    def _activated(self) -> None:
        active = [(t, f) for t, f in self.structure.items() if f.kind != "none"]
        names: dict[str, tuple[str, str | None]] = {t: self.support.names(t, f) for t, f in active}
        gains = {t: self.support.gain(t, f) for t, f in active}
        # Names and not parameters, which may be replaced: by loading with assign=True, or by functional_call.
        self._names = tuple(name for tensor in TENSORS for name in names.get(tensor, (None, None)))
        self._gains = tuple(gains.get(t, 1.0) for t in TENSORS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out).

        Raises:
            TargetError: if the frozen weight or bias was set to require a gradient.
        """
        if not self.called:
            self.called = True
        if self._folded is not None:
            return F.linear(x, *self._folded)
        if self.structure.is_none:
            return F.linear(x, self.weight, self.bias)
        if self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad):
            raise TargetError("an adapted layer's weight and bias are frozen: set requires_grad_(False) on them")
        device, source = x.device.type, source_of(x)
        if not torch.is_autocast_enabled(device):
            return self._run(x, source)
        if x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            return self._run(x, source)

    def _run(self, x: Tensor, source: tuple[Source, Tensor] | None) -> Tensor:
        own = self.support._parameters
        parts = [None if name is None else own[name] for name in self._names]
        plan = _Plan(self.structure, self._gains, self._scratch, self.save_output, source)
        # The Function sees and gives matrices: a view made inside it could not be changed in place afterwards.
        flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])  # (N, in)
        y = cast(Tensor, _Linear.apply(flat, self.weight, self.bias, plan, *parts))  # (N, out)
        return y if x.ndim == 2 else y.view(*x.shape[:-1], y.shape[-1])


class _Linear(torch.autograd.Function):
    """Forward and backward of the adapted linear layer; every line below is the equation or its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan, *parts: Tensor | None) -> Tensor:
        values = _values(plan, parts)
        side = _is_side_route(values, len(x))
        w = _weight(weight, values, x.dtype, side, plan.scratch)
        b = effective_bias(*_widened(weight, bias, values, plan.scratch), values)
        y = F.linear(x, w, None if b is None else b.to(x.dtype))
        if side:
            _add_low_rank_output(y, x, weight, values)
        if any(ctx.needs_input_grad):
            _save(ctx, x, y, weight, bias, values, plan, parts)
            ctx.side = side
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        device = grad.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return _backward(ctx, grad)
        return _backward(ctx, grad)


def _values(plan: _Plan, parts: tuple[Tensor | None, ...]) -> Values:
    read: list[Any] = []
    for i, (_, form) in enumerate(plan.structure.items()):
        down = parts[2 * i]
        read.append(None if down is None else read_form(down, parts[2 * i + 1], form, plan.gains[i]))
    return Values(*read)


def _is_side_route(values: Values, tokens: int) -> bool:
    return tokens <= _WEIGHT_ROUTE_TOKENS and not isinstance(values.A, LowRank)


def _widened(weight: Tensor, bias: Tensor | None, values: Values, scratch: Scratch) -> tuple[Tensor, Tensor | None]:
    """The frozen weight (only if C reads it) and bias in the dtype of the support tensors."""
    dtype = _support_dtype(values)
    if weight.dtype == dtype:
        return weight, bias
    wide = weight if values.C is None else scratch.get("wide", weight, dtype).copy_(weight)
    return wide, None if bias is None else bias.to(dtype)


def _support_dtype(values: Values) -> torch.dtype:
    for value in values:
        if value is not None:
            return (value if isinstance(value, Tensor) else value.down).dtype
    raise AssertionError("a layer without active support tensors takes the plain route")


def _weight(weight: Tensor, values: Values, dtype: torch.dtype, side: bool, scratch: Scratch) -> Tensor:
    """W* (weight route), or W* without what the side route adds to the output; in ``dtype``, maybe in scratch."""
    if side:
        values = Values(A=None if isinstance(values.A, Multiplicative) else values.A)
    if values.A is None and values.B is None:
        return weight if weight.dtype == dtype else scratch.get("w", weight, dtype).copy_(weight)
    wide = _support_dtype(values)
    base = weight if weight.dtype == wide else scratch.get("wide", weight, wide).copy_(weight)
    result = effective_weight(base, values, out=scratch.get("w", weight, wide))
    return result if dtype == wide else scratch.get("w", weight, dtype).copy_(result)


def _low_rank(weight: Tensor, values: Values) -> list[LowRank]:
    """The low-rank parts that the side route adds: of B, and of a multiplicative A as (W0 A_d) A_u."""
    found = [values.B] if isinstance(values.B, LowRank) else []
    if isinstance(values.A, Multiplicative):
        found.append(LowRank(weight.to(values.A.down.dtype) @ values.A.down, values.A.up))
    return found


def _add_low_rank_output(y: Tensor, x: Tensor, weight: Tensor, values: Values) -> None:
    for down, up in _low_rank(weight, values):
        y.addmm_(x @ up.to(x.dtype).t(), down.to(x.dtype).t())
    if isinstance(values.B, Tensor):
        # Of the mean and not the sum, which float16 may not hold.
        mean = x.mean(1, keepdim=True, dtype=values.B.dtype)
        y.addcmul_(mean.to(x.dtype), (values.B * x.shape[1]).to(x.dtype))


def _save(
    ctx: Any,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    values: Values,
    plan: _Plan,
    parts: tuple[Tensor | None, ...],
) -> None:
    """Keep for backward exactly what the active forms need."""
    scaled = isinstance(values.A, Tensor) and ctx.needs_input_grad[4]
    # Dividing by 1 + A is ill-conditioned near zero; there the input is kept instead of the output.
    from_output = scaled and plan.save_output and not bool(((1 + cast(Tensor, values.A)).abs() < _SMALL_SCALE).any())
    needs_x = (
        isinstance(values.A, LowRank | Multiplicative) or isinstance(values.B, LowRank) or (scaled and not from_output)
    )
    row_sum = isinstance(values.B, Tensor)
    ctx.source, kept = plan.source or (None, x)
    ctx.save_for_backward(
        kept if needs_x else None,
        y if from_output else None,
        x.sum(1, dtype=_support_dtype(values)) if row_sum and not needs_x else None,
        weight,
        bias,
        *parts,
    )
    # Without the input of the source, which would be held whether it is needed or not.
    ctx.plan, ctx.keeps_output = plan._replace(source=None), from_output


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, y, row_sum, weight, bias, *parts = _saved(ctx)
    plan: _Plan = ctx.plan
    if x is not None and ctx.source is not None:
        x = ctx.source.rerun(x).reshape(-1, weight.shape[1]).to(g.dtype)
    values = _values(plan, tuple(parts))
    wide = _support_dtype(values)
    grads = _SupportGrads(g, x, weight, values, plan, wide)
    grads.matrices(row_sum)
    grads.bias(bias)
    if isinstance(values.A, Tensor) and ctx.needs_input_grad[4]:
        grads.scale(y, bias)
    found = [
        None if down is None or not any(ctx.needs_input_grad[j : j + 2]) else grads.of(i, tensor, down, parts[j - 3])
        for i, tensor in enumerate(TENSORS)
        for down, j in [(parts[2 * i], 4 + 2 * i)]
    ]
    dx = None
    if ctx.needs_input_grad[0]:
        dx = _input_gradient(g, weight, values, ctx.side, plan.scratch)
    return dx, None, None, None, *(part for pair in found for part in (pair or (None, None)))


def _saved(ctx: Any) -> tuple[Any, ...]:
    try:
        return tuple(ctx.saved_tensors)
    except RuntimeError as error:
        if not (ctx.keeps_output and "inplace operation" in str(error)):
            raise
        raise TargetError(
            "the model changes the output of an adapted layer in place, and it was kept for backward: "
            "set layer.save_output = False for layer in net.layers.values()"
        ) from error


def _input_gradient(g: Tensor, weight: Tensor, values: Values, side: bool, scratch: Scratch) -> Tensor:
    dx = g @ _weight(weight, values, g.dtype, side, scratch)
    if side:
        for down, up in _low_rank(weight, values):
            dx.addmm_(g @ down.to(g.dtype), up.to(g.dtype))
        if isinstance(values.B, Tensor):
            dx.add_((g @ values.B.to(g.dtype).expand(g.shape[1])).unsqueeze(1))
    return dx


class _SupportGrads:
    """Gradients of the support tensors' values, per output channel where a vector or scalar is one."""

    def __init__(
        self, g: Tensor, x: Tensor | None, weight: Tensor, values: Values, plan: _Plan, wide: torch.dtype
    ) -> None:
        self.g, self.x, self.weight, self.values, self.plan, self.wide = g, x, weight, values, plan, wide
        self.found: dict[str, tuple[Tensor, Tensor | None]] = {}
        a = values.A
        needs_sum = isinstance(a, Tensor) or any(v is not None for v in values[2:])
        self.total = g.sum(0, dtype=wide) if needs_sum else None  # (out,)

    def matrices(self, row_sum: Tensor | None) -> None:
        """Gradients of B and of a low-rank or multiplicative A."""
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
            if row_sum is None:
                row_sum = cast(Tensor, self.x).sum(1, dtype=self.wide)
            self.found["B"] = (self.g.t().to(self.wide) @ row_sum, None)

    def _full(self) -> Tensor:
        """g^T x, the gradient of the whole weight, in scratch: only a low-rank elementwise A needs it."""
        narrow = self.plan.scratch.get("g", self.weight, self.g.dtype)
        torch.mm(self.g.t(), cast(Tensor, self.x), out=narrow)
        return narrow if narrow.dtype == self.wide else self.plan.scratch.get("g", self.weight, self.wide).copy_(narrow)

    def _factors(self, value: LowRank) -> tuple[Tensor, Tensor]:
        """Gradients of ``down`` and ``up`` of a matrix applied to x, without forming the matrix."""
        x = cast(Tensor, self.x)
        inner = x @ value.up.to(x.dtype).t()  # (N, r)
        back = self.g @ value.down.to(x.dtype)  # (N, r)
        return (self.g.t() @ inner).to(self.wide), (back.t() @ x).to(self.wide)

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

    def scale(self, y: Tensor | None, bias: Tensor | None) -> None:
        """Gradient of a vector or scalar A, sum over tokens of g * (W0 x), without a further product if y is kept.

        W0 x is read back out of the output: (1 + A) W0 x = y - B x - b*.
        """
        a = cast(Tensor, self.values.A)
        if y is None:
            x = cast(Tensor, self.x)
            frozen = self.weight if self.weight.dtype == x.dtype else self.weight.to(x.dtype)
            self.found["A"] = (_sum_of_products(self.g, x @ frozen.t(), self.wide), None)
            return
        rest = _sum_of_products(self.g, y, self.wide)
        b = self.values.B
        if isinstance(b, LowRank):
            rest -= (b.down * self.found["B"][0]).sum(1)
        elif b is not None:
            rest -= b * self.found["B"][0]
        shift = effective_bias(*_widened(self.weight, bias, self.values, self.plan.scratch), self.values)
        if shift is not None:
            rest -= shift * cast(Tensor, self.total)
        self.found["A"] = (rest / (1 + a), None)

    def of(self, index: int, tensor: str, down: Tensor, up: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The gradients in the shapes of the stored parameters: zero where the active form does not read them."""
        form = self.plan.structure[tensor]
        d_down, d_up = self.found[tensor]
        d_down = _into(down, form, d_down * self.plan.gains[index])
        if up is None:
            return d_down, None
        d_up = cast(Tensor, d_up)
        if len(up) != form.rank:
            d_up = torch.cat([d_up, d_up.new_zeros(len(up) - form.rank, up.shape[1])])
        return d_down, d_up


def _into(down: Tensor, form: Form, gradient: Tensor) -> Tensor:
    if form.kind == "scalar":
        gradient = gradient.sum().reshape(1)
    if gradient.shape == down.shape:
        return gradient
    full = torch.zeros_like(down)
    slice_down(full, form).copy_(gradient)
    return full


def _sum_of_products(g: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over rows of g * y, (out,): in chunks on a CPU, where a large temporary costs more than the sum."""
    if g.device.type != "cpu" or len(g) <= _CHUNK:
        return (g * y).sum(0, dtype=dtype)
    total = torch.zeros(g.shape[1], dtype=dtype)
    buffer = torch.empty(_CHUNK, g.shape[1], dtype=g.dtype)
    for start in range(0, len(g), _CHUNK):
        rows = g[start : start + _CHUNK]
        total += torch.mul(rows, y[start : start + _CHUNK], out=buffer[: len(rows)]).sum(0, dtype=dtype)
    return total

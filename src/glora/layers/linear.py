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

from glora.errors import TargetError
from glora.functional import LowRank, Multiplicative, Values, effective_bias, effective_weight
from glora.layers.base import AdaptedLayer, Scratch
from glora.layers.gradients import Gradients
from glora.layers.plan import Plan
from glora.layers.recompute import Source, source_of
from glora.shapes import LayerShape

__all__ = ["AdaptedLinear"]

# Tokens above which building W* beats the side route; the optimum is flat, within 10 % from 800 on.
_WEIGHT_ROUTE_TOKENS = 700
# Below this |1 + A|, the gradient of a vector A is taken from the input rather than divided out of the output.
_SMALL_SCALE = 0.1


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

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out).

        Raises:
            TargetError: if the frozen weight or bias was set to require a gradient.
        """
        x = input
        if not self.called:
            self.called = True
        if self._folded is not None:
            return F.linear(x, *self._folded)
        if self.structure.is_none:
            return F.linear(x, self.weight, self.bias)
        if self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad):
            raise TargetError("an adapted layer's weight and bias are frozen: set requires_grad_(False) on them")
        device, source = x.device.type, source_of(x)
        if not _autocasts(x):
            return self._run(x, source)
        if x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            return self._run(x, source)

    def _run(self, x: Tensor, source: tuple[Source, Tensor] | None) -> Tensor:
        own = self.support._parameters
        parts = [own[name] for name in self._plan.names]
        # The Function sees and gives matrices: a view made inside it could not be changed in place afterwards.
        flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])  # (N, in)
        keep = _Keep(torch.is_grad_enabled(), self.save_output, source)
        arguments = (flat, self.weight, self.bias, self._plan, self._scratch, keep)
        y = cast(Tensor, _Linear.apply(*arguments, *parts))  # (N, out)
        return y if x.ndim == 2 else y.view(*x.shape[:-1], y.shape[-1])


# How many arguments of the Function come before the support parameters.
_BEFORE = 6


class _Keep(NamedTuple):
    """What may be kept for backward: anything at all, the output, the input of what gave the input."""

    anything: bool
    output: bool
    source: tuple[Source, Tensor] | None


class _Linear(torch.autograd.Function):
    """Forward and backward of the adapted linear layer; every line below is the equation or its derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        plan: Plan,
        scratch: Scratch,
        keep: _Keep,
        *parts: Tensor,
    ) -> Tensor:
        values = plan.values(parts)
        side = len(x) <= _WEIGHT_ROUTE_TOKENS and not isinstance(values.A, LowRank)
        # What is computed in a lower precision than W0's is kept for backward, as torch keeps its own copies; what
        # is computed in W0's is as large as W0 and cheaply made again.
        backward = keep.anything and any(ctx.needs_input_grad)
        kept = backward and x.dtype != weight.dtype
        w = _weight(weight, values, x.dtype, side, None if kept else scratch, scratch)
        b = effective_bias(*_widened(weight, bias, values, scratch), values)
        y = F.linear(x, w, None if b is None else b.to(x.dtype))
        if side:
            _add_low_rank_output(y, x, weight, values)
        if backward:
            _save(ctx, x, y, w if kept else None, weight, bias, values, keep, parts)
            ctx.plan, ctx.values, ctx.shift, ctx.scratch, ctx.side = plan, values, b, scratch, side
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = _saved(ctx)
        with torch.no_grad():
            if _autocasts(grad):
                with torch.autocast(grad.device.type, enabled=False):
                    found = _backward(ctx, grad, saved)
            else:
                found = _backward(ctx, grad, saved)
        if not torch.is_grad_enabled():
            return found
        # Under create_graph=True: not to be taken for constants by a second derivative.
        read = [t for t in (grad, *saved) if t is not None and t.requires_grad]
        return tuple(_Once.apply(gradient, *read) if gradient is not None and read else gradient for gradient in found)


class _Once(torch.autograd.Function):
    """A first derivative as a function of what it was computed from: it has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *read: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        raise TargetError(
            "an adapted layer has no second derivative: merge it, or take second derivatives of other layers only"
        )


def _autocasts(tensor: Tensor) -> bool:
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


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


def _weight(
    weight: Tensor, values: Values, dtype: torch.dtype, side: bool, final: Scratch | None, scratch: Scratch
) -> Tensor:
    """W* (weight route), or W* without what the side route adds to the output, in ``dtype``.

    In a buffer of ``final``, or in memory of its own if that is None; intermediate results are in ``scratch``.
    """
    if side:
        values = Values(A=None if isinstance(values.A, Multiplicative) else values.A)
    if values.A is None and values.B is None:
        return weight if weight.dtype == dtype else _cast(weight, dtype, final)
    wide = _support_dtype(values)
    base = weight if weight.dtype == wide else scratch.get("wide", weight, wide).copy_(weight)
    result = effective_weight(base, values, out=scratch.get("w", weight, wide))
    return result if dtype == wide else _cast(result, dtype, final)


def _cast(tensor: Tensor, dtype: torch.dtype, final: Scratch | None) -> Tensor:
    return tensor.to(dtype) if final is None else final.get("w", tensor, dtype).copy_(tensor)


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
        y.addcmul_(x.mean(1, keepdim=True), (values.B * x.shape[1]).to(x.dtype))


def _save(
    ctx: Any,
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    values: Values,
    keep: _Keep,
    parts: tuple[Tensor, ...],
) -> None:
    """Keep for backward exactly what the active forms need."""
    scaled = isinstance(values.A, Tensor) and ctx.needs_input_grad[_BEFORE]  # A's parameter is the first
    from_output = scaled and keep.output and _is_well_scaled(cast(Tensor, values.A))
    needs_x = (
        isinstance(values.A, LowRank | Multiplicative) or isinstance(values.B, LowRank) or (scaled and not from_output)
    )
    ctx.source, kept = keep.source or (None, x)
    ctx.save_for_backward(
        kept if needs_x else None,
        y if from_output else None,
        x.mean(1) if isinstance(values.B, Tensor) and not needs_x else None,
        w,
        weight,
        bias,
        *parts,
    )
    ctx.keeps_output = from_output


def _is_well_scaled(a: Tensor) -> bool:
    """Whether dividing by 1 + A is well-conditioned everywhere; no, where there are no numbers to look at."""
    if a.is_meta or torch.compiler.is_compiling():
        return False
    return bool(a.amin() > _SMALL_SCALE - 1) or not bool(((1 + a).abs() < _SMALL_SCALE).any())


def _backward(ctx: Any, g: Tensor, saved: tuple[Any, ...]) -> tuple[Tensor | None, ...]:
    x, y, row_mean, w, weight, bias, *parts = saved
    values: Values = ctx.values
    if x is not None and ctx.source is not None:
        x = ctx.source.rerun(x).reshape(-1, weight.shape[1]).to(g.dtype)
    wanted = ctx.needs_input_grad[_BEFORE:]
    found: list[Tensor | None] = [None] * len(parts)
    if any(wanted):
        scale = isinstance(values.A, Tensor) and wanted[0]
        gradients = Gradients(g, x, weight, values, ctx.scratch, scale)
        gradients.matrices(row_mean)
        gradients.bias(bias)
        if scale:
            gradients.scale(y, ctx.shift)
        found = ctx.plan.stored(gradients.found, parts, wanted)
    dx = None
    if ctx.needs_input_grad[0]:
        if w is None:
            w = _weight(weight, values, g.dtype, ctx.side, ctx.scratch, ctx.scratch)
        dx = g @ w
        if ctx.side:
            _add_low_rank_gradient(dx, g, weight, values)
    return dx, *(None,) * (_BEFORE - 1), *found


def _saved(ctx: Any) -> tuple[Any, ...]:
    try:
        return tuple(ctx.saved_tensors)
    except RuntimeError as error:
        if not (ctx.keeps_output and "inplace operation" in str(error)):
            raise
        raise TargetError(
            "what an adapted layer kept for backward was changed in place: if the model changes the output of such a "
            "layer, set layer.save_output = False for layer in net.layers.values(); if parameters were changed between "
            "forward and backward, run the forward again"
        ) from error


def _add_low_rank_gradient(dx: Tensor, g: Tensor, weight: Tensor, values: Values) -> None:
    for down, up in _low_rank(weight, values):
        dx.addmm_(g @ down.to(g.dtype), up.to(g.dtype))
    if isinstance(values.B, Tensor):
        dx.add_((g @ values.B.to(g.dtype).expand(g.shape[1])).unsqueeze(1))

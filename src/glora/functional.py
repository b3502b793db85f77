r"""The one equation of GLoRA, and nothing else (arXiv 2306.07967, eq. of the generalised prompt module).

.. math::

    W^* = W_0 \odot (1 + A) + B, \qquad b^* = b_0 \odot (1 + D) + E + W_0 C

with ``A`` multiplicative instead, :math:`W^* = W_0 (I + A) + B`. Merging, the layers' forward and the tests
all refer to these two functions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LowRank", "Multiplicative", "Values", "effective_bias", "effective_weight"]


class LowRank(NamedTuple):
    """A matrix given as ``down @ up``: down (rows, r), up (r, columns)."""

    down: Tensor
    up: Tensor


class Multiplicative(NamedTuple):
    """The matrix ``down @ up`` that A multiplies W0 by from the right: down (in, r), up (r, in)."""

    down: Tensor
    up: Tensor


class Values(NamedTuple):
    """What the five support tensors of a layer are worth, gains included.

    None stands for zero. A plain tensor has one entry per output channel (A, B, D, E; shape (out,)), per
    input channel (C; shape (in,)) or is a scalar (shape (1,)).
    """

    A: Tensor | LowRank | Multiplicative | None = None
    B: Tensor | LowRank | None = None
    C: Tensor | LowRank | None = None
    D: Tensor | None = None
    E: Tensor | None = None


def effective_weight(weight: Tensor, values: Values, out: Tensor | None = None) -> Tensor:
    """W* of the equation above.

    Args:
        weight: the frozen W0, (out, in); a convolution's kernel is given as a view of that shape.
        values: the support tensors, of the dtype and on the device of ``weight``.
        out: where to write, (out, in), of the same dtype; only without autograd.

    Returns:
        W*, (out, in); ``weight`` itself when neither A nor B is present.
    """
    a, b = values.A, values.B
    if isinstance(a, Multiplicative):
        current = torch.addmm(weight, weight @ a.down, a.up, out=out)
    elif isinstance(a, LowRank):
        current = torch.addcmul(weight, weight, torch.mm(a.down, a.up, out=out), out=out)
    elif a is not None:
        current = torch.mul(weight, (1 + a).unsqueeze(1), out=out)
    else:
        current = weight
    if b is None:
        return current
    if isinstance(b, LowRank):
        return torch.addmm(current, b.down, b.up, out=out)
    return torch.add(current, b.unsqueeze(1), out=out)


def effective_bias(weight: Tensor, bias: Tensor | None, values: Values) -> Tensor | None:
    """b* of the equation above.

    Args:
        weight: the frozen W0, (out, in).
        bias: the frozen b0, (out,), or None, which counts as zero.
        values: the support tensors.

    Returns:
        b*, (out,); ``bias`` itself, which may be None, when C, D and E are absent.
    """
    current = bias
    if values.D is not None and bias is not None:
        current = torch.addcmul(bias, bias, values.D)
    if values.C is not None:
        prompt = (values.C.down @ values.C.up).squeeze(1) if isinstance(values.C, LowRank) else values.C
        through = weight @ prompt
        current = through if current is None else current + through
    if values.E is not None:
        shift = values.E.expand(weight.shape[0])
        current = shift if current is None else current + shift
    return current

"""FacT (Jie & Deng, arXiv 2212.03145): increments of all weights from factors shared by the layers of the model.

The weights of a transformer of width d are taken as a stack of d x d matrices: three of qkv, one of proj, and as many
of fc1 and of fc2 as the MLP is times wider. The increment of matrix s is ``scale * V core_s U`` with U (r x d) and
V (d x r) shared by all, and a core (r x r) that is its own in a tensor train (FacT-TT), or a mixture of r shared ones
in the Tucker form (FacT-TK).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glora.errors import ConfigError, MergeError, TargetError
from glora.layers.block import check_vit
from glora.peers.base import Peer
from glora.trainable import Flags

__all__ = ["FactPeer", "FactoredLinear", "Factors", "TensorTrain", "Tucker"]

_LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


class Factors(nn.Module, abc.ABC):
    """What the layers of a model share (abstract): U, V, scale and dropout; V starts at zero.

    Args:
        width: d, of the model.
        rank: r.
        scale: of the increments.
        dropout: between core and V, in training.
    """

    def __init__(self, width: int, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        reach = 1 / math.sqrt(width)
        self.u = nn.Parameter(torch.empty(rank, width).uniform_(-reach, reach))
        self.v = nn.Parameter(torch.zeros(width, rank))
        self.drop = nn.Dropout(dropout)
        self.scale = scale

    @abc.abstractmethod
    def cores(self, first: int, count: int) -> Tensor:
        """Cores of ``count`` matrices from ``first`` on, (count, r, r), each from inputs (last) to outputs."""


class TensorTrain(Factors):
    """FacT-TT: each matrix has a core of its own (final).

    Args:
        width, rank, scale, dropout: see :class:`Factors`.
        depth: blocks of the model.
        ratio: how many times wider the MLP is.
    """

    def __init__(self, width: int, rank: int, scale: float, dropout: float, depth: int, ratio: int) -> None:
        super().__init__(width, rank, scale, dropout)
        reach = 1 / math.sqrt(rank)
        own = torch.empty(depth, 4 + 2 * ratio, rank, rank).uniform_(-reach, reach)
        own[:, 4 + ratio :] /= math.sqrt(ratio)  # those of fc2 have that many times more inputs
        self.own = nn.Parameter(own.flatten(0, 1))

    def cores(self, first: int, count: int) -> Tensor:
        """A slice of them."""
        return self.own[first : first + count]


class Tucker(Factors):
    """FacT-TK: the cores are mixtures of ``rank`` shared ones (final).

    Args:
        width, rank, scale, dropout: see :class:`Factors`.
        depth: blocks of the model.
        ratio: how many times wider the MLP is.
    """

    def __init__(self, width: int, rank: int, scale: float, dropout: float, depth: int, ratio: int) -> None:
        super().__init__(width, rank, scale, dropout)
        self.c = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank)))
        self.p = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, depth * (4 + 2 * ratio))))

    def cores(self, first: int, count: int) -> Tensor:
        """``core_s = sum_k P[k, s] C[:, :, k]``, which C has from inputs (first) to outputs."""
        return torch.einsum("iok,ks->soi", self.c, self.p[:, first : first + count])


class FactoredLinear(nn.Module):
    """A frozen linear layer with an increment of its weight by shared factors (final).

    Args:
        original: the layer; its parameters are shared, not copied.
        factors: registered elsewhere in the model.
        first: which of the model's d x d matrices is the first of this layer.
    """

    bias: nn.Parameter | None

    def __init__(self, original: nn.Linear, factors: Factors, first: int) -> None:
        super().__init__()
        self.weight = original.weight
        self.bias = original.bias
        # In tuples, so that they are no sub-modules and their parameters appear once.
        self._original, self._factors = (original,), (factors,)
        width = factors.u.shape[1]
        self.first, self.rows, self.columns = first, original.out_features // width, original.in_features // width
        self.train(original.training)

    def core(self) -> Tensor:
        """The cores of this layer side by side, (rows r, columns r)."""
        cores = self._factors[0].cores(self.first, self.rows * self.columns)
        rank = cores.shape[-1]
        return cores.view(self.rows, self.columns, rank, rank).transpose(1, 2).flatten(2).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        shared = self._factors[0]
        inner = F.linear(x.reshape(*x.shape[:-1], self.columns, -1), shared.u).flatten(-2)
        inner = shared.drop(F.linear(inner, self.core()))
        outer = F.linear(inner.reshape(*inner.shape[:-1], self.rows, -1), shared.v).flatten(-2)
        return F.linear(x, self.weight, self.bias) + shared.scale * outer

    @torch.no_grad()
    def merge_into_original(self) -> nn.Linear:
        """The original layer, whose weight becomes the merged one.

        Raises:
            MergeError: if that is not finite.
        """
        shared, original = self._factors[0], self._original[0]
        cores = shared.cores(self.first, self.rows * self.columns).double()
        blocks = shared.v.double() @ cores @ shared.u.double()
        increment = (
            blocks.reshape(self.rows, self.columns, *blocks.shape[1:]).transpose(1, 2).reshape(self.weight.shape)
        )
        weight = (self.weight.double() + shared.scale * increment).to(self.weight.dtype)
        if not bool(torch.isfinite(weight).all()):
            raise MergeError("a merged weight is not finite; was the training stable?")
        original.weight = nn.Parameter(weight)
        return original


class FactPeer(Peer):
    """A vision transformer of timm with factored increments on all linear layers of its blocks (final).

    Args:
        name, settings, model, heads: see :class:`Peer`; the settings are rank, scale and dropout.
        kind: of the factors.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        model: nn.Module,
        heads: tuple[str, ...],
        kind: type[TensorTrain] | type[Tucker],
    ) -> None:
        vit, flags = check_vit(model), Flags.of(model)
        if settings["rank"] < 1:
            raise ConfigError(f"rank is 1 or more, not {settings['rank']}")
        ratio = _ratio(vit)
        depth, width, weight = len(vit.blocks), vit.embed_dim, vit.blocks[0].mlp.fc1.weight
        factors = kind(width, settings["rank"], settings["scale"], settings["dropout"], depth, ratio)
        model.requires_grad_(False)
        model.add_module("fact", factors.to(device=weight.device, dtype=weight.dtype))
        for index, block in enumerate(vit.blocks):
            first = index * (4 + 2 * ratio)
            for name_of_layer, offset in zip(_LAYERS, (0, 3, 4, 4 + ratio), strict=True):
                layer = block.get_submodule(name_of_layer)
                _replace(block, name_of_layer, FactoredLinear(layer, factors, first + offset))
        own = [f"fact.{key}" for key, _ in factors.named_parameters()]
        super().__init__(name, settings, model, heads, flags, own, ["fact"])

    def merge(self) -> nn.Module:
        """The plain model with the increments added to its weights."""
        plain = self._copy()
        for block in plain.get_submodule("blocks").children():
            for name in _LAYERS:
                layer = block.get_submodule(name)
                assert isinstance(layer, FactoredLinear)
                _replace(block, name, layer.merge_into_original())
        delattr(plain, "fact")
        return self._flags.restore(plain)


def _ratio(vit: Any) -> int:
    """How many times wider the MLP is than the model.

    Raises:
        TargetError: for a block whose linear layers are no stack of d x d matrices.
    """
    width = vit.embed_dim
    ratio = max(1, int(getattr(vit.blocks[0].mlp.fc1, "out_features", width)) // int(width))
    wanted = ((3 * width, width), (width, width), (ratio * width, width), (width, ratio * width))
    for index, block in enumerate(vit.blocks):
        for name, (out, into) in zip(_LAYERS, wanted, strict=True):
            layer = dict(block.named_modules()).get(name)
            if type(layer) is not nn.Linear or (layer.out_features, layer.in_features) != (out, into):
                raise TargetError(f"FacT needs a linear layer of {out} x {into} at blocks.{index}.{name}")
    return ratio


def _replace(block: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(block.get_submodule(parent), leaf, module)

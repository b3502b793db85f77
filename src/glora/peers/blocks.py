"""Blocks of a vision transformer with adapters and prompts in them: Adapter, AdaptFormer, VPT-shallow and VPT-deep.

A block has a place for each part, so that a choice of parts per block is a matter of filling the places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from glora.errors import ConfigError, MergeError, TargetError, near_miss
from glora.peers.base import Peer
from glora.peers.parts import Bottleneck, Prompt, Without
from glora.trainable import Flags

__all__ = ["BlockPeer", "ExtendedBlock", "Parts", "adapters", "adaptformer", "check_vit", "deep_prompts", "prompts"]

# Where a block takes parts, in the order in which they act.
_PLACES = ("enter", "after_attention", "after_mlp", "parallel", "leave")
Parts = Mapping[str, nn.Module]


def check_vit(model: nn.Module) -> Any:
    """Give the model back if it is one of timm's plain vision transformers.

    Raises:
        TargetError: if it is not.
    """
    from timm.models.vision_transformer import Block, VisionTransformer

    if not isinstance(model, VisionTransformer) or any(type(block) is not Block for block in model.blocks):
        raise TargetError(
            f"{type(model).__name__} is not supported by this method: it needs timm's VisionTransformer with plain "
            "blocks, as ViT, DeiT and DINOv2 are"
        )
    return model


class ExtendedBlock(nn.Module):
    """A block of timm's vision transformer with parts in some of its places (final).

        x <- enter(x)
        x <- x + drop_path(after_attention(ls(attn(norm(x)))))
        x <- x + drop_path(after_mlp(ls(mlp(norm(x))))) + parallel(x)
        x <- leave(x)

    A place without a part is left out. The block's own modules keep their names. A part behind a sublayer sees what
    the sublayer would have added to the tokens, after its LayerScale where it has one.

    Args:
        block: whose modules are taken over; it is kept as it is.
        parts: by place.
    """

    norm1: nn.Module
    attn: nn.Module
    ls1: nn.Module
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    ls2: nn.Module
    drop_path2: nn.Module
    enter: nn.Module
    after_attention: nn.Module
    after_mlp: nn.Module
    parallel: nn.Module | None
    leave: nn.Module

    def __init__(self, block: nn.Module, parts: Parts) -> None:
        super().__init__()
        for name, module in block.named_children():
            self.add_module(name, module)
        for place in _PLACES:
            self.add_module(place, parts.get(place, None if place == "parallel" else nn.Identity()))
        self.train(block.training)

    def forward(self, x: Tensor, **masks: Any) -> Tensor:
        """Tokens (B, N, width) to tokens."""
        x = self.enter(x)
        x = x + self.drop_path1(self.after_attention(self.ls1(self.attn(self.norm1(x), **masks))))
        y = self.drop_path2(self.after_mlp(self.ls2(self.mlp(self.norm2(x)))))
        if self.parallel is not None:
            y = y + self.parallel(x)
        leave: Tensor = self.leave(x + y)
        return leave


class BlockPeer(Peer):
    """A vision transformer of timm with parts in its blocks (final).

    Args:
        name, settings, model, heads: see :class:`Peer`.
        parts: for each block of the model, as :func:`adapters` and its like give them.
    """

    def __init__(
        self, name: str, settings: Mapping[str, Any], model: nn.Module, heads: tuple[str, ...], parts: list[Parts]
    ) -> None:
        vit, flags = check_vit(model), Flags.of(model)
        like = vit.cls_token if vit.cls_token is not None else vit.patch_embed.proj.weight
        model.requires_grad_(False)
        modules = []
        for index, (block, own) in enumerate(zip(vit.blocks, parts, strict=True)):
            if own:
                for part in own.values():
                    part.to(device=like.device, dtype=like.dtype)
                vit.blocks[index] = ExtendedBlock(block, own)
                modules += [f"blocks.{index}.{place}" for place in own]
        own_names = [f"{m}.{key}" for m in modules for key, _ in model.get_submodule(m).named_parameters()]
        super().__init__(name, settings, model, heads, flags, own_names, modules)

    def merge(self) -> nn.Module:
        """Refused: a prompt, or an adapter with a non-linearity, is no change of a weight."""
        raise MergeError(f"{self.name} cannot be merged: its parts stay in the blocks; use the model as it is")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} is 1 or more, not {count}")


def adapters(model: nn.Module, hidden: int, places: str, dropout: float) -> list[Parts]:
    """Houlsby et al. (arXiv 1902.00751), serial: behind attention and MLP, before the residual sum.

    Raises:
        ConfigError: for another place than "both", "attention" or "mlp", or a bottleneck below 1.
    """
    vit = check_vit(model)
    _check_counts(hidden=hidden)
    known = {"both": ("after_attention", "after_mlp"), "attention": ("after_attention",), "mlp": ("after_mlp",)}
    if places not in known:
        raise ConfigError(f"places is both, attention or mlp, not {places!r}{near_miss(places, known)}")
    return [
        {at: Bottleneck(vit.embed_dim, hidden, F.gelu, dropout=dropout, residual=True) for at in known[places]}
        for _ in vit.blocks
    ]


def adaptformer(model: nn.Module, hidden: int, scale: float, dropout: float) -> list[Parts]:
    """AdaptFormer (arXiv 2205.13535): a scaled ReLU bottleneck parallel to norm and MLP."""
    vit = check_vit(model)
    _check_counts(hidden=hidden)
    return [{"parallel": Bottleneck(vit.embed_dim, hidden, F.relu, scale=scale, dropout=dropout)} for _ in vit.blocks]


def prompts(model: nn.Module, tokens: int, dropout: float) -> list[Parts]:
    """VPT-shallow (arXiv 2203.12119): tokens that enter at the first block and leave after the last."""
    parts: list[dict[str, nn.Module]] = [{} for _ in check_vit(model).blocks]
    parts[0]["enter"], parts[-1]["leave"] = _prompt(model, tokens, dropout)
    return list(parts)


def deep_prompts(model: nn.Module, tokens: int, dropout: float) -> list[Parts]:
    """VPT-deep (arXiv 2203.12119): each block has tokens of its own, whose outputs are dropped behind it."""
    pairs = [_prompt(model, tokens, dropout) for _ in check_vit(model).blocks]
    return [{"enter": enter, "leave": leave} for enter, leave in pairs]


def _prompt(model: nn.Module, tokens: int, dropout: float) -> tuple[Prompt, Without]:
    _check_counts(tokens=tokens)
    vit = check_vit(model)
    patch = vit.patch_embed.proj.weight[0].numel()
    before = int(vit.num_prefix_tokens)
    return Prompt(tokens, vit.embed_dim, before, patch, dropout), Without(tokens, before)

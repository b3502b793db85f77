"""Peers with adapters and prompts in the blocks of a vision transformer: Adapter, AdaptFormer, VPT-shallow, VPT-deep.

The parts are those that can also join the search space, see :mod:`glora.layers.block`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from glora.errors import ConfigError, MergeError, near_miss
from glora.layers.block import ExtendedBlock, Parts, Tokens, bottlenecks, check_vit, find_blocks, prompt
from glora.layers.parts import Part
from glora.peers.base import Peer
from glora.trainable import Flags

__all__ = ["BlockPeer", "adapters", "adaptformer", "deep_prompts", "prompts"]


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
    tokens = Tokens.of(model)
    _check_counts(hidden=hidden)
    known = {"both": ("after_attention", "after_mlp"), "attention": ("after_attention",), "mlp": ("after_mlp",)}
    if places not in known:
        raise ConfigError(f"places is both, attention or mlp, not {places!r}{near_miss(places, known)}")
    made = [bottlenecks("serial", tokens, hidden, dropout=dropout) for _ in find_blocks(model)]
    return [{place: parts[place] for place in known[places]} for parts in made]


def adaptformer(model: nn.Module, hidden: int, scale: float, dropout: float) -> list[Parts]:
    """AdaptFormer (arXiv 2205.13535): a scaled ReLU bottleneck parallel to norm and MLP."""
    tokens = Tokens.of(model)
    _check_counts(hidden=hidden)
    return [bottlenecks("bottleneck", tokens, hidden, scale, dropout) for _ in find_blocks(model)]


def prompts(model: nn.Module, tokens: int, dropout: float) -> list[Parts]:
    """VPT-shallow (arXiv 2203.12119): tokens that enter at the first block and leave after the last."""
    _check_counts(tokens=tokens)
    parts: list[dict[str, Part]] = [{} for _ in find_blocks(model)]
    parts[0]["enter"], parts[-1]["leave"] = prompt(Tokens.of(model), tokens, dropout)
    return list(parts)


def deep_prompts(model: nn.Module, tokens: int, dropout: float) -> list[Parts]:
    """VPT-deep (arXiv 2203.12119): each block has tokens of its own, whose outputs are dropped behind it."""
    _check_counts(tokens=tokens)
    pairs = [prompt(Tokens.of(model), tokens, dropout) for _ in find_blocks(model)]
    return [{"enter": enter, "leave": leave} for enter, leave in pairs]

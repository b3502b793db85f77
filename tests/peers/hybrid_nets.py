"""Nets with prompts and adapters in their blocks, for the tests of hybrids."""

from __future__ import annotations

import torch
from vits import DEPTH, KINDS, vit

from glora import GLoRAModel, SearchSpace, Structure, adapt

PROMPTS = ["none", "tokens-1", "tokens-3"]
ADAPTERS = ["none", "bottleneck-2", "bottleneck-5", "serial-1", "serial-4"]
SPACE = SearchSpace(2, prompts=PROMPTS, adapters=ADAPTERS)
BLOCKS = [f"blocks.{i}" for i in range(DEPTH)]
# Both adapters, and a block without anything between blocks with prompts.
MIXED = Structure(
    {
        "blocks.0.attn.qkv": {"B": "rank-2", "C": "vector"},
        "blocks.0": {"prompt": "tokens-1", "adapter": "bottleneck-2"},
        "blocks.2": {"prompt": "tokens-3", "adapter": "serial-1"},
    }
)


@torch.no_grad()
def filled(space: SearchSpace = SPACE, kind: str = "vit", seed: int = 1) -> GLoRAModel:
    """An adapted model in float64, none of whose trained tensors is at its start."""
    net = adapt(vit(kind).double(), space).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in (*net.adapter_parameters().values(), *net.head_parameters().values()):
        parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return net


NETS = {kind: filled(kind=kind) for kind in KINDS}

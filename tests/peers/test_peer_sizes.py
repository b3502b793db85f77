"""Numbers of parameters: the published ones, and those of the documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from glora.peers import PEERS, peer

DOCS = Path(__file__).parents[2] / "docs" / "peers.md"


def large(architecture: str) -> nn.Module:
    """A model of full size, its weights not even written."""
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=10)
    return model.to_empty(device="cpu")


PUBLISHED: dict[str, tuple[str, dict[str, Any], float]] = {
    "full": ("full", {}, 85.8),
    "linear": ("linear", {}, 0.0),
    "bitfit": ("bitfit", {}, 0.10),
    "LayerNorm": ("layernorm", {}, 0.04),
    "LoRA of rank 8 on queries and values": ("lora", {}, 0.29),
    "VPT-shallow with 100 tokens": ("vpt-shallow", {}, 0.08),
    "one adapter a block": ("adapter", {"places": "mlp"}, 0.16),
    "AdaptFormer": ("adaptformer", {}, 0.16),
    "all tensors of GLoRA, rank 4": ("peft-glora", {}, 1.6),
}


@pytest.mark.parametrize("row", PUBLISHED)
def test_sizes_on_vit_base_are_the_published_ones(row: str) -> None:
    name, settings, millions = PUBLISHED[row]
    digits = 1 if millions >= 1 else 2
    assert round(peer(name, large("vit_base_patch16_224"), **settings).size / 1e6, digits) == millions


D = 768  # of ViT-B, with 12 blocks
EXACT = {
    # The authors' modules counted by hand; RepAdapter's second matrix dense, SSF's scales of weight and bias apart.
    "vpt-deep": 12 * 50 * D,
    "adapter": 24 * (2 * D * 8 + 8 + D),
    "repadapter": 24 * (2 * D * 8 + D),
    "ssf": 12 * 3 * (3 + 1 + 4 + 1) * D + 25 * 2 * D,
    "ia3": 12 * 2 * (3 + 4) * D,
    "glora-fixed": 12 * (8 * (4 + 2 + 5 + 5) + (1 + 1 + 1 + 4) + (3 + 1 + 4 + 1)) * D,
    "fact-tt": 2 * D * 16 + 12 * 12 * 16**2,
    "fact-tk": 2 * D * 32 + 32**3 + 32 * 144,
    "peft-dora": 12 * (8 * (D + 3 * D) + 3 * D),
}


def sizes_of_the_table() -> dict[str, list[int]]:
    rows = [line.split("|") for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = [row for row in rows if len(row) == 9]  # and not those of the settings
    return {row[1].strip(" `"): [int(cell.strip().replace(",", "")) for cell in row[-3:-1]] for row in rows}


@pytest.mark.parametrize("name", PEERS)
def test_the_table_of_the_documentation_has_the_sizes(name: str) -> None:
    table = sizes_of_the_table()
    assert set(table) == set(PEERS)
    sizes = [peer(name, large(a)).size for a in ("vit_base_patch16_224", "vit_small_patch16_224")]
    assert table[name] == sizes, sizes
    assert EXACT.get(name, sizes[0]) == sizes[0]


def test_settings_in_the_documentation_are_those_of_the_methods() -> None:
    lines = DOCS.read_text("utf-8").splitlines()
    for name, method in PEERS.items():
        told = ", ".join(f"`{key}: {json.dumps(value)}`" for key, value in method.settings.items())
        assert not told or f"| `{name}` | {told} |" in lines

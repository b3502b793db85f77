"""Three small vision transformers of timm, as different as those that peers support, and how to fill peers."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from glora.peers import Peer
from helpers import randomise_backbone

CLASSES, WIDTH, DEPTH, HEADS, SIDE = 5, 12, 3, 3, 16
SMALL: dict[str, Any] = {
    "img_size": SIDE,
    "patch_size": 8,
    "embed_dim": WIDTH,
    "depth": DEPTH,
    "num_heads": HEADS,
    "num_classes": CLASSES,
}
# What each is pooled by, the tokens before the patches, and how many times wider the MLP is.
KINDS = {"vit": ("token", 1, 4), "dinov2": ("avg", 3, 2), "distilled": ("token", 2, 4)}
X = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
# Small enough for a width of 12, and without what is random in training.
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2},
    "glora-fixed": {"rank": 2},
    "vpt-shallow": {"tokens": 3},
    "vpt-deep": {"tokens": 2},
    "adapter": {"hidden": 4},
    "adaptformer": {"hidden": 4, "dropout": 0.0},
    "repadapter": {"rank": 2},
    "fact-tt": {"rank": 3, "scale": 0.5, "dropout": 0.0},
    "fact-tk": {"rank": 3, "scale": 0.5, "dropout": 0.0},
    "peft-lora": {"rank": 2, "alpha": 6},
    "peft-dora": {"rank": 2, "alpha": 6},
    "peft-glora": {"rank": 2},
}


def vit(kind: str = "vit", seed: int = 0) -> nn.Module:
    """A pretrained one, as it were: no bias and no norm is at its initial value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "vit":
            model: nn.Module = VisionTransformer(**SMALL)
        elif kind == "dinov2":
            more: dict[str, Any] = {"reg_tokens": 2, "global_pool": "avg", "init_values": 0.5, "mlp_ratio": 2}
            model = VisionTransformer(**SMALL, **more)
        else:
            model = VisionTransformerDistilled(**SMALL)
    randomise_backbone(model, seed)
    return model.eval()


@torch.no_grad()
def fill(net: Peer, seed: int = 1, scale: float = 0.3) -> None:
    """Move everything that is trained away from its start."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in (*net.adapter_parameters().values(), *net.head_parameters().values()):
        parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)

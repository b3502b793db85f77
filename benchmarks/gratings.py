"""A small vision transformer that has learnt something, and pictures to learn from: made in seconds, no download."""

from __future__ import annotations

import timm
import torch
from torch import nn

PRETRAINED_CLASSES = 12


def pictures(count: int, side: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gratings (count, 3, side, side), whose direction is the class, in noise, and their classes (count,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    angle = (labels + 0.35 * torch.randn(count, generator=generator)) * torch.pi / classes
    phase = 6.3 * torch.rand(count, generator=generator)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    along = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
    waves = (0.8 * along + phase[:, None, None]).sin()
    noise = torch.randn(count, 3, side, side, generator=generator)
    return waves[:, None] + 1.2 * noise, labels


def pretrained(side: int, epochs: int) -> nn.Module:
    """A ViT of timm's (4 blocks, 48 wide, patches of 4) from random weights, trained as a whole on 2,000 gratings."""
    torch.manual_seed(0)
    shape = {"img_size": side, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=PRETRAINED_CLASSES, **shape)
    inputs, labels = pictures(2000, side, PRETRAINED_CLASSES, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    return model

"""Vision transformers of timm with random weights, which several tests of backbones share."""

import timm
import torch
from torch import nn

VIT = "vit_tiny_patch16_224"


def random_vit(size: int = 32, num_classes: int = 7, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model(VIT, img_size=size, num_classes=num_classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    return model.eval()


def same_backbone(ours: nn.Module, theirs: nn.Module) -> bool:
    expected = theirs.state_dict()
    return all(torch.equal(v, expected[k]) for k, v in ours.state_dict().items() if not k.startswith("head."))

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import glora
from glora import SearchSpace, TrainSettings
from glora.errors import ConfigError
from helpers import MLP, randomise_backbone


def timm_vit() -> nn.Module:
    model = timm.create_model("vit_tiny_patch16_224", depth=3, img_size=32, num_classes=4, drop_path_rate=0.3)
    randomise_backbone(model)
    return model.eval()


def hf_vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=32, num_labels=4,
        hidden_dropout_prob=0.2,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    randomise_backbone(model)
    return model.eval()


def trained(make, checkpoint: bool) -> tuple[glora.GLoRAModel, list[int]]:
    torch.manual_seed(3)
    net = glora.adapt(make(), SearchSpace(2), num_classes=4)
    data = torch.randn(12, 3, 32, 32), torch.arange(12) % 4
    calls: list[int] = [0]
    first = next(iter(net.layers.values()))
    first.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    settings = TrainSettings(epochs=2, batch_size=4, checkpoint_blocks=checkpoint)
    glora.train_supernet(net, data, None, settings)
    return net, calls


@pytest.mark.parametrize("make", [timm_vit, hf_vit])
def test_checkpointing_gives_the_same_training_and_runs_blocks_twice(make) -> None:
    plain, once = trained(make, False)
    net, twice = trained(make, True)
    assert twice[0] == 2 * once[0]
    for (name, expected), found in zip(plain.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, msg=name)
    moved = [p.any() for key, p in net.adapter_parameters().items() if key.endswith(("support.B", "support.E"))]
    assert all(moved), "a layer was never trained"


@pytest.mark.parametrize("make", [timm_vit, hf_vit])
def test_the_model_is_left_without_checkpointing(make) -> None:
    net, calls = trained(make, True)
    calls[0] = 0
    with torch.enable_grad():
        output = net.train()(torch.randn(1, 3, 32, 32))
        getattr(output, "logits", output).sum().backward()
    assert calls == [1]


def test_a_model_that_cannot_is_refused() -> None:
    net = glora.adapt(MLP(), SearchSpace(2))
    data = torch.randn(8, 6), torch.arange(8) % 4
    with pytest.raises(ConfigError, match="MLP has no activation checkpointing of its own"):
        glora.train_supernet(net, data, None, TrainSettings(epochs=1, batch_size=4, checkpoint_blocks=True))

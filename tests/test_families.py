"""Whole models of many families, with random weights: adapt, train, merge, eject, save and load."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn

import glora
from glora import LayerStructure, SearchSpace, Structure
from glora.errors import TargetError
from helpers import randomise, randomise_backbone

TRANSFORMER = {"depth": 2, "embed_dim": 32, "num_heads": 2}
PYRAMID = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32), "num_heads": (1, 2, 2, 2)}
TIMM: dict[str, tuple[int, dict, int]] = {
    # name: image size, settings that make it small, adapted layers
    "vit_tiny_patch16_224": (32, TRANSFORMER, 8),
    "deit_tiny_distilled_patch16_224": (32, TRANSFORMER, 8),
    "vit_small_patch14_dinov2": (28, TRANSFORMER, 8),
    "vit_small_patch16_dinov3": (32, TRANSFORMER, 8),
    "beit_base_patch16_224": (32, TRANSFORMER, 6),
    "eva02_tiny_patch14_224": (28, TRANSFORMER, 6),
    "cait_xxs24_224": (32, TRANSFORMER, 24),
    "xcit_nano_12_p16_224": (32, TRANSFORMER, 20),
    "swin_tiny_patch4_window7_224": (56, {"embed_dim": 16, "depths": (1, 2), "num_heads": (2, 2)}, 13),
    "swinv2_tiny_window8_256": (64, {"embed_dim": 16, "depths": (1, 2), "num_heads": (2, 2)}, 16),
    "pvt_v2_b0": (64, PYRAMID, 20),
    "twins_svt_small": (64, PYRAMID, 16),
    "convnext_tiny": (64, {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 32)}, 8),
    "maxvit_rmlp_pico_rw_256": (64, {"embed_dim": (32, 32, 32, 32), "depths": (1, 1, 1, 1)}, 48),
    "levit_128s": (64, {}, 46),
    "hiera_tiny_224": (224, {"embed_dim": 16, "stages": (1, 1, 1, 1)}, 19),
}


def timm_model(name: str) -> nn.Module:
    size, settings, _ = TIMM[name]
    own = {} if name in ("convnext_tiny", "pvt_v2_b0", "hiera_tiny_224") else {"img_size": size}
    return timm.create_model(name, pretrained=False, num_classes=5, **own, **settings)


def hf(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    image = {"image_size": 32, "patch_size": 16}
    config = {
        "ViT": lambda: transformers.ViTConfig(**common, **image, num_labels=5),
        "Dinov2": lambda: transformers.Dinov2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, **image, num_labels=5
        ),
        "Swin": lambda: transformers.SwinConfig(
            image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=5
        ),
        "Beit": lambda: transformers.BeitConfig(**common, **image, num_labels=5),
    }[kind]()
    return getattr(transformers, f"{kind}ForImageClassification")(config)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(48, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(16, 16), nn.ReLU(inplace=True))
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1).unflatten(1, (-1, 48))
        return self.last(self.mix(self.block(self.stem(tokens))).mean(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    name: (lambda name=name: timm_model(name), size, layers) for name, (size, _, layers) in TIMM.items()
}
MODELS |= {
    "mixer": (lambda: MlpMixer(img_size=32, num_blocks=2, embed_dim=32, num_classes=5), 32, 8),
    "torchvision-vit": (
        lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 48, num_classes=5),
        32,
        4,
    ),
    "torchvision-swin": (
        lambda: torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=5),
        32,
        5,
    ),
    "hf-vit": (lambda: hf("ViT"), 32, 12),
    "hf-dinov2": (lambda: hf("Dinov2"), 32, 12),
    "hf-swin": (lambda: hf("Swin"), 32, 13),
    "hf-beit": (lambda: hf("Beit"), 32, 12),
    "encoder": (Encoder, 32, 2),
}


def logits(output: object) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits  # type: ignore[attr-defined]


def close(a: Tensor, b: Tensor, tolerance: float = 2e-4) -> bool:
    return bool((a - b).abs().max() <= tolerance * (1 + b.abs().max()))


def train(net: glora.GLoRAModel, x: Tensor, steps: int = 2) -> None:
    parameters = [*net.adapter_parameters().values(), *net.head_parameters().values()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    generator = random.Random(1)
    labels = torch.arange(len(x)) % 5
    net.train()
    for _ in range(steps):
        net.activate(net.sample(generator))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits(net(x)), labels).backward()
        optimizer.step()
    net.eval()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_adapt_train_merge_and_eject(name: str) -> None:
    make, size, layers = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    randomise_backbone(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        wanted = logits(model(x))
        # Some products round otherwise where the weight requires no gradient.
        frozen = logits(copy.deepcopy(model).requires_grad_(False)(x))
    net = glora.adapt(model, SearchSpace(2))
    assert len(net.layers) == layers
    assert logits(net(x)).equal(frozen)
    assert net.uncalled() == ()
    assert net.head_size == sum(p.numel() for key, p in net.model.named_parameters() if key.startswith(net.head_names))

    # Every adapted layer acts: each gets a gradient other than zero.
    randomise(net, scale=0.1)
    net.activate(Structure({layer: LayerStructure(B="rank-2") for layer in net.layers}))
    logits(net(x)).square().sum().backward()
    inert = [key for key, layer in net.layers.items() if not layer.support.get_parameter("B").grad.any()]
    assert inert == []
    net.zero_grad()

    train(net, x)
    assert all(net.frozen_tensors()[key].equal(before[key]) for key in net.frozen_tensors())
    assert all(not p.equal(before[key]) for key, p in net.head_parameters().items() if p.ndim == 2)

    structure = net.sample(random.Random(5))
    net.activate(structure)
    tuned = logits(net(x)).detach()
    assert not close(tuned, wanted, 1e-3)
    plain = net.merge()
    assert type(plain) is type(model)
    assert close(logits(plain(x)), tuned)
    created = {f"{layer}.bias" for layer in net.created_biases()}
    assert set(plain.state_dict()) == set(before) | created
    assert [type(m) for m in plain.modules()] == [type(m) for m in make().modules()]
    with net.folded(structure):
        assert close(logits(net(x)), tuned)

    back = net.eject()
    assert back is model
    assert list(back.state_dict()) == list(before)
    assert all(value.equal(before[key]) for key, value in back.state_dict().items())
    with torch.no_grad():
        assert logits(back(x)).equal(wanted)


def test_convolutional_networks_are_refused_for_now() -> None:
    with pytest.raises(TargetError, match="nothing to adapt"):
        glora.adapt(timm.create_model("resnet10t", num_classes=5))


def test_what_is_skipped_has_its_reason() -> None:
    reasons = dict(glora.adapt(MODELS["torchvision-vit"][0]()).skipped)
    out = "encoder.layers.encoder_layer_0.self_attention.out_proj"
    assert reasons[out] == "NonDynamicallyQuantizableLinear is not supported"
    reasons = dict(glora.adapt(MODELS["torchvision-swin"][0]()).skipped)
    assert reasons["features.1.0.attn.qkv"] == "ShiftedWindowAttention uses its weight without calling it"
    reasons = dict(glora.adapt(Encoder()).skipped)
    assert reasons["block.linear1"] == "TransformerEncoderLayer uses its weight without calling it"


def test_the_attributes_of_the_model_stay_reachable() -> None:
    model = timm_model("vit_tiny_patch16_224")
    net = glora.adapt(model, glora.presets.lora(2))
    randomise(net)
    x = torch.randn(2, 3, 32, 32)
    net.eval()
    assert net.model.forward_head(net.model.forward_features(x)).equal(net(x))
    assert net.model.get_classifier() is net.heads["head"]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_gradient_checkpointing_of_timm_changes_nothing(name: str) -> None:
    model = timm_model(name)
    randomise_backbone(model)
    x = torch.randn(2, 3, MODELS[name][1], MODELS[name][1])
    net = glora.adapt(model, SearchSpace(2))
    randomise(net, scale=0.1)
    net.activate(net.sample(random.Random(2)))
    grads = []
    for kept in (False, True):
        net.zero_grad()
        net.model.set_grad_checkpointing(kept)
        net.train()(x).square().sum().backward()
        grads.append({key: p.grad for key, p in net.adapter_parameters().items() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert len(grads[0]) > 4
    assert all(torch.allclose(grads[0][key], grads[1][key], rtol=1e-4, atol=1e-5) for key in grads[0])


def test_autocast_trains_a_transformer() -> None:
    model = timm_model("vit_tiny_patch16_224")
    randomise_backbone(model)
    net = glora.adapt(model, SearchSpace(2))
    randomise(net, scale=0.1)
    x = torch.randn(4, 3, 32, 32)
    net.activate(net.sample(random.Random(3)))
    grads = []
    for enabled in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = nn.functional.cross_entropy(net(x).float(), torch.arange(4))
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.adapter_parameters().values() if p.grad is not None]))
    assert grads[1].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(grads[0], grads[1], 0) > 0.99


LOAD = """
import sys, torch, glora
sys.path.insert(0, sys.argv[1])
from test_families import MODELS, logits
for name in sys.argv[3:]:
    folder = sys.argv[2] + '/' + name
    model = MODELS[name][0]().eval()
    base = torch.load(folder + '.base')
    torch.nn.Module.load_state_dict(model, {k: v for k, v in base.items()})
    net = glora.load(model, folder + '.adapter').eval()
    x, wanted = torch.load(folder + '.logits')
    difference = float((logits(net(x)) - wanted).abs().max())
    assert difference <= 1e-6, (name, difference)
print('equal')
"""


@pytest.mark.slow
def test_a_new_process_loads_backbone_and_adapter_and_computes_the_same_logits(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    names = ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "hf-vit", "torchvision-vit"]
    for name in names:
        make, size, _ = MODELS[name]
        model = make().eval()
        randomise_backbone(model)
        torch.save(model.state_dict(), tmp_path / f"{name}.base")
        net = glora.adapt(model, SearchSpace(2))
        x = torch.randn(2, 3, size, size)
        train(net, x, steps=5)
        net.save(tmp_path / f"{name}.adapter")
        torch.save((x, logits(net(x)).detach()), tmp_path / f"{name}.logits")
    code = [sys.executable, "-c", LOAD, str(Path(__file__).parent), str(tmp_path), *names]
    done = subprocess.run(code, env=environment, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr

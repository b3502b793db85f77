"""What every peer must keep: what is trained and what is not, merging, and what is refused."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import timm
import torch
from made_peers import made
from timm.models.vision_transformer import ParallelThingsBlock
from torch import nn
from vits import CLASSES, KINDS, SETTINGS, SIDE, X, fill, vit

import glora
from glora import presets
from glora.errors import ConfigError, GloraError, MergeError, TargetError
from glora.peers import PEERS, Peer, peer
from helpers import MLP

PROMPTS = ("vpt-shallow", "vpt-deep")
MERGEABLE = [name for name, method in PEERS.items() if method.mergeable]


def train_a_little(net: Peer, steps: int = 2) -> None:
    net.train()
    optimizer = torch.optim.AdamW((p for p in net.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X), torch.arange(len(X)) % CLASSES).backward()
        optimizer.step()
    net.eval()


# What is trained


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PEERS)
def test_a_fresh_peer_computes_what_the_model_did(name: str, kind: str) -> None:
    net, before = made(name, kind), vit(kind)(X)
    if name in PROMPTS:
        assert not torch.allclose(net(X), before, atol=1e-5)
    else:
        # DoRA divides each row by its length and multiplies by it again.
        assert torch.allclose(net(X), before, atol=1e-6 if name == "peft-dora" else 0)


@pytest.mark.parametrize("kind", ["vit", "distilled"])
@pytest.mark.parametrize("name", PEERS)
def test_training_moves_its_own_parameters_and_the_head_and_nothing_else(name: str, kind: str) -> None:
    net = made(name, kind)
    trained = {id(p) for p in (*net.adapter_parameters().values(), *net.head_parameters().values())}
    assert trained == {id(p) for p in net.parameters() if p.requires_grad}
    assert net.size == sum(p.numel() for p in net.parameters() if p.requires_grad) - net.head_size
    assert net.head_size == (2 if kind == "distilled" else 1) * 13 * CLASSES
    before = {key: value.clone() for key, value in net.model.state_dict().items()}
    frozen = set(net.frozen_tensors())
    train_a_little(net)
    after = net.model.state_dict()
    assert before.keys() == after.keys()
    assert all(after[key].equal(before[key]) for key in frozen)
    assert all(not after[key].equal(before[key]) for key in {*net.adapter_parameters(), *net.head_parameters()})
    # What is frozen is what the pretrained model has, under its own names.
    pretrained = vit(kind).state_dict()
    for key in frozen:
        assert after[key].equal(pretrained[key.replace(".base_layer", "")])


@pytest.mark.parametrize("name", PEERS)
def test_only_the_head_and_the_methods_modules_follow_train(name: str) -> None:
    net = made(name, dropout=0.1) if "dropout" in PEERS[name].settings else made(name)
    net.train()
    assert net.training
    assert net.model.head.training
    assert net.model.norm.training == (name == "full")
    drops = [m for m in net.modules() if isinstance(m, nn.Dropout) and m.p]
    assert all(drop.training for drop in drops)
    assert bool(drops) == ("dropout" in PEERS[name].settings)
    assert not any(module.training for module in net.eval().modules())


@pytest.mark.parametrize("name", PEERS)
def test_the_start_is_decided_by_the_seed_and_draws_nothing_else(name: str) -> None:
    state = torch.get_rng_state()
    one, same, other = (peer(name, vit(), seed=seed, **SETTINGS.get(name, {})) for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(state)
    pairs = list(zip(one.adapter_parameters().values(), same.adapter_parameters().values(), strict=True))
    assert all(a.equal(b) for a, b in pairs)
    drawn = {"full", "linear", "bitfit", "layernorm", "ssf", "ia3"}
    differs = any(
        not a.equal(b)
        for a, b in zip(one.adapter_parameters().values(), other.adapter_parameters().values(), strict=True)
    )
    assert differs == (name not in drawn)


def test_points_of_the_space_are_the_presets() -> None:
    net = made("bitfit")
    plain = glora.adapt(vit(), presets.bitfit(), gains="paper", bias="keep")
    # Beside the bias of every linear layer, BitFit trains those of the norms and of the patch embedding.
    assert net.size - plain.size(plain.active) == (2 * 3 + 1) * 12 + 12
    assert made("lora").net.space.to_dict() == presets.lora(2).to_dict()
    assert list(made("repadapter").layers) == [
        f"blocks.{i}.{layer}" for i in range(3) for layer in ("attn.qkv", "mlp.fc1")
    ]


@pytest.mark.parametrize("name", PEERS)
def test_a_copy_is_independent(name: str) -> None:
    net = made(name)
    fill(net)
    other = copy.deepcopy(net)
    before = net(X)
    assert other(X).equal(before)
    fill(other, seed=7)
    assert net(X).equal(before)
    assert not other(X).equal(before)


@pytest.mark.parametrize("name", ["adapter", "adaptformer", "vpt-deep", "vpt-shallow", "fact-tt", "lora", "full"])
def test_blocks_can_be_checkpointed(name: str) -> None:
    net = made(name)
    fill(net)
    leaves = list(net.adapter_parameters().values())
    wanted = torch.autograd.grad(net(X).square().sum(), leaves)
    net.model.set_grad_checkpointing(True)
    found = torch.autograd.grad(net(X).square().sum(), leaves)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)


# Merging


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MERGEABLE)
def test_a_merged_peer_is_the_plain_model(name: str, kind: str) -> None:
    net, pretrained = made(name, kind).double(), vit(kind)
    fill(net)
    before = net(X.double())
    plain = net.merge()
    assert type(plain) is type(pretrained)
    assert {key: value.shape for key, value in plain.state_dict().items()} == {
        key: value.shape for key, value in pretrained.state_dict().items()
    }
    assert list(plain.state_dict()) == list(pretrained.state_dict())
    assert {key: type(m) for key, m in plain.named_modules()} == {key: type(m) for key, m in pretrained.named_modules()}
    assert torch.allclose(plain(X.double()), before, atol=1e-11)
    assert all(p.requires_grad for p in plain.parameters())
    assert net(X.double()).equal(before)  # and the peer is as it was
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert net(X.double()).equal(before)


@pytest.mark.parametrize("name", [name for name in PEERS if name not in MERGEABLE])
def test_what_is_no_change_of_a_weight_is_not_merged(name: str) -> None:
    net = made(name)
    with pytest.raises(MergeError, match=f"{name} cannot be merged: its parts stay in the blocks"):
        net.merge()


def test_a_merge_that_is_not_finite_is_refused() -> None:
    net = made("fact-tt")
    with torch.no_grad():
        net.adapter_parameters()["fact.v"].fill_(float("inf"))
    with pytest.raises(MergeError, match="a merged weight is not finite"):
        net.merge()


# Refusals


@pytest.mark.parametrize("name", [name for name, method in PEERS.items() if method.models.startswith("timm")])
def test_methods_for_vision_transformers_refuse_other_models(name: str) -> None:
    for model in (timm.create_model("resnet10t", num_classes=3), MLP()):
        with pytest.raises(
            TargetError, match=f"{type(model).__name__} is not supported by this method: it needs timm's"
        ):
            peer(name, model)
    parallel = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1, block_fn=ParallelThingsBlock)
    with pytest.raises(TargetError, match="VisionTransformer is not supported by this method: it needs timm's"):
        peer(name, parallel)


@pytest.mark.parametrize("name", [name for name, method in PEERS.items() if not method.models.startswith("timm")])
def test_the_others_take_any_model_with_layers_of_their_kind(name: str) -> None:
    class Net(MLP):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.norm(x))

    x = torch.randn(3, 6)
    settings = {"layers": ["first", "second"]} if "layers" in PEERS[name].settings else {}
    net = peer(name, Net(), **settings)
    assert torch.allclose(net(x), Net()(x), atol=1e-6)
    fill(net)
    assert torch.allclose(net.merge()(x), net(x), atol=1e-5)


def test_fact_needs_matrices_as_wide_as_the_model() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1, mlp_ratio=2.5)
    with pytest.raises(TargetError, match=r"FacT needs a linear layer of 384 x 192 at blocks\.0\.mlp\.fc1"):
        peer("fact-tt", model)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lara", {}, "there is no method 'lara': did you mean lora"),
        ("lora", {"tokens": 3}, "lora has no setting 'tokens'; its settings are: rank, layers"),
        ("full", {"rank": 3}, "full has no setting 'rank'; its settings are: none"),
        ("vpt-deep", {"tokens": 0}, "tokens is 1 or more, not 0"),
        ("adapter", {"hidden": 0}, "hidden is 1 or more, not 0"),
        ("adaptformer", {"hidden": -1}, "hidden is 1 or more, not -1"),
        ("adapter", {"places": "everywhere"}, "places is both, attention or mlp, not 'everywhere'"),
        ("fact-tk", {"rank": 0}, "rank is 1 or more, not 0"),
        ("lora", {"layers": "nowhere"}, "layers='nowhere' matches no layer"),
        ("peft-lora", {"layers": "nowhere"}, "layers='nowhere' matches no layer"),
        ("lora", {"layers": re.compile("x")}, "settings of lora are plain values: numbers, text, or lists of text"),
        ("peft-lora", {"rank": 0}, "PEFT refuses peft-lora: "),
        ("peft-glora", {"config_A_B": "other"}, "PEFT refuses peft-glora: "),
    ],
)
def test_wrong_use_is_refused_and_leaves_the_model_alone(name: str, settings: dict[str, Any], message: str) -> None:
    model = vit()
    with pytest.raises(GloraError, match=re.escape(message)):
        peer(name, model, **settings)
    if not message.startswith("PEFT"):
        assert {key: type(m) for key, m in model.named_modules()} == {key: type(m) for key, m in vit().named_modules()}
        assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("first", ["lora", "adapter", "fact-tt"])
def test_a_model_is_used_once(first: str) -> None:
    model = made(first).model
    with pytest.raises(ConfigError, match="this model has been adapted already"):
        peer("linear", model)


def test_without_peft_its_methods_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ConfigError, match=r'peft-lora needs PEFT 0\.21 or newer: pip install "glora\[peers\]"'):
        peer("peft-lora", vit())


def test_layer_norms_must_be_there_to_be_tuned() -> None:
    with pytest.raises(TargetError, match="MLP has no LayerNorm to tune"):
        peer("layernorm", MLP())


def test_a_head_may_be_named_or_none() -> None:
    assert made("lora").head_names == ("head",)
    assert peer("lora", vit(), head=False).head_size == 0
    with pytest.raises(TargetError, match="the model has no module 'nose' to be its head"):
        peer("adapter", vit(), head="nose")


def test_the_root_leads_to_the_peers() -> None:
    assert glora.peers.PEERS is PEERS


@pytest.mark.parametrize("name", ["full", "linear", "bitfit", "layernorm", "lora", "ssf", "glora-fixed", "peft-lora"])
def test_a_vision_transformer_of_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")

    def small() -> nn.Module:
        shape = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        torch.manual_seed(0)
        config = transformers.ViTConfig(**shape, image_size=SIDE, patch_size=8, num_labels=CLASSES)
        return transformers.ViTForImageClassification(config).eval()

    layers = {"layers": None} if "layers" in PEERS[name].settings else {}
    net = peer(name, small(), **layers)
    assert net(X).logits.equal(small()(X).logits)
    fill(net)
    plain = net.merge()
    assert type(plain) is transformers.ViTForImageClassification
    assert list(plain.state_dict()) == list(small().state_dict())
    assert torch.allclose(plain(X).logits, net(X).logits, atol=1e-5)


@pytest.mark.parametrize("name", ["adapter", "vpt-deep", "fact-tt"])
def test_those_that_are_built_into_blocks_of_timm_refuse_it(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**shape, image_size=SIDE, patch_size=8))
    with pytest.raises(TargetError, match="ViTForImageClassification is not supported by this method: it needs timm's"):
        peer(name, model)

"""What is adapted, what is not and why, and where the head is."""

from __future__ import annotations

import re
import types

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import glora
from glora.bypass import bypassed
from glora.errors import TargetError
from glora.targets import find_heads, find_targets
from helpers import MLP


def names(model: nn.Module, layers=None, heads: tuple[str, ...] = ()) -> list[str]:
    return list(find_targets(model, layers, heads).modules)


def skipped(model: nn.Module, heads: tuple[str, ...] = ()) -> dict[str, str]:
    return dict(find_targets(model, None, heads).skipped)


class Container(nn.Module):
    """Holds modules under any names and maps through them in order."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        for module in self.children():
            x = module(x)
        return x


# Selection


def test_by_default_every_linear_outside_the_head_in_order() -> None:
    assert names(MLP(), heads=("out",)) == ["first", "second"]
    assert skipped(MLP(), heads=("out",)) == {"out": "the head, trained in full"}
    assert names(MLP()) == ["first", "second", "out"]


def test_selection_by_glob_regex_list_and_predicate() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=16, num_heads=2, num_classes=3)
    qkv = ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    assert names(model, "*.qkv", ("head",)) == qkv
    assert names(model, re.compile(r"blocks\.\d\.attn\.qkv"), ("head",)) == qkv
    assert names(model, list(reversed(qkv)), ("head",)) == qkv
    assert names(model, lambda name, module: name.endswith("qkv") and isinstance(module, nn.Linear), ("head",)) == qkv
    assert names(model, ["blocks.1.*", "*.0.mlp.fc1"], ("head",))[0] == "blocks.0.mlp.fc1"
    left = dict(find_targets(model, "*.qkv", ("head",)).skipped)
    assert left["blocks.0.mlp.fc1"] == "not named in layers="


def test_a_regular_expression_must_match_in_full() -> None:
    with pytest.raises(TargetError, match="matches no layer"):
        names(MLP(), re.compile("fir"))


@pytest.mark.parametrize("layers", ["frist", ["first", "frist"], re.compile("frist")])
def test_what_matches_nothing_is_an_error_with_near_misses(layers) -> None:
    with pytest.raises(TargetError, match=r"'frist' matches no layer that can be adapted; near misses: first"):
        names(MLP(), layers)


def test_naming_what_cannot_be_adapted_says_why() -> None:
    with pytest.raises(TargetError, match="layer 'out' cannot be adapted: the head, trained in full"):
        names(MLP(), ["first", "out"], ("out",))
    with pytest.raises(TargetError, match="layer 'conv' cannot be adapted: Conv2d is not supported"):
        names(Container(conv=nn.Conv2d(1, 1, 1), fc=nn.Linear(1, 1)), "conv")


@pytest.mark.parametrize("layers", [lambda *_: False, []])
def test_choosing_nothing_is_an_error(layers) -> None:
    with pytest.raises(TargetError, match="nothing to adapt"):
        names(MLP(), layers)


def test_a_model_without_linear_layers() -> None:
    with pytest.raises(TargetError, match="nothing to adapt"):
        names(Container(conv=nn.Conv2d(1, 1, 1)))


def test_a_head_is_a_module_and_not_a_prefix_of_a_name() -> None:
    model = Container(head=nn.Linear(2, 2), header=nn.Linear(2, 2), heads=nn.Sequential(nn.Linear(2, 2)))
    assert names(model, heads=("head",)) == ["header", "heads.0"]


@pytest.mark.parametrize(
    "name", ["A", "B_up", "out", "support", "weight_", "a[0]", "*", "a*b", "x y", "?", "ä", "blocks-1"]
)
def test_any_name_of_a_module(name: str) -> None:
    model = Container(**{name: nn.Linear(3, 3), "a0": nn.Linear(3, 3), "head": nn.Linear(3, 2)})
    assert names(model, [name], ("head",)) == [name]
    net = glora.adapt(model, glora.presets.lora(2), [name])
    assert list(net.layers) == [name]
    assert list(net.merge().state_dict()) == [f"{m}.{p}" for m in (name, "a0", "head") for p in ("weight", "bias")]


# Layers that must not be adapted


class Own(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def _replaced() -> nn.Linear:
    module = nn.Linear(3, 3)
    module.forward = types.MethodType(lambda self, x: x, module)
    return module


def _with_buffer() -> nn.Linear:
    module = nn.Linear(3, 3)
    module.register_buffer("extra", torch.zeros(1))
    return module


class Wrapped(nn.Parameter):
    pass


def _wrapped() -> nn.Linear:
    module = nn.Linear(3, 3)
    module.weight = Wrapped(torch.zeros(3, 3))
    return module


def _integer() -> nn.Linear:
    module = nn.Linear(3, 3)
    module.weight = nn.Parameter(torch.zeros(3, 3, dtype=torch.int8), requires_grad=False)
    return module


def _weight_normed() -> nn.Linear:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return torch.nn.utils.weight_norm(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Own(3, 3), "Own is not supported"),
        (lambda: parametrizations.weight_norm(nn.Linear(3, 3)), "no parameter of its own"),
        (lambda: parametrizations.orthogonal(nn.Linear(3, 3)), "no parameter of its own"),
        (lambda: prune.l1_unstructured(nn.Linear(3, 3), "weight", amount=2), "no parameter of its own"),
        (_weight_normed, "no parameter of its own"),
        (_replaced, "its forward was replaced"),
        (_with_buffer, "holds more than a weight and a bias"),
        (_wrapped, "quantised or wrapped"),
        (_integer, "quantised or wrapped"),
        (lambda: nn.Bilinear(3, 3, 3), "Bilinear is not supported"),
        (lambda: nn.Embedding(3, 3), "Embedding is not supported"),
        (
            lambda: torch.ao.nn.qat.Linear(3, 3, qconfig=torch.ao.quantization.default_qconfig),
            "Linear is not supported",
        ),
    ],
)
def test_layers_that_are_not_plain_are_left_alone_with_a_reason(make, why: str) -> None:
    model = Container(odd=make(), fc=nn.Linear(3, 3))
    assert names(model) == ["fc"]
    assert why in skipped(model)["odd"]
    with pytest.raises(TargetError, match=f"layer 'odd' cannot be adapted: .*{re.escape(why)}"):
        names(model, "odd")


def test_tied_weights_are_left_alone_and_one_module_under_two_names_is_not() -> None:
    tied = Container(a=nn.Linear(3, 3), b=nn.Linear(3, 3), c=nn.Linear(3, 3))
    tied.b.weight = tied.a.weight
    assert names(tied) == ["c"]
    assert skipped(tied)["a"] == "its weight is shared with another module"
    embedded = Container(emb=nn.Embedding(4, 3), fc=nn.Linear(3, 3), proj=nn.Linear(3, 4))
    embedded.proj.weight = embedded.emb.weight
    assert names(embedded) == ["fc"]
    one = nn.Linear(3, 3)
    assert names(Container(a=one, b=one, inner=Container(c=one))) == ["a"]


def test_torch_attention_uses_its_weights_without_calling() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = Container(encoder=layer, fc=nn.Linear(8, 8))
    assert names(model) == ["fc"]
    assert "uses its weight without calling it" in skipped(model)["encoder.linear1"]
    assert "is not supported" in skipped(model)["encoder.self_attn.out_proj"]
    with pytest.raises(TargetError, match="TransformerEncoderLayer uses its weight without calling it"):
        names(model, "encoder.linear1")


def test_an_adapted_model_is_not_adapted_again() -> None:
    net = glora.adapt(MLP())
    with pytest.raises(TargetError, match="adapted already: merge or eject it first"):
        glora.adapt(net.model)
    with pytest.raises(TargetError, match="adapted already"):
        glora.adapt(net)


# Weights read without a call


class Reads(nn.Module):
    def __init__(self, how: str = "linear") -> None:
        super().__init__()
        self.fc, self.how = nn.Linear(3, 3), how
        self.extra = nn.Linear(3, 3)

    def forward(self, x):
        if self.how == "call":
            return self.extra(self.fc(x))
        return self.extra(self._apply_weight(x))

    def _apply_weight(self, x):
        return torch.nn.functional.linear(x, self.fc.weight.to(x.dtype), bias=None)


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return x @ self.fc.weight.t()


class Listed(Product):
    def forward(self, x):
        return x.matmul(torch.cat([self.fc.weight, self.fc.weight]).T)


class Looks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.fc = nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.wide(x)
        if isinstance(self.fc.weight, torch.Tensor) and x.dtype != self.fc.weight.dtype:
            x = x.to(self.fc.weight.dtype)
        return self.fc(x)


class Initialises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.reset()

    def reset(self) -> None:
        nn.init.zeros_(self.fc.weight)

    def forward(self, x):
        return self.fc(x)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: Reads("linear"), True),
        (lambda: Reads("call"), False),
        (Product, True),
        (Listed, True),
        (Looks, False),
        (Initialises, False),
        (lambda: Container(fc=nn.Linear(3, 3)), False),
    ],
)
def test_a_parent_that_reads_the_weight_is_recognised(make, wanted: bool) -> None:
    model = make()
    assert bypassed(model, "fc") is wanted
    outer = Container(inner=model, fc=nn.Linear(3, 3))
    assert ("inner.fc" in names(outer)) is not wanted
    assert wanted == ("uses its weight without calling it" in skipped(outer).get("inner.fc", ""))


def test_asking_a_parent_leaves_no_trace() -> None:
    model = Reads("call").train()
    model.extra.register_forward_hook(lambda *_: pytest.fail("the parent ran on"))
    before = torch.get_rng_state()
    assert not bypassed(model, "fc")
    assert not model.fc._forward_pre_hooks
    assert all(module.training for module in model.modules())
    assert torch.get_rng_state().equal(before)


def test_source_that_cannot_be_read_is_left_to_the_first_forward() -> None:
    scope: dict = {"torch": torch, "nn": nn}
    exec("class Typed(nn.Module):\n    def forward(self, x):\n        return x @ self.fc.weight", scope)
    model = scope["Typed"]()
    model.fc, model.head = nn.Linear(3, 3), nn.Linear(3, 3)
    net = glora.adapt(model, head="head")
    net(torch.randn(2, 3))
    assert net.uncalled() == ("fc",)


@pytest.mark.parametrize(
    ("name", "settings", "qkv"),
    [
        ("beit_base_patch16_224", {}, False),
        ("beit_base_patch16_224", {"qkv_bias": False}, True),
        ("eva02_tiny_patch14_224", {"patch_size": 16}, False),
        ("vit_small_patch16_dinov3", {}, True),
        ("vit_tiny_patch16_224", {}, True),
    ],
)
def test_attention_of_timm_that_reads_the_weight_of_qkv(name: str, settings: dict, qkv: bool) -> None:
    size = {"img_size": 32, "depth": 1, "embed_dim": 16, "num_heads": 2, "num_classes": 3}
    net = glora.adapt(timm.create_model(name, **size, **settings))
    assert ("blocks.0.attn.qkv" in net.layers) is qkv
    assert qkv or "uses its weight without calling it" in dict(net.skipped)["blocks.0.attn.qkv"]
    net(torch.randn(1, 3, 32, 32))
    assert net.uncalled() == ()


# The head


def test_the_head_of_timm_models_by_get_classifier() -> None:
    small = {"img_size": 32, "depth": 1, "embed_dim": 16, "num_heads": 2}
    assert find_heads(timm.create_model("vit_tiny_patch16_224", num_classes=3, **small)) == ("head",)
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, **small)
    assert find_heads(distilled) == ("head", "head_dist")
    assert find_heads(timm.create_model("resnet10t", num_classes=3)) == ("fc",)
    assert find_heads(timm.create_model("convnext_atto", num_classes=3)) == ("head.fc",)
    with pytest.raises(TargetError, match="create it with num_classes=<number of classes>, or pass head=False"):
        find_heads(timm.create_model("vit_tiny_patch16_224", num_classes=0, **small))


@pytest.mark.parametrize("name", ["classifier", "score", "classification_head", "lm_head", "head", "fc"])
def test_the_head_by_the_names_of_transformers(name: str) -> None:
    assert find_heads(Container(body=nn.Linear(3, 3), **{name: nn.Linear(3, 2)})) == (name,)


def test_the_head_of_an_unknown_model_is_its_last_linear() -> None:
    assert find_heads(MLP()) == ("out",)
    assert find_heads(Container(a=nn.Linear(3, 7), b=nn.Linear(3, 5)), num_classes=7) == ("a",)
    assert find_heads(Container(fc=nn.Linear(3, 3), last=nn.Linear(3, 2))) == ("last",)
    assert find_heads(Container(head=nn.Linear(3, 3), last=nn.Linear(3, 2)), num_classes=2) == ("last",)
    assert find_heads(Container(head=nn.Sequential(nn.Linear(3, 9), nn.Linear(9, 2)), x=nn.Linear(2, 2))) == ("head",)


def test_an_empty_module_called_head_is_not_the_head() -> None:
    assert find_heads(Container(a=nn.Linear(3, 7), head=nn.Identity())) == ("a",)


def test_no_head_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(TargetError, match=r"the model has no nn.Linear; name it, head='...', or pass head=False"):
        find_heads(Container(conv=nn.Conv2d(1, 1, 1)))
    with pytest.raises(TargetError, match=r"no nn.Linear with 9 outputs"):
        find_heads(MLP(), num_classes=9)


def test_the_head_can_be_named_or_denied() -> None:
    assert glora.adapt(MLP(), head="second").head_names == ("second",)
    assert list(glora.adapt(MLP(), head="second").layers) == ["first", "out"]
    assert glora.adapt(MLP(), head=["second", "out"]).head_names == ("second", "out")
    net = glora.adapt(MLP(), head=False)
    assert (net.head_names, net.head_size, list(net.layers)) == ((), 0, ["first", "second", "out"])
    for wrong in ("nope", ""):
        with pytest.raises(TargetError, match=f"the model has no module '{wrong}' to be its head"):
            glora.adapt(MLP(), head=wrong)

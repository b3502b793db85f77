"""merge, biases, eject and copies on whole models."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

import glora
from adapted_mlp import FULL, X, net_of, random_net, same, state, train
from glora import Form, LayerStructure, Structure
from glora.errors import MergeError, StructureError, TargetError
from helpers import MLP, randomise, randomise_backbone, some_structure

# merge


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_merging_gives_the_plain_model(bias: bool, inplace: bool) -> None:
    for seed in range(15):
        net = random_net(bias)
        structure = some_structure(net, seed)
        keys = [key for key in net.model.state_dict() if "support" not in key]
        created = net.created_biases(structure)
        net.activate(structure)
        wanted = net(X)
        plain = net.merge(inplace=inplace)
        assert type(plain) is MLP
        assert type(plain.first) is type(plain.second) is nn.Linear
        assert torch.allclose(plain(X), wanted, rtol=1e-4, atol=1e-4)
        assert sorted(plain.state_dict()) == sorted(keys + [f"{name}.bias" for name in created])
        assert (plain is net.model) == inplace
        if inplace:
            with pytest.raises(TargetError, match="merged in place or ejected: adapt it again"):
                net(X)
        else:
            assert net(X).equal(wanted)


def test_a_merged_copy_shares_no_memory() -> None:
    net = random_net()
    pointers = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    for structure in (
        Structure(),
        some_structure(net),
        *(Structure({name: LayerStructure(**{t: "vector"}) for name in net.layers}) for t in "ABCDE"),
    ):
        plain = net.merge(structure)
        assert not pointers & {t.untyped_storage().data_ptr() for t in plain.state_dict().values()}
        assert [p for p in plain.parameters() if not p.requires_grad] == []


def test_merging_again_and_again_leaves_the_frozen_weights_alone() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = MLP().to(dtype)
        before = state(model)
        net = net_of(model)
        randomise(net, scale=1.0)
        with torch.no_grad():  # A = -1 among them
            layer = net.layers["first"]
            layer.support.get_parameter("A")[0, 0] = -1 / layer.support.gain("A", Form.VECTOR)
        for seed in range(30):
            net.merge(some_structure(net, seed))
            with net.folded(some_structure(net, seed)):
                pass
        assert same(state(net.eject()), before)


def test_alpha_interpolates_the_backbone_and_leaves_the_head() -> None:
    net = random_net()
    train(net)
    structure = some_structure(net, 8)
    pretrained = {key: value.detach().clone() for key, value in net.frozen_tensors().items()}
    tuned = net.merge(structure).state_dict()
    at = {alpha: net.merge(structure, alpha=alpha).state_dict() for alpha in (0.0, 0.25, 0.5, 1.0)}
    for key, frozen in pretrained.items():
        assert at[0.0][key].equal(frozen)
        assert at[1.0][key].equal(tuned[key])
        assert torch.allclose(at[0.5][key], (frozen + tuned[key]) / 2, atol=1e-6)
        assert torch.allclose(at[0.25][key], 0.75 * frozen + 0.25 * tuned[key], atol=1e-6)
    for found in at.values():
        for key in ("out.weight", "out.bias"):
            assert found[key].equal(net.model.state_dict()[key])


def test_alpha_of_a_created_bias_starts_at_zero() -> None:
    net = random_net(bias=False)
    structure = Structure({"first": LayerStructure(E="vector")})
    tuned = net.merge(structure).first.bias
    assert not net.merge(structure, alpha=0).first.bias.any()
    assert torch.allclose(net.merge(structure, alpha=0.5).first.bias, tuned / 2)


def test_what_is_not_finite_is_not_merged() -> None:
    for value in (float("nan"), float("inf")):
        for inplace in (False, True):
            net = random_net()
            structure = Structure({"first": FULL, "second": LayerStructure(E="vector")})
            with torch.no_grad():
                net.layers["second"].support.get_parameter("E")[0] = value
            before = state(net.model)
            with pytest.raises(MergeError, match="second: the merged weight is not finite"):
                net.merge(structure, inplace=inplace)
            assert list(net.model.state_dict()) == list(before)
            net.merge(Structure({"first": FULL}))
    net = net_of(MLP().half())
    with torch.no_grad():
        net.layers["first"].support.get_parameter("E").fill_(1e6)  # finite, and not in float16
    with pytest.raises(MergeError, match="first: the merged weight is not finite"):
        net.merge(Structure({"first": LayerStructure(E="vector")}))
    with pytest.raises(MergeError, match="not finite"):
        net.merge(Structure({"first": LayerStructure(E="vector")}), alpha=float("nan"))


def test_merging_an_unknown_layer_is_refused() -> None:
    with pytest.raises(StructureError, match="layer 'x' is not adapted"):
        net_of().merge(Structure({"x": FULL}))


def test_attributes_and_hooks_of_a_layer_survive_merging() -> None:
    model = MLP()
    seen: list[int] = []
    model.first.register_forward_hook(lambda *_: seen.append(1))
    model.first.note = "kept"
    net = net_of(model)
    randomise(net)
    net.activate(Structure({"first": FULL}))
    net(X)
    assert seen == [1]
    for plain in (net.merge(), net.merge(inplace=True)):
        assert plain.first.note == "kept"
        plain(X)
    assert seen == [1, 1, 1]
    assert not hasattr(MLP().first, "note")


# Biases


def test_without_a_bias_d_is_not_offered_and_c_and_e_create_one() -> None:
    net = random_net(bias=False)
    for name in net.layers:
        assert net.bound.choices(name, "D") == (Form.NONE,)
        assert len(net.bound.choices(name, "C")) == len(net.bound.choices(name, "E")) == 3
    with pytest.raises(StructureError, match="first: D=vector scales the bias, and this layer has none"):
        net.activate(Structure({"first": LayerStructure(D="vector")}))
    structure = Structure({"first": LayerStructure(C="vector"), "second": LayerStructure(B="rank-2")})
    assert net.created_biases(structure) == ("first",)
    net.activate(structure)
    plain = net.merge()
    assert plain.first.bias is not None
    assert plain.second.bias is None
    assert torch.allclose(plain(X), net(X), atol=1e-5)
    back = net.eject()
    assert back.first.bias is None
    assert "first.bias" not in back.state_dict()


def test_biases_can_be_kept_away() -> None:
    net = net_of(MLP(bias=False), bias="keep")
    for name in net.layers:
        assert [net.bound.choices(name, t) for t in "CDE"] == [(Form.NONE,)] * 3
    assert not any(name.endswith((".C", ".D", ".E")) for name in net.adapter_parameters())
    with pytest.raises(StructureError, match="first: E=vector has no storage"):
        net.activate(Structure({"first": LayerStructure(E="vector")}))
    assert all(net.created_biases(some_structure(net, seed)) == () for seed in range(20))
    assert "C and E are left out" in repr(net)
    assert "C and E create one" in repr(net_of(MLP(bias=False)))


# eject, copies


def test_eject_gives_the_pretrained_model_back_to_the_bit() -> None:
    model = MLP()
    randomise_backbone(model)
    modules = dict(model.named_modules())
    before = state(model)
    net = net_of(model)
    train(net)
    assert not net.model.out.weight.equal(before["out.weight"])
    back = net.eject()
    assert back is model
    assert same(state(back), before)
    assert dict(back.named_modules()) == modules
    for call in (net.eject, net.merge, lambda: net(X), lambda: net.activate(Structure())):
        with pytest.raises(TargetError, match="merged in place or ejected"):
            call()
    assert same(state(glora.adapt(back).eject()), before)


def test_a_copy_of_the_net_is_independent() -> None:
    net = random_net()
    net.activate(some_structure(net, 1))
    wanted = net(X)
    other = copy.deepcopy(net)
    assert other(X).equal(wanted)
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in other.parameters()}
    train(other)
    assert net(X).equal(wanted)
    assert other.layers["first"] is other.model.first


def test_a_preset_spends_memory_on_nothing_else() -> None:
    sizes = {"lora": 2 * 14 + 2 * 13, "bitfit": 13, "ssf": 39, "ia3": 26, "prompt": 14, "frozen": 0}
    for name, size in sizes.items():
        make = getattr(glora.presets, name)
        net = net_of(space=make(2) if name == "lora" else make())
        assert sum(p.numel() for p in net.adapter_parameters().values()) == size == net.size(net.active)
    net = net_of(space=glora.presets.repadapter(3))
    assert sum(p.numel() for p in net.adapter_parameters().values()) == 6 * 6 + 6 + 6 * 8 + 8


def test_two_threads_can_evaluate_two_copies() -> None:
    nets = [random_net() for _ in range(2)]
    wanted = [net(X) for net in nets]
    found: dict[int, torch.Tensor] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: nets[i](X)})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[i].equal(wanted[i]) for i in range(2))


def test_what_is_printed_says_what_was_adapted_and_skipped() -> None:
    from glora.summary import layer_rows

    net = net_of(layers="first")
    text = repr(net)
    for part in ("GLoRAModel of MLP", "1 layers (1 Linear)", "out, 24 parameters", "second: not named in layers="):
        assert part in text
    (row,) = layer_rows(net)
    assert row["name"] == "first"
    assert (row["kind"], row["out"], row["in"], row["bias"]) == ("Linear", 8, 6, True)
    assert row["choices"]["C"] == ["rank-2", "vector", "none"]
    assert row["largest"] == 28 + 28 + 14 + 8 + 8 == net.bound.largest


def test_adapting_is_cheap_to_look_at() -> None:
    assert "head      none" in repr(net_of(head=False))

"""adapt, activate and fold on whole models."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn

import glora
from adapted_mlp import FULL, X, net_of, random_net, same, state, train
from glora import Form, LayerStructure, SearchSpace, Structure
from glora.errors import ConfigError, StructureError, TargetError
from helpers import MLP, randomise, some_structure

# adapt


def test_a_fresh_model_computes_what_it_did_to_the_bit() -> None:
    model = MLP().eval()
    wanted = model(X)
    net = net_of(model)
    assert net(X).equal(wanted)
    for seed in range(20):
        net.activate(some_structure(net, seed))
        assert net(X).equal(wanted)


def test_the_backbone_is_adapted_in_place_and_never_copied() -> None:
    model = MLP()
    pointers = {name: p.data_ptr() for name, p in model.named_parameters()}
    net = net_of(model)
    assert net.model is model
    assert type(net.model) is MLP
    now = {name: p.data_ptr() for name, p in model.named_parameters() if "support" not in name}
    assert now == pointers
    assert list(net.layers) == ["first", "second"]
    assert net.layers["first"] is model.first


def test_only_support_tensors_and_the_head_are_trainable() -> None:
    net = net_of()
    trainable = {name for name, p in net.model.named_parameters() if p.requires_grad}
    assert trainable == set(net.adapter_parameters()) | {"out.weight", "out.bias"}
    assert set(net.head_parameters()) == {"out.weight", "out.bias"}
    assert net.head_size == 24
    assert set(net.frozen_tensors()) == {"first.weight", "first.bias", "second.weight", "second.bias"}


def test_names_with_the_methods_letters_are_not_trained() -> None:
    class Letters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.A, self.head_norm, self.out = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 2)
            self.E = nn.Parameter(torch.zeros(6))

        def forward(self, x):
            return self.out(self.head_norm(self.A(x)) + self.E)

    net = net_of(Letters())
    assert list(net.layers) == ["A"]
    assert net.head_names == ("out",)
    trainable = {name for name, p in net.model.named_parameters() if p.requires_grad}
    assert trainable == {*net.adapter_parameters(), "out.weight", "out.bias"}
    assert "E" in net.frozen_tensors()
    assert "A.weight" in net.frozen_tensors()


def test_one_seed_gives_one_start_whatever_else_was_drawn() -> None:
    def start(seed: int) -> list[torch.Tensor]:
        torch.rand(seed + 1)
        return [p.detach() for p in net_of(seed=seed).adapter_parameters().values()]

    before = torch.get_rng_state()
    net_of()
    assert torch.get_rng_state().equal(before)
    assert all(a.equal(b) for a, b in zip(start(1), start(1), strict=True))
    assert not all(a.equal(b) for a, b in zip(start(1), start(2), strict=True))


def test_a_preset_is_active_at_once_and_a_larger_space_is_not() -> None:
    assert net_of(space=glora.presets.lora(2)).active == Structure(
        {name: LayerStructure(B="rank-2") for name in ("first", "second")}
    )
    assert net_of().active == Structure()


def test_a_failing_adapt_leaves_the_model_untouched() -> None:
    model = MLP().train()
    before = state(model)
    kinds = {name: type(module) for name, module in model.named_modules()}
    for error, settings in (
        (ConfigError, {"gains": "off"}),
        (ConfigError, {"bias": "drop"}),
        (ConfigError, {"gains": {"nope": {}}}),
        (ConfigError, {"gains": {"first": {"A.vector": float("nan")}}}),
        (TargetError, {"layers": "nope"}),
        (TargetError, {"head": "nope"}),
        (StructureError, {"space": SearchSpace(layers={"nope": {"A": "none"}})}),
    ):
        with pytest.raises(error, match=r"nope|off|drop|finite"):
            glora.adapt(model, **settings)
        assert {name: type(module) for name, module in model.named_modules()} == kinds
        assert all(p.requires_grad for p in model.parameters())
        assert all(m.training for m in model.modules())
        assert same(state(model), before)


def test_one_module_under_two_names_is_adapted_wherever_it_stands() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)
            self.b = self.a
            self.more = nn.ModuleList([self.a])
            self.out = nn.Linear(6, 2)

        def forward(self, x):
            return self.out(self.more[0](self.b(self.a(x))))

    model = Twice()
    before = state(model)
    net = net_of(model)
    assert list(net.layers) == ["a"]
    assert net.model.a is net.model.b is net.model.more[0]
    randomise(net)
    net.activate(Structure({"a": FULL}))
    wanted = net(X)
    plain = net.merge()
    assert plain.a is plain.b is plain.more[0]
    assert torch.allclose(plain(X), wanted, atol=1e-5)
    assert list(plain.state_dict()) == list(before)
    back = net.eject()
    assert back.a is back.b is back.more[0]
    assert same(state(back), before)


def test_layers_that_share_a_bias_or_are_tied_to_the_head() -> None:
    model = MLP()
    model.act = nn.Linear(5, 5)
    model.first = nn.Linear(6, 5)
    model.second = nn.Linear(5, 5)
    model.second.bias = model.first.bias
    net = net_of(model)
    randomise(net)
    net.activate(some_structure(net, 3))
    wanted = net(X)
    assert torch.allclose(net.merge()(X), wanted, atol=1e-4)


def test_a_model_in_place_activations_trains() -> None:
    grads = []
    for inplace in (False, True):
        net = net_of(MLP(inplace=inplace))
        randomise(net)
        structure = Structure({name: LayerStructure(A="vector", B="rank-2", E="vector") for name in net.layers})
        net.activate(structure)
        net(X).square().sum().backward()
        grads.append({name: p.grad for name, p in net.adapter_parameters().items() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.allclose(grads[0][name], grads[1][name], rtol=1e-4, atol=1e-4) for name in grads[0])


def test_bfloat16_backbone_trains_in_float32() -> None:
    net = net_of(MLP().bfloat16())
    assert {p.dtype for p in net.adapter_parameters().values()} == {torch.float32}
    train(net, X.bfloat16())
    wanted = net(X.bfloat16())
    assert wanted.dtype == torch.bfloat16
    plain = net.merge()
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}
    assert torch.allclose(plain(X.bfloat16()), wanted, rtol=0.05, atol=0.05)


# Structures


def test_activate_is_exact_and_all_or_nothing() -> None:
    net = random_net()
    first = Structure({"first": FULL})
    net.activate(first)
    assert net.active == first
    assert net.layers["second"].structure.is_none
    with pytest.raises(StructureError, match="second: B=rank-7 has no storage here"):
        net.activate(Structure({"first": LayerStructure(E="vector"), "second": LayerStructure(B="rank-7")}))
    with pytest.raises(StructureError, match="layer 'third' is not adapted; the adapted layers are first, second"):
        net.activate(Structure({"third": FULL}))
    assert net.active == first
    assert net.layers["first"].structure == FULL
    assert net.layers["second"].structure.is_none
    net.activate(Structure())
    assert net.layers["first"].structure.is_none


def test_only_what_acts_gets_a_gradient() -> None:
    net = random_net()
    net.activate(Structure({"second": LayerStructure(B="rank-2", E="vector")}))
    net(X).sum().backward()
    with_grad = {name for name, p in net.adapter_parameters().items() if p.grad is not None}
    assert with_grad == {"second.support.B", "second.support.B_up", "second.support.E"}
    assert all(p.grad is None for name, p in net.model.named_parameters() if name in net.frozen_tensors())


def test_structures_share_storage() -> None:
    net = net_of()
    layer = net.layers["first"]
    pointers = set()
    for form in ("rank-2", "vector", "scalar"):
        net.activate(Structure({"first": LayerStructure(B=form)}))
        pointers.add(layer.support.parts("B", Form.parse(form))[0].data_ptr())
        net(X).sum().backward()
    assert len(pointers) == 1
    with torch.no_grad():
        layer.support.get_parameter("B")[0, 0] = 5.0
    outputs = []
    for form in ("rank-1", "vector", "scalar"):
        with net.using(Structure({"first": LayerStructure(B=form)})):
            outputs.append(net(X))
    net.activate(Structure())
    base = net(X)
    assert all(not out.equal(base) for out in outputs)


def test_using_and_folded_restore_what_was_active_also_after_errors() -> None:
    net = random_net()
    before, other = some_structure(net, 1), some_structure(net, 2)
    net.activate(before)
    wanted = net(X)
    for context in (net.using, net.folded):
        with context(other):
            assert net.active == other
            with context(Structure()):
                assert net.active == Structure()
            assert net.active == other
        with pytest.raises(RuntimeError, match="inside"), context(other):
            raise RuntimeError("inside")
        assert net.active == before
        assert net(X).equal(wanted)


def test_folded_computes_the_merged_model_without_support_tensors() -> None:
    net = random_net()
    structure = some_structure(net, 5)
    with net.using(structure):
        wanted = net(X)
    with net.folded(structure):
        assert torch.allclose(net(X), wanted, atol=1e-5)
        assert net(X).equal(net.merge(structure)(X))
        inner = Structure({"first": LayerStructure(E="scalar")})
        net.activate(inner)
        found = net(X)
    with net.using(inner):
        assert found.equal(net(X))


def test_size_counts_what_the_definitions_say() -> None:
    net = net_of()
    # first is 8 x 6, second 5 x 8
    assert net.size(Structure({"first": FULL})) == 2 * 14 + 2 * 14 + 6 + 8 + 8
    assert (
        net.size(Structure({"second": LayerStructure(A="vector", B="scalar", C="rank-2", D="scalar")}))
        == 5 + 1 + 18 + 1
    )
    assert net.size(Structure()) == 0
    with pytest.raises(StructureError, match="layer 'x' is not adapted"):
        net.size(Structure({"x": FULL}))


def test_sampling_uses_only_the_generator_given() -> None:
    net = net_of()
    draws = [net.sample(random.Random(4)) for _ in range(2)]
    random.seed(1)
    assert net.sample(random.Random(4)) == draws[0] == draws[1]
    assert all(net.bound.contains(some_structure(net, seed)) for seed in range(50))


def test_evaluation_is_deterministic() -> None:
    net = random_net()
    net.activate(some_structure(net, 2))
    assert net(X).equal(net(X))
    assert net.eval()(X).equal(net.train()(X))


# Modes


def test_frozen_modules_stay_in_eval_mode() -> None:
    class Stats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)
            self.head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))

        def forward(self, x):
            return self.head(self.drop(self.norm(self.fc(x))))

    model = Stats().train()
    before = state(model)
    net = net_of(model)
    train(net)
    assert all(net.model.state_dict()[key].equal(before[key]) for key in before if not key.startswith("head."))
    assert int(net.model.head[0].num_batches_tracked) == 3
    net.train()
    assert net.training
    assert net.model.head[0].training
    assert not net.model.norm.training
    assert not net.model.drop.training
    net.eval()
    assert not net.model.head[0].training
    back = net.eject()
    assert all(module.training for module in back.modules())
    assert same(state(back), before)


def test_flags_are_given_back_as_they_were() -> None:
    model = MLP().eval()
    model.first.weight.requires_grad_(False)
    model.second.train()
    net = net_of(model)
    train(net)
    for plain in (net.merge(), net.merge(inplace=False, structure=Structure({"second": FULL})), net.eject()):
        assert not plain.first.weight.requires_grad
        assert plain.first.bias.requires_grad
        assert plain.second.training
        assert not plain.first.training


def test_layers_never_called_are_named() -> None:
    class Half(MLP):
        def forward(self, x):
            weight, bias = self.second.weight, self.second.bias
            return self.out(torch.nn.functional.linear(self.first(x), weight, bias))

    net = net_of(Half())
    assert net.uncalled() == ("first", "second")
    net(X)
    assert net.uncalled() == ("second",)
    assert copy.deepcopy(net).uncalled() == ("second",)
    full = net_of()
    with torch.no_grad(), full.folded(some_structure(full)):
        full(X)
    assert full.uncalled() == ()

"""The adapted linear layer among the rest of torch: checkpointing, copies, hooks, threads, transforms, export."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from equation import A_FORMS, close, oracle, oracle_gradients
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from glora.errors import TargetError
from glora.layers import AdaptedLinear
from glora.structure import LayerStructure
from helpers import FORMS, RANK, adapted, layer_structures, linear, random_gains, randomise, storage

# Around the layer


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_gradient_checkpointing_changes_nothing(reentrant: bool, route: str) -> None:
    layer = adapted(linear(4, 4))
    randomise(layer)
    for structure in layer_structures():
        layer.activate(structure)
        results = []
        for kept in (False, True):
            layer.zero_grad()
            x = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(5, 4).requires_grad_()
            twice = lambda x: layer(layer(x).tanh())  # noqa: E731
            y = checkpoint(twice, x, use_reentrant=reentrant) if kept else twice(x)
            y.square().sum().backward()
            results.append([y.detach(), x.grad, *(p.grad for p in layer.support.parameters())])
        for found, wanted in zip(*results, strict=True):
            assert (found is None) == (wanted is None)
            assert found is None or found.equal(wanted), str(structure)


@pytest.mark.parametrize("form", [dict(B="rank-1"), dict(A="vector"), dict(A="rank-1"), dict(B="scalar", E="scalar")])
def test_a_second_derivative_is_refused(form: dict[str, str]) -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(**form))
    # The sum has a gradient of ones, which needs none itself: there above all nothing may be dropped silently.
    for loss in (lambda y: y.sum(), lambda y: y.square().sum()):
        x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        (dx,) = torch.autograd.grad(loss(layer(x.tanh())), x, create_graph=True)
        with pytest.raises(TargetError, match="an adapted layer has no second derivative: merge it"):
            dx.square().sum().backward()


def test_first_derivatives_are_the_same_under_create_graph() -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(A="vector", B="rank-1", E="vector"))
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    over = [x, *(p for p in layer.support.parameters())]
    plain = torch.autograd.grad(layer(x).sum(), over, allow_unused=True)
    graph = torch.autograd.grad(layer(x).sum(), over, allow_unused=True, create_graph=True)
    for first, second in zip(plain, graph, strict=True):
        assert (first is None) == (second is None)
        assert first is None or first.equal(second)


def test_nothing_is_kept_without_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(A="vector", B="rank-1"))
    kept: list[object] = []
    monkeypatch.setattr("glora.layers.linear._save", lambda *given: kept.append(given))
    with torch.no_grad():
        layer(torch.randn(2, 3, dtype=torch.float64))
    assert not kept
    layer(torch.randn(2, 3, dtype=torch.float64))
    assert kept


def test_the_input_may_be_named_as_for_a_linear_layer() -> None:
    layer, x = adapted(linear(4, 3)), torch.randn(2, 3, dtype=torch.float64)
    assert layer(input=x).equal(layer(x))


def test_the_original_follows_parameters_that_are_replaced() -> None:
    layer = adapted(linear(4, 3))
    weight = torch.randn(4, 3, dtype=torch.float64)
    layer.load_state_dict({"weight": weight}, strict=False, assign=True)
    layer.weight.requires_grad_(False)
    assert layer.original.weight.equal(weight)
    assert layer.original.bias is layer.bias


@pytest.mark.skipif(torch.__version__ < "2.9", reason="torch 2.6 and 2.7 cannot trace a question about autocast")
def test_an_export_leaves_no_stand_ins_behind() -> None:
    layer = adapted(linear(4, 3).float()).eval()
    layer.activate(LayerStructure(A="rank-1"))
    x = torch.randn(2, 3)
    with torch.no_grad():
        exported = torch.export.export(layer, (x,)).module()
        assert type(layer(x)) is torch.Tensor
        assert exported(x).allclose(layer(x), atol=1e-6)


def test_on_the_meta_device() -> None:
    layer = adapted(linear(4, 3)).to("meta")
    layer.activate(LayerStructure(A="vector", B="rank-1", E="scalar"))
    y = layer(torch.empty(5, 3, dtype=torch.float64, device="meta"))
    assert y.shape == (5, 4)
    y.sum().backward()
    assert layer.support.A.grad.is_meta


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap], ids=["grad", "vmap"])
def test_torch_func_transforms_are_refused_clearly(transform) -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(B="rank-1"))
    with pytest.raises(RuntimeError, match="setup_context"):
        transform(lambda x: layer(x).sum())(torch.randn(2, 3, dtype=torch.float64))


def test_functional_call_uses_the_tensors_it_is_given(route: str) -> None:
    layer = adapted(linear(4, 3))
    randomise(layer)
    structure = LayerStructure(A="vector", B=f"rank-{RANK}", E="vector")
    layer.activate(structure)
    x = torch.randn(2, 3, dtype=torch.float64)
    other = {f"support.{name}": p.detach() + 0.5 for name, p in storage(layer).items()}
    found = torch.func.functional_call(layer, other, (x,))
    assert torch.allclose(found, oracle(x, layer, structure, {k.removeprefix("support."): v for k, v in other.items()}))
    assert not torch.allclose(found, layer(x))


def test_loading_by_assignment_is_seen() -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(E="vector"))
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    state["support.E"] += 1
    layer.load_state_dict(state, assign=True)
    x = torch.randn(2, 3, dtype=torch.float64)
    assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias) + 1)


@pytest.mark.parametrize("a", ["vector", f"rank-{RANK}", "none"])
def test_an_output_changed_in_place_either_works_or_is_refused(a: str, route: str) -> None:
    layer = adapted(linear(4, 3))
    randomise(layer)
    structure = LayerStructure(A=a, B=f"rank-{RANK}", E="vector")
    x, g = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    layer.activate(structure)
    y = layer(x)
    y += 1
    if a == "vector":
        with pytest.raises(TargetError, match="save_output = False"):
            y.backward(g)
        layer.save_output = False
        layer.zero_grad()
        y = layer(x)
        y += 1
    y.backward(g)
    _, _, wanted = oracle_gradients(x, g, layer, structure)
    for name, parameter in storage(layer).items():
        assert (parameter.grad is None) == (wanted[name] is None)
        assert parameter.grad is None or close(parameter.grad, wanted[name], 1e-11)


def test_an_in_place_relu_behind_the_layer() -> None:
    layer = adapted(linear(4, 3))
    randomise(layer)
    layer.save_output = False
    x = torch.randn(6, 3, dtype=torch.float64)
    for structure in layer_structures():
        grads = []
        for inplace in (False, True):
            layer.zero_grad()
            layer.activate(structure)
            if not structure.is_none:
                F.relu(layer(x), inplace=inplace).square().sum().backward()
            grads.append([p.grad for p in layer.support.parameters()])
        for found, wanted in zip(*grads, strict=True):
            assert (found is None) == (wanted is None)
            assert found is None or torch.allclose(found, wanted, atol=1e-12), str(structure)


def test_parameters_changed_between_forward_and_backward_are_noticed() -> None:
    layer = adapted(linear(4, 3))
    layer.activate(LayerStructure(B=f"rank-{RANK}"))
    y = layer(torch.randn(2, 3, dtype=torch.float64))
    with torch.no_grad():
        layer.support.get_parameter("B").add_(1)
    with pytest.raises((RuntimeError, TargetError), match=r"in.?place"):
        y.sum().backward()


def test_training_after_inference_mode(route: str) -> None:
    layer = adapted(linear(4, 3))
    for structure in layer_structures():
        if structure.is_none:
            continue
        layer.activate(structure)
        with torch.inference_mode():
            layer(torch.randn(2, 3, dtype=torch.float64))
        layer(torch.randn(2, 3, dtype=torch.float64)).sum().backward()


def test_two_backwards_through_one_graph(route: str) -> None:
    layer = adapted(linear(4, 3))
    randomise(layer)
    for structure in (LayerStructure(A=f"rank-{RANK}", B="rank-1"), LayerStructure(A="vector", B="vector", C="vector")):
        layer.activate(structure)
        layer.zero_grad()
        y = layer(torch.ones(2, 3, dtype=torch.float64)).sum()
        y.backward(retain_graph=True)
        once = {name: p.grad.clone() for name, p in storage(layer).items() if p.grad is not None}
        y.backward()
        assert all(storage(layer)[name].grad.equal(2 * grad) for name, grad in once.items())


def test_layers_that_share_scratch_do_not_disturb_each_other(weight_route: None) -> None:
    first = adapted(linear(4, 4, seed=1))
    second = AdaptedLinear(linear(4, 4, seed=2), FORMS, {}, first._scratch)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    for a, b in itertools.product(A_FORMS, A_FORMS):
        s, t = LayerStructure(A=a, B="vector", E="vector"), LayerStructure(A=b, B=f"rank-{RANK}", C="vector")
        for layer, structure in ((first, s), (second, t)):
            randomise(layer, seed=3)
            layer.zero_grad()
            layer.activate(structure)
        g = torch.ones(5, 4, dtype=torch.float64)
        second(first(x)).backward(g)
        leaves = [{n: p.detach().requires_grad_() for n, p in storage(layer).items()} for layer in (first, second)]
        middle = oracle(x, first, s, leaves[0])
        oracle(middle, second, t, leaves[1]).backward(g)
        for layer, own in zip((first, second), leaves, strict=True):
            for name, parameter in storage(layer).items():
                assert (parameter.grad is None) == (own[name].grad is None)
                assert parameter.grad is None or close(parameter.grad, own[name].grad, 1e-10), f"{name}: {s}, {t}"


def test_threads_do_not_share_scratch(weight_route: None) -> None:
    first = adapted(linear(64, 64, seed=1))
    second = AdaptedLinear(linear(64, 64, seed=2), FORMS, {}, first._scratch)
    x = torch.randn(8, 64, dtype=torch.float64)
    for layer in (first, second):
        randomise(layer)
        layer.activate(LayerStructure(A=f"rank-{RANK}"))
    wanted = [layer(x).detach() for layer in (first, second)]
    wrong: list[int] = []

    def work(layer: AdaptedLinear, value: Tensor) -> None:
        with torch.no_grad():
            wrong.append(sum(not layer(x).equal(value) for _ in range(300)))

    threads = [threading.Thread(target=work, args=pair) for pair in zip((first, second), wanted, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0, 0]


def test_copies_and_pickles_are_independent_and_equal() -> None:
    layer = adapted(linear(4, 3), gains=random_gains(0))
    randomise(layer)
    layer.activate(LayerStructure(A=f"rank-{RANK}", B="vector", C="vector", D="scalar", E="vector"))
    x = torch.randn(2, 3, dtype=torch.float64)
    wanted = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other(x).equal(wanted)
        randomise(other, seed=7)
        assert not other(x).equal(wanted)
        assert layer(x).equal(wanted)


def test_casting_moves_the_support_tensors_along() -> None:
    layer = adapted(linear(4, 3, dtype=torch.float32))
    randomise(layer)
    layer.activate(LayerStructure(A="vector", B=f"rank-{RANK}", E="vector"))
    x = torch.randn(2, 3)
    wanted = layer(x).double()
    assert close(layer.double()(x.double()), wanted, 1e-5)
    layer(x.double()).sum().backward()
    assert {p.grad.dtype for p in layer.support.parameters() if p.grad is not None} == {torch.float64}


def test_hooks_of_the_frozen_layer_keep_running_and_stay_with_it() -> None:
    module = linear(4, 3)
    seen: list[str] = []
    module.register_forward_hook(lambda *_: seen.append("before"))
    layer = adapted(module)
    layer.activate(LayerStructure(E="vector"))
    handle = layer.register_forward_hook(lambda *_: seen.append("after"))
    x = torch.randn(2, 3, dtype=torch.float64)
    layer(x)
    assert seen == ["before", "after"]
    plain = layer.plain(*layer.merged())
    plain(x)
    assert seen == ["before", "after"] * 2
    handle.remove()
    module(x)
    assert seen == ["before", "after"] * 2 + ["before"]

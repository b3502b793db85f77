"""Accuracy and loss against a count and a sum in float64, and what an evaluation leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import glora
from glora import GLoRAModel, LayerStructure, SearchSpace, Structure
from glora.data import Samples, TensorSamples
from glora.errors import DataError, StructureError
from glora.evaluate import Evaluator, evaluate, logits_of, predict_logits
from helpers import MLP, randomise, randomise_backbone, some_structure

pytestmark = pytest.mark.usefixtures("single_threaded")

COUNT = 53
X = torch.randn(COUNT, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 4, (COUNT,), generator=torch.Generator().manual_seed(2))
SAMPLES = TensorSamples(X, Y)


class Given(nn.Module):
    """Gives its input as logits, or what ``change`` makes of it."""

    def __init__(self, change: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.change = change
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.change(x)


def by_hand(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy by counting, cross-entropy from its definition."""
    table = logits.numpy().astype(np.float64)
    right, losses = 0, []
    for row, label in zip(table, labels.tolist(), strict=True):
        highest = row.max()
        right += int(row[label] == highest and not (row[:label] == highest).any())
        losses.append(highest + math.log(math.fsum(np.exp(row - highest))) - row[label])
    return right / len(table), math.fsum(losses) / len(table)


def net_of(model: nn.Module | None = None, space: SearchSpace | None = None) -> GLoRAModel:
    model = MLP() if model is None else model
    randomise_backbone(model)
    net = glora.adapt(model, space or SearchSpace.paper(2))
    randomise(net)
    return net


# The figures


@given(
    st.integers(1, 6).flatmap(
        lambda classes: st.lists(
            st.tuples(st.lists(st.floats(-300, 300, width=32), min_size=classes, max_size=classes), st.integers(0, 99)),
            min_size=1,
            max_size=30,
        )
    ),
    st.integers(1, 40),
)
def test_accuracy_and_loss_are_those_counted_by_hand(rows: list[tuple[list[float], int]], batch_size: int) -> None:
    logits = torch.tensor([row for row, _ in rows])
    labels = torch.tensor([label % len(row) for row, label in rows])
    accuracy, loss = by_hand(logits, labels)
    score = evaluate(Given(), TensorSamples(logits, labels), batch_size)
    assert score.accuracy == pytest.approx(accuracy, abs=1e-12)
    assert score.loss == pytest.approx(loss, rel=1e-9, abs=1e-9)
    assert score.samples == len(labels)


def test_a_model_is_evaluated_as_it_computes() -> None:
    model = MLP().eval()
    with torch.no_grad():
        x = X.double()
        for layer in (model.first, model.second):
            x = (x @ layer.weight.double().T + layer.bias.double()).clamp(min=0)
        logits = x @ model.out.weight.double().T + model.out.bias.double()
    accuracy, loss = by_hand(logits, Y)
    score = evaluate(model, SAMPLES)
    assert (score.accuracy, score.samples) == (accuracy, COUNT)
    assert score.loss == pytest.approx(loss, rel=1e-6)
    assert torch.allclose(predict_logits(model, SAMPLES).double(), logits, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 52, 53, 54, 1000])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    net = net_of()
    net.activate(some_structure(net))
    logits, wanted = predict_logits(net, SAMPLES, batch_size), predict_logits(net, SAMPLES)
    assert torch.allclose(logits, wanted, rtol=1e-5, atol=1e-6)
    score = evaluate(net, SAMPLES, batch_size)
    assert score.accuracy == evaluate(net, SAMPLES).accuracy
    assert score.loss == pytest.approx(evaluate(net, SAMPLES).loss, rel=1e-6)


def test_samples_are_read_once_each_and_in_order() -> None:
    class Read(Samples):
        labels = Y
        seen: list[list[int]] = []  # noqa: RUF012

        def inputs(self, indices: Tensor) -> Tensor:
            self.seen.append(indices.tolist())
            return X[indices]

        def to(self, device: torch.device | str) -> Read:
            return self

    evaluate(MLP(), Read(), batch_size=20)
    assert Read.seen == [list(range(20)), list(range(20, 40)), list(range(40, 53))]


def test_logits_come_out_in_float32() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        logits = predict_logits(MLP().to(dtype), TensorSamples(X.to(dtype), Y))
        assert (logits.dtype, logits.shape, logits.requires_grad) == (torch.float32, (COUNT, 4), False)


def test_bf16_is_near_float32_and_computed_in_bf16() -> None:
    model, dtypes = MLP(), []
    model.first.register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))
    found, wanted = evaluate(model, SAMPLES, precision="bf16"), evaluate(model, SAMPLES)
    assert dtypes == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    assert found.loss != wanted.loss
    assert found.loss == pytest.approx(wanted.loss, rel=0.02)


def test_a_loss_that_is_not_finite_is_a_failed_score() -> None:
    assert evaluate(Given(lambda x: x * math.nan), SAMPLES).failed
    assert not evaluate(Given(), SAMPLES).failed


def test_an_active_structure_is_evaluated_as_it_acts() -> None:
    net = net_of()
    scores = set()
    for seed in range(8):
        net.activate(some_structure(net, seed))
        with torch.no_grad():
            accuracy, loss = by_hand(net(X), Y)
        score = evaluate(net, SAMPLES)
        assert score.accuracy == accuracy
        assert score.loss == pytest.approx(loss, rel=1e-6)
        scores.add(score.loss)
    assert len(scores) == 8


# What models may give


def test_an_object_with_logits_is_read() -> None:
    wanted = evaluate(MLP(), SAMPLES)

    class Output(MLP):
        def forward(self, x: Tensor) -> Any:
            return SimpleNamespace(logits=super().forward(x), loss=None)

    assert evaluate(Output(), SAMPLES) == wanted
    assert evaluate(net_of(Output(), glora.presets.frozen()), SAMPLES) == evaluate(
        net_of(MLP(), glora.presets.frozen()), SAMPLES
    )


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda x: (x, x), "tuple"),
        (lambda x: {"logits": x}, "dict"),
        (lambda x: SimpleNamespace(logits=None), "SimpleNamespace"),
        (lambda x: SimpleNamespace(logits=[1.0]), "SimpleNamespace"),
        (lambda x: x.tolist(), "list"),
        (lambda x: None, "NoneType"),
    ],
)
def test_what_holds_no_logits_is_refused(change: Callable[[Tensor], Any], kind: str) -> None:
    with pytest.raises(DataError, match=rf"the model gives a {kind}: neither a tensor nor an object with \.logits"):
        evaluate(Given(change), SAMPLES)
    with pytest.raises(DataError, match=rf"the model gives a {kind}: neither"):
        logits_of(change(X))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, 0],
        lambda x: x[:, None, :].expand(-1, 7, -1),
        lambda x: x[:-1],
    ],
    ids=["no classes", "tokens", "one too few"],
)
def test_a_tensor_that_holds_no_logits_of_each_sample_is_refused(change: Callable[[Tensor], Any]) -> None:
    with pytest.raises(DataError, match=r"the model gives|logits"):
        evaluate(Given(change), SAMPLES, batch_size=COUNT)


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="there are no samples to evaluate on"):
        evaluate(MLP(), TensorSamples(X[:0], Y[:0]))


@pytest.mark.parametrize("label", [4, 9])
def test_a_label_without_a_logit_is_refused(label: int) -> None:
    labels = Y.clone()
    labels[17] = label
    with pytest.raises(DataError, match=f"label {label} has no logit: the model's head has 4 outputs"):
        evaluate(MLP(), TensorSamples(X, labels))


# What is left behind


class Modes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.fc = nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 13:
            raise RuntimeError("thirteen is bad luck")
        return self.fc(self.drop(self.norm(x)))


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_the_modes_of_all_modules_come_back_also_after_an_error(flags: list[bool]) -> None:
    model = Modes()
    for module, flag in zip(model.modules(), flags, strict=True):
        module.training = flag
    before, buffers = modes(model), [b.clone() for b in model.buffers()]
    first = evaluate(model, SAMPLES)
    assert modes(model) == before
    assert evaluate(model, SAMPLES) == first == evaluate(model.eval(), SAMPLES)
    for module, flag in zip(model.modules(), flags, strict=True):
        module.training = flag
    with pytest.raises(RuntimeError, match="thirteen is bad luck"):
        evaluate(model, SAMPLES, batch_size=20)
    assert modes(model) == before
    assert all(a.equal(b) for a, b in zip(buffers, model.buffers(), strict=True))


def test_gradients_and_generators_are_left_alone() -> None:
    model, before = Modes().train(), torch.get_rng_state()
    evaluate(model, SAMPLES)
    assert torch.get_rng_state().equal(before)
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


def test_a_net_in_training_mode_stays_in_it() -> None:
    net = net_of().train()
    before = modes(net)
    assert before[""]
    assert before["model.out"]
    evaluate(net, SAMPLES)
    assert modes(net) == before


# The bridge to a search


@pytest.mark.parametrize("seed", range(6))
def test_a_structure_scores_what_its_merged_model_does(seed: int) -> None:
    net = net_of()
    evaluator = Evaluator(net, SAMPLES, batch_size=20)
    structure = some_structure(net, seed)
    score = evaluator(structure)
    assert score == evaluate(net.merge(structure), SAMPLES, batch_size=20) == evaluator(structure)
    with net.using(structure):
        unfolded = evaluate(net, SAMPLES)
    assert score.accuracy == unfolded.accuracy
    assert score.loss == pytest.approx(unfolded.loss, rel=1e-4)


def test_a_vit_scores_what_its_merged_model_does() -> None:
    net = net_of(timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=4), SearchSpace(2))
    samples = TensorSamples(torch.randn(COUNT, 3, 32, 32), Y)
    structure = some_structure(net)
    assert Evaluator(net, samples)(structure) == evaluate(net.merge(structure), samples)
    assert Evaluator(net, samples)(Structure()) != evaluate(net.merge(structure), samples)


def test_scoring_leaves_the_net_as_it_was() -> None:
    net = net_of()
    active = some_structure(net, 1)
    net.activate(active)
    net.train()
    tensors, wanted, before = {k: v.clone() for k, v in net.state_dict().items()}, net(X), modes(net)
    evaluator = Evaluator(net, SAMPLES)
    for seed in range(5):
        evaluator(some_structure(net, seed))
        assert net.active == active
    assert net(X).equal(wanted)
    assert modes(net) == before
    assert all(value.equal(tensors[key]) for key, value in net.state_dict().items())


def test_scoring_leaves_the_net_as_it_was_also_after_an_error() -> None:
    net = net_of()
    active = some_structure(net, 1)
    net.activate(active)
    wanted, before = net(X), modes(net)
    other = some_structure(net, 2)
    for labels, error in ((Y + 4, "label 7 has no logit"), (Y[:0], "there are no samples")):
        with pytest.raises(DataError, match=error):
            Evaluator(net, TensorSamples(X[: len(labels)], labels))(other)
        assert net.active == active
    with pytest.raises(RuntimeError, match=r"mat1 and mat2|size"):
        Evaluator(net, TensorSamples(X[:, :5], Y))(other)
    with pytest.raises(StructureError, match="first: B=rank-9 has no storage here"):
        Evaluator(net, SAMPLES)(Structure({"first": LayerStructure(B="rank-9")}))
    assert net.active == active
    assert net(X).equal(wanted)
    assert modes(net) == before


def test_precision_and_batch_size_are_used() -> None:
    net = net_of()
    structure = some_structure(net)
    sizes: list[tuple[int, torch.dtype]] = []
    net.model.out.register_forward_hook(lambda _, given, out: sizes.append((len(given[0]), out.dtype)))
    score = Evaluator(net, SAMPLES, 30, "bf16")(structure)
    assert sizes == [(30, torch.bfloat16), (23, torch.bfloat16)]
    assert score == evaluate(net.merge(structure), SAMPLES, 30, "bf16")

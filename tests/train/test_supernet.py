"""Training of a supernet against a float64 loop written out in supernets.py, and what it leaves alone."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from supernets import BATCH, COUNT, SHORT, HandWritten, Mixed, Watched, X, Y, net_of, rate, read_by, same, state
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import glora
from glora import GLoRAModel, LayerStructure, SearchSpace, Structure, TrainSettings, presets, train_supernet
from glora.data import TensorSamples
from glora.errors import ConfigError, TargetError
from glora.evaluate import Evaluator
from glora.structure import Form
from glora.support import Storage
from glora.train import EpochRecord
from helpers import MLP, randomise_backbone

pytestmark = pytest.mark.usefixtures("single_threaded")


# The loop, written out


SPACES = {
    "lora": presets.lora(2),
    "ssf": presets.ssf(),
    "ia3": presets.ia3(),
    "bitfit": presets.bitfit(),
    "prompt": presets.prompt(),
    "repadapter": presets.repadapter(2),
    "frozen": presets.frozen(),
    "supernet": SearchSpace(2),
    "paper": SearchSpace.paper(3),
}


@pytest.mark.parametrize("gains", ["balanced", "paper"])
@pytest.mark.parametrize("space", SPACES)
def test_training_is_the_plain_loop(space: str, gains: Any) -> None:
    settings = TrainSettings(epochs=20, warmup_epochs=3, batch_size=BATCH, lr=5e-3, min_lr=1e-4, weight_decay=0.05)
    net = net_of(MLP().double(), SPACES[space], gains=gains)
    oracle, data = HandWritten(net), Watched(net, X.double())
    losses: list[float] = []
    records = train_supernet(net, data, settings=settings, on_step=lambda *step: losses.append(step[2]))
    steps = -(-COUNT // BATCH)
    wanted = [
        oracle.step(X[batch], Y[batch], structure, rate(settings, i, steps), settings.weight_decay)
        for i, (batch, structure) in enumerate(data.read)
    ]
    assert len(wanted) == settings.epochs * steps
    assert losses == pytest.approx(wanted, rel=1e-5)
    assert wanted[-1] < wanted[0]
    assert [r.loss for r in records] == pytest.approx(np.reshape(wanted, (-1, steps)).mean(1).tolist(), rel=1e-5)
    assert [r.lr for r in records] == pytest.approx([rate(settings, (e + 1) * steps - 1, steps) for e in range(20)])
    found = net.adapter_parameters() | net.head_parameters()
    assert all(torch.allclose(found[name], p, rtol=1e-4, atol=1e-6) for name, p in oracle.trained.items())


def test_every_step_draws_a_structure_and_every_epoch_a_new_order() -> None:
    net = net_of()
    data = Watched(net, X)
    train_supernet(net, data, settings=TrainSettings(epochs=6, batch_size=BATCH))
    orders = [[i for batch, _ in data.read[first : first + 5] for i in batch] for first in range(0, 30, 5)]
    assert {len(batch) for batch, _ in data.read} == {4, 5}
    assert all(sorted(order) == list(range(COUNT)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    assert len({structure for _, structure in data.read}) == 30
    assert all(net.bound.contains(structure) for _, structure in data.read)


def test_callbacks_are_told_every_step_and_epoch() -> None:
    told: list[tuple[int, int, float]] = []
    epochs: list[EpochRecord] = []
    records = train_supernet(
        net_of(), (X, Y), (X, Y), SHORT, on_step=lambda *step: told.append(step), on_epoch=epochs.append
    )
    assert tuple(epochs) == records
    assert [(step, steps) for step, steps, _ in told] == [(i + 1, 20) for i in range(20)]
    assert [(r.epoch, r.step) for r in records] == [(1, 5), (2, 10), (3, 15), (4, 20)]
    means = [math.fsum(loss for *_, loss in told[i : i + 5]) / 5 for i in range(0, 20, 5)]
    assert [r.loss for r in records] == pytest.approx(means, rel=1e-12)
    assert [set(r.to_dict()) - {"epoch", "step", "loss", "lr"} for r in records] == [set(), {"probes"}] * 2


def test_data_may_come_as_samples_tensors_or_a_dataset() -> None:
    nets = [net_of() for _ in range(3)]
    for net, data in zip(nets, (TensorSamples(X, Y), (X, Y), TensorDataset(X, Y)), strict=True):
        train_supernet(net, data, data, SHORT)
    assert same(nets[0], nets[1])
    assert same(nets[0], nets[2])


def test_a_model_may_give_an_object_with_logits() -> None:
    class Output(MLP):
        def forward(self, x: Tensor) -> Any:
            return SimpleNamespace(logits=super().forward(x), hidden_states=None)

    nets = [net_of(), net_of(Output())]
    records = [train_supernet(net, (X, Y), (X, Y), SHORT) for net in nets]
    assert same(*nets)
    assert records[0] == records[1]


# What is trained and what is not


def test_frozen_weights_and_statistics_do_not_move() -> None:
    net = net_of(Mixed().train())
    modes: set[tuple[str, bool]] = set()
    for name, module in net.model.named_modules():
        if isinstance(module, (nn.BatchNorm1d, nn.Dropout)):
            module.register_forward_hook(lambda module, _, __, name=name: modes.add((name, module.training)))
    before = state(net)
    train_supernet(net, (X, Y), settings=SHORT)
    after = state(net)
    frozen = set(net.frozen_tensors())
    assert frozen >= {"fc.weight", "fc.bias", "norm.weight", "norm.running_mean", "norm.num_batches_tracked", "scale"}
    assert all(after[key].equal(before[key]) for key in frozen)
    assert modes == {("norm", False), ("drop", False), ("head.0", True), ("head.1", True)}
    assert int(after["head.0.num_batches_tracked"]) == 20
    assert all(not after[key].equal(before[key]) for key in net.head_parameters())
    assert not any(module.training for module in net.modules())


def test_the_pretrained_model_comes_back_after_training() -> None:
    model = Mixed().train()
    randomise_backbone(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    net = glora.adapt(model, SearchSpace(2))
    train_supernet(net, (X, Y), settings=SHORT)
    assert not net.model.head[2].weight.equal(before["head.2.weight"])
    back = net.eject().state_dict()
    assert list(back) == list(before)
    assert all(back[key].equal(before[key]) for key in before)


@pytest.mark.parametrize("storage", ["shared", "separate"])
def test_a_step_updates_the_active_tensors_and_the_head_and_nothing_else(storage: Storage) -> None:
    net = net_of(storage=storage)
    before = state(net)
    changed_ever: set[str] = set()
    used_ever: set[str] = set()

    def check(*_: object) -> None:
        acting = [(name, *one) for name, layer in net.active.items() for one in layer.items() if one[1] != Form.NONE]
        active = {part for one in acting for part in read_by(net.adapter_parameters(), *one)}
        trained = active | {"out.weight", "out.bias"}
        assert {name for name, p in net.model.named_parameters() if p.grad is not None} == trained
        after = state(net)
        changed = {key for key in after if not after[key].equal(before[key])}
        assert changed <= trained
        assert {"out.weight", "out.bias"} <= changed
        changed_ever.update(changed)
        used_ever.update(trained)
        before.update(after)

    train_supernet(net, (X, Y), settings=TrainSettings(epochs=15, batch_size=BATCH, lr=1e-2), on_step=check)
    assert changed_ever == used_ever == {*net.adapter_parameters(), *net.head_parameters()}


def test_a_model_without_a_trained_head_trains_too() -> None:
    """A draw in which no support tensor acts leaves nothing to step; with one layer that happens soon."""
    net = net_of(space=SearchSpace(2, A="none", B="none", C="none", D="none"), layers=["first"], head=False)
    before = state(net)
    records = train_supernet(net, (X, Y), settings=TrainSettings(epochs=3, batch_size=BATCH, lr=1e-2))
    after = state(net)
    assert {key for key in after if not after[key].equal(before[key])} == {"first.support.E"}
    assert all(math.isfinite(record.loss) for record in records)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(TargetError, match="nothing to train: there is no adapter parameter and no head"):
        train_supernet(net_of(space=presets.frozen(), head=False), (X, Y), settings=SHORT)


# Precision


def test_bf16_keeps_support_tensors_and_head_in_float32() -> None:
    nets, losses = {}, {}
    for precision in ("fp32", "bf16"):
        net = nets[precision] = net_of()
        dtypes = set()
        net.model.first.register_forward_hook(lambda _, __, out, dtypes=dtypes: dtypes.add(out.dtype))

        def check(*_: object, net: GLoRAModel = net) -> None:
            trained = [*net.adapter_parameters().values(), *net.head_parameters().values()]
            assert {p.dtype for p in trained} == {p.grad.dtype for p in trained if p.grad is not None}
            assert {p.dtype for p in trained} == {torch.float32}

        settings = TrainSettings(epochs=4, batch_size=BATCH, lr=1e-2, precision=precision)
        losses[precision] = [r.loss for r in train_supernet(net, (X, Y), (X, Y), settings, on_step=check)]
        assert dtypes == {torch.float32 if precision == "fp32" else torch.bfloat16}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU: use precision=bf16 or fp32 on a CPU"):
        train_supernet(net_of(), (X, Y), settings=TrainSettings(batch_size=BATCH, precision="fp16"))


# Whether it learns


def test_the_supernet_of_a_small_vit_learns_its_training_set() -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=3, drop_path_rate=0.1)
    images, labels = torch.randn(24, 3, 32, 32), torch.arange(24) % 3
    net = glora.adapt(vit, SearchSpace(4))
    settings = TrainSettings(epochs=25, batch_size=8, lr=3e-3, probes=2, evaluations=1)
    records = train_supernet(net, (images, labels), (images, labels), settings)
    assert records[-1].loss < 0.5 * records[0].loss
    assert set(records[-1].probes or {}) == {"smallest", "largest", "random-0", "random-1"}
    assert min((records[-1].probes or {}).values()) > 0.9
    scored = Evaluator(net, TensorSamples(images, labels))
    assert scored(Structure({name: LayerStructure(B="rank-4") for name in net.layers})).accuracy > 0.9

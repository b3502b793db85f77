"""Peers in the supernet's training loop: the same batches and steps, resumed exactly, scored on validation images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from vits import CLASSES, SETTINGS, SIDE, vit

import glora
from glora import TrainSettings, presets
from glora.backbones import Backbone
from glora.data import LabelledData, Samples, TensorSamples
from glora.errors import CheckpointError
from glora.peers import PEERS, TrainedPeer, peer, train_peer
from glora.train import fit
from glora.train.schedule import image_order, learning_rate

COUNT, BATCH = 18, 4
IMAGES = torch.randn(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(COUNT) % CLASSES
SHORT = TrainSettings(epochs=3, batch_size=BATCH, lr=1e-2, evaluations=1)


@pytest.fixture
def _every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every epoch, however short."""
    monkeypatch.setattr("glora.train.supernet._CHECKPOINT_SECONDS", 0.0)


class Watched(Samples):
    """Samples that write down which are read."""

    def __init__(self) -> None:
        self.labels, self.read = LABELS, []

    def inputs(self, indices: Tensor) -> Tensor:
        self.read.append(indices.tolist())
        return IMAGES[indices]

    def to(self, device: torch.device | str) -> Watched:
        return self


def backbone() -> Backbone:
    return Backbone(vit(), "small", {"size": SIDE}, "random", "head")


def data() -> LabelledData:
    train, val = TensorSamples(IMAGES, LABELS), TensorSamples(IMAGES[:10] + 0.1, LABELS[:10])
    return LabelledData("noise", tuple("abcde"), train, val, "digest", "tensors", None, (), None, False)


def trained(name: str, settings: TrainSettings = SHORT, state: Path | None = None, **more: Any) -> TrainedPeer:
    options = SETTINGS.get(name, {})
    return train_peer(name, backbone(), data(), settings, options=options, state=state, **more)


def own(result: TrainedPeer) -> dict[str, Tensor]:
    return {**result.net.adapter_parameters(), **result.net.head_parameters()}


@pytest.mark.parametrize("name", PEERS)
def test_training_is_adamw_on_the_supernets_batches(name: str) -> None:
    result = trained(name, TrainSettings(epochs=3, batch_size=BATCH, lr=1e-2, seed=4))
    net = peer(name, vit(), seed=4, **SETTINGS.get(name, {}))
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=1e-4)
    settings = TrainSettings(epochs=3, batch_size=BATCH, lr=1e-2, seed=4)
    steps = -(-COUNT // BATCH)
    for epoch in range(3):
        order = image_order(COUNT, 4, epoch)
        for i, batch in enumerate(np.array_split(order, steps)):
            optimizer.param_groups[0]["lr"] = learning_rate(settings, epoch + i / steps)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(IMAGES[batch]), LABELS[batch]).backward()
            optimizer.step()
    found, wanted = own(result), {**net.adapter_parameters(), **net.head_parameters()}
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        assert torch.allclose(value, wanted[key], atol=2e-4, rtol=2e-3), key
    assert result.size == net.size
    net.eval()
    accuracy = (net(IMAGES[:10] + 0.1).argmax(1) == LABELS[:10]).double().mean().item()
    assert result.accuracy == pytest.approx(accuracy)
    assert result.seconds > 0
    assert not result.net.training


def test_batches_are_those_of_the_supernet() -> None:
    reads = []
    for net in (glora.adapt(vit(), glora.SearchSpace(2)), peer("adapter", vit(), hidden=4)):
        samples = Watched()
        fit(net, samples, settings=SHORT)
        reads.append(samples.read)
    assert reads[0] == reads[1]
    assert len(reads[0]) == 3 * -(-COUNT // BATCH)


def test_a_point_of_the_space_is_trained_as_the_preset_is() -> None:
    net = glora.adapt(vit(), presets.lora(2), "*.qkv", gains="paper")
    glora.train_supernet(net, TensorSamples(IMAGES, LABELS), settings=SHORT)
    found, wanted = own(trained("lora")), {**net.adapter_parameters(), **net.head_parameters()}
    assert found.keys() == wanted.keys()
    assert all(value.equal(wanted[key]) for key, value in found.items())


@pytest.mark.usefixtures("_every_epoch")
@pytest.mark.parametrize("name", ["full", "bitfit", "ia3", "fact-tk", "adaptformer", "vpt-deep", "peft-dora"])
def test_a_training_that_was_stopped_goes_on_to_the_same_end(name: str, tmp_path: Path) -> None:
    whole = trained(name)
    state = tmp_path / "state.safetensors"

    def stop(record: Any) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(name, state=state, on_epoch=stop)
    seen: list[int] = []
    again = trained(name, state=state, on_epoch=lambda record: seen.append(record.epoch))
    assert seen == [1, 2, 3]
    assert all(value.equal(own(whole)[key]) for key, value in own(again).items())
    assert again.accuracy == whole.accuracy


@pytest.mark.usefixtures("_every_epoch")
def test_a_state_of_another_method_or_setting_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    train_peer("adaptformer", backbone(), data(), SHORT, options={"hidden": 4}, state=state)
    with pytest.raises(CheckpointError, match="was trained with settings of the method=others"):
        train_peer("adaptformer", backbone(), data(), SHORT, options={"hidden": 4, "scale": 1.0}, state=state)
    with pytest.raises(CheckpointError, match="was trained with method=adaptformer, now it is adapter"):
        train_peer("adapter", backbone(), data(), SHORT, options={"hidden": 4}, state=state)


def test_dropout_acts_in_training_and_is_decided_by_the_seed() -> None:
    def run(dropout: float) -> dict[str, Tensor]:
        options = {"hidden": 4, "dropout": dropout}
        return own(train_peer("adaptformer", backbone(), data(), SHORT, options=options))

    dropped, same, plain = run(0.5), run(0.5), run(0.0)
    assert all(value.equal(same[key]) for key, value in dropped.items())
    assert any(not value.equal(plain[key]) for key, value in dropped.items())


def test_statistics_move_only_where_the_whole_model_is_trained(tmp_path: Path) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 6), nn.BatchNorm1d(6))
        model = nn.Sequential()
        model.add_module("body", body)
        model.add_module("head", nn.Linear(6, CLASSES))
        return model.eval()

    samples = TensorSamples(IMAGES, LABELS)
    full, linear = peer("full", net()), peer("linear", net())
    fit(full, samples, settings=SHORT)
    fit(linear, samples, settings=SHORT)
    before = net().state_dict()
    key = "body.2.running_mean"
    assert linear.model.state_dict()[key].equal(before[key])
    assert not full.model.state_dict()[key].equal(before[key])
    full.save(tmp_path / "full.safetensors")
    again = glora.peers.load_peer(net(), tmp_path / "full.safetensors")
    assert again.model.state_dict()[key].equal(full.model.state_dict()[key])
    assert again(IMAGES).equal(full(IMAGES))

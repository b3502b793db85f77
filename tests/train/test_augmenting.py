"""What a training with augmented images shows the model, and that one seed gives one result all the same."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from supernets import raise_at, same
from test_distributed import GROUP, run_two
from torch import Tensor, nn

import glora
from data.pictures import picture
from glora import GLoRAModel, SearchSpace, TrainSettings, train_supernet
from glora.data import ImageSamples, Preprocessing, TensorSamples
from glora.errors import CheckpointError, DataError
from glora.train import EpochRecord
from oracles.augmented import noah, seeded

pytestmark = pytest.mark.usefixtures("single_threaded")

SIZE, COUNT = 8, 13
HOW = Preprocessing(size=SIZE)
PICTURES = [picture(index, 20 + index, 17) for index in range(2 * COUNT)]
SETTINGS = TrainSettings(epochs=4, batch_size=5, lr=1e-2, evaluations=2, probes=1, seed=3, augment="randaugment")


class Flat(nn.Module):
    """Two layers and a head on pixels."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.first, self.second = nn.Linear(3 * SIZE**2, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x.flatten(1))))))


def net_of() -> GLoRAModel:
    return glora.adapt(Flat(), SearchSpace(2), num_classes=4)


def samples(first: int = 0) -> ImageSamples:
    return ImageSamples(PICTURES[first : first + COUNT], [index % 4 for index in range(COUNT)], HOW)


def outcome(net: GLoRAModel, settings: TrainSettings, **options: Any) -> dict[str, Any]:
    losses: list[float] = []
    records = train_supernet(
        net, samples(), samples(COUNT), settings, on_step=lambda *step: losses.append(step[2]), **options
    )
    parameters = {name: p.detach().clone() for name, p in (net.adapter_parameters() | net.head_parameters()).items()}
    return {"losses": losses, "records": [record.to_dict() for record in records], "parameters": parameters}


def rows(images: Tensor) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images)


class Shown:
    """What a model has seen: in training, and in evaluation."""

    def __init__(self, net: GLoRAModel) -> None:
        self.trained: list[Tensor] = []
        self.evaluated: list[Tensor] = []
        net.model.register_forward_pre_hook(self._note)

    def _note(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        (self.trained if torch.is_grad_enabled() else self.evaluated).append(inputs[0].detach().clone())


@pytest.mark.parametrize("consistency", [0.0, 1.0])
def test_every_epoch_shows_each_image_as_timm_makes_it_by_seed_epoch_and_place(consistency: float) -> None:
    net = net_of()
    shown = Shown(net)
    train_supernet(net, samples(), samples(COUNT), replace(SETTINGS, consistency=consistency))
    steps = -(-COUNT // 5)
    assert len(shown.trained) == 4 * steps
    for epoch in range(4):
        wanted = []
        for place in range(COUNT):
            number = random.Random(f"augment 3 {epoch} {place}").getrandbits(32)
            wanted.append(seeded(noah(SIZE), PICTURES[place], number))
        assert rows(torch.cat(shown.trained[epoch * steps : (epoch + 1) * steps])) == rows(torch.stack(wanted))
    if consistency:  # without gradients: the second structure is given the same batches
        assert all(any(torch.equal(batch, one) for one in shown.evaluated) for batch in shown.trained)
    else:
        plain = set(rows(samples(COUNT).inputs(torch.arange(COUNT))))
        assert {row for batch in shown.evaluated for row in rows(batch)} == plain


def test_without_augmentation_all_is_as_on_the_same_tensors() -> None:
    assert TrainSettings().augment == "none"
    plain = replace(SETTINGS, augment="none")
    images, tensors = net_of(), net_of()
    found = train_supernet(images, samples(), None, plain)
    inputs = samples().inputs(torch.arange(COUNT))
    wanted = train_supernet(tensors, TensorSamples(inputs, samples().labels), None, plain)
    assert found == wanted
    assert same(images, tensors)


def test_tensors_cannot_be_augmented() -> None:
    data = TensorSamples(torch.randn(COUNT, 3, SIZE, SIZE), samples().labels)
    for augment in ("flip", "randaugment"):
        with pytest.raises(DataError, match=f"^augment={augment} is for images, which these samples are not: use "):
            train_supernet(net_of(), data, None, replace(SETTINGS, augment=augment))


def test_one_seed_gives_one_result_whatever_the_generators_are_at() -> None:
    found = []
    for start in (1, 2):
        random.seed(start), np.random.seed(start), torch.manual_seed(start)
        before = random.getstate(), torch.get_rng_state()
        found.append(net_of())
        train_supernet(found[-1], samples(), None, SETTINGS)
        assert random.getstate() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])
    assert same(*found)
    for change in ({"seed": 4}, {"augment": "crop"}, {"augment": "none"}):
        other = net_of()
        train_supernet(other, samples(), None, replace(SETTINGS, **change))
        assert not same(found[0], other)


@pytest.mark.usefixtures("_every_epoch")
@pytest.mark.parametrize("augment", ["flip", "randaugment"])
def test_a_resumed_training_is_one_never_interrupted(augment: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS, augment=augment)
    whole, parts = net_of(), net_of()
    wanted = train_supernet(whole, samples(), samples(COUNT), settings)
    with pytest.raises(RuntimeError, match="enough"):  # in the middle of the third epoch
        train_supernet(parts, samples(), samples(COUNT), settings, state=tmp_path / "s", on_step=raise_at(8))
    random.random(), np.random.rand(), torch.rand(3)
    parts, seen = net_of(), list[EpochRecord]()
    found = train_supernet(
        parts, samples(), samples(COUNT), settings, state=tmp_path / "s", on_epoch=seen.append, on_step=raise_at(7)
    )
    assert found == tuple(seen) == wanted
    assert same(parts, whole)


@pytest.mark.usefixtures("_every_epoch")
def test_a_training_with_another_augmentation_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="enough"):
        train_supernet(net_of(), samples(), None, SETTINGS, state=tmp_path / "s", on_epoch=raise_at(1))
    with pytest.raises(CheckpointError, match="was trained with augment=randaugment, now it is crop: use another"):
        train_supernet(net_of(), samples(), None, replace(SETTINGS, augment="crop"), state=tmp_path / "s")


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    code = """
from test_augmenting import SETTINGS, net_of, outcome
torch.save(outcome(net_of(), SETTINGS), out)
"""
    first, second = run_two(GROUP + code, tmp_path, {**os.environ, "OMP_NUM_THREADS": "1"})
    wanted = outcome(net_of(), SETTINGS)
    assert first["losses"] == second["losses"] == pytest.approx(wanted["losses"], rel=1e-5)
    for name, value in wanted["parameters"].items():
        assert torch.equal(first["parameters"][name], second["parameters"][name])
        torch.testing.assert_close(first["parameters"][name], value, rtol=1e-3, atol=2e-5)

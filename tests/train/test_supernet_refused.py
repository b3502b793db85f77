"""Data, models and losses that a supernet cannot be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from supernets import BATCH, COUNT, SHORT, Watched, X, Y, net_of, same, state
from torch import Tensor, nn

from glora import TrainSettings, train_supernet
from glora.data import TensorSamples
from glora.errors import DataError, GloraError, TargetError
from glora.train import EpochRecord
from helpers import MLP

pytestmark = pytest.mark.usefixtures("single_threaded")


def test_data_that_does_not_fill_a_batch_is_one() -> None:
    data = Watched(net := net_of(), X)
    train_supernet(net, data, settings=TrainSettings(epochs=2, batch_size=100))
    assert [sorted(batch) for batch, _ in data.read] == [list(range(COUNT))] * 2


def test_no_data_is_refused() -> None:
    net = net_of()
    before = state(net)
    with pytest.raises(DataError, match="there are no training images"):
        train_supernet(net, TensorSamples(X[:0], []), settings=TrainSettings(batch_size=24))
    assert same(net, before)


@pytest.mark.parametrize("place", [0, COUNT - 1])
def test_a_label_beyond_the_head_is_refused(place: int) -> None:
    net, labels = net_of(), Y.clone()
    labels[place] = 4
    before = state(net)
    with pytest.raises(DataError, match=r"gives \[5, 4\] and the highest label is 4: create it with num_classes=5"):
        train_supernet(net, (X, labels), settings=SHORT)
    assert same(net, before)


def test_a_label_beyond_the_head_in_the_validation_data_is_refused() -> None:
    with pytest.raises(DataError, match="label 7 has no logit: the model's head has 4 outputs"):
        train_supernet(net_of(), (X, Y), (X, Y + 4), SHORT)


def test_a_model_that_gives_no_logits_of_a_batch_is_refused() -> None:
    class Tokens(MLP):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).unsqueeze(1)

    class Pair(MLP):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), None

    with pytest.raises(DataError, match=r"the model gives \[5, 1, 4\] and the highest label is 3"):
        train_supernet(net_of(Tokens()), (X, Y), settings=SHORT)
    with pytest.raises(DataError, match=r"gives a tuple: neither a tensor nor an object with \.logits"):
        train_supernet(net_of(Pair()), (X, Y), settings=SHORT)


def test_a_layer_that_is_never_called_is_refused() -> None:
    class Half(MLP):
        def forward(self, x: Tensor) -> Tensor:
            weight, bias = self.second.weight, self.second.bias
            return self.out(nn.functional.linear(self.first(x), weight, bias))

    net = net_of(Half())
    before = state(net)
    with pytest.raises(TargetError, match="never calls 1 adapted layers, the first is second: it uses their weights"):
        train_supernet(net, (X, Y), settings=SHORT)
    assert same(net, before)
    assert len(train_supernet(net_of(Half(), layers=["first"]), (X, Y), settings=SHORT)) == 4


@pytest.mark.usefixtures("_every_epoch")
def test_a_loss_that_is_not_finite_stops_the_training_and_the_last_checkpoint_is_good(tmp_path: Path) -> None:
    net, whole = net_of(), net_of()

    def spoil(record: EpochRecord) -> None:
        if record.epoch == 2:
            with torch.no_grad():
                net.model.out.weight[0, 0] = float("nan")

    with pytest.raises(GloraError, match=r"the loss of epoch 3 is nan: lower lr \(0\.01\)"):
        train_supernet(net, (X, Y), settings=SHORT, state=tmp_path / "s", on_epoch=spoil)
    net = net_of()
    found = train_supernet(net, (X, Y), settings=SHORT, state=tmp_path / "s")
    assert found == train_supernet(whole, (X, Y), settings=SHORT)
    assert same(net, whole)


def test_a_diverging_training_is_stopped() -> None:
    settings = TrainSettings(epochs=30, batch_size=BATCH, lr=1e18, warmup_lr=1e18, min_lr=1e18)
    with pytest.raises(GloraError, match=r"the loss of epoch \d+ is (nan|inf): lower lr \(1e\+18\)"):
        train_supernet(net_of(), (X, Y), settings=settings)

"""A training that was stopped or killed goes on and ends with the same values."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from supernets import (
    COUNT,
    SHORT,
    Mixed,
    Residual,
    X,
    Y,
    net_of,
    raise_at,
    same,
)
from torch import Tensor, nn

from glora import GLoRAModel, train_supernet
from glora.train import EpochRecord
from helpers import MLP

pytestmark = pytest.mark.usefixtures("single_threaded")

TESTS = Path(__file__).parent.parent


def runs() -> Iterator[tuple[str, Callable[[], nn.Module], Tensor]]:
    yield "mlp", MLP, X
    yield "drop path", Residual, X
    yield "statistics in the head", Mixed, X
    images = torch.randn(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    settings = {"depth": 2, "img_size": 32, "num_classes": 4, "drop_path_rate": 0.5}
    yield "vit", lambda: timm.create_model("vit_tiny_patch16_224", **settings), images


RUNS = {name: (make, x) for name, make, x in runs()}


@pytest.mark.usefixtures("_every_epoch")
@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_training_is_one_never_interrupted(name: str, tmp_path: Path) -> None:
    make, x = RUNS[name]

    def fresh() -> GLoRAModel:
        torch.manual_seed(0)
        return net_of(make())

    whole, parts = fresh(), fresh()
    wanted = train_supernet(whole, (x, Y), (x, Y), SHORT)
    seen: list[list[EpochRecord]] = []

    def go_on(stop: int) -> tuple[EpochRecord, ...]:
        seen.append([])
        torch.rand(7)
        options: dict[str, Any] = {"on_step": raise_at(stop), "on_epoch": seen[-1].append}
        return train_supernet(parts, (x, Y), (x, Y), SHORT, state=tmp_path / "s", **options)

    for _ in range(2):  # in epoch 2, and of what is left then in the second epoch again
        parts = fresh()
        with pytest.raises(RuntimeError, match="enough"):
            go_on(6)
    parts = fresh()
    found = go_on(999)
    assert found == wanted
    assert [len(records) for records in seen] == [1, 2, 4]
    assert all(tuple(records) == wanted[: len(records)] for records in seen)
    assert same(parts, whole)
    assert not any(module.training for module in parts.modules())


@pytest.mark.usefixtures("_every_epoch")
def test_a_training_stopped_by_its_callback_goes_on_after_that_epoch(tmp_path: Path) -> None:
    whole, parts = net_of(), net_of()
    wanted = train_supernet(whole, (X, Y), settings=SHORT)
    with pytest.raises(RuntimeError, match="enough"):
        train_supernet(parts, (X, Y), settings=SHORT, state=tmp_path / "s", on_epoch=raise_at(3))
    steps: list[int] = []
    parts = net_of()
    found = train_supernet(
        parts, (X, Y), settings=SHORT, state=tmp_path / "s", on_step=lambda step, *_: steps.append(step)
    )
    assert steps == [16, 17, 18, 19, 20]
    assert found == wanted
    assert same(parts, whole)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first, again = net_of(), net_of()
    wanted = train_supernet(first, (X, Y), (X, Y), SHORT, state=tmp_path / "s")
    written = (tmp_path / "s").read_bytes()
    seen: list[EpochRecord] = []
    found = train_supernet(
        again, (X, Y), (X, Y), SHORT, state=tmp_path / "s", on_step=raise_at(1), on_epoch=seen.append
    )
    assert found == tuple(seen) == wanted
    assert same(first, again)
    assert (tmp_path / "s").read_bytes() == written


def test_checkpoints_are_rare_and_one_comes_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[bool] = []

    def note(_: EpochRecord) -> None:
        there.append((tmp_path / "s").exists())

    train_supernet(net_of(), (X, Y), settings=SHORT, state=tmp_path / "s", on_epoch=note)
    assert there == [False, False, False, True]


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
import torch, glora.train.supernet
from glora import train_supernet
from supernets import Residual, SHORT, X, Y, net_of, same
glora.train.supernet._CHECKPOINT_SECONDS = 0.0
def kill(step, *_):
    if step == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
net, seen = net_of(Residual()), []
found = train_supernet(net, (X, Y), (X, Y), SHORT, state=sys.argv[3], on_step=kill, on_epoch=seen.append)
whole = net_of(Residual())
assert train_supernet(whole, (X, Y), (X, Y), SHORT) == found == tuple(seen)
assert same(net, whole)
"""


def test_a_killed_process_goes_on_and_ends_with_the_same(tmp_path: Path, environment: dict[str, str]) -> None:
    codes = []
    for step in ("10", "0"):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(TESTS), str(TESTS / "train"), str(tmp_path / "s"), step],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (tmp_path / "s").is_file()
        codes.append((done.returncode, done.stderr))
    assert codes == [(-signal.SIGKILL, ""), (0, "")]
    assert os.listdir(tmp_path) == ["s"]

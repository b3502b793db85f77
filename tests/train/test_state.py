"""The file that a training goes on from: whole, complete, and refused where it does not belong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import glora
from glora import GLoRAModel, SearchSpace, TrainSettings, train_supernet
from glora.checkpoint import save_supernet
from glora.errors import CheckpointError
from glora.train.state import load_state, save_state
from helpers import MLP, randomise, some_structure

pytestmark = pytest.mark.usefixtures("single_threaded")

TESTS = Path(__file__).parent.parent
X = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(20) % 4
SHORT = TrainSettings(epochs=2, batch_size=10, lr=1e-2)
IDENTITY = {"lr": 0.5, "space": {"A": ["none"]}}
PROGRESS = {"settings": IDENTITY, "history": [{"epoch": 1, "loss": 0.1 + 0.2}], "deep": {"x": [1, None, "ä"]}}


class Training:
    """A network and its optimiser, after some steps of which each reached only some of the parameters."""

    def __init__(self, steps: int = 3, seed: int = 0) -> None:
        self.net = glora.adapt(MLP(), SearchSpace(2))
        randomise(self.net, seed)
        self.parameters = self.net.adapter_parameters() | self.net.head_parameters()
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.01)
        for step in range(steps):
            self.step(some_structure(self.net, step))

    def step(self, structure: glora.Structure) -> None:
        self.net.activate(structure)
        self.optimizer.zero_grad()
        self.net(X).square().mean().backward()
        self.optimizer.step()

    def save(self, path: Path, progress: dict[str, Any] = PROGRESS) -> None:
        save_state(path, self.parameters, self.optimizer, progress)

    def load(self, path: Path, identity: dict[str, Any] = IDENTITY) -> dict[str, Any] | None:
        return load_state(path, self.parameters, self.optimizer, identity)

    def everything(self) -> dict[str, Tensor]:
        found = {name: p.detach().clone() for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            found |= {f"{key} {name}": value.clone() for key, value in self.optimizer.state.get(p, {}).items()}
        return found


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def refused(path: Path, match: str, identity: dict[str, Any] = IDENTITY) -> None:
    """Loading fails with a message that names the file, and nothing has changed."""
    training = Training(1, seed=1)
    before = training.everything()
    with pytest.raises(CheckpointError, match=match) as caught:
        training.load(path, identity)
    assert str(path) in str(caught.value)
    assert same(training.everything(), before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "s"
    Training().save(path)
    return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path, whole: bytes) -> Path:
    (tmp_path / "state.safetensors").write_bytes(whole)
    return tmp_path / "state.safetensors"


# What a file holds


def test_parameters_and_optimiser_come_back_to_the_bit(file: Path) -> None:
    first, second = Training(), Training(0, seed=9)
    assert second.load(file) == PROGRESS
    assert same(first.everything(), second.everything())
    for step in range(10, 14):
        structure = some_structure(first.net, step)
        first.step(structure)
        second.step(structure)
    assert same(first.everything(), second.everything())


def test_tensors_never_trained_have_no_optimiser_state_afterwards_either(file: Path) -> None:
    training = Training(0)
    training.load(file)
    trained = {name for name, p in training.parameters.items() if training.optimizer.state.get(p)}
    assert trained == {key.removeprefix("step ") for key in load_file(file) if key.startswith("step ")}
    assert trained < set(training.parameters)


def test_no_file_means_no_progress(tmp_path: Path) -> None:
    assert Training(0).load(tmp_path / "none") is None
    assert Training(0).load(tmp_path) is None


def test_the_same_state_gives_the_same_bytes(tmp_path: Path, whole: bytes) -> None:
    training = Training()
    for name in "abc":
        training.save(tmp_path / "new" / name)
        assert (tmp_path / "new" / name).read_bytes() == whole


def test_a_failing_write_leaves_the_old_file(file: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(tensors: dict[str, Tensor], path: Path, _: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("glora.train.state.save_file", half)
    with pytest.raises(OSError, match="disk full"):
        Training(5).save(file)
    assert file.read_bytes() == whole
    assert os.listdir(file.parent) == [file.name]


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
import glora.train.state
from pathlib import Path
from test_state import Training
def half(tensors, path, metadata):
    Path(path).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
glora.train.state.save_file = half
Training(5).save(Path(sys.argv[3]))
"""


def test_a_process_killed_while_writing_leaves_the_old_file(
    file: Path, whole: bytes, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(TESTS), str(TESTS / "train"), str(file)],
        env=environment,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert file.read_bytes() == whole
    assert Training(0).load(file) == PROGRESS


# What is refused


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_is_refused(share: float, file: Path, whole: bytes) -> None:
    file.write_bytes(whole[: int(share * len(whole))])
    refused(file, r"state\.safetensors is damaged \(.+\): delete it to train from the start")


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a file of tensors" * 10, b"{}"])
def test_something_else_is_refused(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    refused(file, r"is damaged \(.+\): delete it to train from the start")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"progress": "{"}, {"progress": ""}])
def test_a_file_without_its_progress_is_refused(metadata: dict[str, str] | None, file: Path) -> None:
    save_file(load_file(file), file, metadata)
    refused(file, r"is damaged \(.+\): delete it to train from the start")


@pytest.mark.parametrize("progress", ["{}", "[]", '{"settings": null}'])
def test_a_file_whose_progress_lacks_its_settings_is_refused(progress: str, file: Path) -> None:
    save_file(load_file(file), file, {"progress": progress})
    refused(file, "damaged")


def test_a_file_of_the_supernet_is_refused_as_a_state(tmp_path: Path) -> None:
    save_supernet(Training().net, tmp_path / "supernet.safetensors")
    refused(tmp_path / "supernet.safetensors", r"supernet\.safetensors is damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.25}, r"was trained with lr=0\.5, now it is 0\.25: use another folder, or delete the file"),
        ({"lr": None}, r"was trained with lr=0\.5, now it is None"),
        ({"space": {"A": ["vector"]}}, "was trained with space=others: use another folder, or delete the file"),
        ({"new": 1}, "was trained with new=None, now it is 1"),
    ],
)
def test_other_settings_are_refused(change: dict[str, Any], message: str, file: Path) -> None:
    refused(file, message, IDENTITY | change)


def _drop(tensors: dict[str, Tensor]) -> None:
    del tensors["parameter out.bias"]


def _more(tensors: dict[str, Tensor]) -> None:
    tensors["parameter third.support.A"] = torch.zeros(2)


def _reshape(tensors: dict[str, Tensor]) -> None:
    tensors["parameter out.weight"] = torch.zeros(3, 5)


@pytest.mark.parametrize("change", [_drop, _more, _reshape])
def test_other_parameters_are_refused(change: Any, file: Path) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"progress": json.dumps(PROGRESS)})
    refused(file, "holds other parameters than this model has: use another folder")


# What a whole training compares


def net_of(seed: int = 0, **options: Any) -> GLoRAModel:
    return glora.adapt(MLP(seed=seed), options.pop("space", SearchSpace(2)), **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train") / "state.safetensors"
    train_supernet(net_of(), (X, Y), settings=SHORT, state=path)
    return path


def assert_not_resumed(net: GLoRAModel, path: Path, match: str, **changes: Any) -> None:
    before, written = {k: v.clone() for k, v in net.state_dict().items()}, path.read_bytes()
    steps: list[int] = []
    recipe = TrainSettings(**{**vars(SHORT), **changes})
    with pytest.raises(CheckpointError, match=match):
        train_supernet(net, (X, Y), settings=recipe, state=path, on_step=lambda step, *_: steps.append(step))
    assert not steps
    assert path.read_bytes() == written
    assert same(dict(net.state_dict()), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "epochs=2, now it is 3"),
        ({"lr": 2e-2}, r"lr=0\.01, now it is 0\.02"),
        ({"weight_decay": 0.0}, r"weight_decay=0\.0001, now it is 0\.0"),
        ({"warmup_epochs": 1}, "warmup_epochs=10, now it is 1"),
        ({"warmup_lr": 0.0}, r"warmup_lr=1e-06, now it is 0\.0"),
        ({"min_lr": 0.0}, r"min_lr=1e-05, now it is 0\.0"),
        ({"batch_size": 5}, "batch_size=10, now it is 5"),
        ({"precision": "bf16"}, "precision=fp32, now it is bf16"),
        ({"seed": 1}, "seed=0, now it is 1"),
        ({"checkpoint_blocks": True}, "checkpoint_blocks=False, now it is True"),
    ],
)
def test_a_training_with_other_settings_is_refused(change: dict[str, Any], message: str, trained: Path) -> None:
    assert_not_resumed(net_of(), trained, rf"state\.safetensors was trained with {message}", **change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": SearchSpace(3)}, "was trained with space=others"),
        ({"space": SearchSpace(2, C="none")}, "was trained with space=others"),
        ({"gains": "paper"}, "was trained with gains=others"),
        ({"gains": {"first": {"A.vector": 2.0}}}, "was trained with gains=others"),
        ({"layers": ["first"]}, "was trained with gains=others"),
    ],
)
def test_a_training_of_another_supernet_is_refused(options: dict[str, Any], message: str, trained: Path) -> None:
    assert_not_resumed(net_of(**options), trained, message)


def test_a_training_on_other_frozen_weights_is_refused(trained: Path) -> None:
    gains = {name: dict(layer.support.gains) for name, layer in net_of().layers.items()}
    assert_not_resumed(net_of(seed=1, gains=gains), trained, "was trained with frozen weights=others: use another")


def test_one_changed_bit_of_a_frozen_weight_is_noticed(trained: Path) -> None:
    net = net_of()
    with torch.no_grad():
        net.layers["second"].bias.view(torch.int32)[3] ^= 1
    assert_not_resumed(net, trained, "was trained with frozen weights=others")


def test_a_truncated_file_stops_a_training(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(trained.read_bytes()[:-1])
    assert_not_resumed(net_of(), tmp_path / "s", r"s is damaged \(.+\): delete it to train from the start")


def test_the_same_training_is_taken_up(trained: Path) -> None:
    assert len(train_supernet(net_of(), (X, Y), settings=SHORT, state=trained)) == 2

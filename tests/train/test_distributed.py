"""Two processes on one machine, with the environment that torchrun sets, against one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import glora
from glora import SearchSpace, Structure, TrainSettings, presets, train_supernet
from helpers import MLP

pytestmark = pytest.mark.usefixtures("single_threaded")

TESTS = Path(__file__).parent.parent
X = torch.randn(29, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(29) % 4
SETTINGS = TrainSettings(epochs=4, batch_size=8, lr=1e-2, evaluations=2)
UNEVEN = TrainSettings(epochs=4, batch_size=7, lr=1e-2)
OPTIONS = TrainSettings(
    epochs=4, batch_size=8, lr=1e-2, paths="fair", ema=0.9, lr_scale={"vector": 2.0, "head": 0.5}, consistency=0.5
)

START = """
import os, sys, threading, time
sys.path[:0] = sys.argv[1:3]
import torch, glora, glora.train.loop as loop, glora.train.supernet as supernet
from accelerate import PartialState
from glora import SearchSpace, presets
from helpers import MLP
from test_distributed import OPTIONS, SETTINGS, UNEVEN, outcome
out, rank = sys.argv[3], int(os.environ["RANK"])
"""
# Without this, accelerate looks for a GPU and, where there is none, makes no group of processes.
GROUP = "PartialState(cpu=True)\n"


def outcome(net: glora.GLoRAModel, settings: TrainSettings, **options: Any) -> dict[str, Any]:
    """Train and tell everything that came of it."""
    losses: list[float] = []
    drawn: list[Structure] = []

    def note(_: int, __: int, loss: float) -> None:
        losses.append(loss)
        drawn.append(net.active)

    records = train_supernet(net, (X, Y), (X, Y), settings, on_step=note, **options)
    parameters = {name: p.detach().clone() for name, p in (net.adapter_parameters() | net.head_parameters()).items()}
    return {
        "losses": losses,
        "drawn": [structure.to_dict() for structure in drawn],
        "records": [record.to_dict() for record in records],
        "parameters": parameters,
    }


def alone(space: SearchSpace, settings: TrainSettings) -> dict[str, Any]:
    return outcome(glora.adapt(MLP(), space), settings)


def run_two(code: str, folder: Path, environment: dict[str, str], count: int = 2) -> list[dict[str, Any]]:
    """What each process left in ``out``; fails with their output if one of them fails or hangs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START + code, str(TESTS), str(TESTS / "train"), str(folder / f"out{rank}")],
            env={**environment, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        outputs = [process.communicate(timeout=60)[0][-2000:] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(outputs)
    return [torch.load(folder / f"out{rank}", weights_only=False) for rank in range(count)]


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[key], b[key], rtol=1e-3, atol=2e-5) for key in a)


EVERYTHING = """
def net_of(space):
    return glora.adapt(MLP(), space)
found = {
    "supernet": outcome(net_of(SearchSpace.paper(2)), SETTINGS),
    "lora": outcome(net_of(presets.lora(2)), SETTINGS),
    "uneven": outcome(net_of(SearchSpace.paper(2)), UNEVEN),
    "options": outcome(net_of(SearchSpace.paper(2)), OPTIONS),
}
writes, save_state = [], loop.save_state
def slowly(path, *rest):
    writes.append(path.name)
    time.sleep(0.2)
    save_state(path, *rest)
loop.save_state = slowly
path = os.path.join(os.path.dirname(out), "other")
outcome(net_of(SearchSpace.paper(2)), SETTINGS, state=path)
found["there at the end"] = os.path.isfile(path)
supernet._CHECKPOINT_SECONDS = 0.0
class Stop(Exception):
    pass
def stop(record):
    if record.epoch == 2:
        raise Stop
path = os.path.join(os.path.dirname(out), "state")
try:
    outcome(net_of(SearchSpace.paper(2)), SETTINGS, state=path, on_epoch=stop)
except Stop:
    found["resumed"] = outcome(net_of(SearchSpace.paper(2)), SETTINGS, state=path)
found["writes"] = writes
class FooDropPath(torch.nn.Module):
    def forward(self, x):
        return x * (torch.rand(len(x), 1) < 0.5) if self.training else x
class Noisy(MLP):
    def __init__(self):
        super().__init__()
        self.drop = FooDropPath()
    def forward(self, x):
        return self.out(self.drop(self.act(self.second(self.act(self.first(x))))))
noisy, masks = glora.adapt(Noisy(), SearchSpace(2)), []
noisy.model.drop.register_forward_hook(
    lambda _, x, y: masks.append((y == 0).all(1).tolist()) if torch.is_grad_enabled() else None
)
found["noisy"] = outcome(noisy, SETTINGS) | {"masks": masks}
other = MLP()
with torch.no_grad():
    other.out.weight.add_(0.1 * rank)
found["other head"] = outcome(glora.adapt(other, SearchSpace(2)), SETTINGS)
found["processes"] = PartialState().num_processes
torch.save(found, out)
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("two")
    found = run_two(GROUP + EVERYTHING, folder, {**os.environ, "OMP_NUM_THREADS": "1"})
    assert [one["processes"] for one in found] == [2, 2]
    return found, folder


Two = tuple[list[dict[str, Any]], Path]


@pytest.mark.parametrize(
    ("name", "space", "settings"),
    [
        ("supernet", SearchSpace.paper(2), SETTINGS),
        ("lora", presets.lora(2), SETTINGS),
        ("uneven", SearchSpace.paper(2), UNEVEN),
        ("options", SearchSpace.paper(2), OPTIONS),
    ],
)
def test_two_processes_do_what_one_does(two: Two, name: str, space: SearchSpace, settings: TrainSettings) -> None:
    wanted = alone(space, settings)
    for found in (one[name] for one in two[0]):
        assert len(found["losses"]) == settings.epochs * -(-29 // settings.batch_size)
        assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-5)
        assert found["drawn"] == wanted["drawn"]
        assert close(found["parameters"], wanted["parameters"])
        for record, other in zip(found["records"], wanted["records"], strict=True):
            assert record == {**other, "loss": pytest.approx(other["loss"], rel=1e-5)}
    assert max(wanted["losses"]) - min(wanted["losses"]) > 0.05


@pytest.mark.parametrize("name", ["supernet", "lora", "uneven", "options", "noisy"])
def test_both_processes_end_with_the_same_to_the_bit(two: Two, name: str) -> None:
    first, second = (one[name] for one in two[0])
    assert first["losses"] == second["losses"]
    assert first["drawn"] == second["drawn"]
    assert all(first["parameters"][key].equal(second["parameters"][key]) for key in first["parameters"])


def test_processes_that_start_with_different_heads_end_with_one(two: Two) -> None:
    """As where every process makes the model, whose head is new, with a seed of its own."""
    first, second = (one["other head"]["parameters"] for one in two[0])
    assert all(first[key].equal(second[key]) for key in first)


def test_structures_differ_from_step_to_step(two: Two) -> None:
    drawn = [str(structure) for structure in two[0][0]["supernet"]["drawn"]]
    assert len(set(drawn)) == len(drawn) == 16


def test_each_process_drops_paths_of_its_own(two: Two) -> None:
    first, second = (one["noisy"]["masks"] for one in two[0])
    # 29 images in batches of 8, 7, 7 and 7: the second process has one fewer of the odd ones.
    assert [len(mask) for mask in first] == [4] * 16
    assert [len(mask) for mask in second] == [4, 3, 3, 3] * 4
    assert sum(a[: len(b)] != b for a, b in zip(first, second, strict=True)) > 8


def test_two_processes_go_on_after_an_interruption(two: Two) -> None:
    found, folder = two
    for one in found:
        whole, resumed = one["supernet"], one["resumed"]
        assert resumed["losses"] == whole["losses"][8:]
        assert resumed["records"] == whole["records"]
        assert all(resumed["parameters"][key].equal(whole["parameters"][key]) for key in whole["parameters"])
    assert sorted(os.listdir(folder)) == ["other", "out0", "out1", "state"]


def test_one_process_writes_and_the_other_waits_for_it(two: Two) -> None:
    assert [one["writes"] for one in two[0]] == [["other", "state", "state", "state", "state"], []]
    assert [one["there at the end"] for one in two[0]] == [True, True]


def test_torchrun_without_a_gpu_makes_one_training_of_its_processes(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    code = """
net = glora.adapt(MLP(), SearchSpace(2))
outcome(net, SETTINGS)
torch.save({"processes": PartialState().num_processes}, out)
"""
    if torch.cuda.is_available():
        pytest.skip("two processes would share one GPU, which NCCL refuses")
    assert [one["processes"] for one in run_two(code, tmp_path, environment)] == [2, 2]


def test_processes_whose_clocks_differ_still_agree_when_to_write(tmp_path: Path, environment: dict[str, str]) -> None:
    """The first finds that it is time for a checkpoint, the second, a moment younger, does not."""
    code = """
hung = threading.Timer(15, os._exit, [9])
hung.daemon = True
hung.start()
supernet._CHECKPOINT_SECONDS = 0.0 if rank == 0 else 1e9
path = os.path.join(os.path.dirname(out), "state")
torch.save(outcome(glora.adapt(MLP(), SearchSpace.paper(2)), SETTINGS, state=path), out)
"""
    first, second = run_two(GROUP + code, tmp_path, environment)
    assert first["losses"] == second["losses"] == pytest.approx(alone(SearchSpace.paper(2), SETTINGS)["losses"])

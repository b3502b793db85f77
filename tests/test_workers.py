"""Searches in several processes: the same result and the same file, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import glora
from glora import GLoRAModel, SearchSpace, search
from glora.data import Samples, TensorSamples
from glora.errors import ConfigError, DataError, GloraError
from glora.evaluate import Evaluator
from glora.workers import Workers, scorer_of
from helpers import MLP, randomise, randomise_backbone

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(2))
SMALL: dict[str, Any] = {"generations": 3, "population": 10, "parents": 3, "mutants": 4, "crossovers": 4}
SMALL |= {"budget": 100, "batch_size": 20}


def net_of() -> GLoRAModel:
    model = MLP()
    randomise_backbone(model)
    net = glora.adapt(model, SearchSpace(2))
    randomise(net, scale=0.5)
    return net


class Deadly(Samples):
    """Kills the process that reads its batch number ``after``; once, if ``mark`` names a file to remember it by."""

    def __init__(self, after: int, mark: Path | None = None) -> None:
        self.labels, self.after, self.mark, self.home = LABELS, after, mark, os.getpid()

    def inputs(self, indices: Tensor) -> Tensor:
        self.after -= 1
        if self.after <= 0 and os.getpid() != self.home and not (self.mark and self.mark.exists()):
            if self.mark:
                self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return X[indices]

    def to(self, device: torch.device | str) -> Deadly:
        return self


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The history that this process writes alone."""
    path = tmp_path_factory.mktemp("alone") / "search.jsonl"
    effort = search(net_of(), (X, LABELS), history=path, **SMALL).effort
    assert effort["stopped"]
    assert effort["completed"]
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("cluster")
class TestRay:
    def test_the_history_is_the_same_to_the_byte(self, alone: bytes, tmp_path: Path) -> None:
        path = tmp_path / "search.jsonl"
        search(net_of(), (X, LABELS), history=path, workers=4, **SMALL)
        assert path.read_bytes() == alone

    def test_what_is_selected_by_loss_is_the_same(self, tmp_path: Path) -> None:
        settings = SMALL | {"fitness": "loss", "select": "soup"}
        found = [
            search(net_of(), (X, LABELS), history=tmp_path / f"{workers}", workers=workers, **settings)
            for workers in (1, 2)
        ]
        assert found[0] == found[1]
        assert found[0].winner.score.fitness == "loss"
        assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()

    def test_one_of_two_workers_that_dies_is_replaced(self, alone: bytes, tmp_path: Path) -> None:
        path, mark = tmp_path / "search.jsonl", tmp_path / "died"
        search(net_of(), Deadly(25, mark), history=path, workers=2, **SMALL)
        assert mark.exists()
        assert path.read_bytes() == alone

    def test_an_error_of_a_worker_is_raised_as_it_is(self) -> None:
        with pytest.raises(DataError, match=r"^label 7 has no logit: the model's head has 4 outputs$"):
            search(net_of(), (X, LABELS + 4), ray="auto", **SMALL)

    def test_more_workers_than_processors_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="5 workers are more than the 4 CPUs of the Ray cluster"):
            search(net_of(), (X, LABELS), workers=5, **SMALL)

    def test_a_finished_search_needs_no_worker(self, alone: bytes, tmp_path: Path) -> None:
        (tmp_path / "s").write_bytes(alone)
        found = search(net_of(), Deadly(1), history=tmp_path / "s", workers=2, **SMALL)
        assert found == search(net_of(), (X, LABELS), **SMALL)


def test_workers_that_keep_dying_are_an_error() -> None:
    workers = Workers(Evaluator(net_of(), TensorSamples(X, LABELS)), 2, None, None)
    with pytest.raises(GloraError, match="workers died 4 times over one candidate: is there memory for 2 replicas"):
        workers._replaced(object(), 4, RuntimeError("gone"))
    with pytest.raises(GloraError, match="the workers cannot be started: No module named 'x'"):
        workers._replaced(object(), 1, RuntimeError("in its creation task\n\nNo module named 'x'\n"))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for options in ({"workers": 2}, {"ray": "auto"}):
        with pytest.raises(ConfigError, match=r"needs Ray: pip install 'glora\[ray\]', or leave out --workers"):
            search(net_of(), (X, LABELS), **SMALL, **options)
    with pytest.raises(ConfigError, match="workers is 1 or more, not 0"), scorer_of(None, 0):  # type: ignore[arg-type]
        pass


# Kills the search that it runs, in processes forked off one that has imported everything.
KILLER = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from test_workers import LABELS, SMALL, X, net_of, search
path, generator = sys.argv[1], random.Random(0)
net = net_of()
def lines():
    return open(path, "rb").read().count(b"\\n") if os.path.exists(path) else 0
def start():
    child = os.fork()
    if child == 0:
        try:
            search(net, (X, LABELS), history=path, **SMALL)
            os._exit(0)
        finally:
            os._exit(1)
    return child
killed = 0
for target in sorted(generator.sample(range(1, 41), 20)):
    child = start()
    while lines() < target:
        pass
    time.sleep(generator.uniform(0, 0.003))
    os.kill(child, signal.SIGKILL)
    killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
assert os.waitpid(start(), 0)[1] == 0
print(killed)
"""


def test_a_search_killed_at_twenty_moments_leaves_the_same_history(
    alone: bytes, environment: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "search.jsonl"
    own = environment | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(path)], env=own, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 18
    assert path.read_bytes() == alone


DRIVER = """
import os, signal, sys
from test_workers import LABELS, SMALL, X, net_of, search
def stop(candidate):
    if candidate.index == 23:
        os.kill(os.getpid(), signal.SIGKILL)
search(net_of(), (X, LABELS), history=sys.argv[1], ray="local", on_candidate=stop, **SMALL)
"""


@pytest.mark.slow
def test_a_driver_killed_goes_on_alone(alone: bytes, environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'glora[ray]'")
    path = tmp_path / "search.jsonl"
    own = environment | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(path)], env=own, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert alone.startswith(path.read_bytes())
    assert path.read_bytes().count(b"\n") == 25
    search(net_of(), (X, LABELS), history=path, **SMALL)
    assert path.read_bytes() == alone

"""A bench on a Ray cluster: the same results, whoever dies or breaks it off on the way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from small_bench import comparable, do, lines_of, plan, write

from glora import protocols
from glora.bench import Plan, Task, run_cells
from glora.errors import ConfigError
from glora.results.file import ResultsFile
from small_run import Told, call

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'glora[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")]

METHODS = {"linear": {"peer": "linear"}, "lora": {"peer": "lora", "rank": 2}}


class Deadly(Task):
    """A data set that kills the process that opens it."""

    def open(self) -> protocols.Task:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """An error in place of waiting for ever."""

    def fail(*_: object) -> None:
        raise AssertionError(f"not over after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_cluster_that_the_command_starts_gives_the_same_results_and_is_ended(tmp_path: Path) -> None:
    path = write(tmp_path, plan(methods=METHODS))
    done = call("bench", path, "--out", tmp_path / "out", "--ray", "local", "--workers", 2)
    assert done.code == 0, done.err
    assert not ray.is_initialized()
    assert do(tmp_path, tmp_path / "here", methods=METHODS) == []
    assert comparable(lines_of(tmp_path / "out")) == comparable(lines_of(tmp_path / "here"))


@pytest.mark.usefixtures("cluster")
class TestCluster:
    def test_a_worker_that_dies_fails_its_cell_alone(self, tmp_path: Path) -> None:
        # The workers cannot import this file.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        read = Plan.read(write(tmp_path, plan(methods=METHODS, seeds=[0], lr=1e-3)), tmp_path / "out")
        first, second = read.cells
        task = Deadly(**{field.name: getattr(first.task, field.name) for field in fields(Task)})
        file = ResultsFile(tmp_path / "out" / "results.jsonl")
        cells = [replace(first, task=task, tuning_task=task), second]
        (failed,) = run_cells(cells, file, tmp_path / "out", Told(), workers=2, ray="auto", threads=1)
        assert failed["method"] == "linear"
        assert failed["error"].startswith("its worker died: ")
        assert [file.done(cell.key) for cell in cells] == [False, True]

    def test_what_is_half_done_is_ended_by_a_break(self, tmp_path: Path) -> None:
        endless = {"peer": "lora", "rank": 2, "train": {"epochs": 10**7}}
        read = Plan.read(write(tmp_path, plan(methods={**METHODS, "lora": endless}, seeds=[0], lr=1e-3)), tmp_path)
        file = ResultsFile(tmp_path / "results.jsonl")

        def stop(label: str, done: int) -> None:
            raise KeyboardInterrupt

        with within(300), pytest.raises(KeyboardInterrupt):
            run_cells(read.cells, file, tmp_path, Told(stop), workers=2, ray="auto", threads=1)
        assert [line["method"] for line in lines_of(tmp_path)] == ["linear"]

    def test_more_threads_than_a_machine_has_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="5 threads are more than the 4 CPUs of any machine of the Ray cluster"):
            do(tmp_path, tmp_path / "out", ray="auto", threads=5)
        changes: dict[str, Any] = {"methods": {"linear": METHODS["linear"]}, "seeds": [0], "lr": 1e-3}
        assert do(tmp_path, tmp_path / "out", ray="auto", threads=4, **changes) == []

"""Doing the cells of a plan, one after the other or many at a time, without losing any by another one's failure."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from glora.bench.cells import Cell
from glora.bench.tasks import Task
from glora.bench.work import run_cell, tidy
from glora.data.made import make_data
from glora.errors import ConfigError
from glora.progress import Progress
from glora.results.file import ResultsFile
from glora.workers import connect_ray, import_ray

__all__ = ["make_tasks", "run_cells"]

_Runner = Callable[[Cell], dict[str, Any]]


def make_tasks(tasks: Sequence[Task], progress: Progress) -> None:
    """Make the data sets that need to be made and are not there.

    Raises:
        DataError: if one cannot be made, or its folder holds something else.
    """
    for task in tasks:
        if task.make is not None:
            found = make_data(task.make, task.source, seed=task.seed, test=task.test)
            if found.new:
                progress.say(f"data: {task.name} made in {task.source}")


def run_cells(
    cells: Sequence[Cell],
    results: ResultsFile,
    folder: Path,
    progress: Progress,
    *,
    workers: int = 1,
    ray: str | None = None,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Do the cells that are not done, and append each to the results as soon as it is.

    Args:
        cells: of a plan.
        results: those of before, which are not done again.
        folder: of the bench; on a cluster, where all its machines find it.
        progress: told of each cell.
        workers: processes at work at the same time.
        ray: address of a Ray cluster where they shall be, or None for processes of this machine.
        threads: of each cell's computation; None for this process's, divided among the workers, and for one on a
            cluster. The last bits of a result may depend on it, on nothing else of how the cells are run.

    Returns:
        The lines of the cells that failed.

    Raises:
        ConfigError: for less than one worker; if Ray is not installed, or the cluster not there or too small.
    """
    if workers < 1:
        raise ConfigError(f"workers is 1 or more, not {workers}")
    jobs = _jobs([cell for cell in cells if not results.done(cell.key)])
    total = sum(map(len, jobs))
    if total == 0:
        return []
    progress.say(f"bench: {total} of {len(cells)} cells to do")
    count = threads or (torch.get_num_threads() if workers == 1 else max(1, torch.get_num_threads() // workers))
    sweep = _Sweep(jobs, results, folder, progress)
    if ray is not None:
        with _cluster(ray, workers, folder, threads or 1) as (runner, stop):
            sweep.side_by_side([lambda: nullcontext(runner)] * workers, stop)
    elif workers > 1:
        sweep.side_by_side([lambda: _process(folder, count)] * workers, _end_processes)
    else:
        with _here(folder, count) as runner:
            sweep.work(runner)
    if not sweep.failed:
        # What was kept for cells of later plans' seeds, and all of it can be trained again.
        shutil.rmtree(folder / "state", ignore_errors=True)
    return sweep.failed


def _jobs(cells: Sequence[Cell]) -> deque[list[Cell]]:
    """Cells that share trials or a supernet together, so that no two workers train the same."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.shared, []).append(cell)
    return deque(found.values())


class _Sweep:
    """The cells that are left, and what becomes of them (final)."""

    def __init__(self, jobs: deque[list[Cell]], file: ResultsFile, folder: Path, progress: Progress) -> None:
        self.failed: list[dict[str, Any]] = []
        self._jobs, self._file, self._folder, self._progress = jobs, file, folder, progress
        self._total, self._done = sum(map(len, jobs)), 0
        self._bar = progress.bar("bench", self._total)
        self._lock = threading.Lock()
        self._stopped = False

    def work(self, run: _Runner) -> None:
        """Do jobs until none is left."""
        while self._jobs and not self._stopped:
            try:
                job = self._jobs.popleft()
            except IndexError:  # another worker was faster
                return
            for cell in job:
                line = run(cell)
                if self._stopped:
                    return
                self._record(cell, line)

    def side_by_side(
        self, runners: Sequence[Callable[[], AbstractContextManager[_Runner]]], stop: Callable[[], None]
    ) -> None:
        """Do them with several workers, each driven by a thread of this process; ``stop`` ends what they are at."""

        def drive(start: Callable[[], AbstractContextManager[_Runner]]) -> None:
            with start() as run:
                self.work(run)

        with ThreadPoolExecutor(len(runners)) as pool:
            started = [pool.submit(drive, start) for start in runners]
            try:
                for one in started:
                    one.result()
            except BaseException:
                # Ctrl-C, or an error of ours: nobody waits for what is half done.
                self._stopped = True
                stop()
                raise

    def _record(self, cell: Cell, line: dict[str, Any]) -> None:
        with self._lock:
            self._file.append(line)
            tidy(cell, line, self._folder)
            self._done += 1
            if "error" in line:
                self.failed.append(line)
                self._progress.say(f"failed: {cell}: {line['error']}")
                self._bar = self._progress.bar("bench", self._total)
            figure = "failed" if "error" in line else f"{next(iter(line['tests'].values())):.1%}"
            self._bar(self._done, f"{cell}: {figure}")


@contextmanager
def _here(folder: Path, threads: int) -> Iterator[_Runner]:
    """This process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield lambda cell: run_cell(cell, folder)
    finally:
        torch.set_num_threads(before)


@contextmanager
def _process(folder: Path, threads: int) -> Iterator[_Runner]:
    """A process of its own, and a new one if it dies."""
    context = multiprocessing.get_context("spawn")

    def start() -> tuple[Any, Connection]:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, folder, threads), daemon=True)
        process.start()
        theirs.close()  # so that its end is seen here
        return process, ours

    process, pipe = start()

    def run(cell: Cell) -> dict[str, Any]:
        nonlocal process, pipe
        try:
            pipe.send(cell)
            line: dict[str, Any] = pipe.recv()
            return line
        except (EOFError, OSError):
            process.join()
            code = process.exitcode
            process, pipe = start()
            return cell.failed(f"its process died (exit code {code}): is there memory for so many workers?")

    try:
        yield run
    finally:
        process.kill()
        process.join()


def _serve(pipe: Connection, folder: Path, threads: int) -> None:
    """What a process does: the cells that it is sent."""
    # Ctrl-C goes to all processes of a terminal; the one that sends the cells ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        # At once and in the middle of a training: two processes must never write the same checkpoint.
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    torch.set_num_threads(threads)
    while True:
        pipe.send(run_cell(pipe.recv(), folder))


def _end_processes() -> None:
    for child in multiprocessing.active_children():
        child.kill()


@contextmanager
def _cluster(address: str, workers: int, folder: Path, threads: int) -> Iterator[tuple[_Runner, Callable[[], None]]]:
    """Tasks of a Ray cluster for several threads to use, and what ends those that are running."""
    ray = import_ray()
    owned = connect_ray(ray, address, workers)
    where, running, stopped = folder.resolve(), set[Any](), threading.Event()

    def run(cell: Cell) -> dict[str, Any]:
        reference = task.remote(cell, where, threads)
        running.add(reference)
        try:
            if stopped.is_set():
                ray.cancel(reference, force=True)
            line: dict[str, Any] = ray.get(reference)
            return line
        except ray.exceptions.RayError as error:
            return cell.failed(f"its worker died: {error}")
        finally:
            running.discard(reference)

    def stop() -> None:
        stopped.set()
        for reference in list(running):
            ray.cancel(reference, force=True)

    try:
        most = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        if most < threads:
            raise ConfigError(f"{threads} threads are more than the {most:.0f} CPUs of any machine of the Ray cluster")
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / workers)
        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_run_with)
        yield run, stop
    finally:
        if owned:
            ray.shutdown()


def _run_with(cell: Cell, folder: Path, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    return run_cell(cell, folder)

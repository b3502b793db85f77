"""Evaluating candidates in several processes, on one machine or on a cluster: Ray's actors, each with a replica."""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

import torch

from glora.errors import ConfigError, GloraError
from glora.evaluate import Evaluator
from glora.precision import Precision
from glora.strategies import Batches, Fitness, Key, Score, Scorer
from glora.structure import Structure

__all__ = ["Workers", "connect_ray", "import_ray", "scorer_of"]

# How many workers may die over one candidate, and be replaced, before the search gives up.
_RESTARTS = 3


@contextmanager
def scorer_of(evaluator: Evaluator, workers: int = 1, address: str | None = None) -> Iterator[Scorer]:
    """The evaluator itself, or as many replicas of it, for a block.

    Args:
        evaluator: whose net does not change meanwhile.
        workers: how many processes; 1 without an address is this one.
        address: of a Ray cluster, or "auto" for one that runs here; None to start one for the block.

    Raises:
        ConfigError: for less than one worker, if Ray is not installed, or the cluster is not there or too small.
    """
    if workers < 1:
        raise ConfigError(f"workers is 1 or more, not {workers}")
    if workers == 1 and address is None:
        yield evaluator
        return
    scorer = Workers(evaluator, workers, address, import_ray())
    try:
        yield scorer
    finally:
        scorer.close()


class _Replica:
    """One worker (final); what Ray makes an actor."""

    def __init__(
        self,
        path: list[str],
        held: list[Any],
        batch_size: int,
        precision: Precision,
        fitness: Fitness,
        device: str,
        threads: int,
    ) -> None:
        import ray

        # The model's class may come from where only the main program looks; so it is read after that is known.
        sys.path.extend(folder for folder in path if folder not in sys.path)
        net, samples = ray.get(held[0])
        torch.set_num_threads(threads)
        self._evaluator = Evaluator(net.to(device), samples.to(device), batch_size, precision, fitness)
        # For good, since nothing is trained here.
        self._folds = self._evaluator.folds()

    def score(self, structure: Structure, batches: Batches, bar: Key | None) -> Score:
        return self._evaluator.score(structure, [torch.tensor(batch) for batch in batches], bar, self._folds)


@final
class Workers(Scorer):
    """Replicas of an evaluator in processes of their own; they are started when there is something to score.

    The threads of this process are divided among workers that run here; elsewhere each has one. A worker that dies
    is replaced, and what it was at is evaluated again.
    """

    def __init__(self, evaluator: Evaluator, workers: int, address: str | None, ray: Any) -> None:
        self.samples, self.batch_size = evaluator.samples, evaluator.batch_size
        self._evaluator, self._count, self._address, self._ray = evaluator, workers, address, ray
        self._replicas: list[Any] = []
        self._new: Callable[[], Any]
        self._owns_ray = False

    def canonical(self, structure: Structure) -> Structure:
        """As the evaluator does."""
        return self._evaluator.canonical(structure)

    def scores(self, structures: Sequence[Structure], batches: Batches, bar: Key | None) -> Generator[Score]:
        """Hand the structures to whoever is idle, and give the scores in their order.

        Raises:
            GloraError: if workers cannot be started, or keep dying.
        """
        if not structures:
            return
        if not self._replicas:
            self._start()
        idle, shared = list(self._replicas), self._ray.put(batches)
        left, deaths = deque(range(len(structures))), Counter[int]()
        running: dict[Any, tuple[int, Any]] = {}
        found: dict[int, Score] = {}
        for place in range(len(structures)):
            while place not in found:
                while idle and left:
                    number, replica = left.popleft(), idle.pop()
                    running[replica.score.remote(structures[number], shared, bar)] = number, replica
                for reference in self._ray.wait(list(running), num_returns=1)[0]:
                    number, replica = running.pop(reference)
                    score = self._result(reference)
                    if isinstance(score, Score):
                        # Made anew here, so that NaN is the one of math, which is equal to itself.
                        found[number] = replace(score)
                        idle.append(replica)
                    else:
                        deaths[number] += 1
                        idle.append(self._replaced(replica, deaths[number], score))
                        left.appendleft(number)
            yield found.pop(place)

    def close(self) -> None:
        """End the workers, and Ray if it was started for them."""
        for replica in self._replicas:
            self._ray.kill(replica)
        self._replicas = []
        if self._owns_ray:
            self._ray.shutdown()
            self._owns_ray = False

    def _result(self, reference: Any) -> Score | Exception:
        """What a worker gave, or how it died."""
        try:
            score: Score = self._ray.get(reference)
            return score
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayActorError as error:
            return error  # type: ignore[no-any-return]

    def _replaced(self, replica: Any, deaths: int, error: Exception) -> Any:
        """A new worker in the place of one that died."""
        text = str(error)
        if "creation task" in text:
            raise GloraError(f"the workers cannot be started: {text.strip().splitlines()[-1]}") from error
        if deaths > _RESTARTS:
            raise GloraError(
                f"workers died {deaths} times over one candidate: is there memory for {self._count} replicas? Give "
                "fewer workers"
            ) from error
        self._replicas[self._replicas.index(replica)] = new = self._new()
        return new

    def _start(self) -> None:
        self._owns_ray = connect_ray(self._ray, self._address, self._count) or self._owns_ray
        resources = self._ray.cluster_resources()
        if resources.get("CPU", 0) < self._count:
            raise ConfigError(
                f"{self._count} workers are more than the {resources.get('CPU', 0):.0f} CPUs of the Ray cluster"
            )
        net = self._evaluator.net
        device = next(net.parameters()).device.type
        local = net if device == "cpu" else copy.deepcopy(net).cpu()
        data = self._ray.put((local, self._evaluator.data.to("cpu")))
        threads = max(1, torch.get_num_threads() // self._count) if self._address is None else 1
        gpus = 0.0 if device == "cpu" else min(1.0, resources.get("GPU", 0) / self._count)
        kind = self._ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(_Replica)
        settings = self.batch_size, self._evaluator.precision, self._evaluator.fitness, device, threads
        self._new = lambda: kind.remote(sys.path, [data], *settings)
        self._replicas = [self._new() for _ in range(self._count)]


def connect_ray(ray: Any, address: str | None, cpus: int) -> bool:
    """Connect to a Ray cluster, or start one: with so many CPUs if there is no address, with all here for "local".

    Returns:
        Whether it has to be shut down afterwards: not if it was connected already.

    Raises:
        ConfigError: if the cluster is not there, or Ray cannot be started.
    """
    if ray.is_initialized():
        return False
    # Nothing is sent anywhere unasked.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {"include_dashboard": False} if address in (None, "local") else {}
    own |= {"num_cpus": cpus} if address is None else {}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # of many kinds, plain Exception among them
        what = "Ray cannot be started" if address is None else f"no Ray cluster at {address}"
        raise ConfigError(f"{what}: {' '.join(str(error).split())}") from error
    return True


def import_ray() -> Any:
    """Ray, or a ConfigError that says how to install it."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("more than one worker needs Ray: pip install 'glora[ray]', or leave out --workers") from error
    return ray

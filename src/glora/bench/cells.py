"""What a bench is made of: data sets, and cells, each of which is one method on one data set with one seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from glora.bench.results import FORMAT
from glora.config import RunConfig
from glora.data import digest, list_data
from glora.data.made import made_set

__all__ = ["GLORA", "SEARCHED", "Cell", "Final", "Task", "fingerprint"]

GLORA = "glora"
# Settings of the whole procedure beside those of training, and beside the rank.
SEARCHED = tuple(
    "space layers gains bias recompute budget strategy generations population parents mutants crossovers mutation "
    "prune fitness folds select finetune_epochs".split()
)
Final = Literal["train", "train+val"]


def fingerprint(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Task:
    """A data set of a bench.

    Args:
        name: in results and tables.
        source: as ``glora.data.list_data`` takes it.
        group: that the data set belongs to, or None.
        make: name of a data set that is made at ``source`` if it is not there, or None.
        seed: of what is made.
        test: test images of what is made; 2000, or as many as there are, if None.
    """

    name: str
    source: str
    group: str | None = None
    make: str | None = None
    seed: int = 0
    test: int | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells these images from others: the digest of the split, or what they are made by.

        Raises:
            DataError: if the data cannot be listed.
        """
        if self.make is not None:
            return {"make": self.make, "seed": self.seed, "test": self.test, "version": made_set(self.make).version}
        listing = list_data(self.source)
        parts = {"train": listing.train, "val": listing.val, "test": listing.test}
        return {"split": digest(row for name, part in parts.items() if part is not None for row in part.rows(name))}


@dataclass(frozen=True)
class Cell:
    """One method on one data set with one seed.

    Args:
        task: the data set.
        method: name of the method in the plan.
        peer: a key of ``glora.peers.PEERS``, or "glora" for the whole procedure.
        options: of the method, without its rank.
        rank: of the method, or None.
        seed: of everything drawn in it.
        settings: of ``RunConfig``: model, size and what concerns training.
        checkpoint: digest of the file of local weights, or None.
        rates: learning rates to choose from, by the validation images.
        tuning_seed: the seed that all of them are tried with.
        final: what the final model is trained on.
        protocol: written to the result.
    """

    task: Task
    method: str
    peer: str
    options: Mapping[str, Any]
    rank: int | None
    seed: int
    settings: Mapping[str, Any]
    checkpoint: str | None
    rates: tuple[float, ...]
    tuning_seed: int
    final: Final
    protocol: str | None

    def config(self, lr: float, seed: int, out: Path | None = None) -> RunConfig:
        """All settings of a training of this method; the split is the same for all seeds.

        Raises:
            ConfigError, StructureError: for settings that cannot be.
        """
        searched = {**self.options, "rank": self.rank or 4} if self.peer == GLORA else {}
        where = {"data": self.task.source, "out": "-" if out is None else str(out)}
        return RunConfig(**{**self.settings, **searched, **where}, lr=lr, seed=seed, split_seed=0, baselines="none")

    @cached_property
    def key(self) -> str:
        """Fingerprint of all that the result depends on, but for versions and machine."""
        return self.digest(self.seed, rates=self.rates, tuning_seed=self.tuning_seed, final=self.final)

    def digest(self, seed: int, **more: Any) -> str:
        """Fingerprint of this method on this data set with a seed, and of whatever else is given."""
        config = asdict(self.config(self.rates[0], seed))
        # Where files lie, and what cannot change a result.
        for name in ("lr", "data", "out", "checkpoint", "workers", "ray"):
            del config[name]
        own = [self.task.name, self.task.identity, self.method, self.peer, dict(self.options), self.rank]
        return fingerprint([FORMAT, own, self.checkpoint, config, more])

    @property
    def shared(self) -> str:
        """Equal for cells that must be done one after the other: those with trials, or a supernet, in common."""
        if self.peer == GLORA:
            return fingerprint(self.config(0.0, 0).of_the_supernet())
        return self.digest(0)

    def about(self) -> dict[str, Any]:
        """What a result says of the cell itself."""
        return {
            "format": FORMAT,
            "key": self.key,
            "task": self.task.name,
            "group": self.task.group,
            "protocol": self.protocol,
            "shots": None,
            "method": self.method,
            "peer": self.peer,
            "options": dict(self.options),
            "rank": self.rank,
            "seed": self.seed,
            "model": {key: self.settings.get(key) for key in ("model", "size", "checkpoint", "drop_path")},
        }

    def failed(self, error: str) -> dict[str, Any]:
        """The result of a cell that failed."""
        return {**self.about(), "error": " ".join(error.split())}

    def __str__(self) -> str:
        """As it is told to people."""
        rank = "" if self.rank is None else f", rank {self.rank}"
        return f"{self.method}{rank} on {self.task.name}, seed {self.seed}"

"""What a bench is made of: cells, each of which is one method on one data set with one seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from glora.bench.tasks import Task
from glora.config import RunConfig
from glora.results.file import FORMAT

__all__ = ["GLORA", "SEARCHED", "Cell", "Final", "fingerprint"]

GLORA = "glora"
# Settings of the whole procedure beside those of training, and beside the rank.
SEARCHED = tuple(
    "space layers gains storage bias recompute budget strategy generations population parents mutants crossovers "
    "mutation prune fitness folds select finetune_epochs finetune_lr".split()
)
Final = Literal["train", "train+val"]


def fingerprint(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


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
        tuning_task: the data set that they are tried on: ``task``, with the training images drawn by that seed.
        final: what the final model is trained on.
        alphas: shares of the way from the pretrained to the tuned weights to test, too; none if empty.
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
    tuning_task: Task
    final: Final
    alphas: tuple[float, ...] = ()

    def config(self, lr: float, seed: int, out: Path | None = None) -> RunConfig:
        """All settings of a training of this method; the split is the same for all seeds.

        Raises:
            ConfigError, StructureError: for settings that cannot be.
        """
        searched = {**self.options, "rank": self.rank or 4} if self.peer == GLORA else {}
        where = {"data": self.task.source, "out": "-" if out is None else str(out)}
        settings = {**self.settings, **searched, **where}
        if settings.get("augment") is None:
            settings["augment"] = self.task.augment
        return RunConfig(**settings, lr=lr, seed=seed, split_seed=0, baselines="none")

    @cached_property
    def key(self) -> str:
        """Fingerprint of all that the result depends on, but for versions and machine."""
        more = {"alphas": self.alphas} if self.alphas else {}
        return self.digest(self.seed, rates=self.rates, tuning_seed=self.tuning_seed, final=self.final, **more)

    @property
    def trial(self) -> Cell:
        """What learning rates are tried as, the same for all seeds."""
        return replace(self, seed=self.tuning_seed, task=self.tuning_task, final="train", alphas=())

    def digest(self, seed: int, **more: Any) -> str:
        """Fingerprint of this method on this data set with a seed, and of whatever else is given."""
        config = asdict(self.config(self.rates[0], seed))
        # Where files lie, and what cannot change a result.
        for name in ("lr", "data", "out", "checkpoint", "workers", "ray"):
            del config[name]
        options = dict(self.options)
        # As results of before these were settings.
        if config["augment"] == "none":
            del config["augment"]
        for name in ("finetune_lr", "train_budget"):
            if config[name] is None:
                del config[name]
        if self.peer != GLORA or config["storage"] == "shared":
            del config["storage"]
            options.pop("storage", None)
        own = [self.task.name, self.task.identity, self.method, self.peer, options, self.rank]
        return fingerprint([FORMAT, own, self.checkpoint, config, more])

    @property
    def shared(self) -> str:
        """Equal for cells that must be done one after the other: those with trials, or a supernet, in common."""
        if len(self.rates) == 1 and self.peer != GLORA:
            return self.key
        if self.peer == GLORA:
            return fingerprint([self.tuning_task.identity, self.config(0.0, 0).of_the_supernet()])
        return self.trial.digest(0)

    def about(self) -> dict[str, Any]:
        """What a result says of the cell itself."""
        return {
            "format": FORMAT,
            "key": self.key,
            "task": self.task.name,
            "group": self.task.group,
            "protocol": self.task.protocol,
            "shots": self.task.shots,
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
        return f"{self.method}{rank} on {self.task}, seed {self.seed}"

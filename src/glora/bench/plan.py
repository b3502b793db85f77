"""The plan of a bench, read strictly from YAML."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from glora.bench.cells import GLORA, SEARCHED, Cell, Final
from glora.bench.tasks import Task, protocol_tasks
from glora.config import RunConfig
from glora.data.made import made_set
from glora.errors import ConfigError, GloraError, near_miss
from glora.peers import PEERS
from glora.protocols import parse_alphas
from glora.train import TrainSettings

__all__ = ["Plan"]

_KEYS = tuple(
    "model size checkpoint data protocol root tasks shots methods seeds train lr final alphas threads".split()
)
_DATA = ("folder", "make", "group", "seed", "test")
_METHOD = ("peer", "options", "rank", "ranks", "train", "lr")
_LR = ("values", "seed")
_FINALS: tuple[Final, ...] = ("train", "train+val")
_PROTOCOLS = ("vtab", "fewshot", "domain")
# What chooses among the data sets of a protocol.
_CHOICES = ("root", "tasks", "shots")
# What every method can be given, the whole procedure too; the rate and the seed are the plan's.
_TRAIN = (
    *sorted({f.name for f in fields(TrainSettings)} & {f.name for f in fields(RunConfig)} - {"lr", "seed"}),
    "drop_path",
)


@dataclass(frozen=True)
class Plan:
    """Methods, data sets, seeds and ranks, and how all of them are trained.

    Args:
        cells: all of them, in the plan's order: by data set, then method, rank and seed.
        threads: that each cell computes with, or None for this process's, divided among the workers.
    """

    cells: tuple[Cell, ...]
    threads: int | None

    @classmethod
    def read(cls, path: str | Path, out: Path, root: str | None = None) -> Plan:
        """Read a plan.

        Args:
            path: of the YAML file; folders in it are relative to the working directory.
            out: folder of the bench, where data sets are made.
            root: in place of the plan's ``root``, the folder of a protocol's data sets.

        Raises:
            ConfigError: one line naming the entry at fault, with a near miss for a word that is unknown.
            GloraError: for settings that a method cannot be trained with; for what is missing or wrong in ``root``.
        """
        file = Path(path)
        try:
            values = _mapping(yaml.safe_load(file.read_text("utf-8")), "the plan", _KEYS)
            return _plan(values if root is None else values | {"root": root}, out)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
        except GloraError as error:
            raise type(error)(f"{file}: {error}") from None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The data sets, in order."""
        return tuple({cell.task.name: cell.task for cell in self.cells}.values())


def _plan(values: dict[str, Any], out: Path) -> Plan:
    for name in ("model", "methods"):
        if not values.get(name):
            raise ConfigError(f"{name} is needed")
    threads = values.get("threads")
    if threads is not None:
        _whole(threads, "threads", 1)
    rates, tuning_seed = _rates(values.get("lr", 1e-3), "lr")
    settings = {
        **{key: values.get(key) for key in ("model", "size", "checkpoint")},
        **_mapping(values.get("train") or {}, "train", _TRAIN),
    }
    seeds = _list(values.get("seeds", [0]), "seeds", 0)
    weights = _digest_of(settings["checkpoint"])
    methods = [
        (method, settings | own, rates if grid is None else grid)
        for name, value in _mapping(values["methods"], "methods").items()
        for method, own, grid in _method(name, value, len(rates))
    ]
    found, final = _data_sets(values, out, {*seeds, tuning_seed} if len(rates) > 1 else set(seeds))
    final = values.get("final", final)
    _one_of(final, "final", _FINALS)
    alphas = _alphas(values.get("alphas"))
    cells = tuple(
        Cell(
            drawn[seed],
            *method,
            seed,
            trained,
            weights,
            grid,
            tuning_seed,
            drawn.get(tuning_seed, drawn[seed]),
            final,
            alphas,
        )
        for drawn in found
        for method, trained, grid in methods
        for seed in seeds
    )
    for cell in {cell.method: cell for cell in cells}.values():
        _check(cell)
    return Plan(cells, threads)


def _method(
    name: str, value: Any, trials: int
) -> Iterator[tuple[tuple[str, str, dict[str, Any], int | None], dict[str, Any], tuple[float, ...] | None]]:
    """Of each rank: name, peer, options and rank; settings of training; and learning rates, if of its own."""
    what = f"methods: {name}"
    entry = _mapping(value, what, _METHOD)
    peer = entry.get("peer")
    if peer is None:
        raise ConfigError(f"{what}: peer is needed, such as lora, or {GLORA} for the whole procedure")
    _one_of(peer, f"{what}: peer", (*PEERS, GLORA))
    known = SEARCHED if peer == GLORA else tuple(key for key in PEERS[peer].settings if key != "rank")
    options = _mapping(entry.get("options") or {}, f"{what}: options", known)
    trained = _mapping(entry.get("train") or {}, f"{what}: train", _TRAIN)
    grid = None
    if "lr" in entry:
        grid, _ = _rates({"values": entry["lr"]} if isinstance(entry["lr"], list) else entry["lr"], f"{what}: lr")
        if len(grid) != trials:
            raise ConfigError(f"{what}: lr has {len(grid)} values, the plan {trials}: every method gets as many trials")
    if "rank" in entry and "ranks" in entry:
        raise ConfigError(f"{what}: give rank or ranks, not both")
    ranked = peer == GLORA or "rank" in PEERS[peer].settings
    if not ranked and ("rank" in entry or "ranks" in entry):
        raise ConfigError(f"{what}: {peer} has no rank")
    default = [4] if peer == GLORA else [PEERS[peer].settings.get("rank")]
    if "rank" in entry:
        ranks: list[Any] = [_whole(entry["rank"], f"{what}: rank", 1)]
    else:
        ranks = _list(entry["ranks"], f"{what}: ranks", 1) if "ranks" in entry else default
    for rank in ranks:
        yield (name, peer, options, rank), trained, grid


def _data_sets(values: dict[str, Any], out: Path, seeds: set[int]) -> tuple[list[dict[int, Task]], Final]:
    """Data sets, each by seed, and what the final models are trained on unless the plan says so."""
    protocol = values.get("protocol")
    if protocol is None:
        if extra := [name for name in _CHOICES if values.get(name) is not None]:
            raise ConfigError(f"{extra[0]} is for a protocol: vtab, fewshot or domain")
        if not values.get("data"):
            raise ConfigError("data is needed, or protocol and root")
        return [dict.fromkeys(seeds, task) for task in _tasks(values["data"], out)], "train"
    _one_of(protocol, "protocol", _PROTOCOLS)
    if values.get("data"):
        raise ConfigError("give either data or protocol with root")
    if not values.get("root"):
        raise ConfigError(f"root is needed: the folder of the data sets of protocol {protocol}")
    names, shots = values.get("tasks"), values.get("shots")
    if names is not None and (not isinstance(names, list) or len(set(map(str, names))) < len(names) or not names):
        raise ConfigError(f"tasks is a list of different names, not {names!r}")
    if shots is not None:
        shots = _list(shots, "shots", 1)
    listed = protocol_tasks(
        protocol, str(values["root"]), None if names is None else [str(name) for name in names], shots, sorted(seeds)
    )
    found: dict[tuple[str, int | None], dict[int, Task]] = {}
    for task, _ in listed:
        drawn = seeds if task.drawn is None else [task.drawn]
        found.setdefault((task.name, task.shots), {}).update(dict.fromkeys(drawn, task))
    return list(found.values()), listed[0][1]


def _alphas(value: Any) -> tuple[float, ...]:
    if value is None:
        return ()
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if not isinstance(value, str):
        # YAML takes 0:1:0.1 for a number to the base 60.
        raise ConfigError('alphas is text in quotes, such as "0:1:0.1", or a list of shares from 0 to 1')
    return parse_alphas(value, "alphas")


def _tasks(value: Any, out: Path) -> list[Task]:
    if isinstance(value, list):
        names = Counter(Path(str(source)).name for source in value)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ConfigError(f"data: two folders are called {twice[0]}: give them names, as in pets: DIR")
        value = {Path(str(source)).name: str(source) for source in value}
    found = []
    for name, entry in _mapping(value, "data").items():
        what = f"data: {name}"
        own: dict[str, Any] = {"folder": entry} if isinstance(entry, str) else _mapping(entry, what, _DATA)
        if ("folder" in own) == ("make" in own):
            raise ConfigError(f"{what}: give either folder or make")
        if "make" not in own:
            if extra := {"seed", "test"} & own.keys():
                raise ConfigError(f"{what}: {min(extra)} is for what is made, not for a folder")
            found.append(Task(name, str(own["folder"]), own.get("group")))
            continue
        made_set(own["make"])
        seed = _whole(own.get("seed", 0), f"{what}: seed", 0)
        test = _whole(own["test"], f"{what}: test", 1) if "test" in own else None
        found.append(Task(name, str(out / "data" / name), own.get("group"), own["make"], seed, test))
    return found


def _check(cell: Cell) -> None:
    """Refuse now what would fail in every cell of a method."""
    try:
        for lr in cell.rates:
            config = cell.config(lr, cell.seed)
    except TypeError as error:
        raise ConfigError(f"methods: {cell.method}: {error}") from None
    except GloraError as error:
        raise type(error)(f"methods: {cell.method}: {error}") from None
    if cell.peer == GLORA and cell.final == "train+val" and (config.select == "soup" or config.finetune_epochs):
        raise ConfigError(
            f"methods: {cell.method}: final: train+val trains the structure that was found anew, alone: leave "
            "finetune_epochs and select: soup out"
        )


def _rates(value: Any, what: str) -> tuple[tuple[float, ...], int]:
    """Learning rates, and the seed that they are tried with."""
    entry = _mapping(value, what, _LR) if isinstance(value, dict) else {"values": [value]}
    values = entry.get("values")
    try:
        # Text too, because YAML takes 1e-3 for text.
        rates = tuple(float(one) for one in values or ())
    except (TypeError, ValueError):
        rates = ()
    if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
        raise ConfigError(f"{what} is a positive number, or values: a list of different ones, not {values!r}")
    return rates, _whole(entry.get("seed", 0), f"{what}: seed", 0)


def _mapping(value: Any, what: str, known: tuple[str, ...] | None = None) -> dict[str, Any]:
    """A mapping, of whose keys none is unknown."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{what} is a mapping of names, not {value!r}")
    for key in value if known is not None else ():
        _one_of(key, what, known or (), "has no")
    return dict(value)


def _one_of(value: Any, what: str, known: tuple[str, ...], verb: str = "is not") -> None:
    if value not in known:
        names = ", ".join(known) or "nothing to set"
        raise ConfigError(f"{what} {verb} {value!r}: there is {names}{near_miss(value, known)}")


def _whole(value: Any, what: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{what} is a whole number from {least} on, not {value!r}")
    return value


def _list(value: Any, what: str, least: int) -> list[int]:
    if not isinstance(value, list) or not value or len({str(one) for one in value}) < len(value):
        raise ConfigError(f"{what} is a list of different numbers, not {value!r}")
    return [_whole(one, what, least) for one in value]


def _digest_of(checkpoint: str | None) -> str | None:
    """The digest of a file's content, so that weights that were moved are known again."""
    if checkpoint is None:
        return None
    try:
        return hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"checkpoint {checkpoint} cannot be read: {error.strerror}") from None

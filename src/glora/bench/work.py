"""Doing one cell: the learning rate by trials on validation images, the final training, one look at the test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from glora.backbones import load_backbone
from glora.bench.cells import GLORA, SEARCHED, Cell, fingerprint
from glora.bench.memory import PeakMemory
from glora.bench.tasks import Task
from glora.config import RunConfig
from glora.data import LabelledData, Preprocessing, Samples, label_data
from glora.errors import DivergenceError, GloraError
from glora.evaluate import evaluate
from glora.fields import parse
from glora.files import write_json
from glora.machine import machine, versions
from glora.model import GLoRAModel
from glora.peers import peer
from glora.peers.points import PointPeer
from glora.precision import Precision
from glora.progress import SilentProgress
from glora.protocols import evaluate_task, interpolate
from glora.run import Run, share_supernet
from glora.space import SearchSpace
from glora.summary import layer_rows
from glora.train import TrainSettings, fit
from glora.trainable import Trainable

__all__ = ["run_cell", "tidy"]


class _Trained(NamedTuple):
    """A trained model and what is known of it before the test."""

    net: Trainable
    data: LabelledData
    preprocessing: Preprocessing
    config: RunConfig
    parameters: int
    val: float | None
    structure: dict[str, Any] | None
    seconds: float


def run_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """Do a cell, or go on with it.

    Args:
        cell: to be done.
        folder: of the bench, where trials, checkpoints and supernets are kept.

    Returns:
        The line for the results; of a cell that failed, whatever the reason, what it failed of.
    """
    try:
        with PeakMemory() as memory:
            lr, trials = _tuned(cell, folder)
            trained = _final(cell, folder, lr, trials)
            figures = _tested(cell, trained)
    except GloraError as error:
        return cell.failed(str(error))
    except Exception as error:  # of any kind: one cell must not stop the others
        return cell.failed(f"{type(error).__name__}: {error}")
    settings = asdict(trained.config.train_settings())
    if cell.peer == GLORA:
        settings |= {name: getattr(trained.config, name) for name in SEARCHED}
    return {
        **cell.about(),
        "settings": settings,
        "preprocessing": trained.preprocessing.to_dict(),
        "lr": lr,
        "trials": trials,
        "parameters": trained.parameters,
        "head": trained.net.head_size,
        "val": trained.val,
        **figures,
        "trained_on": cell.final,
        "split": cell.task.split or trained.data.digest,
        "structure": trained.structure,
        **({"layers": layer_rows(trained.net)} if trained.structure and isinstance(trained.net, GLoRAModel) else {}),
        "seconds": round(trained.seconds, 1),
        "memory": memory.peak,
        "versions": versions(),
        "machine": machine(),
    }


def tidy(cell: Cell, line: dict[str, Any], folder: Path) -> None:
    """Remove the checkpoints that nobody needs once the line of a cell is on file."""
    if "error" not in line:
        _forget(_state(cell, folder, line["lr"], cell.seed, cell.final))


def _tested(cell: Cell, trained: _Trained) -> dict[str, Any]:
    """The figures of the test images, and those of the way from the pretrained to the tuned weights if it is asked."""
    net = trained.net
    how = cell.task.open().tests, trained.preprocessing, trained.config.eval_batch_size, _precision(trained)
    found: dict[str, Any] = {"tests": evaluate_task(net, *how).accuracies()}
    if cell.alphas and (between := _interpolable(net)) is not None:
        curve = interpolate(between, cell.alphas, *how)
        found["alphas"] = {alpha: score.accuracies() for alpha, score in curve.items()}
    return found


def _interpolable(net: Trainable) -> GLoRAModel | None:
    """The adapted model that a method is, where all that is trained beside the head are weights of its layers."""
    adapted = net.net if isinstance(net, PointPeer) else net
    if not isinstance(adapted, GLoRAModel) or adapted.active.blocks:
        return None
    return adapted if adapted.adapter_parameters().keys() == net.adapter_parameters().keys() else None


def _tuned(cell: Cell, folder: Path) -> tuple[float, list[dict[str, Any]]]:
    """The learning rate with the best validation accuracy, the first of equals, and all trials; none for one rate."""
    if len(cell.rates) == 1:
        return cell.rates[0], []
    final, cell = cell.final, cell.trial
    trials: list[dict[str, Any]] = []
    errors: list[DivergenceError] = []
    for lr in cell.rates:
        path = folder / "trials" / f"{cell.digest(cell.seed, lr=lr)}.json"
        if not path.is_file():
            try:
                val = _trained(cell, folder, lr, cell.seed).val
            except DivergenceError as error:  # of this rate alone
                trials.append({"lr": lr, "val": None})
                errors.append(error)
                continue
            write_json(path, {"lr": lr, "val": val})
        trials.append(_trial(path))
    if len(errors) == len(trials):
        raise errors[0]
    best = max((one for one in trials if one["val"] is not None), key=lambda one: float(one["val"]))
    for one in trials:
        if one is not best or final != "train":
            _forget(_state(cell, folder, one["lr"], cell.seed, "train"))
    return float(best["lr"]), trials


def _trial(path: Path) -> dict[str, Any]:
    """The rate and the validation accuracy of a trial that is done."""
    found = parse(path.read_bytes(), str(path), "remove it, and the trial is done again")
    return {"lr": found.number("lr"), "val": found.share("val")}


def _final(cell: Cell, folder: Path, lr: float, trials: Sequence[dict[str, Any]]) -> _Trained:
    if cell.final == "train":
        return _trained(cell, folder, lr, cell.seed)
    if cell.peer == GLORA:
        return _anew(cell, folder, _run_of(cell, folder, lr, cell.seed))
    chosen = [one["val"] for one in trials if one["lr"] == lr]
    return _peer(cell, folder, lr, cell.seed)._replace(val=chosen[0] if chosen else None)


def _trained(cell: Cell, folder: Path, lr: float, seed: int) -> _Trained:
    """Trained on the training images, and scored on the validation images."""
    if cell.peer == GLORA:
        return _searched(_run_of(cell, folder, lr, seed))
    found = _peer(replace(cell, final="train"), folder, lr, seed)
    score = evaluate(found.net, found.data.val, found.config.eval_batch_size, _precision(found))
    return found._replace(val=score.accuracy)


def _peer(cell: Cell, folder: Path, lr: float, seed: int) -> _Trained:
    config = cell.config(lr, seed)
    classes = len(cell.task.open().listing.classes)
    backbone = load_backbone(
        config.model,
        num_classes=classes,
        size=config.size,
        checkpoint=config.checkpoint,
        drop_path=config.drop_path,
    )
    preprocessing = cell.task.open().prepared(Preprocessing.from_dict(backbone.preprocessing))
    data = _decoded(cell.task, preprocessing)
    ranked = {} if cell.rank is None else {"rank": cell.rank}
    net = peer(cell.peer, backbone.model, head=backbone.head, num_classes=classes, seed=seed, **cell.options, **ranked)
    samples = data.train if cell.final == "train" else data.train_val
    seconds = _fit(net, samples, config.train_settings(), _state(cell, folder, lr, seed, cell.final))
    return _Trained(net, data, preprocessing, config, net.size, None, None, seconds)


@lru_cache(maxsize=1)
def _decoded(task: Task, preprocessing: Preprocessing) -> LabelledData:
    """Decoded once for all methods on the same data set."""
    return label_data(task.open().listing, preprocessing)


def _run_of(cell: Cell, folder: Path, lr: float, seed: int) -> Run:
    """The searched run with a supernet that all methods of the same training share."""
    config = cell.config(lr, seed, folder / "runs" / cell.digest(seed, lr=lr))
    shared = replace(
        config, out=str(folder / "supernets" / fingerprint([cell.task.identity, config.of_the_supernet()]))
    )
    if not (config.folder / "config.yaml").is_file():
        Run(shared, SilentProgress(), task=cell.task.open()).train()
        share_supernet(shared.folder, config)
    run = Run(config, SilentProgress(), task=cell.task.open())
    run.search()
    return run


def _searched(run: Run) -> _Trained:
    net = run.tune()
    score = evaluate(net, run.data.val, run.config.eval_batch_size, run.config.train_settings().precision)
    seconds = sum(run.metrics.values["seconds"].values())
    structure = net.active.to_dict()
    return _Trained(net, run.data, run.preprocessing, run.config, run.size, score.accuracy, structure, seconds)


def _anew(cell: Cell, folder: Path, run: Run) -> _Trained:
    """The structure that a run has found, trained alone on training and validation images."""
    found = _searched(run)
    net = run.adapted(SearchSpace.of(run.search().best))
    state = _state(cell, folder, run.config.lr, run.config.seed, cell.final)
    seconds = _fit(net, run.data.train_val, run.config.train_settings(), state)
    return found._replace(net=net, seconds=found.seconds + seconds)


def _fit(net: Trainable, samples: Samples, settings: TrainSettings, state: Path) -> float:
    """Train, or go on, and give the seconds of all sittings."""
    clock = state.with_suffix(".json")
    before = 0.0
    if clock.is_file() and state.is_file():
        before = parse(clock.read_bytes(), str(clock), "remove it, and the time counts anew").number("seconds")
    state.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()

    def spent() -> float:
        return before + time.monotonic() - start

    fit(net, samples, settings=settings, state=state, on_epoch=lambda _: write_json(clock, {"seconds": spent()}))
    return spent()


def _state(cell: Cell, folder: Path, lr: float, seed: int, part: str) -> Path:
    return folder / "state" / f"{cell.digest(seed, lr=lr, part=part)}.safetensors"


def _forget(state: Path) -> None:
    for path in (state, state.with_suffix(".json")):
        path.unlink(missing_ok=True)


def _precision(trained: _Trained) -> Precision:
    return trained.config.train_settings().precision

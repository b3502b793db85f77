"""The pipeline behind the commands: every stage reads and writes the run folder, and resumes from it."""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from glora.backbones import Backbone, load_backbone
from glora.blend import blended_structure, pour
from glora.checkpoint import load, load_supernet, read_metadata, save, save_merged, save_supernet
from glora.config import RunConfig
from glora.crossval import Fold, train_folds
from glora.data import Preprocessing, Samples, label_data, list_data
from glora.errors import ConfigError
from glora.files import replacing, write_json, write_text
from glora.find import search
from glora.machine import machine, versions
from glora.metrics import Metrics
from glora.model import GLoRAModel, adapt
from glora.progress import Progress
from glora.protocols import Task
from glora.report import write_report
from glora.selection import known_choice
from glora.space import SearchSpace
from glora.strategies import Candidate, RandomSearch, SearchResult, Strategy
from glora.summary import layer_rows
from glora.train import EpochRecord, TrainSettings, train_supernet
from glora.verify import verified_merge

__all__ = ["Run", "share_supernet"]

# How often the figures on file are brought up to date while a stage goes on.
_LAP_SECONDS = 5.0
# Between the seeds of the search and of the random one, which would begin with the same structures otherwise.
_OTHER_SEED = 1_000_003


class Run:
    """One run folder and the stages that fill it (final).

    Args:
        config: all settings; written to the folder, or compared with what is there.
        progress: told what happens.
        command: the line that repeats the run, for the report.
        writes: whether this process writes to the folder: of several that train together, only the main one.
        task: whose images and preprocessing are taken in place of those of ``config.data``, and whose augmentation if
            ``config`` has none.

    Raises:
        ConfigError: if the folder's run has other settings or was made from other data.
        DataError, BackboneError, TargetError, BudgetError: for wrong input, before anything is trained.
    """

    def __init__(
        self, config: RunConfig, progress: Progress, command: str = "", writes: bool = True, task: Task | None = None
    ) -> None:
        if config.augment is None:
            config = replace(config, augment=task.augmentation if task else "none")
        self.config, self.progress, self.folder = config, progress, config.folder
        config.check(self.folder)
        listing = task.listing if task else list_data(config.data, **config.split, skip_bad=config.skip_bad)
        self._classes = listing.classes
        backbone = self._backbone()
        own = Preprocessing.from_dict(backbone.preprocessing)
        self.preprocessing = task.prepared(own) if task else own
        self.net = self._adapt(backbone, config.search_space())
        if config.limit is not None:
            self.net.bound.check_budget(config.limit)
        self.data = label_data(listing, self.preprocessing, skip_bad=config.skip_bad)
        if self.data.skipped:
            progress.say(f"data: {len(self.data.skipped)} bad files skipped, the first is {self.data.skipped[0][0]}")
        self._writes = writes
        if writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            config.save(self.folder)
        self.metrics = Metrics.open(self.folder / "metrics.json", writes)
        self._describe(backbone, command)
        self._trained = False
        self._cut: tuple[Fold, ...] = ()
        self._found: SearchResult | None = None
        self._random: SearchResult | None = None
        self._tuned: GLoRAModel | None = None

    # Stages

    def train(self) -> GLoRAModel:
        """The trained supernet: trained now, gone on with, or read."""
        if not self._trained:
            path, state = self.folder / "supernet.safetensors", self.folder / "state.safetensors"
            if path.is_file():
                load_supernet(self.net, path)
            else:
                log = self.folder / "train.jsonl"
                self.fit(self.net, "supernet", state, self.config.train_settings(), val=self.data.val, log=log)
                if self._writes:
                    save_supernet(self.net, path, self.extra())
            if self._writes:
                state.unlink(missing_ok=True)
            self._trained = True
        return self.net

    def search(self) -> SearchResult:
        """Search the trained supernet, or go on, and write ``structure.json``."""
        if self._found is None:
            self.train()
            config = self.config
            if config.fitness.startswith("cv"):
                self._folds()
            with self._timed("search") as lap:
                self._found = self._search(
                    "search.jsonl",
                    config.make_strategy(self.net.bound, config.limit),
                    select=config.select,
                    known=known_choice(self.folder / "structure.json"),
                    on_candidate=self._shown(lap),
                )
            self.metrics.update(search=self._found.effort)
            self._write_structure(self._found)
        return self._found

    def random_search(self) -> SearchResult:
        """As many random structures within the budget as the search has scored, by the same fitness."""
        if self._random is None:
            config, count = self.config, len(self.search().history)
            strategy = RandomSearch(
                self.net.bound,
                config.limit,
                seed=config.seed + _OTHER_SEED,
                evaluations=count,
                batch=config.population,
            )
            bar = self.progress.bar("random search", count)
            with self._timed("random search") as lap:

                def show(candidate: Candidate) -> None:
                    bar(candidate.index + 1, "")
                    lap()

                self._random = self._search("random.jsonl", strategy, select=None, on_candidate=show)
        return self._random

    @property
    def size(self) -> int:
        """Adapter parameters of what the search chose: the numbers that its file holds."""
        found = self.search()
        return found.winner.size if found.soup is None else self.net.bound.size(blended_structure(found.soup))

    def tune(self) -> GLoRAModel:
        """What was chosen, as ``adapter.safetensors`` holds it: with inherited weights, or fine-tuned from them."""
        if self._tuned is None:
            path = self.folder / "adapter.safetensors"
            inherited, state = self.folder / "inherited.safetensors", self.folder / "finetune.safetensors"
            if not path.is_file():
                found, epochs = self.search(), self.config.finetune_epochs
                first = inherited if epochs else path
                if found.soup is None:
                    save(self.net, first, found.best, self.extra())
                else:
                    poured = pour(self.net, found.soup, self._backbone().model)
                    save(poured, first, extra=self.extra() | {"soup": found.soup.to_dict()})
                if epochs:
                    net = load(self._backbone().model, first)
                    self.fit(net, "fine-tuning", state, self.config.train_settings(epochs, self.config.finetune_lr))
                    save(net, path, extra=self.extra())
            inherited.unlink(missing_ok=True)
            state.unlink(missing_ok=True)
            # Read back, so that what is merged, tested and compared is what the file holds.
            self._tuned = load(self._backbone().model, path)
        return self._tuned

    def merge(self) -> Path:
        """Write ``merged.safetensors``, verified against the adapted model on validation images."""
        path, net = self.folder / "merged.safetensors", self.tune()
        inputs = self.data.val.inputs(torch.arange(min(len(self.data.val), self.config.eval_batch_size)))
        plain, figures = verified_merge(net, inputs, keep_hybrids=True)
        about: dict[str, Any] = {"structure": net.active.to_dict(), "alpha": 1.0, "verification": figures}
        if soup := read_metadata(self.folder / "adapter.safetensors").values.get("soup"):
            about["soup"] = soup
        if created := net.created_biases():
            self.progress.say(f"merge: biases that the pretrained model did not have: {', '.join(created)}")
        if kept := net.active.blocks:
            self.progress.say(f"merge: no plain model, as prompts or adapters stay in {', '.join(kept)}")
        save_merged(plain, path, self.extra() | about)
        self.metrics.update(verification=figures)
        return path

    def report(self) -> Path:
        """Write ``report.html``."""
        return write_report(self.folder)

    # Parts, some of which the comparison with other methods needs too

    def adapted(self, space: SearchSpace) -> GLoRAModel:
        """The pretrained model once more, adapted with another space."""
        return self._adapt(self._backbone(), space)

    def fit(
        self,
        net: GLoRAModel,
        label: str,
        state: Path,
        settings: TrainSettings,
        *,
        val: Samples | None = None,
        log: Path | None = None,
        train: Samples | None = None,
    ) -> None:
        """Train, on the training images if not on others, with progress, counting the seconds under ``label``."""
        bar = self.progress.bar(label, settings.epochs)
        lines: list[str] = []
        seen = ""

        def show(record: EpochRecord) -> None:
            nonlocal seen
            if record.probes:
                seen = f", probes {statistics.mean(record.probes.values()):.1%}"
            bar(record.epoch, f"loss {record.loss:.3f}{seen}")
            lines.append(f"{json.dumps(record.to_dict())}\n")
            if log is not None and self._writes:
                write_text(log, "".join(lines))
            lap()

        with self._timed(label) as lap:
            train_supernet(net, train or self.data.train, val, settings, state=state, on_epoch=show)

    def extra(self) -> dict[str, Any]:
        """What travels along in every file, so that it can be used without this folder."""
        config = self.config
        checkpoint = None if config.checkpoint is None else str(Path(config.checkpoint).resolve())
        return {
            "backbone": _absolute(config.model),
            "backbone_arguments": {"size": config.size, "checkpoint": checkpoint},
            "classes": list(self._classes),
            "preprocessing": self.preprocessing.to_dict(),
        }

    def _backbone(self) -> Backbone:
        config = self.config
        return load_backbone(
            config.model,
            num_classes=len(self._classes),
            size=config.size,
            checkpoint=config.checkpoint,
            drop_path=config.drop_path,
        )

    def _adapt(self, backbone: Backbone, space: SearchSpace) -> GLoRAModel:
        config = self.config
        return adapt(
            backbone.model,
            space,
            config.layers,
            head=backbone.head,
            num_classes=len(self._classes),
            bias=config.bias,
            gains=config.gains,
            storage=config.storage,
            recompute=config.recompute,
            seed=config.seed,
        )

    def _search(self, history: str, strategy: Strategy, **settings: Any) -> SearchResult:
        """Search the supernet by the run's fitness, or go on."""
        config = self.config
        return search(
            self.net,
            self.data.val,
            config.limit,
            strategy=strategy,
            fitness=config.fitness,
            folds=self._folds() if config.fitness.startswith("cv") else None,
            batch_size=config.eval_batch_size,
            precision=config.train_settings().precision,
            history=self.folder / history,
            prune=config.prune,
            workers=config.workers,
            ray=config.ray,
            **settings,
        )

    def _folds(self) -> tuple[Fold, ...]:
        """The supernets of a cross-validated fitness: trained now, gone on with, or read."""
        if not self._cut:
            config = self.config

            def fit(net: GLoRAModel, train: Samples, index: int) -> None:
                path = self.folder / "folds" / f"{index + 1}-of-{config.folds}.safetensors"
                state = path.with_suffix(".state.safetensors")
                if not path.is_file():
                    path.parent.mkdir(exist_ok=True)
                    label = f"fold {index + 1} of {config.folds}"
                    self.fit(net, label, state, config.train_settings(), train=train)
                    save_supernet(net, path, self.extra())
                load_supernet(net, path)
                state.unlink(missing_ok=True)

            net = self.adapted(config.search_space())
            self._cut = train_folds(net, self.data.train_val, config.train_settings(), config.folds, fit=fit)
        return self._cut

    def _shown(self, lap: Callable[[], None]) -> Callable[[Candidate], None]:
        """What shows the progress of the search, candidate by candidate."""
        bound, limit = self.net.bound, self.config.limit
        within = "" if limit is None else f", the budget is {limit:,}"
        self.progress.say(f"search: structures have {bound.smallest:,} to {bound.largest:,} parameters{within}")
        bar = self.progress.bar("search", self.config.population * (self.config.generations + 1))
        best: list[Candidate] = []

        def show(candidate: Candidate) -> None:
            if not best or candidate.rank_key() > best[0].rank_key():
                best[:] = [candidate]
            reached = best[0].score
            figure = f"{reached.accuracy:.1%}" if reached.fitness == "accuracy" else f"loss {reached.loss:.3f}"
            bar(candidate.index + 1, f"best {figure} with {best[0].size:,}")
            lap()

        return show

    def _write_structure(self, found: SearchResult) -> None:
        bound = self.net.bound
        layers = [{key: row[key] for key in ("name", "kind", "out", "in", "bias")} for row in layer_rows(self.net)]
        blocks = [{"name": name, "width": block.shape.width} for name, block in self.net.blocks.items()]
        about: dict[str, Any] = {"layers": layers} | ({"blocks": blocks} if blocks else {})
        about |= {"space": bound.space.to_dict(), "budget": self.config.limit}
        value = {"format": 1, **found.to_dict(), **about, "range": [bound.smallest, bound.largest]}
        if found.soup is not None:
            value["soup"] |= {"size": self.size, "structure": blended_structure(found.soup).to_dict()}
            over = f"; the budget of {self.config.limit:,} holds for each of them" if self.config.limit else ""
            self.progress.say(
                f"search: chosen is the mean of {len(found.soup.weights)} subnets, {self.size:,} parameters{over}"
            )
        write_json(self.folder / "structure.json", value)

    def _describe(self, backbone: Backbone, command: str) -> None:
        """Enter what the run is made of, after checking that the data are those it began with."""
        contents = hashlib.sha256("".join(part.digest() for part in (self.data.train, self.data.val)).encode())
        data = self.data.summary() | {"contents": contents.hexdigest()[:16]}
        before = self.metrics.values.get("data", data)
        if any(before.get(key) != data[key] for key in ("digest", "contents")):
            raise ConfigError(
                f"{self.folder} holds a run on other images of {self.config.data} (some were added, removed, moved or "
                "changed since): put them back, or start anew with another --out"
            )
        self.metrics.update(
            title=f"{self.data.name} with {self.config.model}",
            backbone=self.config.model,
            backbone_source=backbone.source,
            data=data,
            machine=machine(),
            versions=versions(),
            seed=self.config.seed,
            head_size=self.net.head_size,
            command=command or self.metrics.values.get("command", ""),
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[Callable[[], None]]:
        """Count the seconds of a stage over all sittings; call what it gives now and then, in case of a kill."""
        last = time.monotonic()

        def lap(least: float = _LAP_SECONDS) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= least:
                self.metrics.add_seconds(stage, now - last)
                last = now

        try:
            yield lap
        finally:
            lap(0.0)


def share_supernet(source: Path, config: RunConfig) -> None:
    """Make the folder of a run that begins with the trained supernet of another one."""
    for name in ("supernet.safetensors", "train.jsonl"):
        with replacing(config.folder / name) as temporary:
            shutil.copyfile(source / name, temporary)
    seconds = Metrics.open(source / "metrics.json").seconds("supernet")
    Metrics.open(config.folder / "metrics.json").add_seconds("supernet", seconds)
    config.save(config.folder)


def _absolute(model: str) -> str:
    """The name of a backbone, with the full path where it is a local folder: files are used from anywhere."""
    prefix, _, place = model.partition(":")
    return f"{prefix}:{Path(place).resolve()}" if place and Path(place).is_dir() else model

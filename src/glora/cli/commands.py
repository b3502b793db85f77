"""The commands: each is a function, and its docstring is its help."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from glora.checkpoint import read_metadata, save_merged
from glora.cli import info as info_
from glora.cli.bench_commands import bench, table
from glora.cli.console import ConsoleProgress, print_lines, print_results, print_table
from glora.cli.evaluation import AnyPrecision, check_batch, eval_, resolved
from glora.comparison import Comparison
from glora.config import RunConfig, parse_count
from glora.data import Preprocessing
from glora.demo import demo_config
from glora.errors import CheckpointError, ConfigError
from glora.files import locked
from glora.find import Signal
from glora.inference import adapter_of, open_adapter, open_classifier
from glora.inference import predict as classify
from glora.progress import SilentProgress
from glora.report import write_bench_report, write_report
from glora.results.file import NAME as RESULTS
from glora.run import Run, share_supernet
from glora.space import BiasPolicy
from glora.strategies import Select, StrategyName
from glora.train.processes import Processes
from glora.verify import verified_merge

__all__ = ["COMMANDS"]

# Of the noise that a merge is verified on where there are no images.
_NOISE = 8


def run(config: RunConfig, line: str = "", json: bool = False) -> None:
    """Adapt a model to a folder of images: train the supernet, search, merge, compare, test once, report.

    Killed at any moment and started again with the same command, it goes on where it was and ends with the same files.

    Args:
        config: all settings.
        line: the command as it was given, for the report.
        json: print the results as JSON.
    """
    with ConsoleProgress() as progress, locked(config.folder):
        made = Run(config, progress, line)
        made.train()
        made.search()
        made.merge()
        comparison = Comparison(made)
        comparison.validate()
        comparison.test()
        made.report()
    print_table(made.folder, made.metrics.values, json)


def train(config: RunConfig, line: str = "", json: bool = False) -> None:
    """Train the supernet only; glora search RUN goes on from there.

    Under accelerate launch or torchrun (-m glora train) all processes train it together, each on a share of a batch.

    Args:
        config: all settings.
        line: the command as it was given, for the report.
        json: print the results as JSON.
    """
    processes = Processes()
    if processes.index > 0:
        Run(config, SilentProgress(), line, writes=False).train()
        processes.leave()
        return
    with ConsoleProgress() as progress, locked(config.folder):
        made = Run(config, progress, line)
        made.train()
        report = made.report()
    processes.leave()
    result = {"supernet": str(made.folder / "supernet.safetensors"), "report": str(report)}
    print_results(result | {"next": f"glora search {shlex.quote(str(made.folder))}"}, json)


def search(
    run: str,
    out: str | None = None,
    budget: int | str | None = None,
    strategy: StrategyName | None = None,
    generations: int | None = None,
    population: int | None = None,
    fitness: Signal | None = None,
    select: Select | None = None,
    finetune_epochs: int | None = None,
    finetune_lr: float | None = None,
    workers: int | None = None,
    ray: str | None = None,
    json: bool = False,
) -> None:
    """Search a trained supernet for the best structure within a budget, and write its adapter file.

    Args:
        run: a run folder with a trained supernet.
        out: a new run folder, to search the same supernet once more with other settings.
        budget: most adapter parameters, such as 300k; as in the run if not given, and so is what follows.
        strategy: evolution, random, ageing, nsga2, surrogate or samplewise, as for glora run.
        generations: of the search, after a first one of random structures.
        population: candidates in a generation; in evolution half are mutants, half crossovers, a fifth become parents.
        fitness: what structures are ranked by: accuracy, loss, cv or cv-loss.
        select: best, smallest of those that are not distinguishably worse, or a soup of several.
        finetune_epochs: further epochs for the chosen subnet alone.
        finetune_lr: peak learning rate of these.
        workers: processes that evaluate candidates, more than one by Ray (extra ray); same result.
        ray: address of a Ray cluster where the workers shall be ("auto" for one that runs here).
        json: print the results as JSON.
    """
    given: dict[str, Any] = {
        "budget": None if budget is None else parse_count(budget),
        "strategy": strategy,
        "generations": generations,
        "fitness": fitness,
        "select": select,
        "finetune_epochs": finetune_epochs,
        "finetune_lr": finetune_lr,
        "workers": workers,
        "ray": ray,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if population is not None:
        changes |= {"population": population, "mutants": None, "crossovers": None, "parents": None}
    config = RunConfig.load(run)
    with ConsoleProgress() as progress, locked(Path(run if out is None else out)):
        made = Run(_searched_anew(config, changes, out), progress)
        found = made.search()
        made.tune()
        report = made.report()
    result = {
        "val_accuracy": found.score.accuracy,
        "parameters": made.size,
        "soup_of": None if found.soup is None else len(found.soup.weights),
        "no_worse": len(found.ties),
        "structure": str(made.folder / "structure.json"),
        "adapter": str(made.folder / "adapter.safetensors"),
        "report": str(report),
    }
    print_results(result | {"next": f"glora merge {shlex.quote(str(made.folder))}"}, json)


def _searched_anew(config: RunConfig, given: dict[str, Any], out: str | None) -> RunConfig:
    """The settings of a search of a run's supernet, in its folder or a new one, which is made."""
    changed, source = replace(config, **given), config.folder
    if out is None:
        if changed != config:
            if not changed.same_results(config) and (source / "search.jsonl").is_file():
                raise ConfigError(
                    f"{source} has been searched already: give --out NEW to search its supernet once more"
                )
            changed.save(source)
        return changed
    changed = replace(changed, out=out)
    if not (changed.folder / "config.yaml").is_file():
        if not (source / "supernet.safetensors").is_file():
            raise ConfigError(f"{source} has no trained supernet yet: glora search {source} without --out trains it")
        share_supernet(source, changed)
    return changed


def merge(
    source: str,
    out: str | None = None,
    alpha: float = 1.0,
    keep_hybrids: bool = False,
    model: str | None = None,
    checkpoint: str | None = None,
    json: bool = False,
) -> None:
    """Fold an adapter into the weights: the plain model's state dict, verified against the adapted model.

    Args:
        source: a run folder or an adapter file.
        out: the merged file; if not given, merged.safetensors (merged-0.7.safetensors for an alpha of 0.7) in the run
            folder, or beside the adapter file.
        alpha: interpolates between the pretrained (0) and the tuned weights (1), which helps under a shift of domain.
        keep_hybrids: where blocks have prompts or adapters, merge all else and leave these in: no plain model.
        model: name of the backbone, if it is another one than in training (a folder that was moved).
        checkpoint: local weights of the backbone, if they lie elsewhere than in training.
        json: print the results as JSON.
    """
    path = adapter_of(source)
    net = open_adapter(path, checkpoint, model)
    values = read_metadata(path).values
    size = Preprocessing.from_dict(values["preprocessing"]).size
    noise = torch.randn(_NOISE, 3, size, size, generator=torch.Generator().manual_seed(0))
    plain, figures = verified_merge(net, noise, alpha, keep_hybrids)
    name = "merged" if path.name == "adapter.safetensors" else f"{path.stem}-merged"
    # A part of the way gets a name of its own: a run's merged.safetensors is that of all the way.
    name += ".safetensors" if alpha == 1.0 else f"-{alpha:g}.safetensors"
    target = path.with_name(name) if out is None else Path(out)
    if target.is_dir():
        raise ConfigError(f"{target} is a folder: give --out FILE, such as {target / name}")
    kept = ("backbone", "backbone_arguments", "classes", "preprocessing", "structure", "soup")
    about = {key: values[key] for key in kept if key in values}
    save_merged(plain, target, about | {"alpha": alpha, "verification": figures})
    result: dict[str, Any] = {"merged": str(target), "alpha": alpha, **figures}
    print_results(result | {"created_biases": list(net.created_biases())}, json)


def predict(
    source: str,
    images: list[str],
    top: int = 1,
    model: str | None = None,
    checkpoint: str | None = None,
    batch_size: int = 50,
    precision: AnyPrecision = "auto",
    skip_bad: bool = False,
    json: bool = False,
) -> None:
    """Class and probability of images, one line each: path, class, probability, separated by tabs.

    Args:
        source: a run folder, an adapter file or a merged file.
        images: image files, or folders of them.
        top: how many of the likeliest classes to print for each image.
        model: name of the backbone, if it is another one than in training (a folder that was moved).
        checkpoint: local weights of the backbone, if they lie elsewhere than in training.
        batch_size: images in a forward.
        precision: of the forward.
        skip_bad: go on without files that are no readable images.
        json: print one JSON object a line.
    """
    check_batch(batch_size)
    if top < 1:
        raise ConfigError(f"--top is 1 or more, not {top}")
    progress = ConsoleProgress()
    found = classify(
        open_classifier(source, checkpoint, model),
        images,
        top=top,
        batch_size=batch_size,
        precision=resolved(precision),
        skip_bad=skip_bad,
        on_skip=lambda path, reason: progress.say(f"skipped {path}: {reason}"),
    )
    print_lines(((prediction.image, prediction.classes) for prediction in found), json)


def info(
    source: str,
    classes: int = 10,
    size: int | None = None,
    rank: int = 4,
    space: str | dict[str, Any] = "default",
    layers: str | None = None,
    bias: BiasPolicy = "create",
    json: bool = False,
) -> None:
    """What would be adapted in a model, at what cost, and what budgets are feasible; or what a file of ours holds.

    Args:
        source: a model's name as for glora run, whose weights are not needed; or a run folder or one of its files.
        classes: number of classes, for the size of the head.
        size: side of the input images in pixels.
        rank: rank of the low-rank forms in the search space.
        space: as for glora run.
        layers: as for glora run.
        bias: as for glora run.
        json: print JSON, with every layer.
    """
    if Path(source).exists():
        info_.print_file(adapter_of(source), json)
    elif source.startswith((".", "/", "~")) or source.endswith(".safetensors"):
        raise ConfigError(f"{source}: no such file or folder")
    else:
        config = RunConfig(data="-", model=source, size=size, rank=rank, space=space, layers=layers, bias=bias)
        info_.print_model(config, classes, json)


def report(run: str, json: bool = False) -> None:
    """Write the report of a run or a bench, one HTML page that needs nothing else, from what is there.

    Args:
        run: a run folder or the folder of a bench, finished or not.
        json: print the results as JSON.
    """
    folder = Path(run)
    if (folder / RESULTS).is_file():
        page = write_bench_report(folder)
    elif not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder: give that of a run (glora run) or of a bench (glora bench)")
    elif not (folder / "config.yaml").is_file():
        raise CheckpointError(
            f"{folder} has neither config.yaml, as the folder of a run, nor {RESULTS}, as that of a bench"
        )
    else:
        RunConfig.load(run)
        page = write_report(folder)
    print_results({"report": str(page)}, json)


def demo(out: str = "runs/demo", json: bool = False) -> None:
    """The whole road in about ten minutes on two CPU cores: handwritten digits, a DINOv2 that needs no model hub.

    Args:
        out: the run folder; an unfinished demo found there goes on.
        json: print the results as JSON.
    """
    run(demo_config(out), f"glora demo --out {out}", json)


COMMANDS: dict[str, Callable[..., int | None]] = {
    "run": run,
    "train": train,
    "search": search,
    "merge": merge,
    "eval": eval_,
    "predict": predict,
    "info": info,
    "report": report,
    "bench": bench,
    "table": table,
    "demo": demo,
}
"""The functions behind the commands, by name; what they give is the exit code, 0 for None."""

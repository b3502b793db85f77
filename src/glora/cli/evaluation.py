"""``glora eval``: figures of a file on labelled images, on a protocol's test sets, and between two weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from glora.cli.console import print_json, print_results, stdout
from glora.config import RunConfig
from glora.errors import ConfigError, DataError
from glora.evaluate import evaluate
from glora.inference import Classifier, labelled_images, labelled_part, open_classifier
from glora.metrics import Metrics
from glora.model import GLoRAModel
from glora.precision import Precision, native_precision
from glora.protocols import Protocol, TestSet, evaluate_task, interpolate, open_task, parse_alphas

__all__ = ["AnyPrecision", "check_batch", "eval_", "resolved"]

AnyPrecision = Literal["auto", "fp32", "bf16", "fp16"]


def eval_(
    source: str,
    data: str | None = None,
    split: Literal["auto", "train", "val", "test", "all"] = "auto",
    protocol: Protocol | None = None,
    task: str | None = None,
    alphas: str | None = None,
    model: str | None = None,
    checkpoint: str | None = None,
    batch_size: int = 50,
    precision: AnyPrecision = "auto",
    skip_bad: bool = False,
    json: bool = False,
) -> None:
    """Accuracy and loss of an adapter or merged file on labelled images; a run folder remembers that it was tested.

    Args:
        source: a run folder, an adapter file or a merged file.
        data: as for glora run; a run folder's own data if not given. A folder without splits is taken as a whole.
        split: part of the data; auto is test, or all of a folder that has no splits.
        protocol: data is the folder of vtab, fewshot or domain; of domain all five test sets, with all and with the
            present classes.
        task: name of the data set, of those of vtab and fewshot.
        alphas: evaluate between the pretrained (0) and the tuned weights (1), such as 0:1:0.1 or 0,0.5,1.
        model: name of the backbone, if it is another one than in training (a folder that was moved).
        checkpoint: local weights of the backbone, if they lie elsewhere than in training.
        batch_size: images in a forward.
        precision: of the forward.
        skip_bad: go on without files that are no readable images.
        json: print the results as JSON.
    """
    check_batch(batch_size)
    steps = None if alphas is None else parse_alphas(alphas)
    if protocol is not None and split != "auto":
        raise ConfigError("--protocol evaluates on its test sets: leave out --split")
    if task is not None and protocol is None:
        raise ConfigError("--task names a data set of a protocol: give --protocol too")
    folder = Path(source) if Path(source).is_dir() else None
    cut: dict[str, Any] = {}
    if data is None:
        if folder is None or protocol is not None:
            raise ConfigError("say what to evaluate on: --data DIR")
        config = RunConfig.load(folder)
        data, skip_bad = config.data, skip_bad or config.skip_bad
        cut = config.split
    classifier = open_classifier(source, checkpoint, model, merge=steps is None)
    run = resolved(precision)
    if protocol is None and steps is None:
        result, part = _one_part(classifier, data, split, batch_size, run, skip_bad, cut)
    else:
        if protocol is None:
            images, part, skipped = labelled_images(classifier, data, split, skip_bad=skip_bad, **cut)
            tests: Sequence[TestSet] = (TestSet.plain(part, images),)
        else:
            tests, part, skipped = _tests(classifier, protocol, data, task), "test", 0
        result = {"file": str(classifier.file), "data": data, "split": part, "protocol": protocol, "task": task}
        result |= _several(classifier, tests, steps, batch_size, run, skip_bad, skipped)
    if folder is not None:
        metrics = Metrics.open(folder / "metrics.json")
        looked = {"tested": True} if part in ("test", "all") else {}
        metrics.update(evaluations=[*metrics.values.get("evaluations", []), result], **looked)
    if part == "all":
        print(
            "split all: every image of the folder counts, also those it was trained on (--split test of a run "
            "folder has none)",
            file=sys.stderr,
        )
    if "tests" in result or "alphas" in result:
        _print_figures(result, json)
    else:
        print_results(result, json)


def check_batch(batch_size: int) -> None:
    """Raise ConfigError unless a batch has an image."""
    if batch_size < 1:
        raise ConfigError(f"--batch-size is 1 or more, not {batch_size}")


def resolved(precision: AnyPrecision) -> Precision:
    """The precision that "auto" is here."""
    return native_precision() if precision == "auto" else precision


def _one_part(
    classifier: Classifier,
    data: str,
    split: str,
    batch_size: int,
    precision: Precision,
    skip_bad: bool,
    cut: Mapping[str, Any],
) -> tuple[dict[str, Any], str]:
    samples, part, skipped = labelled_part(classifier, data, split, skip_bad=skip_bad, **cut)
    score = evaluate(classifier.model, samples, batch_size, precision)
    return {
        "file": str(classifier.file),
        "data": data,
        "split": part,
        "images": len(samples),
        "accuracy": score.accuracy,
        "standard_error": (score.accuracy * (1 - score.accuracy) / len(samples)) ** 0.5,
        "loss": score.loss,
        "skipped": skipped,
    }, part


def _tests(classifier: Classifier, protocol: Protocol, data: str, task: str | None) -> Sequence[TestSet]:
    """The test sets of a task, whose labels are places among the classifier's classes."""
    found = open_task(protocol, data, task)
    if classifier.classes != found.listing.classes:
        few = ", ".join(classifier.classes[:6])
        raise DataError(
            f"{classifier.file} has other classes ({len(classifier.classes)}: {few}, ...) than {found.name} of "
            f"protocol {protocol} ({len(found.listing.classes)}: 0, 1, ...): train it on the protocol's lists"
        )
    return found.tests


def _several(
    classifier: Classifier,
    tests: Sequence[TestSet],
    steps: Sequence[float] | None,
    batch_size: int,
    precision: Precision,
    skip_bad: bool,
    skipped: int,
) -> dict[str, Any]:
    given = (tests, classifier.preprocessing, batch_size, precision, skip_bad)
    if steps is None:
        found = evaluate_task(classifier.model, *given)
        figures: dict[str, Any] = {"tests": found.accuracies()}
        skipped += found.skipped
    else:
        assert isinstance(classifier.model, GLoRAModel)
        curve = interpolate(classifier.model, steps, *given)
        figures = {"alphas": {alpha: score.accuracies() for alpha, score in curve.items()}}
        skipped += next(iter(curve.values())).skipped
    return {"images": {test.name: len(test.part) for test in tests}, **figures, "skipped": skipped}


def _print_figures(result: Mapping[str, Any], as_json: bool) -> None:
    """Accuracies as a table: a figure a line; with alphas a column each."""
    if as_json:
        print_json(dict(result))
        return
    columns: dict[str, dict[str, float]] = result.get("alphas") or {"accuracy %": result["tests"]}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("test set" if "tests" in result else "test set, by alpha", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for figure in next(iter(columns.values())):
        table.add_row(figure, *(f"{100 * found[figure]:.2f}" for found in columns.values()))
    stdout().print(table)

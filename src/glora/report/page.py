"""The page: everything a run folder tells, as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from glora.evidence import Gain
from glora.files import write_text
from glora.report import figures, forms, summary, words
from glora.report.read import Data, Metrics, Run, Tau, read_run
from glora.report.series import key_of, series_styles
from glora.structure import PARTS, TENSORS

__all__ = ["render", "write_page", "write_report"]


def write_report(run: Path, out: Path | None = None) -> Path:
    """Make the report of a run folder: one HTML file without scripts, links to other files or network requests.

    The same files give the same bytes. Stages that have not run yet are named with the command that runs them.

    Args:
        run: the run folder.
        out: the file to write, ``report.html`` in the run folder by default; it appears whole or not at all.

    Returns:
        The file written.

    Raises:
        CheckpointError: if ``run`` is not a run folder or one of its files is damaged.
    """
    target = Path(run) / "report.html" if out is None else Path(out)
    write_page(target, render("run.html.jinja", _context(read_run(Path(run)))))
    return target


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all."""
    # A class named by a folder that is not UTF-8 holds lone surrogates, which no UTF-8 file can.
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page of one of the templates beside this file, as text."""
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"count": words.count, "number": words.number, "short_form": forms.short_form}
    environment.globals |= {
        "key_of": lambda series: Markup(key_of(series)),
        "kind_names": forms.KIND_NAMES,
        "series_styles": lambda count: Markup(series_styles(count)),
        "style": Markup(_source("chart.css") + _source("page.css")),
    }
    return environment.get_template(template).render(context)


def _source(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _context(run: Run) -> dict[str, Any]:
    chosen = run.chosen
    groups = forms.blocks(chosen.layers, chosen.structure) if chosen else []
    hybrid = forms.block_rows(chosen.layers, chosen.structure) if chosen else []
    rows = [row for _, group in groups for row in group] + hybrid
    searched = [figures.progress(run.search)] if run.search and run.search.candidates else []
    if run.search or (run.chosen and run.chosen.front):
        searched.append(figures.candidates(run.search, run.chosen))
    return {
        "title": summary.title(run),
        "subject": summary.subject(run.metrics),
        "headline": summary.headline(run),
        "tiles": summary.tiles(run),
        "results": summary.result_rows(run),
        "data": run.metrics.data if run.metrics else None,
        "chosen": run.chosen,
        "groups": groups,
        "hybrid": hybrid,
        "tensors": TENSORS,
        "parts": PARTS,
        "kinds": forms.kinds_used(rows),
        "by_tensor": forms.by_tensor(rows) if rows else [],
        "total": sum(row.parameters for row in rows),
        "layer_sizes": figures.layer_sizes(groups) if groups else None,
        "searched": searched,
        "trained": figures.training(run.train) if run.train else [],
        "facts": _facts(run),
        "command": run.metrics.command if run.metrics else "",
        "config": run.config,
        "missing": _missing(run),
        "class_names": run.metrics.data.classes if run.metrics and run.metrics.data else (),
    }


def _missing(run: Run) -> dict[str, tuple[str, str]]:
    """For every section that cannot be made: what is missing, and the command that makes it."""
    out = shlex.quote(str(run.folder))
    found = {}
    if not run.train:
        found["training"] = ("The supernet is not trained yet.", f"glora train --config {out}/config.yaml")
    if run.search is None:
        found["search"] = ("No search has run yet.", f"glora search {out}")
    if run.chosen is None:
        found["structure"] = ("No structure is chosen yet.", f"glora search {out}")
    if run.metrics is None or not run.metrics.table:
        found["results"] = ("No final accuracies yet.", f"glora run --config {out}/config.yaml")
    return found


def _facts(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """What it takes to repeat the run, in groups of names and values; empty ones are left out."""
    groups = [*_metric_facts(run.metrics)] if run.metrics else []
    if run.search:
        groups.append(("Search", [(name, _plain(value)) for name, value in run.search.settings.items()]))
    if run.chosen:
        span = run.chosen.range
        space = [(name, _plain(value)) for name, value in run.chosen.space.items()]
        sizes = [("sizes", f"{span[0]:,} to {span[1]:,} parameters")] if span else []
        groups.append(("Search space", [*space, *sizes]))
    kept = [(name, [(key, value) for key, value in facts if value]) for name, facts in groups]
    return [(name, facts) for name, facts in kept if facts]


def _metric_facts(metrics: Metrics) -> list[tuple[str, list[tuple[str, str]]]]:
    verified = "" if metrics.max_difference is None else words.number(metrics.max_difference)
    same = {True: "yes", False: "no", None: ""}[metrics.same_predictions]
    return [
        ("Data", _data_facts(metrics.data) if metrics.data else []),
        (
            "Run",
            [
                ("backbone", metrics.backbone),
                ("weights from", metrics.backbone_source),
                ("machine", metrics.machine),
                ("seed", "" if metrics.seed is None else str(metrics.seed)),
                ("head parameters", "" if metrics.head_size is None else f"{metrics.head_size:,}"),
            ],
        ),
        ("More accurate than", [(f"{gain.over}, {part}", _gain(gain)) for part, gain in metrics.gains]),
        ("Structures trained alone", _tau_facts(metrics.tau) if metrics.tau else []),
        (
            "Merge, checked",
            [
                ("largest difference of the outputs", verified),
                ("batch", "" if metrics.verified_on is None else f"{metrics.verified_on:,}"),
                ("same predictions", same),
            ],
        ),
        ("Time", [(stage, words.duration(seconds)) for stage, seconds in metrics.seconds.items()]),
        ("Versions", [(name, _plain(version)) for name, version in metrics.versions.items()]),
    ]


def _gain(gain: Gain) -> str:
    low, high = 100 * gain.low, 100 * gain.high
    return f"{100 * gain.difference:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"


def _tau_facts(tau: Tau) -> list[tuple[str, str]]:
    return [
        ("structures, epochs", f"{tau.structures}, {tau.epochs}"),
        (
            "Kendall's tau with the supernet",
            words.number(tau.value) if tau.value is not None else "all scores are equal",
        ),
        ("alone minus in the supernet", f"{100 * tau.gap:+.1f} points in the mean"),
    ]


def _data_facts(data: Data) -> list[tuple[str, str]]:
    return [
        ("name", data.name),
        ("split digest", data.digest),
        ("layout", data.layout),
        ("files skipped", "" if data.skipped is None else f"{data.skipped:,}"),
    ]


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(map(str, value))
    return json.dumps(value)

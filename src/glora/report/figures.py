"""The figures of the page: each with its drawing, legend, caption and the numbers it shows."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from glora.report import words
from glora.report.chart import Axis, Chart
from glora.report.forms import LayerRow
from glora.report.read import Candidate, Chosen, Epoch, Search
from glora.structure import TENSORS

__all__ = ["Figure", "candidates", "in_percent", "layer_chart", "layer_sizes", "progress", "training"]

ORIGINS = ("random", "mutant", "crossover", "predicted")


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing and what a reader needs beside it; ``legend`` pairs a style class with its words.

    ``series`` pairs the numbers of series with their names: an entry of theirs hides and shows them.
    """

    key: str
    title: str
    caption: str
    svg: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: tuple[tuple[str, str], ...] = ()
    wide: bool = False
    series: tuple[tuple[int, str], ...] = ()

    @property
    def csv(self) -> str:
        """The numbers as comma-separated text."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows((self.columns, *self.rows))
        return text.getvalue()


def _exact(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "not finite"


def in_percent(value: float) -> str:
    """A tick of an axis of shares, in percent."""
    return f"{100 * value:.4g}"


def layer_sizes(groups: Sequence[tuple[str, Sequence[LayerRow]]]) -> Figure:
    """Adapter parameters of every layer, in model order, stacked by support tensor."""
    rows = [row for _, group in groups for row in group]
    top = max([row.parameters for row in rows] + [1])
    chart, gap = layer_chart(groups, Axis("parameters", 0, 1.06 * top, words.short))
    for place, row in enumerate(rows):
        base = 0
        for tensor, size in row.sizes.items():
            if size:
                tip = f"{row.name}: {tensor} {row.forms[tensor]}, {size:,} of {row.parameters:,} parameters"
                chart.bar(place + gap, place + 1 - gap, base, base + size, f"tensor-{tensor}", tip)
            base += size
    return Figure(
        key="layer-sizes",
        title="Where the parameters went",
        caption="One bar per adapted layer. Tall bars are the layers the search found worth paying for; "
        "a gap is a layer it left as it was pretrained.",
        svg=chart.svg(f"Stacked bars: adapter parameters of each of {len(rows)} layers, by support tensor"),
        columns=("layer", *TENSORS, "parameters"),
        rows=tuple((row.name, *(str(row.sizes[tensor]) for tensor in TENSORS), str(row.parameters)) for row in rows),
        legend=tuple((f"tensor-{tensor}", tensor) for tensor in TENSORS),
    )


def layer_chart(groups: Sequence[tuple[str, Sequence[LayerRow]]], y: Axis) -> tuple[Chart, float]:
    """An empty chart with a place for every layer, blocks told apart, and the gap beside a bar."""
    starts, names, at = [], [], 0
    for block, group in groups:
        starts.append(at)
        names.append((at + len(group) / 2, "".join(c for c in block.rsplit(".", 1)[-1] if c.isdigit())))
        at += len(group)
    every = math.ceil(len(names) / 13) or 1
    chart = Chart(Axis("adapted layers, in model order, by block", 0, max(at, 1), named=tuple(names[::every])), y)
    for start in starts[every::every]:
        chart.rule(start, "faint")
    return chart, 0.12 if at <= 120 else 0.0


def progress(search: Search) -> Figure:
    """Accuracy over the generations of the search: every candidate, each generation's median, the best so far."""
    by_generation: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in search.candidates:
        by_generation[candidate.generation].append(candidate)
    table, best = [], math.nan
    for generation in sorted(by_generation):
        scores = [c.shown for c in by_generation[generation] if math.isfinite(c.shown)]
        top = max(scores, default=math.nan)
        best = top if math.isnan(best) else max(best, top if scores else best)
        middle = statistics.median(scores) if scores else math.nan
        table.append((generation, len(by_generation[generation]), middle, top, best))
    chart = Chart(
        Axis.fit("generation", [g + d for g in by_generation for d in (-0.4, 0.4)], _whole, pad=0.02, whole=True),
        Axis.fit("validation accuracy, %", [c.shown for c in search.candidates], in_percent),
    )
    shown = _dots_by_origin(chart, search.candidates, lambda c: (_spread(c), c.shown))
    chart.line([(row[0], row[2]) for row in table], "median")
    chart.line([(row[0], row[4]) for row in table], "best", stepped=True)
    if table:
        chart.mark((table[-1][0], table[-1][4]), "best", f"best so far: {100 * best:.2f} %")
    return Figure(
        key="search-progress",
        title="How the search went",
        caption="Every dot is a structure scored with the supernet's weights. The search has converged when the best "
        "(step line) stays level and the median (dashed) has come close to it."
        + _stopped(search.candidates)
        + _unscored(search.candidates),
        svg=chart.svg(f"Validation accuracy of {len(search.candidates)} candidates over {len(table)} generations"),
        columns=("generation", "candidates", "median accuracy", "best accuracy", "best so far"),
        rows=tuple((str(g), str(n), *map(_exact, scores)) for g, n, *scores in table),
        legend=(*shown, ("line best", "best so far"), ("line median", "median")),
    )


def _whole(value: float) -> str:
    """A tick that counts things."""
    return f"{value:.0f}"


def _spread(candidate: Candidate) -> float:
    # The golden ratio spreads neighbours evenly without a random generator: the page stays a function of its inputs.
    return candidate.generation + 0.7 * (candidate.index * 0.6180339887 % 1 - 0.5)


def _dots_by_origin(
    chart: Chart, candidates: Iterable[Candidate], place: Callable[[Candidate], tuple[float, float]]
) -> list[tuple[str, str]]:
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.origin if candidate.origin in ORIGINS else "other"].append(candidate)
    shown = [origin for origin in (*ORIGINS, "other") if origin in groups]
    for origin in shown:
        chart.dots([place(candidate) for candidate in groups[origin]], f"origin-{origin}")
    return [(f"dot origin-{origin}", origin) for origin in shown]


def _unscored(candidates: Iterable[Candidate]) -> str:
    lost = sum(not math.isfinite(candidate.shown) for candidate in candidates)
    return f" {lost} of them had no finite accuracy and cannot be shown." if lost else ""


def _stopped(candidates: Iterable[Candidate]) -> str:
    stopped = sum(math.isfinite(candidate.bound) for candidate in candidates)
    if not stopped:
        return ""
    return (
        f" {stopped} were not evaluated to the end, as they could no longer matter: they stand, and count, at the "
        "most they could still have reached."
    )


def candidates(search: Search | None, chosen: Chosen | None) -> Figure:
    """Accuracy against parameters: all candidates, the Pareto front, the chosen one and the budget."""
    everything = search.candidates if search else (*chosen.front, chosen.best) if chosen else ()
    front = sorted(chosen.front if chosen else _pareto(everything), key=lambda c: (c.size, c.accuracy))
    budget = chosen.budget if chosen else None
    sizes = [float(candidate.size) for candidate in (*everything, *front)]
    near = budget is not None and budget <= 1.5 * max(sizes, default=0)
    seen = [*sizes, float(budget)] if near and budget is not None else sizes
    log = min(seen, default=0) > 0 and max(seen) > 30 * min(seen)
    chart = Chart(
        Axis.fit("adapter parameters", seen, words.short, log=log),
        Axis.fit("validation accuracy, %", [c.shown for c in (*everything, *front)], in_percent),
    )
    shown = _dots_by_origin(chart, everything, lambda c: (float(c.size), c.shown))
    if near and budget is not None:
        chart.rule(budget, "budget", f"budget {words.short(budget)}")
    chart.line([(c.size, c.accuracy) for c in front], "front", stepped=True)
    for candidate in front:
        chart.mark((candidate.size, candidate.accuracy), "front", _tip(candidate), 3.5)
    if chosen:
        chart.mark((chosen.best.size, chosen.best.accuracy), "best", f"chosen: {_tip(chosen.best)}", 6)
    far = f" The budget of {budget:,} is beyond the right edge." if budget is not None and not near else ""
    on_front = {candidate.index for candidate in front}
    return Figure(
        key="search-front",
        title="What accuracy costs",
        caption="Up and to the left is better. The ringed points are the Pareto front: no structure found is both "
        "smaller and more accurate." + _stopped(everything) + far,
        svg=chart.svg(f"Validation accuracy against adapter parameters of {len(everything)} candidates"),
        columns=("index", "generation", "origin", "parameters", "accuracy", "loss", "on the front"),
        rows=tuple((*_candidate_row(c), "yes" if c.index in on_front else "no") for c in everything),
        legend=(*shown, ("line front", "Pareto front"), *((("dot best", "chosen"),) if chosen else ())),
    )


def _candidate_row(c: Candidate) -> tuple[str, ...]:
    return str(c.index), str(c.generation), c.origin, str(c.size), _accuracy(c), _exact(c.loss)


def _accuracy(c: Candidate) -> str:
    return _exact(c.accuracy) if math.isnan(c.bound) else f"at most {_exact(c.bound)}"


def _tip(candidate: Candidate) -> str:
    return f"{100 * candidate.accuracy:.2f} % with {candidate.size:,} parameters (candidate {candidate.index})"


def _pareto(everything: Iterable[Candidate]) -> list[Candidate]:
    front: list[Candidate] = []
    for candidate in sorted(everything, key=lambda c: (c.size, -c.accuracy)):
        if math.isfinite(candidate.accuracy) and (not front or candidate.accuracy > front[-1].accuracy):
            front.append(candidate)
    return front


def training(epochs: Sequence[Epoch]) -> list[Figure]:
    """The curves of supernet training: probes (where there are any), loss and learning rate."""
    probes = [_probes(epochs)] if any(epoch.probes for epoch in epochs) else []
    lost = sum(not math.isfinite(epoch.loss) for epoch in epochs)
    warning = f" It was not finite in {lost} of {len(epochs)} epochs: the training diverged there." if lost else ""
    loss = _curve(
        epochs, "loss", "Training loss", "Mean over each epoch, every step through another random structure." + warning
    )
    return [*probes, loss, _curve(epochs, "lr", "Learning rate", "At the end of each epoch.")]


def _curve(epochs: Sequence[Epoch], field: str, title: str, caption: str) -> Figure:
    points = [(float(epoch.epoch), float(getattr(epoch, field))) for epoch in epochs]
    values = [value for _, value in points]
    chart = Chart(
        Axis.fit("epoch", [x for x, _ in points], _whole, pad=0.02, whole=True),
        Axis.fit("loss", values) if field == "loss" else Axis.fit("learning rate", [0.0, *values], words.tiny),
        height=220,
    )
    chart.line(points, "best")
    if len(points) == 1:
        chart.mark(points[0], "best", _exact(values[0]))
    return Figure(
        key=f"train-{field}",
        title=title,
        caption=caption,
        svg=chart.svg(f"{title} over {len(epochs)} epochs"),
        columns=("epoch", "step", field),
        rows=tuple((str(epoch.epoch), str(epoch.step), _exact(getattr(epoch, field))) for epoch in epochs),
    )


def _probes(epochs: Sequence[Epoch]) -> Figure:
    probed = [epoch for epoch in epochs if epoch.probes]
    names = list(dict.fromkeys(name for epoch in probed for name in epoch.probes))
    chart = Chart(
        Axis.fit("epoch", [float(epoch.epoch) for epoch in epochs], _whole, pad=0.02, whole=True),
        Axis.fit("validation accuracy, %", [v for epoch in probed for v in epoch.probes.values()], in_percent),
        height=300,
    )
    drawn = sorted(names, key=lambda name: not name.startswith("random"))
    for name in drawn:
        points = [(float(epoch.epoch), epoch.probes.get(name, math.nan)) for epoch in probed]
        chart.line(points, _probe_style(name, names))
        epoch, value = points[-1]
        chart.mark((epoch, value), _probe_style(name, names), f"{name}: {words.percent(value)} % at epoch {epoch:g}", 3)
    legend = {_probe_style(name, names): name.split("-")[0] for name in names if name.startswith("random")}
    legend = {_probe_style(n, names): n for n in names if not n.startswith("random")} | legend
    return Figure(
        key="train-probes",
        title="The supernet's subnets while it trains",
        caption="Validation accuracy of a few fixed subnets. They share weights: curves that rise together mean that "
        "the search can trust the scores; one that falls while others rise is thrown off by them.",
        svg=chart.svg(f"Validation accuracy of {len(names)} fixed subnets over {len(epochs)} epochs"),
        columns=("epoch", *names),
        rows=tuple(
            (str(epoch.epoch), *(_exact(epoch.probes.get(name, math.nan)) for name in names)) for epoch in probed
        ),
        legend=tuple((f"line {style}", label) for style, label in legend.items()),
        wide=True,
    )


def _probe_style(name: str, names: Sequence[str]) -> str:
    if name.startswith("random"):
        return "probe-random"
    others = [other for other in names if not other.startswith("random")]
    return f"probe-{others.index(name) % 4}"

"""The words and numbers at the top of the page: what was done, the result in a sentence, the final table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from glora.report import words
from glora.report.read import Metrics, Result, Run
from glora.shapes import LayerShape

__all__ = ["Headline", "ResultRow", "headline", "result_rows", "subject", "tiles"]


@dataclass(frozen=True, slots=True)
class Score:
    """One accuracy of the table; ``low`` to ``high`` is one standard error each way on the scale of its column."""

    text: str
    error: str = ""
    spread: str = ""
    best: bool = False
    at: float | None = None
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One method of the final table, as text."""

    method: str
    note: str
    ours: bool
    val: Score
    test: Score
    parameters: str
    seconds: str


@dataclass(frozen=True, slots=True)
class Headline:
    """The result in one sentence, and a caution where the numbers ask for one."""

    sentence: str
    caution: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """One key figure."""

    value: str
    unit: str
    label: str
    detail: str = ""


def title(run: Run) -> str:
    """The title of the page."""
    metrics = run.metrics
    if metrics and metrics.title:
        return metrics.title
    if metrics and metrics.backbone and metrics.data and metrics.data.name:
        return f"{metrics.backbone} on {metrics.data.name}"
    return run.folder.resolve().name


def subject(metrics: Metrics | None) -> str:
    """What was adapted on what, as a sentence, as far as it is known."""
    if metrics is None or not (metrics.backbone or metrics.data):
        return ""
    source = f" ({metrics.backbone_source})" if metrics.backbone_source else ""
    text = f"{metrics.backbone}{source}, frozen and adapted" if metrics.backbone else "A frozen network, adapted"
    if data := metrics.data:
        sizes = [("training", data.train), ("validation", data.val), ("test", data.test)]
        known = [f"{words.count(n)} {split}" for split, n in sizes if n is not None]
        text += f" to {data.name or 'a data set'}"
        text += f": {len(data.classes)} classes" if data.classes else ""
        text += f", {' / '.join(known)} images" if known else ""
    return f"{text}."


def _column(metrics: Metrics) -> tuple[str, int | None]:
    """The column that ranks the methods, test where it is known, and its number of samples."""
    data = metrics.data
    if any(_finite(row.test_accuracy) for row in metrics.table):
        return "test", data.test if data else None
    return "val", data.val if data else None


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _accuracy(row: Result, column: str) -> float:
    value: float | None = getattr(row, f"{column}_accuracy")
    return value if value is not None and math.isfinite(value) else -math.inf


def _best(rows: Sequence[Result], column: str) -> Result | None:
    """The row of the highest accuracy in a column; of equal ones that with fewest parameters, of those the first."""
    known = [row for row in rows if math.isfinite(_accuracy(row, column))]
    return max(known, key=lambda row: (_accuracy(row, column), -_size(row)), default=None)


def _size(row: Result) -> float:
    return math.inf if row.parameters is None else row.parameters


def our_row(run: Run) -> Result | None:
    """The row of the structure this run chose: the one of its size, else the one called so, else the best."""
    table = run.metrics.table if run.metrics else ()
    if not table or not run.metrics:
        return None
    same_size = [row for row in table if run.chosen and row.parameters == run.chosen.best.size]
    called_so = [row for row in table if re.search("glora|searched|fixed structure", row.method.lower())]
    column, _ = _column(run.metrics)
    named = [row for row in same_size if row in called_so]
    found = named or same_size or called_so or table
    return _best(found, column) or found[0]


def headline(run: Run) -> Headline:
    """The result of the run in one sentence with numbers, from the furthest stage it reached."""
    ours = our_row(run)
    if run.metrics and ours:
        return _compared(run.metrics, ours)
    if run.chosen:
        best = run.chosen.best
        return Headline(
            f"The chosen structure scores {words.percent(best.accuracy)} % on validation data "
            f"with {best.size:,} adapter parameters.",
            "A validation score chosen as the best of many is optimistic: only test data tell how good it is.",
        )
    if run.search and (scored := [c for c in run.search.candidates if math.isfinite(c.accuracy)]):
        best = max(scored, key=lambda c: c.accuracy)
        return Headline(
            f"The search has scored {len(run.search.candidates):,} structures so far; the best has "
            f"{words.percent(best.accuracy)} % on validation data with {best.size:,} adapter parameters."
        )
    if run.train:
        return Headline(f"The supernet has trained for {len(run.train):,} epochs; no structure is chosen yet.")
    return Headline("Nothing is trained yet.")


def _compared(metrics: Metrics, ours: Result) -> Headline:
    column, n = _column(metrics)
    score = _accuracy(ours, column)
    error = words.standard_error(score, n)
    kind = "test" if column == "test" else "validation"
    on = f"{n:,} {kind} images" if n else f"{kind} data"
    plus = f" ± {words.points(error, n)}" if error is not None else ""
    cost = f" with {ours.parameters:,} adapter parameters" if ours.parameters is not None else ""
    sentence = f"{ours.method[:1].upper()}{ours.method[1:]} reaches {words.percent(score, n)}{plus} % on {on}{cost}"
    others = [row for row in metrics.table if row is not ours and math.isfinite(_accuracy(row, column))]
    rival = _best(others, column)
    if rival is None:
        return Headline(f"{sentence}.")
    gap = score - _accuracy(rival, column)
    among = f"the best of the {len(others)} other methods" if len(others) > 1 else "the other method"
    where = "level with" if gap == 0 else f"{words.points(gap, n)} points {'above' if gap > 0 else 'below'}"
    caution = metrics.verdict or _caution(gap, error, _accuracy(rival, column), n)
    return Headline(f"{sentence}, {where} {rival.method}, {among}.", caution)


def _caution(gap: float, error: float | None, rival: float, n: int | None) -> str:
    other = words.standard_error(rival, n)
    if error is None or other is None or abs(gap) >= 2 * math.hypot(error, other):
        return ""
    return "The difference is less than two standard errors: this many images cannot tell the two apart."


def result_rows(run: Run) -> list[ResultRow]:
    """The final table: the best of each accuracy column marked, and the row of this run's structure."""
    if run.metrics is None:
        return []
    data, ours = run.metrics.data, our_row(run)
    val = _scores(run.metrics.table, "val", data.val if data else None)
    test = _scores(run.metrics.table, "test", data.test if data else None)
    return [
        ResultRow(row.method, row.note, row is ours, v, t, words.count(row.parameters), words.duration(row.seconds))
        for row, v, t in zip(run.metrics.table, val, test, strict=True)
    ]


def _scores(rows: Sequence[Result], column: str, n: int | None) -> list[Score]:
    values: list[tuple[float | None, float | None]] = [
        (getattr(row, f"{column}_accuracy"), getattr(row, f"{column}_spread")) for row in rows
    ]
    known = [value for value, _ in values if value is not None and math.isfinite(value)]
    if not known:
        return [Score(words.percent(value)) for value, _ in values]
    best = _best(rows, column)
    reach = max((words.standard_error(value, n) or 0.0) for value in known)
    low, high = min(known) - reach, max(known) + reach
    span = (high - low) or 1.0
    scores = []
    for row, (value, spread) in zip(rows, values, strict=True):
        error = words.standard_error(value, n)
        finite = value is not None and math.isfinite(value)
        margin = error or 0.0
        scores.append(
            Score(
                text=words.percent(value, n),
                error=words.points(error, n) if error is not None else "",
                spread=words.points(spread, n) if spread is not None and math.isfinite(spread) else "",
                best=row is best,
                at=(value - low) / span if finite and value is not None else None,
                low=(value - margin - low) / span if finite and value is not None else 0.0,
                high=(value + margin - low) / span if finite and value is not None else 0.0,
            )
        )
    return scores


def tiles(run: Run) -> list[Tile]:
    """The key figures, as far as they are known."""
    found = [_accuracy_tile(run), _size_tile(run), _search_tile(run), _merge_tile(run.metrics)]
    return [tile for tile in found if tile is not None]


def _accuracy_tile(run: Run) -> Tile | None:
    ours = our_row(run)
    if not run.metrics or not ours:
        return None
    column, n = _column(run.metrics)
    score = _accuracy(ours, column)
    error = words.standard_error(score, n)
    plus = f"± {words.points(error, n)} (one standard error, {n:,} images)" if error is not None and n else ""
    label = "test accuracy" if column == "test" else "validation accuracy"
    return Tile(words.percent(score, n), "%", label, plus)


def _size_tile(run: Run) -> Tile | None:
    if run.chosen is None:
        return None
    size, budget = run.chosen.best.size, run.chosen.budget
    shapes = [layer.shape for layer in run.chosen.layers if isinstance(layer.shape, LayerShape)]
    frozen = sum(shape.out_features * shape.in_features for shape in shapes)
    parts = [f"of a budget of {budget:,}"] if budget is not None else []
    if run.chosen.soup_of:
        limit = f", each within the budget of {budget:,}" if budget is not None else ""
        parts = [f"in the mean of {run.chosen.soup_of} subnets{limit}"]
    parts += [f"{100 * size / frozen:.2g} % of the weights they adapt"] if frozen else []
    parts += [f"{run.metrics.head_size:,} more in the head"] if run.metrics and run.metrics.head_size else []
    return Tile(f"{size:,}", "", "adapter parameters", ", ".join(parts))


def _search_tile(run: Run) -> Tile | None:
    if run.search is None or not run.search.candidates:
        return None
    generations = len({candidate.generation for candidate in run.search.candidates})
    took = words.duration(run.metrics.seconds.get("search")) if run.metrics else words.MISSING
    time = f" in {took}" if took != words.MISSING else ""
    effort = run.metrics.effort if run.metrics else {}
    done, of = effort.get("sample_evaluations", math.nan), effort.get("of", math.nan)
    saved = f", {100 * done / of:.0f} % of the images evaluated" if done < of else ""
    no_worse = run.chosen.no_worse if run.chosen else 0
    ties = f"; {no_worse} not distinguishably worse than the best" if no_worse else ""
    note = f"{generations} generations{time}{saved}{ties}"
    return Tile(f"{len(run.search.candidates):,}", "", "structures scored", note)


def _merge_tile(metrics: Metrics | None) -> Tile | None:
    if metrics is None or metrics.max_difference is None:
        return None
    same = {True: "same predictions", False: "predictions differ", None: ""}[metrics.same_predictions]
    batch = f" on {metrics.verified_on:,} images" if metrics.verified_on is not None and same else ""
    detail = f"at most, in any output; {same}{batch}" if same else "at most, in any output"
    return Tile(words.number(metrics.max_difference), "", "change by the merge", detail)

"""Published rows of VTAB-1k beside ours."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_results import result, results, rows, table_of

from glora.bench import published_rows, render
from glora.data.vtab import VTAB
from glora.protocols.vtab import PREPROCESSING

PLAN = Path(__file__).parents[2] / "benchmarks" / "vtab.yaml"


def test_published_rows_average_as_their_sources_say() -> None:
    found = {row.method: row for row in published_rows("vtab")}
    tasks = list(found["GLoRA"].accuracies)
    assert len(tasks) == 19
    # Group means stated by PACE's table 12, and the flat mean of arXiv 2409.16434's LoRA.
    natural, special, structured = tasks[:7], tasks[7:11], tasks[11:]
    means = [statistics.mean(found["GLoRA"].accuracies[t] for t in part) for part in (natural, special, structured)]
    assert means == pytest.approx([0.8361, 0.8702, 0.6327], abs=2e-4)
    assert statistics.mean(found["LoRA (tuned)"].accuracies.values()) == pytest.approx(0.7291, abs=2e-4)
    assert all(row.source and row.protocol and row.preprocessing for row in found.values())
    assert all(0 < one < 1 for row in found.values() for one in row.accuracies.values())


def test_published_rows_stand_beside_ours_with_warnings_where_conditions_differ() -> None:
    table = table_of(results(), published=published_rows("vtab"))
    glora = rows(table)["GLoRA"]
    assert [figure.mean for figure in glora.figures] == pytest.approx([0.746, 0.915, 0.862])
    assert "2409.17137" in str(glora.source)
    text = "\n".join(table.notes)
    assert "published 224 px squashed, not normalised: Convpass (tuned)" in text
    assert "published 224 px squashed, bicubic, ImageNet" not in text
    assert "warning: split" not in text
    assert "warning: backbone" not in text
    other = table_of(
        results(protocol=None, trained_on="train", model={"model": "resnet"}), published=published_rows("vtab")
    )
    text = "\n".join(other.notes)
    for part in ("split: dtd, kitti, svhn: not results", "without the 200 validation images", "backbone: ours resnet"):
        assert part in text


def planned(**changes: Any) -> list[dict[str, Any]]:
    """Results of the plan of VTAB-1k on all of its nineteen tasks, as its protocol has them."""
    read = yaml.safe_load(PLAN.read_text("utf-8"))
    assert (read["protocol"], read.get("tasks"), read.get("final")) == ("vtab", None, None)
    accuracies = np.random.default_rng(0).random((len(read["methods"]), len(VTAB))).round(3)
    about = {"model": {"model": read["model"]}, "preprocessing": PREPROCESSING.to_dict(), "trained_on": "train+val"}
    return [
        result(method, task, 0, float(accuracies[i, j]), group=known.group.lower(), **(about | changes))
        for i, method in enumerate(read["methods"])
        for j, (task, known) in enumerate(VTAB.items())
    ]


def test_a_bench_of_all_nineteen_tasks_stands_beside_the_published_rows() -> None:
    lines, published = planned(), published_rows("vtab")
    table = table_of(lines, published=published)
    assert [len(row.figures) for row in table.rows] == [19] * (7 + len(published))
    assert {column.task for column in table.columns} == set(published[0].accuracies)
    assert Counter(column.group for column in table.columns) == {"natural": 7, "specialized": 4, "structured": 8}
    groups = {task: known.group.lower() for task, known in VTAB.items()}
    ours = {method: {} for method in (line["method"] for line in lines)}
    for line in lines:
        ours[line["method"]][line["task"]] = line["tests"]["test"]
    for name, accuracies in {**ours, **{row.method: row.accuracies for row in published}}.items():
        row = rows(table)[name]
        assert {c.task: figure.mean for c, figure in zip(table.columns, row.figures, strict=True)} == accuracies
        parts = [
            [accuracies[t] for t, own in groups.items() if own == group] for group in dict.fromkeys(groups.values())
        ]
        assert row.task_mean == pytest.approx(np.mean(list(accuracies.values())))
        assert row.group_mean == pytest.approx(np.mean([np.mean(part) for part in parts]))
        assert (row.source is None) == (name in ours)
    # Of the two groups of rows, each is in the order of its mean, ours first.
    means = [(row.source is not None, -row.task_mean) for row in table.rows]
    assert means == sorted(means)
    text = render(table)
    assert text.count("| these results |") == 7
    assert len(list(csv.DictReader(io.StringIO(render(table, "csv"))))) == len(table.rows)


def test_a_bench_of_the_plan_differs_from_no_row_that_is_trained_as_it_is() -> None:
    notes = table_of(planned(), published=published_rows("vtab")).notes
    kinds = {row.preprocessing for row in published_rows("vtab")}
    same = "224 px squashed, bicubic, ImageNet mean and deviation"
    said = [
        note for note in notes if note.startswith(("warning: split", "warning: backbone", "warning: preprocessing"))
    ]
    assert same in kinds
    assert sorted(said) == sorted(
        f"warning: preprocessing: ours {same}; published {kind}: "
        + ", ".join(row.method for row in published_rows("vtab") if row.preprocessing == kind)
        for kind in kinds - {same}
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"trained_on": "train"},
            "split: trained without the 200 validation images, unlike the published: adaptformer,",
        ),
        (
            {"protocol": None},
            "split: caltech101, cifar, clevr_count, clevr_dist, diabetic_retinopathy, dmlab, dsprites",
        ),
        ({"preprocessing": {**PREPROCESSING.to_dict(), "size": 56}}, "preprocessing: ours 56 px squashed, bicubic, Im"),
        ({"model": {"model": "offline/dinov2-small"}}, "backbone: ours offline/dinov2-small; published "),
    ],
)
def test_what_a_bench_of_all_tasks_does_otherwise_is_said(changes: dict[str, Any], said: str) -> None:
    plain, other = (table_of(planned(**c), published=published_rows("vtab")).notes for c in ({}, changes))
    assert not [note for note in plain if note.startswith(f"warning: {said}")]
    assert [note for note in other if note.startswith(f"warning: {said}")]


def test_a_published_row_that_lacks_a_task_of_ours_has_figures_and_no_average() -> None:
    row = published_rows("vtab")[0]
    less = replace(row, accuracies={task: one for task, one in row.accuracies.items() if task != "dtd"})
    table = table_of(results(), published=[row, less])
    whole, lacking = table.rows[-2:]
    assert whole.task_mean == pytest.approx(statistics.mean(row.accuracies[task] for task in ("dtd", "svhn", "kitti")))
    assert (lacking.figures[0], lacking.group_mean, lacking.task_mean) == (None, None, None)
    assert lacking.figures[1:] == whole.figures[1:]

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from sample_bench import TASKS, bench_lines, line

from glora.errors import CheckpointError
from glora.report import write_bench_report
from glora.report.bench import by_shots, tables
from glora.report.curves import interpolation
from glora.results.file import Results, read_results
from glora.results.tally import Column, Row, Tally, labels


def write(folder, rows):
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read_bench(folder) -> Results:
    return read_results([folder])


def table_of(folder, rows) -> Tally:
    return Tally(read_bench(write(folder, rows)).cells)


def test_reads_the_sample(bench):
    found = read_bench(bench)
    assert len(found.cells) == len(bench_lines()) - 2
    assert {failure.error for failure in found.failures} >= {"the loss is not finite in epoch 3"}
    searched = next(cell for cell in found.cells if cell.structure is not None)
    assert len(searched.layers) == 48
    assert searched.layers[0].shape.size("A", searched.structure["blocks.0.attn.qkv"].A) >= 0
    assert list(next(cell for cell in found.cells if cell.alphas).alphas) == [a / 10 for a in range(11)]


def test_a_cell_that_failed_and_was_finished_later_counts_once(tmp_path):
    good = line("dtd", "LoRA", 0)
    failed = good | {"error": "killed", "tests": None, "val": None, "parameters": None}
    for rows in ([failed, line("dtd", "LoRA", 1), good], [good, line("dtd", "LoRA", 1), failed]):
        found = read_bench(write(tmp_path, rows))
        assert found.failures == ()
        assert [cell.seed for cell in found.cells] == [0, 1]


def test_a_cell_with_other_settings_replaces_the_one_before_it(tmp_path):
    later = line("dtd", "LoRA", 0, tests={"test": 0.5}) | {"key": "another"}
    found = read_bench(write(tmp_path, [line("dtd", "LoRA", 0), later]))
    assert [cell.tests for cell in found.cells] == [{"test": 0.79}, {"test": 0.5}]
    assert [cell.tests for cell in found.latest.cells] == [{"test": 0.5}]
    assert "1 cell left out for a later one" in write_bench_report(tmp_path).read_text("utf-8")


def test_curves_between_weights_are_apart_by_shots(tmp_path):
    rows = [
        line("food", "LoRA", seed, shots=shots, protocol="fewshot", alphas={"0": {"test": 0.1}, "1": {"test": value}})
        for shots, value in ((1, 0.2), (16, 0.9))
        for seed in (0, 1)
    ]
    figures = interpolation(read_bench(write(tmp_path, rows)).cells)
    assert [figure.title for figure in figures] == [f"LoRA, trained on food, {k} a class" for k in (1, 16)]
    assert [figure.rows[-1][1:] for figure in figures] == [("1", f"{a}000", "0.0000", "2") for a in ("0.2", "0.9")]


def test_a_half_written_last_line_is_left_out(bench_folder):
    before = read_bench(bench_folder)
    path = bench_folder / "results.jsonl"
    path.write_text(path.read_text() + '{"format": 1, "key": "x", "ta')
    assert read_bench(bench_folder) == before


@pytest.mark.parametrize("text", ["", '{"format": 1, "key": "cut o'])
def test_nothing_finished_yet(tmp_path, text):
    (tmp_path / "results.jsonl").write_text(text)
    with pytest.raises(CheckpointError, match=r"results\.jsonl holds no finished cell yet"):
        write_bench_report(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, but this version of glora reads format 1"),
        ({"task": None}, "no 'task'"),
        ({"method": 3}, "'method' is 3, not a text"),
        ({"seed": "0"}, "'seed' is \"0\", not a whole number"),
        ({"parameters": None}, "no 'parameters'"),
        ({"tests": {"test": 79.0}}, "'test' is 79.0, no share from 0 to 1"),
        ({"tests": {"test": float("nan")}}, "'test' is NaN, no share from 0 to 1"),
        ({"val": -0.1}, "'val' is -0.1, no share from 0 to 1"),
        ({"tests": 0.79}, "'tests' is 0.79, not an object"),
        ({"alphas": {"half": {"test": 0.5}}}, "'half' is no number"),
        ({"alphas": {"0.5": {"test": 2.0}}}, "'test' is 2.0, no share from 0 to 1"),
        ({"structure": {"fc": {"B": "rank-x"}}}, "unknown form"),
        ({"structure": {"fc": 4}}, "not a structure"),
        ({"structure": {"fc": {"B": "rank-4"}}, "layers": [{"name": "in", "out": 4, "in": 4}]}, "names 'fc', which is"),
        ({"layers": [{"name": "fc", "out": 4}]}, "no 'in'"),
        ({"tests": {}, "val": None}, "no accuracy in 'tests', and no 'val'"),
        ({"model": "vit"}, "'model' is \"vit\", not an object"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, change, message):
    write(tmp_path, [line("dtd", "LoRA", 0), line("dtd", "LoRA", 1) | change])
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / 'results.jsonl'}, line 2")) as caught:
        write_bench_report(tmp_path)
    assert message in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_means_are_those_of_numpy(tmp_path):
    lines = [one for one in bench_lines(seeds=3) if one["protocol"] == "vtab"]
    values = {(one["method"], one["rank"], one["task"], one["seed"]): one["tests"]["test"] for one in lines}
    table = table_of(tmp_path, lines)
    assert [column.task for column in table.columns] == list(TASKS)
    assert table.grouped
    for row in table.rows:
        own = np.array([[values[(*row, task, seed)] for task in TASKS] for seed in range(3)])
        for place, column in enumerate(table.columns):
            found = table.at(row, column)
            assert found.mean == pytest.approx(own[:, place].mean())
            assert found.deviation == pytest.approx(own[:, place].std(ddof=1))
        found = table.mean_of_tasks(row)
        assert (found.mean, found.deviation) == pytest.approx((own.mean(), own.mean(axis=1).std(ddof=1)))
        halves = own.reshape(3, 3, 2).mean(axis=2)  # two tasks in each of three groups
        found = table.mean_of_groups(row)
        assert (found.mean, found.deviation) == pytest.approx((halves.mean(), halves.mean(axis=1).std(ddof=1)))


def test_a_small_group_counts_as_much_as_a_large_one(tmp_path):
    accuracies = {("a", "x"): 0.2, ("b", "x"): 0.4, ("c", "x"): 0.6, ("d", "y"): 0.8}
    rows = [line(t, "LoRA", 0, group=g, tests={"test": value}) for (t, g), value in accuracies.items()]
    table = table_of(tmp_path, rows)
    (row,) = table.rows
    assert table.mean_of_tasks(row).mean == pytest.approx(0.5)
    assert table.mean_of_groups(row).mean == pytest.approx(0.6)
    assert table.mean_of_tasks(row).deviation is None


def test_no_average_over_other_tasks_or_other_seeds(tmp_path):
    rows = [line("a", "LoRA", seed) for seed in (0, 1)] + [line("b", "LoRA", 1), line("a", "SSF", 0)]
    rows += [line("a", "BitFit", 0), line("b", "BitFit", 1)]
    table = table_of(tmp_path, rows)
    lora, ssf, bitfit = table.rows
    assert table.mean_of_tasks(lora).seeds == 1
    assert (table.mean_of_tasks(ssf), table.missing(ssf)) == (None, 1)
    assert (table.mean_of_tasks(bitfit), table.missing(bitfit)) == (None, 0)


def test_tests_of_one_task_are_not_averaged(tmp_path):
    table = table_of(tmp_path, [line("imagenet", "LoRA", 0, tests={"v2": 0.5, "sketch": 0.3})])
    assert not table.averaged
    assert table.columns == [Column("", "imagenet", "v2"), Column("", "imagenet", "sketch")]


def test_validation_stands_where_nothing_was_tested(tmp_path):
    table = table_of(tmp_path, [line("dtd", "LoRA", 0, tests={}, val=0.7)])
    (column,) = table.columns
    assert column.test == "validation"
    assert table.at(Row("LoRA", None), column).mean == 0.7


def test_rank_is_named_where_a_method_has_several(tmp_path):
    rows = [line("dtd", "LoRA", 0, rank=4), line("dtd", "LoRA", 0, rank=8), line("dtd", "GLoRA", 0, rank=4)]
    cells = read_bench(write(tmp_path, rows)).cells
    assert list(labels(cells).values()) == ["LoRA, rank 4", "LoRA, rank 8", "GLoRA"]


def test_protocols_have_tables_of_their_own(bench):
    cells = read_bench(bench).cells
    assert [title for title, _ in tables(cells)] == ["VTAB-1k", "Domain generalisation, 16 images a class"]
    assert list(by_shots(cells)) == [1, 2, 4, 8, 16]

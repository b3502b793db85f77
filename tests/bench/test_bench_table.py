from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from made_results import GROUPS, read, result, results, rows, table_of

from glora.bench import published_rows, render
from glora.bench.statistics import critical_difference, difference, mean_ranks
from glora.errors import CheckpointError, ConfigError, DataError
from glora.results.file import read_results
from glora.results.tally import Tally, tallies
from small_run import call


def test_figures_and_both_averages_are_those_of_a_pencil() -> None:
    table = table_of(results())
    good = rows(table)["good"]
    assert [column.task for column in table.columns] == ["dtd", "svhn", "kitti"]
    assert [figure.mean for figure in good.figures] == pytest.approx([0.7, 0.85, 0.55])
    assert [figure.deviation for figure in good.figures] == pytest.approx([0.0, 0.005**0.5, 0.005**0.5])
    assert good.task_mean == pytest.approx((0.7 + 0.85 + 0.55) / 3)
    assert good.group_mean == pytest.approx(((0.7 + 0.85) / 2 + 0.55) / 2)
    # good is 1st, shares 1st, is 2nd.
    assert good.rank.value == pytest.approx((1 + 1.5 + 2) / 3)
    assert rows(table)["poor"].rank == (3.0, 3.0, 3.0)
    # Of an equal mean, in the order of the alphabet.
    assert [row.name for row in table.rows] == ["fair", "good", "poor"]


def test_the_order_of_results_does_not_matter() -> None:
    lines = results()
    assert table_of(lines, "fair") == table_of(lines[::-1], "fair")


def test_the_difference_is_paired_by_task_and_seed() -> None:
    table = table_of([line for line in results() if (line["method"], line["seed"]) != ("poor", 1)], "poor")
    gap = rows(table)["good"].gap
    assert gap.value == pytest.approx(statistics.mean([0.8, 0.4, 0.3]))  # seed 0 alone, which poor has
    assert rows(table)["poor"].gap is None
    # Constant differences leave nothing to chance.
    shifted = np.array([[0.3, 0.5], [0.6, 0.1]])
    assert difference(shifted + 0.25, shifted) == pytest.approx((0.25, 0.25, 0.25))


def test_intervals_are_those_of_scipy() -> None:
    gaps = np.random.default_rng(3).normal(0.02, 0.05, (12, 1))
    found = difference(gaps, np.zeros_like(gaps))
    expected = scipy.stats.bootstrap(
        (gaps[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert found.value == pytest.approx(gaps.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=2e-3)


def test_seeds_are_drawn_within_tasks() -> None:
    gaps = np.array([[0.0, 1.0]])
    # One task, two seeds: a draw is 0, a half or 1 with probabilities 1, 2 and 1 in 4.
    assert difference(gaps, np.zeros_like(gaps)) == pytest.approx((0.5, 0.0, 1.0))


def test_ranks_are_those_of_scipy_and_their_interval_holds_them() -> None:
    scores = np.random.default_rng(1).random((4, 9, 3)).round(1)
    tenths = (10 * scores).round().astype(int)  # whose sums are exact
    expected = np.mean([scipy.stats.rankdata(-tenths[:, task].sum(axis=1)) for task in range(9)], axis=0)
    found = mean_ranks(scores)
    assert [one.value for one in found] == pytest.approx(list(expected))
    assert all(one.low < one.value < one.high for one in found)


def test_draws_of_ranks_are_the_same_for_all_methods() -> None:
    noise = np.random.default_rng(2).random((6, 3))
    # The first is always the better one, by far less than seeds and tasks differ.
    assert mean_ranks(np.stack([noise + 1e-3, noise])) == [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0)]


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_that_of_the_published_quantiles(methods: int, q: float) -> None:
    # Demšar 2006, table 5a.
    assert critical_difference(methods, 14) == pytest.approx(q * (methods * (methods + 1) / 84) ** 0.5, abs=1e-3)


def test_what_is_missing_or_does_not_fit_is_said() -> None:
    lines = [line for line in results() if (line["method"], line["task"]) != ("poor", "dtd")]
    failed = {key: value for key, value in lines[0].items() if key != "tests"}
    lines.append({**failed, "key": "x", "method": "bad", "error": "no memory"})
    lines[0] = {**lines[0], "split": "another", "trained_on": "train", "model": {"model": "resnet"}}
    table = table_of(lines)
    poor = rows(table)["poor"]
    assert (poor.group_mean, poor.task_mean, poor.rank) == (None, None, None)
    assert rows(table)["fair"].rank.value == pytest.approx((2 + 1.5 + 1) / 3)
    text = "\n".join(table.notes)
    for part in (
        "poor has no result on 1 of 3 tasks",
        "2 different backbones: resnet, vit_base_patch16_224.augreg_in21k",
        "2 different parts trained on: train, train+val",
        "not given the same split of svhn",
        "failed: bad on svhn, seed 0: no memory",
        "over 3 tasks are narrower",
    ):
        assert part in text
    assert "warning" not in "\n".join(table_of(results()).notes[:2])


def test_ranks_of_a_method_and_several_tests_are_rows_and_columns() -> None:
    lines = [
        result("lora", "in", 0, 0.5, rank=rank, key=str(rank), tests={"r, 200 classes": 0.5, "r": 0.1}, shots=16)
        for rank in (2, 8)
    ]
    table = table_of(lines)
    assert {row.name for row in table.rows} == {"lora, rank 2", "lora, rank 8"}
    assert [column.label for column in table.columns] == ["in: r", "in: r, 200 classes"]
    # Tests of one training are figures of their own, and a mean of them is none of tasks.
    assert {(row.shots, row.group_mean, row.task_mean) for row in table.rows} == {(16, None, None)}
    assert {(row.rank, row.gap) for row in table_of(lines, "lora, rank 2").rows} == {(None, None)}
    assert "warning: no average, no rank over several tests of one training: in" in "\n".join(table.notes)


def test_latex_escapes_and_has_as_many_cells_in_every_line() -> None:
    lines = [result(r"a_b & 50% {x} \y #1 $^~", task, 0, 0.5) for task in GROUPS]
    text = render(table_of(lines, published=published_rows("vtab")), "latex")
    assert r"a\_b \& 50\% \{x\} \textbackslash{}y \#1 \$\textasciicircum{}\textasciitilde{} & 1,000 & 50.0" in text
    assert r"FacT-TT\textless{}=16" in text
    assert r" & \multicolumn{2}{c}{natural} & \multicolumn{1}{c}{structured} & " in text
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    width = len(text.split(r"\begin{tabular}{")[1].split("}")[0])
    assert {line.replace(r"\&", "").count("&") for line in body} == {width - 1}


def test_markdown_and_csv_hold_the_same_figures() -> None:
    table = table_of(results(), "fair")
    line = next(line for line in render(table).splitlines() if line.startswith("| good"))
    assert line.startswith("| good | 1,000 | 70.0 ± 0.0 | 85.0 ± 7.1 | 55.0 ± 7.1 | 66.")
    rows = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    fair, good, _ = rows
    assert float(good["natural: svhn"]) == pytest.approx(0.85)
    assert float(good["mean of groups"]) == pytest.approx(0.6625)
    assert fair["gap"] == ""


def test_the_command_prints_what_is_on_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in results()) + '{"format": 1, "torn', "utf-8")
    done = call("table", tmp_path, "--reference", "poor", "--published", "vtab")
    assert done.code == 0, done.err
    assert done.out == render(table_of(results(), "poor", published_rows("vtab")))
    value = json.loads(call("table", path, "--json").out)
    assert [row["name"] for row in value["rows"]] == ["fair", "good", "poor"]
    done = call("table", path, "--format", "csv")
    assert "Mean of groups" in done.err
    assert "Mean of groups" not in done.out
    assert call("table", path, "--reference", "best").err == (
        "glora: there is no method 'best' in the results, but fair, good, poor\n"
    )


def test_wrong_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(CheckpointError, match=r"no such file: glora bench PLAN.yaml"):
        read_results([path])
    for text, message in (("{}", "no 'format'"), ('{"format": 3}', "format 3, but"), ("{", "not JSON")):
        path.write_text(f"{text}\n", "utf-8")
        with pytest.raises(CheckpointError, match=f"line 1: {message}"):
            read_results([path])
    path.write_text('{"format": 1}\n', "utf-8")
    with pytest.raises(CheckpointError, match="no 'key'; give files that glora bench wrote; of a damaged line, remove"):
        read_results([path])
    with pytest.raises(DataError, match="no finished result"):
        table_of([])
    with pytest.raises(DataError, match="two results of good on svhn with seed 0"):
        table_of([*results(), result("good", "svhn", 0, 0.3, key="other")])
    with pytest.raises(ConfigError, match="no published rows of 'imagenet'"):
        published_rows("imagenet")


def test_a_failure_never_hides_a_success(tmp_path: Path) -> None:
    good, bad = result("a", "t", 0, 0.5), {**result("a", "t", 0, 0.5), "error": "x"}
    for name, lines in (("one", [bad, good]), ("two", [good, bad])):
        (tmp_path / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
        assert read_results([tmp_path / name]) == read([good])


def test_a_half_written_line_is_left_out_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = [json.dumps(result("méthode", "t", seed, 0.5), ensure_ascii=False).encode() for seed in (0, 1)]
    cut = whole[1].index("é".encode()) + 1  # within the letter
    (tmp_path / "results.jsonl").write_bytes(whole[0] + b"\n" + whole[1][:cut])
    assert [cell.seed for cell in read_results([tmp_path]).cells] == [0]


# Mean accuracies of a task by shots: method b is the better one from two shots on.
CURVES = {"a": {1: 0.5, 2: 0.55, 16: 0.6}, "b": {1: 0.4, 2: 0.6, 16: 0.9}}
SHIFTS = {"food": 0.05, "pets": -0.05}


def few_shot(**changes: Any) -> list[dict[str, Any]]:
    about = {"protocol": "fewshot", "trained_on": "train", "group": None}
    return [
        result(method, task, seed, mean + shift + seed * 0.02, shots=shots, split=f"{task} {shots} {seed}", **about)
        for method, curve in CURVES.items()
        for shots, mean in curve.items()
        for task, shift in SHIFTS.items()
        for seed in (0, 1)
    ]


def test_a_curve_over_shots_reads_downwards() -> None:
    table = table_of(few_shot(), "a")
    assert [column.label for column in table.columns] == ["food", "pets"]
    assert [(row.name, row.shots) for row in table.rows] == [(m, k) for m in "ba" for k in (1, 2, 16)]
    for row in table.rows:
        mean = CURVES[row.name][row.shots] + 0.01
        assert row.task_mean == pytest.approx(mean)
        assert [figure.mean for figure in row.figures] == pytest.approx([mean + 0.05, mean - 0.05])
        assert row.figures[0].deviation == pytest.approx(0.02 / 2**0.5)
        # Ranks and differences are among as many shots.
        gap = CURVES[row.name][row.shots] - CURVES["a"][row.shots]
        assert row.rank.value == (1 if gap > 0 or (row.name, row.shots) == ("a", 1) else 2)
        assert (row.gap is None) == (row.name == "a")
        assert row.gap is None or row.gap.value == pytest.approx(gap)
    text = "\n".join(table.notes)
    assert "mean of tasks: over all 2." in text
    assert "Rank: mean over 2 tasks of 2 methods" in text
    # Each seed has a list of images of its own, the same for all methods.
    assert "split" not in text


def test_shots_are_a_column_in_every_form() -> None:
    table = table_of(few_shot())
    lines = render(table).splitlines()
    assert lines[0].startswith("| method | shots | parameters | food (without a group) | pets (")
    assert [line.split(" | ")[:2] for line in lines[2:8]] == [[f"| {m}", k] for m in "ba" for k in ("1", "2", "16")]
    read = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    curves = {
        name: {int(r["shots"]): float(r["mean of tasks"]) - 0.01 for r in read if r["method"] == name} for name in "ab"
    }
    assert curves == {name: pytest.approx(curve) for name, curve in CURVES.items()}
    text = render(table, "latex")
    assert r"b & 16 & 1,000 & 96.0 $\pm$ 1.4 & 86.0 $\pm$ 1.4 & 91.0 & 91.0 & " in text
    assert r" &  &  & \multicolumn{2}{c}{without a group} &  &  &  \\" in text
    assert [row["shots"] for row in table.to_dict()["rows"]] == [1, 2, 16] * 2


def test_a_task_that_one_number_of_shots_lacks_takes_no_average_from_the_others() -> None:
    lines = [line for line in few_shot() if (line["task"], line["shots"], line["method"]) != ("pets", 2, "b")]
    table = table_of(lines)
    means = {(row.name, row.shots): row.task_mean for row in table.rows}
    assert [row.name for row in table.rows] == ["a", "a", "a", "b", "b", "b"]
    assert {place for place, mean in means.items() if mean is None} == {("b", 2)}
    assert "warning: b, 2 shots has no result on 1 of 2 tasks: no average, no rank" in table.notes


def test_an_average_is_over_the_seeds_that_have_every_task() -> None:
    lines = [line for line in results() if (line["method"], line["task"], line["seed"]) != ("good", "dtd", 1)]
    good = rows(table_of(lines))["good"]
    assert [figure.seeds for figure in good.figures] == [1, 2, 2]
    assert good.task_mean == pytest.approx((0.9 + 0.7 + 0.5) / 3)
    lines = [line for line in lines if (line["method"], line["task"], line["seed"]) != ("good", "svhn", 0)]
    table = table_of(lines)
    assert (rows(table)["good"].task_mean, rows(table)["good"].rank) == (None, None)
    assert rows(table)["fair"].rank.value == 1
    assert "warning: good has no seed with a result on all 3 tasks: no average, no rank" in table.notes


def test_a_method_that_lacks_a_task_comes_last_and_is_compared_where_it_can_be() -> None:
    lines = [
        result(method, task, 0, accuracy)
        for method, scores in {
            "a": {"svhn": 0.9, "dtd": 0.9},
            "b": {"svhn": 0.5, "dtd": 0.5, "kitti": 0.1},
            "c": {"svhn": 0.6, "dtd": 0.4, "kitti": 0.3},
        }.items()
        for task, accuracy in scores.items()
    ]
    table = table_of(lines, "b")
    assert [row.name for row in table.rows] == ["c", "b", "a"]  # though the figures of a are the best
    assert rows(table)["a"].gap.value == pytest.approx(0.4)  # over the two tasks that both have
    assert rows(table)["c"].gap.value == pytest.approx((0.1 - 0.1 + 0.2) / 3)


def test_seeds_share_a_split_unless_each_draws_its_own_few_images() -> None:
    def cautions(shots: int | None) -> str:
        return "\n".join(table_of([{**line, "split": str(line["seed"])} for line in results(shots=shots)]).notes)

    assert "not given the same split of dtd, kitti, svhn" in cautions(None)
    assert "split" not in cautions(4)


def test_columns_stand_by_group_whatever_the_order_of_results() -> None:
    lines = [result("a", task, 0, 0.5) for task in ("svhn", "kitti", "dtd")]
    assert [column.label for column in table_of(lines).columns] == ["dtd", "svhn", "kitti"]
    tally = Tally(read(lines).cells)
    assert [column.label for column in tally.columns] == ["svhn", "dtd", "kitti"]


def test_equal_means_share_a_rank_however_they_are_added() -> None:
    scores = np.array([[[0.795, 0.79, 0.77]], [[0.8, 0.775, 0.78]]])
    assert [rank.value for rank in mean_ranks(scores)] == [1.5, 1.5]


def test_a_method_with_fewer_seeds_is_told() -> None:
    lines = [line for line in results() if (line["method"], line["seed"]) != ("poor", 1)]
    table = table_of(lines, "fair")
    note = "poor has 1 of 2 seeds on all tasks: all ranks, and its difference, are over seeds in common"
    assert [one for one in table.notes if "of 2 seeds" in one] == [f"warning: {note}"]
    assert not [one for one in table_of(results(), "fair").notes if "of 2 seeds" in one]


def test_a_difference_over_fewer_tasks_is_told() -> None:
    lines = [line for line in results() if (line["method"], line["task"]) != ("poor", "dtd")]
    assert "warning: the difference of poor is over 2 of 3 tasks" in table_of(lines, "fair").notes
    assert not [one for one in table_of(results(), "fair").notes if "the difference of" in one]


def test_points_of_a_curve_are_averages_over_the_same_tasks() -> None:
    lines = [line for line in few_shot() if (line["task"], line["shots"]) not in (("food", 2), ("pets", 1))]
    means = {(row.name, row.shots): row.task_mean for row in table_of(lines).rows}
    assert {place for place, mean in means.items() if mean is not None} == {("a", 16), ("b", 16)}
    curve = tallies(read(lines).cells, lambda cell: cell.shots, curve=True)
    assert {shots: len(tally.columns) for shots, tally in curve.items()} == {1: 2, 2: 2, 16: 2}


def test_a_task_that_changed_its_group_is_one_column() -> None:
    lines = [result("a", "svhn", seed, 0.5, group="natural" if seed == 0 else "structured") for seed in (0, 1)]
    (column,) = table_of(lines).columns
    assert (column.group, column.task) == ("structured", "svhn")


def test_protocols_have_tables_of_their_own() -> None:
    lines = [*results(), *few_shot()]
    with pytest.raises(DataError, match="have no table in common: give fewshot, vtab apart"):
        table_of(lines)


def test_one_cell_of_two_files_must_agree(tmp_path: Path) -> None:
    for name, accuracy in (("one", 0.5), ("same", 0.5), ("other", 0.9)):
        (tmp_path / name).write_text(f"{json.dumps(result('a', 't', 0, accuracy))}\n", "utf-8")
    assert len(read_results([tmp_path / "one", tmp_path / "same"]).cells) == 1
    with pytest.raises(DataError, match="other, line 1: a on t, seed 0 has other accuracies than in the file before"):
        read_results([tmp_path / "one", tmp_path / "other"])


def test_cells_of_changed_settings_take_the_place_of_those_before(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    failed = {**result("b", "svhn", 0, 0.1, key="old", rank=2, shots=4), "error": "no memory"}
    lines = [failed, *results(), result("good", "svhn", 0, 0.3, key="other"), result("b", "svhn", 0, 0.1, rank=2)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    found = read_results([path])
    assert len(found.latest.cells) == len(found.cells) - 1
    assert [str(one) for one in found.latest.failures] == ["b, rank 2 on svhn, 4 shots, seed 0: no memory"]
    lines[0] |= {"shots": None}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    assert read_results([path]).latest.failures == ()
    done = call("table", path)
    assert done.code == 0, done.err
    assert "| good | 1,000 | 70.0 ± 0.0 | 55.0 ± 35.4 |" in done.out


def test_entries_that_cannot_be_are_named_and_other_versions_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'shots' is -1, not 1 or more"):
        table_of(results(shots=-1))
    lines = [{**line, "versions": {"glora": "1", "torch": f"2.{line['seed']}"}} for line in results()]
    assert "warning: The cells have 2 different versions of torch: 2.0, 2.1." in table_of(lines).notes

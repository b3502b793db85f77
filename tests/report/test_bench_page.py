from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from html_page import Page
from sample_bench import TASKS, line, write_bench

from glora.report import write_bench_report
from glora.report.chart import Axis, Chart
from glora.report.series import style_sheet
from small_run import fields_of, succeed

SECTIONS = ["results", "costs", "shots", "between", "structures", "conditions"]


def page_of(folder) -> Page:
    return Page(write_bench_report(folder).read_text(encoding="utf-8"))


def page_with(folder, rows) -> Page:
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return page_of(folder)


def test_complete_bench_has_every_section(bench_folder):
    page = page_of(bench_folder)
    assert set(SECTIONS) <= set(page.by_id)
    labels = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") == "true" for attrs in labels)
    assert not [attrs for tag, attrs in page.tags if tag == "path" and "nan" in (attrs.get("d") or "")]


def test_the_command_makes_it(bench_folder):
    assert fields_of(succeed("report", bench_folder).out) == {"report": str(bench_folder / "report.html")}
    assert "glora · bench report" in (bench_folder / "report.html").read_text("utf-8")


def test_default_place_and_chosen_place(bench_folder, tmp_path):
    assert write_bench_report(bench_folder) == bench_folder / "report.html"
    out = write_bench_report(bench_folder, tmp_path / "elsewhere" / "page.html")
    assert out.read_bytes() == (bench_folder / "report.html").read_bytes()


def test_same_results_give_the_same_bytes(bench_folder, tmp_path):
    other = write_bench(tmp_path / "again" / "vtab")
    assert write_bench_report(bench_folder).read_bytes() == write_bench_report(other).read_bytes()


def test_loads_nothing_and_escapes_everything(bench_folder):
    text = write_bench_report(bench_folder).read_text(encoding="utf-8")
    for part in ("http://", "https://", "url(", "@import", "<script"):
        assert part not in text
    page = Page(text)
    assert not {"link", "img", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if {"src", "href", "xlink:href", "srcset"} & set(attrs)]
    assert 'no space left on "/data" <script>' in page.text("failures")
    assert "full <fine-tuning> & co" in page.text("results")


def test_both_averages_are_named(bench_folder):
    table = page_of(bench_folder).text("results")
    assert "mean of 6 tasks" in table
    assert "mean of 3 groups" in table
    assert all(task in table for task in TASKS)


def test_a_method_that_lacks_a_task_has_no_average(tmp_path):
    rows = [line(task, "LoRA", 0) for task in "ab"] + [line("a", "SSF", 0)]
    page = page_with(tmp_path, rows)
    assert "1 missing" in page.text("results")
    assert "SSF" not in page.text("cost-0-mean")
    assert "SSF" in page.text("cost-0-0")


@pytest.mark.parametrize(
    ("seeds", "second", "words"),
    [
        ((0.80,), 0.70, "10.0 points above SSF; from one seed, which cannot tell a difference from noise."),
        ((0.80, 0.84), 0.81, "1.0 points above SSF; less than the seeds differ."),
        ((0.80, 0.81), 0.70, "10.5 points above SSF."),
    ],
)
def test_headline_says_how_much_a_lead_is_worth(tmp_path, seeds, second, words):
    rows = [line(task, "LoRA", seed, tests={"test": v}) for task in "ab" for seed, v in enumerate(seeds)]
    rows += [line(task, "SSF", seed, tests={"test": second}) for task in "ab" for seed in range(len(seeds))]
    text = page_with(tmp_path, rows).text()
    assert f"LoRA has the highest mean of 2 tasks: {100 * sum(seeds) / len(seeds):.1f}" in text
    assert words in text


@pytest.mark.parametrize(
    ("change", "caution"),
    [
        (
            {"model": {"model": "vit_base"}},
            "2 different backbones: vit_base, vit_small_patch14_dinov2.lvd142m (size 56)",
        ),
        ({"preprocessing": {"size": 224}}, "2 different preprocessings"),
        ({"trials": []}, "2 different numbers of learning rates tried: 1, 2"),
        ({"trained_on": "train"}, "2 different parts trained on: train, train+val"),
        ({"versions": {"glora": "0.2.0"}}, "2 different versions of glora: 0.1.0, 0.2.0"),
        ({"split": "another"}, "Methods were not given the same split of dtd."),
        ({"error": "out of memory"}, "1 cell not finished"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path, change, caution):
    rows = [line("dtd", "LoRA", 0), line("dtd", "BitFit", 0)]
    assert caution not in page_with(tmp_path, [*rows, line("dtd", "SSF", 0)]).text()
    assert caution in page_with(tmp_path, [*rows, line("dtd", "SSF", 0) | change]).text()


def test_a_structure_without_layers_is_said_not_guessed(tmp_path):
    page = page_with(tmp_path, [line("dtd", "GLoRA", 0, structure={"blocks.0.attn.qkv": {"B": "rank-4"}})])
    assert "1 cell has a structure but no layers" in page.text("structures")
    assert "tensor-shares-0" not in page.by_id


def test_a_structure_that_is_the_same_in_all_layers_is_no_finding(tmp_path):
    layers = [{"name": name, "out": 8, "in": 8} for name in ("a", "b")]
    row = line("dtd", "LoRA", 0, structure={layer["name"]: {"B": "rank-4"} for layer in layers}, layers=layers)
    assert "structures" not in page_with(tmp_path, [row]).by_id


def test_shares_of_parameters(tmp_path):
    layers = [{"name": "blocks.0.fc", "out": 8, "in": 4}, {"name": "blocks.1.fc", "out": 8, "in": 4}]
    structure = {"blocks.0.fc": {"B": "rank-2", "E": "vector"}}  # 24 and 8 parameters; nothing in the other layer
    page = page_with(tmp_path, [line("dtd", "GLoRA", 0, structure=structure, layers=layers)])
    assert page.cells("tensor-shares-0") == ["1 dtd", "0.0", "75.0", "0.0", "0.0", "25.0"]
    assert page.cells("layer-shares-0") == [
        *("blocks.0.fc", "0.00", "75.00", "0.00", "0.00", "25.00"),
        *("blocks.1.fc", "0.00", "0.00", "0.00", "0.00", "0.00"),
    ]
    assert page.cells("form-choices-0-0")[:4] == ["A", "100.0", "0.0", "0.0"]
    assert page.cells("form-choices-0-0")[4:8] == ["B", "50.0", "0.0", "50.0"]


def test_many_tasks_are_mapped_a_few_at_a_time(tmp_path):
    layers = [{"name": "blocks.0.fc", "out": 8, "in": 4}, {"name": "blocks.1.fc", "out": 8, "in": 4}]
    about = {"structure": {"blocks.0.fc": {"B": "rank-2"}}, "layers": layers}
    page = page_with(tmp_path, [line(f"task {i}", "GLoRA", 0, **about) for i in range(19)])
    spans = [attrs for tag, attrs in page.tags if tag == "th" and attrs.get("class") == "task"]
    cells = [attrs["title"] for tag, attrs in page.tags if tag == "td" and "title" in attrs]
    assert (len(spans), len(cells)) == (19, 19 * 2 * 5)
    assert sum(tag == "table" and "wide-map" in (attrs.get("class") or "") for tag, attrs in page.tags) == 4


def test_only_failures(tmp_path):
    page = page_with(tmp_path, [line("dtd", "LoRA", 0) | {"error": "out of memory"}])
    assert "out of memory" in page.text("failures")
    assert "costs" not in page.by_id


def test_one_cell_alone(tmp_path):
    page = page_with(tmp_path, [line("dtd", "LoRA", 0)])
    assert "79.0" in page.text("results")
    assert "cost-0-0" in page.by_id


def test_a_drawing_alone_is_well_formed_and_names_its_series():
    chart = Chart(Axis.fit("x", [0, 100, 1000], log=True), Axis("y", 0, 1))
    chart.symbol((0, 0.5), 0, "<nothing> & none")
    chart.band([(100, 0.1, 0.2), (1000, 0.3, 0.4)], "series-1")
    root = ElementTree.fromstring(chart.file("a <b>", style_sheet(2), ["one & only", "two"]))
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:2] == ["one & only", "two"]
    assert "0" in texts
    marks = [node for node in root.iter() if "symbol" in node.get("class", "")]
    assert len(marks) == 3  # two in the legend
    assert [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")] == ["<nothing> & none"]

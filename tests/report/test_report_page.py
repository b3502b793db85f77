from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from html_page import Page
from sample_run import CLASSES, write_sample

from glora.report import summary, write_report
from glora.report.read import read_run

SECTIONS = ["results", "structure", "parameters", "search", "training", "settings"]
FIGURES = ["layer-sizes", "search-progress", "search-front", "train-probes", "train-loss", "train-lr"]


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_complete_run_has_every_section_and_figure(folder):
    page = page_of(folder)
    assert set(SECTIONS) <= set(page.by_id)
    for key in FIGURES:
        marks = page.by_id[key]
        assert any(mark in marks for mark in ("<path>", "<circle>")), key
        assert "Numbers of" in page.text(key)
        assert len(re.findall(r"\d+\.?\d*", page.text(key))) > 20, key
    assert not [tag for tag, attrs in page.tags if "todo" in (attrs.get("class") or "")]
    labels = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") == "true" for attrs in labels)


def test_default_place_and_chosen_place(folder, tmp_path):
    assert write_report(folder) == folder / "report.html"
    out = tmp_path / "elsewhere" / "page.html"
    assert write_report(folder, out) == out
    assert out.read_bytes() == (folder / "report.html").read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_loads_nothing(folder):
    text = write_report(folder).read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if {"src", "href", "xlink:href", "srcset"} & set(attrs)]


def test_everything_is_escaped(folder):
    nasty = '"><script>alert(1)</script>&amp;'
    edit(
        folder / "metrics.json",
        lambda m: m.update(title=nasty, machine=nasty, command=nasty, versions={nasty: nasty}, backbone=nasty),
    )
    edit(folder / "metrics.json", lambda m: m["table"][0].update(method=nasty, note=nasty))
    edit(folder / "metrics.json", lambda m: m["data"].update(name=nasty, digest=nasty, layout=nasty))
    edit(folder / "structure.json", lambda s: s["layers"][0].update(name=nasty))
    edit(folder / "structure.json", lambda s: s["best"]["structure"].pop("blocks.0.attn.qkv", None))
    (folder / "config.yaml").write_text(f"model: {nasty}\n")
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    rows[9]["probes"][nasty] = 0.5
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(folder).read_text(encoding="utf-8")
    assert "<script" not in text
    page = Page(text)
    assert nasty in page.text()
    assert CLASSES[2] in page.text("settings")


def test_class_name_that_is_not_utf8(folder):
    edit(folder / "metrics.json", lambda m: m["data"].update(classes=["caf\udce9", "cat"]))
    assert "caf?" in page_of(folder).text("settings")


def test_same_files_give_the_same_bytes(folder, tmp_path):
    other = write_sample(tmp_path / "again" / "pets")
    assert write_report(folder).read_bytes() == write_report(other).read_bytes()


def test_headline_and_table(folder):
    page = page_of(folder)
    best = json.loads((folder / "structure.json").read_text())["best"]
    assert (
        f"GLoRA, chosen structure reaches 92.6 ± 0.4 % on 3,669 test images with {best['size']:,} adapter parameters, "
        "1.9 points above LoRA, rank 4, the best of the 4 other methods." in page.text()
    )
    table = page.text("results")
    assert "this run" in table
    assert table.count("best") >= 2
    assert "90.7 ± 0.5spread 0.2" in table
    assert "44 min 52 s" in table


def test_one_row_is_the_best_of_a_column(folder):
    """Of equal accuracies that with the fewest parameters; of equals in both the first."""

    def level(metrics):
        for row in metrics["table"]:
            row.update(val_accuracy=0.9, test_accuracy=0.9)
        metrics["table"][0].update(val_accuracy=0.8, test_accuracy=None)
        metrics["table"].append({**metrics["table"][1], "method": "BitFit again"})

    edit(folder / "metrics.json", level)
    rows = summary.result_rows(read_run(folder))
    assert [(row.method, row.val.best, row.test.best) for row in rows if row.val.best or row.test.best] == [
        ("BitFit", True, True)
    ]
    assert page_of(folder).text("results").count("best") == 2
    assert "level with BitFit, the best of the 4 other methods" in page_of(folder).text()


def test_difference_within_the_error_is_said(folder):
    edit(folder / "metrics.json", lambda m: m["table"][3].update(test_accuracy=0.9090))
    assert "less than two standard errors" in page_of(folder).text()


def test_validation_only(folder):
    def without_test(metrics):
        metrics["data"]["test"] = None
        for row in metrics["table"]:
            row["test_accuracy"] = None

    edit(folder / "metrics.json", without_test)
    page = page_of(folder)
    assert "reaches 94.2 ± 0.9 % on 736 validation images" in page.text()
    assert "Test, %" not in page.text("results")


def test_map_shows_every_form(folder):
    page = page_of(folder)
    structure = json.loads((folder / "structure.json").read_text())
    cells = [attrs["title"] for tag, attrs in page.tags if tag == "td" and "title" in attrs]
    assert len(cells) == 5 * len(structure["layers"])
    for name, forms in structure["best"]["structure"].items():
        for tensor, form in forms.items():
            assert any(cell.startswith(f"{name}: {tensor} {form}, ") for cell in cells)
    assert f"All{structure['best']['size']:,}" in page.text("tensor-sizes").replace(" ", "")


def test_a_hybrid_shows_prompts_and_adapters_by_block(folder):
    def hybrid(run):
        run["blocks"] = [{"name": f"blocks.{i}", "width": 384} for i in range(12)]
        run["best"]["structure"] |= {"blocks.3": {"prompt": "tokens-5", "adapter": "serial-8"}}
        run["best"]["size"] += 5 * 384 + 2 * (8 * 384 + 8 + 384 * 8 + 384)

    assert "adapter" not in page_of(folder).text("structure")
    edit(folder / "structure.json", hybrid)
    page = page_of(folder)
    cells = {
        attrs["title"] for tag, attrs in page.tags if tag == "td" and attrs.get("title", "").startswith("blocks.3: ")
    }
    assert cells == {
        "blocks.3: prompt tokens-5, 1,920 parameters",
        "blocks.3: adapter serial-8, 13,072 parameters",
    }
    assert "stay in the model" in page.text("structure")
    sizes = page.text("tensor-sizes")
    assert "adds tokens to a block" in sizes
    assert "The file gives" not in sizes  # the sum is that of the file, blocks included


def test_two_hundred_layers(tmp_path):
    page = page_of(write_sample(tmp_path / "big", blocks=50, generations=2, population=10))
    assert len([1 for tag, attrs in page.tags if tag == "td" and "title" in attrs]) == 1000


def test_budget_line(folder):
    assert "budget of 300,000 is beyond" in page_of(folder).text("search-front")
    edit(folder / "structure.json", lambda s: s.update(budget=150_000))
    assert "budget 150k" in page_of(folder).text("search-front")


@pytest.mark.parametrize(
    ("gone", "command", "kept"),
    [
        (["search.jsonl", "structure.json", "metrics.json"], "glora search ", ["training"]),
        (["train.jsonl"], "glora train --config", ["results", "search-front", "layer-sizes"]),
        (["metrics.json"], "glora run --config", ["search-front", "training"]),
        (["search.jsonl"], "glora search ", ["search-front", "layer-sizes"]),
        (["structure.json"], "glora search ", ["search-front", "search-progress"]),
        (["config.yaml"], "no config.yaml", ["results"]),
        (["train.jsonl", "search.jsonl", "structure.json", "metrics.json"], "glora train --config", ["settings"]),
    ],
)
def test_missing_stages_are_named(folder, gone, command, kept):
    for name in gone:
        (folder / name).unlink()
    page = page_of(folder)
    assert command in page.text()
    assert set(kept) <= set(page.by_id)


def test_metrics_may_lack_anything(folder):
    whole = json.loads((folder / "metrics.json").read_text())
    for key in set(whole) - {"format"}:
        (folder / "metrics.json").write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        page_of(folder)
    (folder / "metrics.json").write_text('{"format": 1}')
    assert "glora run --config" in page_of(folder).text("results")
    (folder / "metrics.json").write_text('{"format": 1, "table": [{"method": "LoRA"}], "data": {"name": "x"}}')
    assert "LoRA" in page_of(folder).text("results")


def test_not_a_number_anywhere(folder):
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    for row, loss in zip(rows[40:44], [float("nan"), float("inf"), None, -float("inf")], strict=True):
        row["loss"] = loss
    rows[49]["probes"]["largest"] = None
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit(folder / "metrics.json", lambda m: m["table"][0].update(test_accuracy=float("nan")))
    edit(folder / "metrics.json", lambda m: m["verification"].update(max_difference=float("inf")))
    page = page_of(folder)
    assert "not finite in 4 of 100 epochs" in page.text("train-loss")
    assert "10 of them had no finite accuracy" in page.text("search-progress")
    assert "not finite" in page.text("results")
    coordinates = [attrs.get("d", "") for tag, attrs in page.tags if tag == "path"]
    assert not [path for path in coordinates if "nan" in path or "inf" in path]


def test_a_search_without_one_score(folder):
    lines = (folder / "search.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"accuracy": None, "loss": None} for line in lines[1:4]]
    (folder / "search.jsonl").write_text("\n".join([lines[0], *map(json.dumps, rows)]) + "\n")
    (folder / "structure.json").unlink()
    assert "3 of them had no finite accuracy" in page_of(folder).text("search-progress")


def test_one_epoch_and_one_candidate(folder):
    for name, keep in (("train.jsonl", 1), ("search.jsonl", 2)):
        lines = (folder / name).read_text().splitlines()[:keep]
        (folder / name).write_text("\n".join(lines) + "\n")
    page = page_of(folder)
    assert {"train-loss", "search-progress"} <= set(page.by_id)

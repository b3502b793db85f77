"""The paper's protocols by one command each, on miniature folders in the published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_bench import lines_of, plan, write

from glora.bench import Plan
from glora.bench.cells import Cell
from glora.config import RunConfig
from glora.protocols import tasks
from glora.run import Run
from protocols.miniatures import domains, few, vtab
from small_run import FAST, Told, call, timm_settings

OURS = {"peer": "glora", "rank": 2, "options": {"budget": 3000, "generations": 1, "population": 4}}


def bench(folder: Path, root: Path, **changes: Any) -> list[dict[str, Any]]:
    """Do a plan of a protocol by the command; its results."""
    methods = {"lora": {"peer": "lora", "rank": 2}, "ours": OURS}
    train = {"epochs": 1, "batch_size": 50, "precision": "fp32"}
    values = plan(data=None, methods=methods, train=train, seeds=[0], lr=1e-3, root="elsewhere") | changes
    done = call("bench", write(folder, values), "--root", root, "--out", folder / "out")
    assert done.code == 0, done.err
    return lines_of(folder / "out")


def test_vtab_is_trained_on_both_parts_and_tested_once(tmp_path: Path) -> None:
    vtab(tmp_path / "data", "kitti", 4, 711)
    lines = bench(tmp_path, tmp_path / "data", protocol="vtab", tasks=["kitti"])
    (task,) = tasks("vtab", tmp_path / "data", names=["kitti"])
    assert [line["method"] for line in lines] == ["lora", "ours"]
    for line in lines:
        assert (line["protocol"], line["group"], line["trained_on"]) == ("vtab", "structured", "train+val")
        assert (line["split"], line["preprocessing"]["resize"], line["preprocessing"]["size"]) == (
            task.split,
            "squash",
            32,
        )
        assert line["settings"]["augment"] == "none"
        assert line["structure"] is None or {row["name"] for row in line["layers"]} >= set(line["structure"])
    assert lines[1]["structure"]


def test_each_seed_of_few_shots_has_its_own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = few(tmp_path / "data", monkeypatch, shots=(1, 2))
    changes = {"protocol": "fewshot", "tasks": ["oxford-pets"], "shots": [1, 2], "seeds": [0, 1]}
    lines = bench(tmp_path, root, **changes, methods={"lora": {"peer": "lora", "rank": 2}, "ours": OURS})
    found = {(line["shots"], line["seed"]): line["split"] for line in lines}
    meant = tasks("fewshot", root, names=["oxford-pets"], shots=[1, 2], seeds=[0, 1])
    assert found == {(task.shots, task.seed): task.split for task in meant}
    assert len(lines) == 8
    assert {(line["trained_on"], line["preprocessing"]["resize"]) for line in lines} == {("train", "squash-crop")}
    assert {line["settings"]["augment"] for line in lines} == {"randaugment"}
    settings = [RunConfig.load(folder) for folder in sorted((tmp_path / "out" / "runs").iterdir())]
    assert [one.augment for one in settings] == ["randaugment"] * 4


def test_a_task_is_augmented_as_its_protocol_says_unless_a_plan_or_a_method_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = few(tmp_path / "data", monkeypatch, shots=(1,))
    choices = {"data": None, "protocol": "fewshot", "root": str(root), "tasks": ["oxford-pets"], "seeds": [0]}

    def cells(*own: Any, **everywhere: Any) -> list[Cell]:
        methods = {f"m{i}": {"peer": "lora", "train": {"augment": name}} for i, name in enumerate(own)}
        values = plan(**choices, methods={**methods, "rest": {"peer": "lora"}}, train=everywhere)
        return list(Plan.read(write(tmp_path, values), tmp_path / "out").cells)

    found = cells("none", "flip", None)
    assert [cell.config(1e-3, 0).augment for cell in found] == ["none", "flip", "randaugment", "randaugment"]
    assert [cell.config(1e-3, 0).augment for cell in cells("crop", augment="none")] == ["crop", "none"]
    plain, usual = cells(augment="none")[0], cells()[0]
    assert plain.key != usual.key == cells(augment="randaugment")[0].key


@pytest.mark.parametrize(("given", "found"), [(None, "randaugment"), ("none", "none"), ("flip", "flip")])
def test_a_run_on_a_task_is_augmented_as_its_protocol_says_unless_told_otherwise(
    given: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = few(tmp_path / "data", monkeypatch, shots=(1,))
    (task,) = tasks("fewshot", root, names=["oxford-pets"], shots=[1], seeds=[0])
    config = RunConfig(**timm_settings(**FAST, augment=given), out=str(tmp_path / "run"))
    for again in (config, RunConfig.load(Run(config, Told(), task=task).folder)):
        assert Run(again, Told(), task=task).config.train_settings().augment == found
    assert RunConfig.load(tmp_path / "run").augment == found


def test_domain_generalisation_names_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = domains(tmp_path / "data", monkeypatch)
    lines = bench(tmp_path, root, protocol="domain", alphas="0:1:0.5")
    for line in lines:
        assert len(line["tests"]) == 10
        assert {"imagenet-r, 6 classes", "imagenet-r, present classes"} < line["tests"].keys()
        assert list(line["alphas"]) == ["0.0", "0.5", "1.0"]
        assert all(figures.keys() == line["tests"].keys() for figures in line["alphas"].values())
        assert line["shots"] == 16


def test_a_broken_folder_is_refused_by_name_before_anything_is_trained(tmp_path: Path) -> None:
    own = vtab(tmp_path / "data", "kitti", 4, 711)
    (own / "val200.txt").unlink()
    values = plan(data=None, protocol="vtab", root=str(tmp_path / "data"), tasks=["kitti"])
    done = call("bench", write(tmp_path, values), "--out", tmp_path / "out")
    assert done.code == 2
    assert "kitti" in done.err
    assert "val200.txt" in done.err
    assert not (tmp_path / "out" / "results.jsonl").exists()

"""The paper's protocols by one command each, on miniature folders in the published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_bench import lines_of, plan, write

from glora.protocols import tasks
from protocols.miniatures import domains, few, vtab
from small_run import call

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

from __future__ import annotations

import json
import math
import re

import pytest

from glora.errors import CheckpointError
from glora.report import write_report
from glora.report.read import read_run


def test_reads_the_sample(sample):
    run = read_run(sample)
    assert len(run.chosen.layers) == 48
    assert len(run.search.candidates) == 1000
    assert [epoch.epoch for epoch in run.train] == list(range(1, 101))
    assert run.train[0].probes == {}
    assert run.metrics.data.test == 3669
    assert math.isnan(run.search.candidates[96].accuracy)


@pytest.mark.parametrize("missing", [True, False])
def test_not_a_run_folder(tmp_path, missing):
    folder = tmp_path / "nothing"
    if not missing:
        folder.mkdir()
    with pytest.raises(CheckpointError, match="not a run folder"):
        write_report(folder)


@pytest.mark.parametrize("name", ["structure.json", "metrics.json"])
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": "1"}', "{}", '{"format": 2}', "\x00", "[" * 100_000, "1" * 5000]
)
def test_damaged_json_is_named(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(str(folder / name))):
        write_report(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("name", ["structure.json", "metrics.json", "search.jsonl", "train.jsonl", "config.yaml"])
def test_bytes_that_are_not_text(folder, name):
    (folder / name).write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(CheckpointError, match=re.escape(str(folder / name))):
        write_report(folder)


@pytest.mark.parametrize("name", ["search.jsonl", "train.jsonl"])
@pytest.mark.parametrize(
    "text", ['{"index": 1,', "7", "", '{"index": "1", "epoch": "1"}', '{"index": true, "epoch": 1.5}']
)
def test_damaged_line_is_named(folder, name, text):
    lines = (folder / name).read_text().splitlines()
    lines[4] = text
    (folder / name).write_text("\n".join(lines) + "\n")
    with pytest.raises(CheckpointError, match=re.escape(f"{folder / name}, line 5")):
        write_report(folder)


@pytest.mark.parametrize("name", ["search.jsonl", "train.jsonl"])
def test_a_half_written_last_line_is_left_out(folder, name):
    path = folder / name
    before = read_run(folder)
    path.write_text(path.read_text() + '{"index": 99, "epo')
    assert read_run(folder) == before


def test_the_last_line_of_an_epoch_counts(folder):
    path = folder / "train.jsonl"
    path.write_text(path.read_text() + json.dumps({"epoch": 3, "step": 9, "loss": 7.5, "lr": 0.1}) + "\n")
    run = read_run(folder)
    assert len(run.train) == 100
    assert run.train[2].loss == 7.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["best"].update(structure={"blocks.0.attn.qkv": {"B": "rank-x"}}), "unknown form"),
        (lambda s: s["best"].update(structure={"blocks.99.attn.qkv": {"B": "rank-4"}}), "not among its 'layers'"),
        (lambda s: s["best"].update(structure={"blocks.0.attn.qkv": 4}), "not a structure"),
        (lambda s: s["best"].pop("size"), "no 'size'"),
        (lambda s: s.pop("best"), "no 'index'"),
        (lambda s: s["layers"][3].pop("out"), "no 'out'"),
        (lambda s: s.update(layers={}), "'layers' is {}, not a list"),
        (lambda s: s.update(range=[1]), "'range' is"),
        (lambda s: s.update(front=[5]), "expected an object"),
    ],
)
def test_wrong_structure_is_explained(folder, change, message):
    value = json.loads((folder / "structure.json").read_text())
    change(value)
    (folder / "structure.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        write_report(folder)
    assert "structure.json" in str(caught.value)
    assert "\n" not in str(caught.value)

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_bench import comparable, do, lines_of, plan, write

from glora.bench import Plan
from glora.bench.work import _state
from glora.errors import ConfigError
from glora.results.file import ResultsFile
from glora.train.loop import Loop
from small_run import call, paint_split, read_json

# A checkpoint after every epoch, because these trainings are over before the first one is due.
PROGRAM = """
import sys
import torch
torch.set_num_threads(1)
import glora.cli.commands
from glora.cli import main
for name, module in list(sys.modules.items()):
    if name.startswith("glora.train") and hasattr(module, "_CHECKPOINT_SECONDS"):
        module._CHECKPOINT_SECONDS = 0.0
sys.exit(main())
"""
PEERS = {"linear": {"peer": "linear"}, "lora": {"peer": "lora", "rank": 2}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench done without a stop, in this process."""
    folder = tmp_path_factory.mktemp("whole")
    assert do(folder, folder / "out") == []
    return folder / "out"


def test_a_line_says_all_that_is_shared(whole: Path) -> None:
    lines = lines_of(whole)
    assert [(line["method"], line["seed"]) for line in lines] == [
        (method, seed) for method in ("linear", "lora", "ours") for seed in (0, 1)
    ]
    for line in lines:
        assert [one["lr"] for one in line["trials"]] == [1e-4, 1e-3]
        best = max(line["trials"], key=lambda one: float(one["val"]))
        assert line["lr"] == line["settings"]["lr"] == best["lr"]
        assert (line["settings"]["epochs"], line["settings"]["seed"]) == (2, line["seed"])
        assert line["tests"].keys() == {"test"}
        assert line["head"] == 65 * 3
        assert line["memory"] is None or line["memory"] > 10**7
        if line["seed"] == 0:
            assert line["val"] == best["val"]
    # LoRA of rank 2 on the qkv of the blocks of test_vit, whose width is 64.
    import timm

    blocks = len(timm.create_model("test_vit").blocks)
    assert {line["parameters"] for line in lines if line["method"] == "lora"} == {blocks * 2 * (64 + 192)}
    ours = [line for line in lines if line["method"] == "ours"]
    assert all(0 < line["parameters"] <= 3000 and line["structure"] for line in ours)
    # One supernet for each rate and for the other seed.
    assert len(list((whole / "supernets").iterdir())) == 3
    assert not (whole / "state").exists()


def test_what_is_done_is_not_done_again(whole: Path, tmp_path: Path) -> None:
    before = (whole / "results.jsonl").read_bytes()
    assert do(tmp_path, whole) == []
    assert (whole / "results.jsonl").read_bytes() == before
    done = call("bench", write(tmp_path, plan()), "--out", whole, "--dry-run")
    assert done.out.splitlines()[0] == "done    linear on colours, seed 0"
    assert done.out.splitlines()[-1] == "6 of 6 cells done, 0 failed"
    more = call("bench", write(tmp_path, plan(seeds=[0, 1, 2])), "--out", whole, "--dry-run", "--json")
    assert [cell["state"] for cell in json.loads(more.out)["cells"]] == ["done", "done", "to do"] * 3


@pytest.mark.slow
def test_two_workers_give_the_same_results(whole: Path, tmp_path: Path) -> None:
    assert do(tmp_path, tmp_path / "out", workers=2) == []
    assert comparable(lines_of(tmp_path / "out")) == comparable(lines_of(whole))


@pytest.mark.slow
def test_killed_in_the_middle_of_a_training_it_ends_the_same(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "methods": {"lora": PEERS["lora"]},
        "train": {"epochs": 40, "batch_size": 12, "precision": "fp32"},
        "seeds": [0],
    }
    path = write(tmp_path, plan(**changes))
    command = [sys.executable, "-c", PROGRAM, "bench", str(path), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    state = tmp_path / "killed" / "state"
    try:
        deadline = time.monotonic() + 240
        while not list(state.glob("*.safetensors")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert list(state.glob("*.safetensors"))
    assert not (tmp_path / "killed" / "results.jsonl").exists()
    epochs: list[int] = []
    original = Loop.epoch

    def counted(self: Loop, epoch: int, *rest: Any) -> float:
        epochs.append(epoch)
        return original(self, epoch, *rest)

    monkeypatch.setattr(Loop, "epoch", counted)
    assert do(tmp_path, tmp_path / "killed", **changes) == []
    assert 40 <= len(epochs) < 80  # of two trials: the first went on from where it was
    assert do(tmp_path, tmp_path / "whole", **changes) == []
    assert comparable(lines_of(tmp_path / "killed")) == comparable(lines_of(tmp_path / "whole"))


def test_a_failed_cell_is_told_and_tried_again_and_the_others_are_done(tmp_path: Path) -> None:
    split = paint_split(tmp_path / "untested", ("train", "val"))
    data = {"untested": str(split), "colours": plan()["data"]["colours"]}
    path = write(tmp_path, plan(data=data, methods={"linear": PEERS["linear"]}, seeds=[0], lr=1e-3))
    done = call("bench", path, "--out", tmp_path / "out")
    assert done.code == 1
    assert "failed: linear on untested, seed 0: " in done.err.splitlines()[-1]
    assert "has no test images" in done.err
    assert "| linear |" in done.out
    assert "warning: failed: linear on untested" in done.out
    lines = {line["task"]: line for line in lines_of(tmp_path / "out")}
    assert "tests" not in lines["untested"]
    assert lines["colours"]["trials"] == []
    paint_split(split, ("test",))
    done = call("bench", path, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    value = json.loads(done.out)
    assert (value["cells"], value["failed"], len(value["table"]["columns"])) == (2, [], 2)


def test_a_rate_that_diverges_loses_and_fails_the_cell_only_alone(tmp_path: Path) -> None:
    methods = {"full": {"peer": "full", "lr": [1e-3, 1e30]}}
    assert do(tmp_path, tmp_path / "one", methods=methods, seeds=[0]) == []
    (line,) = lines_of(tmp_path / "one")
    assert line["lr"] == 1e-3
    assert line["trials"][1] == {"lr": 1e30, "val": None}
    methods["full"]["lr"] = [1e29, 1e30]
    (failed,) = do(tmp_path, tmp_path / "both", methods=methods, seeds=[0])
    assert "loss" in failed["error"]


def test_only_a_divergence_makes_a_rate_lose(tmp_path: Path) -> None:
    changes = {"methods": {"lora": PEERS["lora"]}, "seeds": [0]}
    (cell,) = Plan.read(write(tmp_path, plan(**changes)), tmp_path / "out").cells
    path = _state(cell.trial, tmp_path / "out", cell.rates[1], 0, "train")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    (failed,) = do(tmp_path, tmp_path / "out", **changes)
    assert f"{path} is damaged" in failed["error"]
    path.unlink()
    assert do(tmp_path, tmp_path / "out", **changes) == []


def test_final_models_may_be_trained_on_training_and_validation_images(tmp_path: Path) -> None:
    methods = {"lora": PEERS["lora"], "ours": plan()["methods"]["ours"]}
    assert do(tmp_path, tmp_path / "out", methods=methods, final="train+val", seeds=[1]) == []
    lora, ours = lines_of(tmp_path / "out")
    assert {lora["trained_on"], ours["trained_on"]} == {"train+val"}
    assert lora["val"] == max(float(one["val"]) for one in lora["trials"])
    run = next(p for p in (tmp_path / "out" / "runs").iterdir() if "\nseed: 1\n" in (p / "config.yaml").read_text())
    assert ours["structure"] == read_json(run / "structure.json")["best"]["structure"]


def test_a_torn_line_is_cut_off_and_its_cell_done_again(whole: Path, tmp_path: Path) -> None:
    lines = (whole / "results.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    file = ResultsFile(path)
    keys = [json.loads(line)["key"] for line in lines[:3]]
    assert [file.done(key) for key in keys] == [True, True, False]
    assert path.read_bytes() == b"".join(lines[:2])
    file.append(json.loads(lines[2]))
    assert file.done(keys[2])
    assert path.read_bytes() == b"".join(lines[:3])


def test_less_than_one_worker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers is 1 or more, not 0"):
        do(tmp_path, tmp_path / "out", workers=0)

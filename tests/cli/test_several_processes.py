"""``glora train`` under torchrun, on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from small_run import call, flags, names_in, succeed, timm_settings


def launched(*words: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "glora"]
    return subprocess.run(
        [*launcher, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_two_processes_train_the_supernet_that_one_trains(tmp_path: Path, environment: dict[str, str]) -> None:
    settings = flags(timm_settings(epochs=3, lr=1e-3, drop_path=0.0))
    done = launched("train", *settings, f"--out={tmp_path / 'two'}", environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("supernet ") == 1, "only the main process speaks"
    succeed("train", *settings, f"--out={tmp_path / 'one'}")
    assert names_in(tmp_path / "two") == names_in(tmp_path / "one")
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    # Where LayerNorm undoes a scalar, the gradient is rounding, which AdamW makes a step of: losses, not tensors.
    assert two == pytest.approx(one, rel=1e-4)
    assert len(set(one)) == 3


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]


def test_what_works_in_one_process_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = call("run", *flags(timm_settings()), f"--out={tmp_path / 'run'}")
    assert done.code == 2
    assert done.err == "glora: glora run works in one process: launch glora train in several, then glora search RUN\n"
    assert not (tmp_path / "run").exists()

"""kill -9 at any moment: a run that is started again ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from small_run import flags, names_in, timm_settings

# Imports everything once; then each line on stdin is a command, run in a process of its own, whose number and exit
# status are answered. A checkpoint after every epoch, because these runs are over before the first one is due.
LAUNCHER = """
import json, os, sys
import torch
torch.set_num_threads(1)
import accelerate, timm
import glora.cli.arguments, glora.cli.commands
from glora.cli.main import main
for name, module in list(sys.modules.items()):
    if name.startswith("glora.train") and hasattr(module, "_CHECKPOINT_SECONDS"):
        module._CHECKPOINT_SECONDS = 0.0
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 99
        try:
            code = main(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
SETTINGS = {"finetune_epochs": 4, "epochs": 6, "generations": 3}
# Every file that a finished run holds, but those with times in them.
SAME = (
    "adapter.safetensors",
    "correct.json",
    "merged.safetensors",
    "random.jsonl",
    "search.jsonl",
    "structure.json",
    "supernet.safetensors",
    "train.jsonl",
    "baselines/linear-probe.safetensors",
    "baselines/uniform-LoRA-rank-1.safetensors",
)


class Launcher:
    """Starts commands in new processes without importing everything anew for each."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.log = log
        command = [sys.executable, "-c", LAUNCHER, str(log)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._line() == "ready"

    def start(self, arguments: list[str]) -> int:
        """Start a command; its process."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def code(self) -> int:
        """Wait for the command; its exit code, negative for a signal."""
        return int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def launcher(environment: dict[str, str], tmp_path: Path) -> Iterator[Launcher]:
    made = Launcher(environment, tmp_path / "log")
    yield made
    assert made.process.stdin is not None
    assert made.process.stdout is not None
    made.process.stdin.close()
    made.process.wait(60)
    made.process.stdout.close()


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


# The stages of a run, each with the file that is there once it is over.
STAGES = {
    "start": "config.yaml",
    "supernet": "supernet.safetensors",
    "search": "structure.json",
    "fine-tuning": "adapter.safetensors",
    "merge": "merged.safetensors",
    "first baseline": "baselines/linear-probe.safetensors",
    "second baseline": "baselines/uniform-LoRA-rank-1.safetensors",
    "comparison": "report.html",
}


def stage(folder: Path) -> str:
    """What a run is at, by its files."""
    return next((name for name, file in STAGES.items() if not (folder / file).exists()), "end")


def moments(generator: random.Random) -> list[tuple[str, Callable[[Path], bool]]]:
    """What each of the ten kills waits for: spread over the stages, at random within them."""
    epochs = sorted(generator.sample(range(1, 7), 2))
    candidates = sorted(generator.sample(range(2, 33), 2))
    return [
        ("start", lambda folder: True),
        *(("supernet", lambda folder, n=n: lines(folder / "train.jsonl") >= n) for n in epochs),
        *(("search", lambda folder, n=n: lines(folder / "search.jsonl") >= n) for n in candidates),
        ("fine-tuning", lambda folder: (folder / "inherited.safetensors").exists()),
        ("fine-tuning", lambda folder: (folder / "finetune.safetensors").exists()),
        ("merge", lambda folder: (folder / "adapter.safetensors").exists()),
        ("first baseline", lambda folder: (folder / "baselines/linear-probe.state.safetensors").exists()),
        ("second baseline", lambda folder: (folder / "baselines/uniform-LoRA-rank-1.state.safetensors").exists()),
    ]


def wait_for(folder: Path, name: str, due: Callable[[Path], bool]) -> None:
    """Until that moment of that stage has come, or the stage is over."""
    order = [*STAGES, "end"]
    until = time.monotonic() + 120
    while not due(folder) and order.index(stage(folder)) <= order.index(name):
        assert time.monotonic() < until, f"stuck in {stage(folder)}"
        time.sleep(0.001)


def table(folder: Path) -> list[dict[str, Any]]:
    rows = json.loads((folder / "metrics.json").read_text("utf-8"))["table"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_ten_times_ends_as_one_never_interrupted(seed: int, launcher: Launcher, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = flags(timm_settings(**SETTINGS))
    launcher.start(["run", *settings, f"--out={whole}"])
    assert launcher.code() == 0, launcher.log.read_text()
    generator = random.Random(seed)
    hit: list[str] = []
    for name, due in moments(generator):
        child = launcher.start(["run", *settings, f"--out={broken}"])
        wait_for(broken, name, due)
        time.sleep(generator.uniform(0, 0.06))
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if launcher.code() == -signal.SIGKILL:
            hit.append(stage(broken))
    # fewer where the machine is so busy that a run ended before its kill
    assert len(hit) >= 8, (hit, launcher.log.read_text())
    assert len(set(hit)) >= 5, hit
    launcher.start(["run", *settings, f"--out={broken}"])
    assert launcher.code() == 0, launcher.log.read_text()
    for name in SAME:
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert table(broken) == table(whole)
    # what a killed process was writing may be left behind under a hidden name
    assert {name for name in names_in(broken) if not Path(name).name.startswith(".")} == names_in(whole)

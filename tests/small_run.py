"""Runs so small that they take a second: coloured pictures, two tiny backbones with random weights, few epochs."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from glora.backbones import load_backbone
from glora.cli.main import main
from glora.comparison import Comparison
from glora.config import RunConfig
from glora.run import Run
from helpers import one_thread

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (210, 50, 40)}
SIDE = 32
SMALL: dict[str, Any] = {
    "size": SIDE,
    "budget": 3000,
    "rank": 2,
    "epochs": 5,
    "lr": 1e-2,
    "batch_size": 12,
    "precision": "fp32",
    "generations": 2,
    "population": 8,
    "parents": 4,
    "mutants": 4,
    "crossovers": 4,
    "random_subnets": 3,
}
# On top of that, for what is not about the table.
FAST: dict[str, Any] = {"epochs": 2, "baselines": "none", "random_subnets": 1}
# What a run folder holds when all is done (design.md); a fine-tuning and baselines add to it.
FILES = {
    "adapter.safetensors",
    "config.yaml",
    "correct.json",
    "merged.safetensors",
    "metrics.json",
    "report.html",
    "search.jsonl",
    "structure.json",
    "supernet.safetensors",
    "train.jsonl",
}


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


class Told:
    """A progress that remembers what it was told, and may be made to fail somewhere."""

    def __init__(self, on_bar: Callable[[str, int], None] | None = None) -> None:
        self.said: list[str] = []
        self.bars: list[str] = []
        self._on_bar = on_bar

    def say(self, text: str) -> None:
        self.said.append(text)

    def bar(self, label: str, total: int) -> Callable[[int, str], None]:
        self.bars.append(label)

        def show(done: int, figure: str) -> None:
            if self._on_bar is not None:
                self._on_bar(label, done)

        return show


def paint(folder: Path, counts: dict[str, int] | None = None, seed: int = 0) -> Path:
    """Write a class folder of noisy pictures for each colour."""
    generator = np.random.default_rng(seed)
    for name, count in (counts or dict.fromkeys(COLOURS, 20)).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            noise = generator.integers(-80, 81, (20, 24, 3))
            pixels = np.clip(np.array(COLOURS.get(name, (128, 128, 128))) + noise, 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index:02d}.png")
    return folder


def paint_split(folder: Path, parts: tuple[str, ...] = ("train", "val", "test")) -> Path:
    """The same with folders for the splits: 12 pictures a class to train on, 4 in each other part."""
    for seed, part in enumerate(parts):
        paint(folder / part, dict.fromkeys(COLOURS, 12 if part == "train" else 4), seed)
    return folder


@torch.no_grad()
def _shift_biases(model: nn.Module) -> None:
    """Away from zero, where D has nothing to scale."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter) * 0.05)


def write_weights(path: Path, seed: int = 0) -> Path:
    """Random weights of timm's test_vit, which has 300,000 of them, for ``--checkpoint``."""
    import timm

    torch.manual_seed(seed)
    model = timm.create_model("test_vit", num_classes=7)
    _shift_biases(model)
    save_file(model.state_dict(), path)
    return path


def checkpoint_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints after every epoch, so that there is something to go on from."""
    modules = [m for n, m in sys.modules.items() if n.startswith("glora.train") and hasattr(m, "_CHECKPOINT_SECONDS")]
    assert modules
    for module in modules:
        monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)


class Stopped(Exception):
    """Stands for a kill between two steps."""


def stopping(label: str, done: int) -> Told:
    """A progress that stops the run when a bar has come so far."""

    def on_bar(at: str, now: int) -> None:
        if (at, now) == (label, done):
            raise Stopped

    return Told(on_bar)


@cache
def home() -> Path:
    """A folder of this process."""
    path = Path(tempfile.mkdtemp(prefix="glora-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def pictures() -> Path:
    """Three classes of 20 pictures; not to be changed."""
    return paint(home() / "colours")


@cache
def weights() -> Path:
    """Weights of test_vit; not to be changed."""
    return write_weights(home() / "test_vit.safetensors")


@cache
def hf_folder() -> Path:
    """A transformers ViT of 5,000 random weights for images of 16 pixels; not to be changed."""
    import transformers

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**shape, image_size=16, patch_size=8, num_labels=10)
    model = transformers.ViTForImageClassification(config)
    _shift_biases(model)
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(home() / "vit")
    return home() / "vit"


def timm_settings(**changes: Any) -> dict[str, Any]:
    """Settings of a small run on test_vit, but for ``out``."""
    return {"data": str(pictures()), "model": "test_vit", "checkpoint": str(weights()), **SMALL, **changes}


def hf_settings(**changes: Any) -> dict[str, Any]:
    """Settings of a small run on the ViT of transformers, but for ``out``."""
    own = {
        "data": str(pictures()),
        "model": f"hf:{hf_folder()}",
        "drop_path": 0.0,
        "size": 16,
        "budget": 300,
        "lr": 1e-2,
        "epochs": 10,
    }
    return {**SMALL, **own, **changes}


def flags(settings: dict[str, Any]) -> list[str]:
    """Settings as flags of the command line."""
    return [f"--{name}={value}" for name, value in settings.items()]


def run_of(settings: dict[str, Any], out: Path, progress: Told | None = None) -> Run:
    """The pipeline's object for these settings."""
    return Run(RunConfig(**settings, out=str(out)), progress or Told())


def complete(settings: dict[str, Any], out: Path) -> Run:
    """Do all that ``glora run`` does, but for the table."""
    with one_thread():
        run = run_of(settings, out)
        run.merge()
        comparison = Comparison(run)
        comparison.validate()
        comparison.test()
        run.report()
    return run


def call(*arguments: str | Path) -> Outcome:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with one_thread(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # the parser's way to end
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def spawn(environment: dict[str, str], *arguments: str | Path, program: str | None = None) -> Outcome:
    """Run a Python program, or the command line if none is given, in a new process."""
    program = program or "import sys; from glora.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def succeed(*arguments: str | Path) -> Outcome:
    """Run a command in this process; it must not fail."""
    done = call(*arguments)
    assert done.code == 0, done.err
    return done


@cache
def finished() -> Path:
    """The folder of a finished ``glora run`` on test_vit, with fine-tuning and baselines; not to be changed."""
    succeed("run", *flags(timm_settings(finetune_epochs=2)), "--out", home() / "finished")
    return home() / "finished"


@cache
def finished_hf() -> Path:
    """The folder of a finished ``glora run`` on the ViT of transformers, without baselines; not to be changed."""
    succeed("run", *flags(hf_settings(baselines="none")), "--out", home() / "finished-hf")
    return home() / "finished-hf"


def copy_of(folder: Path, parent: Path) -> Path:
    """A copy of a run folder, to be changed."""
    return Path(shutil.copytree(folder, parent / folder.name))


def names_in(folder: Path) -> set[str]:
    """Relative paths of all files below a folder but the one that keeps others out."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def backbone_of(config: RunConfig) -> nn.Module:
    """The plain model that a run of three classes starts from."""
    return load_backbone(config.model, num_classes=3, size=config.size, checkpoint=config.checkpoint).model


def adapter_numbers(path: Path) -> int:
    """How many numbers an adapter file holds, those of the head apart."""
    return sum(tensor.numel() for key, tensor in load_file(path).items() if not key.startswith("head."))


def bytes_of(folder: Path, *names: str) -> list[bytes]:
    """Contents of some files."""
    return [(folder / name).read_bytes() for name in names]


def same_tensors(first: Path, second: Path) -> bool:
    """Whether two files hold the same tensors to the bit, whatever their metadata."""
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text("utf-8"))


def fields_of(text: str) -> dict[str, str]:
    """What ``name   value`` lines say."""
    return {name: value.strip() for name, value in (line.split("  ", 1) for line in text.splitlines())}

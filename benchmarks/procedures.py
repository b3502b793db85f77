"""Does a search find a better structure than any fixed one? Test accuracy on six tasks, all at the same effort.

Every method has the same budget of adapter parameters (147,456: LoRA of rank 2 on all linear layers of DINOv2-small, or
low-rank A, C and D vectors at rank 1), the same number of training steps, batches and schedule, and every search the
same number of evaluations. Whatever is chosen is chosen on the 200 validation images; the 1,000 test images are looked
at once per result. Results are lines of a JSON-lines file (--cells), so that a run that was stopped goes on; two
processes may share it if they have different --tasks. `--table` prints what is there already and runs nothing.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, parser, save, show
from tasks import TASKS, Cells, Task, one_thread, settings

import glora
from glora import SearchSpace, Structure, presets
from glora.checkpoint import load_supernet, save_supernet
from glora.evaluate import Evaluator, outcomes
from glora.model import GLoRAModel
from glora.strategies.operators import legal_sample
from glora.strategies.score import pack_bits

BUDGET = 147_456
SPACE = SearchSpace(4)
FIXED = {
    "linear probe": presets.frozen(),
    "BitFit": presets.bitfit(),
    "uniform LoRA, rank 2": presets.lora(2),
    "uniform A rank 1, C and D vectors": SearchSpace(
        1, A=["rank-1"], B=["none"], C=["vector"], D=["vector"], E=["none"]
    ),
}
RANDOM, EVOLUTION, OURS = "random subnets, mean of 10", "the authors' evolution", "ours"
METHODS = (*FIXED, RANDOM, EVOLUTION, OURS)


class Bench:
    """One task and seed: what all methods start from, and how each comes to its result."""

    def __init__(self, task: Task, seed: int, given: Any) -> None:
        self.task, self.seed, self.given = task, seed, given
        self.folder = given.data.parent / "supernets"

    def __call__(self, method: str) -> dict[str, Any]:
        """The result of a method: parameters, validation and test accuracy, seconds."""
        began = time.perf_counter()
        if method in FIXED:
            net = self.task.net(FIXED[method])
            self.train(net, self.given.epochs)
            found = self.score(net, net.active)
        elif method == RANDOM:
            found = self.random()
        else:
            found = self.evolved() if method == EVOLUTION else self.ours()
        return {**found, "seconds": round(time.perf_counter() - began, 1)}

    def train(self, net: GLoRAModel, epochs: int, **recipe: Any) -> None:
        """Train on the 800 images."""
        glora.train_supernet(net, self.task.data.train, None, settings(epochs, self.seed, **recipe))

    def supernet(self, epochs: int, **recipe: Any) -> GLoRAModel:
        """A trained supernet; the same one for all that ask for the same training."""
        net = self.task.net(SPACE)
        told = "".join(f" {key}={value}" for key, value in recipe.items())
        path = self.folder / f"{self.task.name} {self.task.size} seed {self.seed} epochs {epochs}{told}.safetensors"
        if not path.is_file():
            self.train(net, epochs, **recipe)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_supernet(net, path)
        load_supernet(net, path)
        return net

    def score(self, net: GLoRAModel, structure: Structure) -> dict[str, Any]:
        """Validation and test accuracy of a structure, and which test images it is right on."""
        data = self.task.data
        assert data.test is not None
        val = Evaluator(net, data.val, precision="bf16")(structure)
        test = Evaluator(net, data.test, precision="bf16").outcomes(structure)
        return {
            "size": net.size(structure),
            "val": val.accuracy,
            "test": test.right.double().mean().item(),
            "right": pack_bits(test.right.tolist()),
        }

    def random(self) -> dict[str, Any]:
        net, generator = self.supernet(self.given.epochs), random.Random(f"random {self.seed}")
        scores = [self.score(net, legal_sample(net.bound, BUDGET, generator)) for _ in range(10)]
        return {key: statistics.mean(score[key] for score in scores) for key in ("size", "val", "test")}

    def search(self, net: GLoRAModel, **how: Any) -> Structure:
        """The structure that a search finds; as many evaluations whatever the strategy."""
        population, generations = 20, self.given.evaluations // 20 - 1
        found = glora.search(
            net,
            self.task.data.val,
            BUDGET,
            population=population,
            generations=generations,
            seed=self.seed,
            precision="bf16",
            **how,
        )
        return found.best

    def evolved(self) -> dict[str, Any]:
        """The paper's procedure: a supernet of random structures, evolution by accuracy, inherited weights."""
        net = self.supernet(self.given.epochs)
        return self.score(net, self.search(net))

    def ours(self) -> dict[str, Any]:
        """Half of the steps for a supernet, the surrogate by validation loss, the other half for what it found."""
        half = self.given.epochs // 2
        net = self.supernet(half)
        path = self.folder / f"{self.task.name} {self.task.size} seed {self.seed} found.safetensors"
        net.save(path, self.search(net, strategy="surrogate", fitness="loss"))
        tuned = glora.load(self.task.backbone().model, path)
        self.train(tuned, self.given.epochs - half)
        return self.score(tuned, tuned.active)


def interval(differences: np.ndarray[Any, Any], draws: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over tasks of differences (tasks, seeds): tasks are drawn, then seeds."""
    generator = np.random.default_rng(0)
    tasks, seeds = differences.shape
    rows = generator.integers(tasks, size=(draws, tasks, 1))
    columns = generator.integers(seeds, size=(draws, tasks, seeds))
    low, high = np.quantile(differences[rows, columns].mean(axis=(1, 2)), [0.025, 0.975])
    return float(low), float(high)


def table(cells: Cells, key: Callable[[str, int, str], str], tasks: list[str], seeds: list[int]) -> None:
    """Test accuracy by method and task; and what ours gains on each."""
    figures = {
        method: np.array([[cells.found.get(key(t, s, method), {}).get("test", np.nan) for s in seeds] for t in tasks])
        for method in METHODS
    }
    rows = []
    for method, values in figures.items():
        sizes = [cells.found[key(t, s, method)]["size"] for t in tasks for s in seeds if key(t, s, method) in cells.found]
        means = 100 * np.nanmean(values, axis=1)
        spread = 100 * np.nanstd(values, axis=1)
        by_task = [f"{m:.1f} ± {d:.1f}" if len(seeds) > 1 else f"{m:.1f}" for m, d in zip(means, spread, strict=True)]
        gain = "" if method == OURS else _gain(figures[OURS] - values)
        size = f"{statistics.mean(sizes):,.0f}" if sizes else ""
        rows.append([method, size, *by_task, f"{means.mean():.1f}", gain])
    columns = ["method", "parameters", *tasks, "mean", "ours gains (95 %)"]
    show(f"test accuracy in %, {len(seeds)} seeds", columns, rows)


def _gain(differences: np.ndarray[Any, Any]) -> str:
    if np.isnan(differences).any():
        return ""
    low, high = interval(differences)
    return f"{100 * differences.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def main() -> None:
    arguments = parser(__doc__ or "", "procedures")
    arguments.add_argument("--tasks", nargs="+", default=list(TASKS), choices=[*TASKS, "digits"])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--data", type=Path, default=Path("runs/data"), help="where the tasks are, or are made")
    arguments.add_argument("--size", type=int, default=56)
    arguments.add_argument("--epochs", type=int, default=12)
    arguments.add_argument("--evaluations", type=int, default=200)
    arguments.add_argument("--cells", type=Path, default=RESULTS / "procedures.jsonl")
    arguments.add_argument("--one-thread", action="store_true")
    arguments.add_argument("--table", action="store_true", help="print what is there and run nothing")
    given = arguments.parse_args()
    if given.quick:
        given.tasks, given.seeds, given.epochs, given.evaluations = ["digits"], [0], 2, 40
        given.cells = given.out.with_suffix(".jsonl")
    if given.one_thread:
        one_thread()
    cells = Cells(given.cells)

    def key(task: str, seed: int, method: str) -> str:
        return f"{task}, {given.size} px, {given.epochs} epochs, {given.evaluations} evaluations, seed {seed}: {method}"

    for seed in [] if given.table else given.seeds:
        for name in given.tasks:
            bench = Bench(Task(name, given.data, given.size), seed, given)
            for method in METHODS:
                cells(key(name, seed, method), lambda: bench(method))
    table(cells, key, given.tasks, given.seeds)
    save(given.out, " ".join(["python", *sys.argv]), given.device, list(cells.found.values()))


if __name__ == "__main__":
    main()

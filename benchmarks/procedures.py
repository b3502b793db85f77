"""Does a search find a better structure than any fixed one? Test accuracy on six tasks, all at the same effort.

Every method has the same budget of adapter parameters (147,456: LoRA of rank 2 on all linear layers of DINOv2-small, or
low-rank A, C and D vectors at rank 1), the same number of training steps, batches and schedule, and every search the
same number of evaluations; a single structure that is trained has two learning rates to choose from. Whatever is
chosen, the rate included, is chosen on the 200 validation images; the 1,000 test images are scored once for each rate.
Results are lines of a JSON-lines file (--cells), so that a run that was stopped goes on; two processes may share it if
they have different --tasks. `--table` prints what is there already and runs nothing.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, parser, save, show
from tasks import TASKS, Cells, Task, one_thread, settings

import glora
from glora import SearchSpace, Structure, presets
from glora.bench.statistics import difference
from glora.checkpoint import load_supernet, save_supernet
from glora.evaluate import Evaluator
from glora.model import GLoRAModel
from glora.strategies import SearchResult
from glora.strategies.operators import legal_sample

BUDGET = 147_456
PAPER = SearchSpace(4)
_FORMS = ("none", "scalar", "vector", "rank-1", "rank-2", "rank-4")
FINER = SearchSpace(4, A=_FORMS, B=_FORMS)
FIXED = {
    "linear probe": presets.frozen(),
    "BitFit": presets.bitfit(),
    "uniform LoRA, rank 2": presets.lora(2),
    "uniform A rank 1, C and D vectors": SearchSpace(
        1, A=["rank-1"], B=["none"], C=["vector"], D=["vector"], E=["none"]
    ),
}
SUBNETS = 5
RANDOM, EVOLUTION = f"random subnets, mean of {SUBNETS}", "the authors' evolution"
RANDOM_WITHIN, EVOLUTION_WITHIN = (f"{name}, trained in the budget" for name in (RANDOM, EVOLUTION))
CONTROL, OURS = "ours, with a random structure of that size", "ours"
OURS_WITHIN = "ours, trained in the budget"
METHODS = (*FIXED, RANDOM, EVOLUTION, RANDOM_WITHIN, EVOLUTION_WITHIN, CONTROL, OURS, OURS_WITHIN)
SUPERNET_LR = 1e-3  # that of balanced gains
# To choose from on validation; a search with inherited weights has the supernet's alone.
RATES = dict.fromkeys(METHODS, (1e-3, 3e-3))
RATES |= dict.fromkeys((RANDOM, EVOLUTION, RANDOM_WITHIN, EVOLUTION_WITHIN), (SUPERNET_LR,))


class Bench:
    """One task, seed and learning rate: what all methods start from, and how each comes to its result."""

    def __init__(self, task: Task, seed: int, lr: float, given: Any) -> None:
        self.task, self.seed, self.lr, self.given = task, seed, lr, given
        self.folder = given.data.parent / "supernets"

    def __call__(self, method: str) -> dict[str, Any]:
        """The result of a method: parameters, validation and test accuracy, seconds."""
        began = time.perf_counter()
        if method in FIXED:
            net = self.task.net(FIXED[method])
            self.train(net, self.given.epochs, self.lr)
            found = self.score(net, net.active)
        elif method in (RANDOM, RANDOM_WITHIN):
            found = self.random(within=method == RANDOM_WITHIN)
        elif method in (EVOLUTION, EVOLUTION_WITHIN):
            found = self.evolved(within=method == EVOLUTION_WITHIN)
        else:
            found = self.ours(searched=method != CONTROL, within=method == OURS_WITHIN)
        return {**found, "seconds": round(time.perf_counter() - began, 1)}

    def train(self, net: GLoRAModel, epochs: int, lr: float, budget: int | None = None) -> None:
        """Train on the 800 images."""
        how = settings(epochs, self.seed, lr=lr, train_budget=budget)
        glora.train_supernet(net, self.task.data.train, None, how)

    def supernet(self, space: SearchSpace, epochs: int, within: bool = False) -> GLoRAModel:
        """A trained supernet, if wished of structures within the budget alone; one for all that ask for the same."""
        net = self.task.net(space)
        kind = f"{'paper' if space is PAPER else 'finer'}{' within' if within else ''}"
        path = self.folder / f"{self.task.name} {self.task.size} seed {self.seed} {kind} {epochs}.safetensors"
        if not path.is_file():
            self.train(net, epochs, SUPERNET_LR, BUDGET if within else None)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_supernet(net, path)
        load_supernet(net, path)
        return net

    def score(self, net: GLoRAModel, structure: Structure) -> dict[str, Any]:
        """Validation and test accuracy of a structure, and which test images it is right on."""
        data = self.task.data
        assert data.test is not None
        val = Evaluator(net, data.val, precision="bf16")(structure)
        test = Evaluator(net, data.test, precision="bf16")(structure)
        return {
            "size": net.size(structure),
            "val": val.accuracy,
            "test": test.accuracy,
            "right": test.right,
        }

    def random(self, within: bool) -> dict[str, Any]:
        """Subnets that nobody has chosen, with inherited weights."""
        net, generator = self.supernet(PAPER, self.given.epochs, within), random.Random(f"random {self.seed}")
        scores = [self.score(net, legal_sample(net.bound, BUDGET, generator)) for _ in range(SUBNETS)]
        return {key: statistics.mean(score[key] for score in scores) for key in ("size", "val", "test")}

    def search(self, net: GLoRAModel, **how: Any) -> SearchResult:
        """What a search finds; as many evaluations whatever the strategy."""
        return glora.search(
            net,
            self.task.data.val,
            BUDGET,
            population=20,
            generations=self.given.evaluations // 20 - 1,
            seed=self.seed,
            precision="bf16",
            **how,
        )

    def evolved(self, within: bool) -> dict[str, Any]:
        """The paper's procedure: a supernet of random structures, evolution by accuracy, inherited weights."""
        net = self.supernet(PAPER, self.given.epochs, within)
        found = self.search(net)
        return self.score(net, found.best) | {"structure": found.best.to_dict(), "effort": found.effort}

    def ours(self, searched: bool, within: bool) -> dict[str, Any]:
        """A third of the steps for a supernet with finer ranks, the surrogate by loss, the rest for what it found.

        The supernet and its search are the same for both learning rates, which are those of what was found.
        """
        short = self.given.epochs // 3
        kind = f"{'ours' if searched else 'control'}{' within' if within else ''} {short} of {self.given.evaluations}"
        path = self.folder / f"{self.task.name} {self.task.size} seed {self.seed} {kind}.safetensors"
        if not path.is_file():
            net = self.supernet(FINER, short, within)
            found = self.search(net, strategy="surrogate", fitness="loss").best if searched else self.control(net)
            net.save(path, found)
        tuned = glora.load(self.task.backbone().model, path)
        self.train(tuned, self.given.epochs - short, self.lr)
        return self.score(tuned, tuned.active) | {"structure": tuned.active.to_dict()}

    def control(self, net: GLoRAModel) -> Structure:
        """A random structure of at least 95 % of the budget, so that it has no more to lack than luck."""
        generator = random.Random(f"control {self.seed}")
        while True:
            structure = legal_sample(net.bound, BUDGET, generator)
            if net.size(structure) >= 0.95 * BUDGET:
                return structure


def chosen(cells: Cells, keys: list[str]) -> dict[str, Any]:
    """The best of a method's learning rates on the validation images, if all have been tried."""
    tried = [cells.found[key] for key in keys if key in cells.found]
    return max(tried, key=lambda cell: cell["val"]) if len(tried) == len(keys) else {}


def table(found: dict[str, list[list[dict[str, Any]]]], tasks: list[str]) -> None:
    """Test accuracy by method and task, from the cells of each method by tasks and seeds; and what ours gains."""
    figures = {
        method: np.array([[cell.get("test", np.nan) for cell in row] for row in rows]) for method, rows in found.items()
    }
    lines = []
    for method, values in figures.items():
        sizes = [cell["size"] for row in found[method] for cell in row if cell]
        seeds = values.shape[1]
        by_task = [_shown(100 * row.mean(), 100 * row.std(ddof=1) if seeds > 1 else None) for row in values]
        gain = "" if method == OURS else _gain(figures[OURS], values)
        size = f"{statistics.mean(sizes):,.0f}" if sizes else ""
        lines.append([method, size, *by_task, _shown(100 * values.mean()), gain])
    columns = ["method", "parameters", *tasks, "mean", "ours gains (95 %)"]
    show(f"test accuracy in %, mean ± sample deviation over {seeds} seeds", columns, lines)


def _shown(mean: float, deviation: float | None = None) -> str:
    if np.isnan(mean):
        return "-"
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def _gain(ours: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> str:
    if np.isnan(ours - others).any():
        return ""
    value, low, high = (100 * one for one in difference(ours, others))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def main() -> None:
    arguments = parser(__doc__ or "", "procedures")
    arguments.add_argument("--tasks", nargs="+", default=list(TASKS), choices=[*TASKS, "digits"])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="NAME")
    arguments.add_argument("--data", type=Path, default=Path("runs/data"), help="where the tasks are, or are made")
    arguments.add_argument("--size", type=int, default=56)
    arguments.add_argument("--epochs", type=int, default=12)
    arguments.add_argument("--evaluations", type=int, default=120)
    arguments.add_argument("--cells", type=Path, default=RESULTS / "procedures.jsonl")
    arguments.add_argument("--one-thread", action="store_true")
    arguments.add_argument("--table", action="store_true", help="print what is there and run nothing")
    given = arguments.parse_args()
    if given.quick:
        given.tasks, given.seeds, given.epochs, given.evaluations = ["digits"], [0], 3, 40
        given.cells = given.out.with_suffix(".jsonl")
    if given.one_thread:
        one_thread()
    cells = Cells(given.cells)

    def key(task: str, seed: int, method: str, lr: float) -> str:
        effort = f"{given.epochs} epochs, {given.evaluations} evaluations"
        return f"{task}, {given.size} px, {effort}, lr {lr:g}, seed {seed}: {method}"

    for seed in [] if given.table else given.seeds:
        for name in given.tasks:
            task = Task(name, given.data, given.size)
            for method in given.methods:
                for lr in RATES[method]:
                    cells(key(name, seed, method, lr), partial(Bench(task, seed, lr, given), method))
    found = {
        method: [
            [chosen(cells, [key(task, seed, method, lr) for lr in RATES[method]]) for seed in given.seeds]
            for task in given.tasks
        ]
        for method in METHODS
    }
    table(found, given.tasks)
    by_rate = []
    for method in (method for method in METHODS if len(RATES[method]) > 1):
        means = [
            np.mean(
                [
                    cells.found.get(key(t, s, method, lr), {}).get("test", np.nan)
                    for t in given.tasks
                    for s in given.seeds
                ]
            )
            for lr in RATES[method]
        ]
        by_rate.append([method, *(_shown(100 * float(mean)) for mean in means)])
    show("mean test accuracy in % at each learning rate", ["method", *map(str, RATES[OURS])], by_rate)
    save(given.out, " ".join(["python", *sys.argv]), given.device, list(cells.found.values()))


if __name__ == "__main__":
    main()

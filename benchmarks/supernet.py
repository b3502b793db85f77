"""How good the subnets of a supernet are after few epochs, by how the supernet was trained.

For each recipe: the validation accuracy of random subnets, of any size and within a budget; the gap of the former to
the same structures trained alone for as many steps from the same start; Kendall's tau between both; and the all-LoRA
subnet beside LoRA trained alone. Every training is one line of a JSON-lines file (--cells), so that a run that was
stopped goes on. Test images are not looked at.

Backbone: the saliency-tuned DINOv2-small that needs no hub, at 56 px, in bf16, batches of 32.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, parser, save, show
from scipy.stats import kendalltau
from tasks import TASKS, Cells, Task, one_thread, settings

import glora
from glora import LayerStructure, SearchSpace, Structure
from glora.evaluate import Evaluator
from glora.layers.base import AdaptedLayer
from glora.strategies.operators import legal_sample

COLUMNS = ["recipe", "random %", "random in budget %", "all-LoRA %", "LoRA alone %", "s", "gap to alone", "tau"]
SPACE = SearchSpace(4)
BUDGET = 147_456  # as in procedures.py: LoRA of rank 2
# All at 1e-3 unless said, and with shared storage and balanced gains from "fair" on (docs/gains.md).
RECIPES: dict[str, dict[str, Any]] = {
    "released (gains 1), lr 1e-4": {"gains": "paper", "lr": 1e-4},
    "released (gains 1), lr 1e-3": {"gains": "paper"},
    "balanced": {},
    "balanced, lr 3e-4": {"lr": 3e-4},
    "balanced, separate storage": {"storage": "separate"},
    "balanced, separate storage, lr 2e-3": {"storage": "separate", "lr": 2e-3},
    "measured gains": {"gains": "measured"},
    "fair": {"paths": "fair"},
    "sandwich": {"paths": "sandwich"},
    "warmup": {"paths": "warmup", "path_warmup": 0.5},
    "none 0.1": {"none_rate": 0.1},
    "shallow 0.5": {"shallow_rate": 0.5},
    "within the budget": {"train_budget": BUDGET},
    "ema": {"ema": 0.98},
    "consistency": {"consistency": 1.0},
}


def supernet(task: Task, epochs: int, seed: int, recipe: dict[str, Any], subnets: list[Structure]) -> dict[str, Any]:
    """Accuracies and losses of subnets of a supernet trained by a recipe."""
    recipe = dict(recipe)
    gains, storage = recipe.pop("gains", "balanced"), recipe.pop("storage", "shared")
    net = task.net(SPACE, gains=measured_gains(task) if gains == "measured" else gains, storage=storage)
    began = time.perf_counter()
    glora.train_supernet(net, task.data.train, None, settings(epochs, seed, **recipe))
    seconds = time.perf_counter() - began
    evaluator, generator = Evaluator(net, task.data.val, precision="bf16"), random.Random("within")
    scores = [evaluator(structure) for structure in subnets]
    within = [evaluator(legal_sample(net.bound, BUDGET, generator)).accuracy for _ in subnets[:-1]]
    return {
        "within": within,
        "accuracies": [score.accuracy for score in scores],
        "losses": [score.loss for score in scores],
        "seconds": round(seconds, 1),
    }


@torch.no_grad()
def measured_gains(task: Task, images: int = 64) -> dict[str, dict[str, float]]:
    """Gains by which a first step of AdamW moves each layer's output equally far through any form, as measured."""
    net, generator = task.net(SPACE, gains="paper").eval(), torch.Generator().manual_seed(0)
    inputs: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: inputs.__setitem__(name, given[0]))
        for name, layer in net.layers.items()
    ]
    net(task.data.train.inputs(torch.arange(images)))
    for hook in hooks:
        hook.remove()
    found: dict[str, dict[str, float]] = {}
    for name, tensor in net.bound.genes:
        # The largest form of each kind comes last.
        kinds = {form.kind: form for form in net.bound.choices(name, tensor) if form.kind != "none"}
        for kind, form in kinds.items():
            structure = LayerStructure(**{tensor: form})
            moved = _moved(net.layers[name], structure, inputs[name], generator)
            found.setdefault(name, {})[f"{tensor}.{kind}"] = min(1 / max(moved, 1e-6), 30.0)
    return found


def _moved(layer: AdaptedLayer, structure: LayerStructure, x: torch.Tensor, generator: torch.Generator) -> float:
    """Root mean square of what the output changes by if each entry of what starts at zero is 1 or -1."""
    (tensor, form) = next((tensor, form) for tensor, form in structure.items() if form.kind != "none")
    down, _ = layer.support.parts(tensor, form)
    down.copy_(torch.randint(2, down.shape, generator=generator) * 2 - 1)
    weight, bias = layer.merged(structure)
    change = x.float() @ (weight - layer.weight).flatten(1).T.float()
    if bias is not None:
        change += bias if layer.bias is None else bias - layer.bias
    down.zero_()
    return float(change.square().mean().sqrt())


def alone(task: Task, epochs: int, seed: int, structure: Structure) -> dict[str, Any]:
    """Accuracy of one structure trained alone, from the support tensors that a fresh supernet gives it."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fresh.safetensors"
        task.net(SPACE).save(path, structure)
        net = glora.load(task.backbone().model, path)
    glora.train_supernet(net, task.data.train, None, settings(epochs, seed))
    score = Evaluator(net, task.data.val, precision="bf16")(structure)
    return {"accuracy": score.accuracy, "loss": score.loss, "seconds": round(time.perf_counter() - began, 1)}


def subnets_of(task: Task, count: int) -> list[Structure]:
    """Random structures, and the all-LoRA one last."""
    net = task.net(SPACE)
    generator = random.Random("subnets")
    lora = Structure({name: LayerStructure(B="rank-4") for name in net.layers})
    return [*(net.sample(generator) for _ in range(count)), lora]


def row_of(name: str, found: dict[str, Any], trained_alone: list[float]) -> list[str]:
    """A recipe's line in the table; ``trained_alone`` has the same structures, or LoRA's accuracy only."""
    subnets = found["accuracies"][:-1]
    row = [
        name,
        f"{100 * statistics.mean(subnets):.1f} ± {100 * statistics.pstdev(subnets):.1f}",
        f"{100 * statistics.mean(found['within']):.1f} ± {100 * statistics.pstdev(found['within']):.1f}",
        f"{100 * found['accuracies'][-1]:.1f}",
        f"{100 * trained_alone[-1]:.1f}",
        f"{found['seconds']:.0f}",
    ]
    if len(trained_alone) == 1:
        return [*row, "", ""]
    gap = statistics.mean(a - b for a, b in zip(subnets, trained_alone[:-1], strict=True))
    tau = kendalltau(found["losses"][:-1], [-a for a in trained_alone[:-1]]).statistic
    return [*row, f"{100 * gap:+.1f}", f"{tau:.2f}"]


def main() -> None:
    arguments = parser(__doc__ or "", "supernet")
    arguments.add_argument("--tasks", nargs="+", default=["textures", "dsprites_loc"], choices=[*TASKS, "digits"])
    arguments.add_argument("--data", type=Path, default=Path("runs/data"), help="where the tasks are, or are made")
    arguments.add_argument("--size", type=int, default=56)
    arguments.add_argument("--epochs", type=int, nargs="+", default=[5, 12, 30, 100])
    arguments.add_argument("--structures", type=int, default=10)
    arguments.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="NAME")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--alone", type=int, nargs="*", default=[12], help="epochs after which all are compared")
    arguments.add_argument("--cells", type=Path, default=RESULTS / "supernet.jsonl")
    arguments.add_argument("--one-thread", action="store_true")
    given = arguments.parse_args()
    if given.quick:
        given.tasks, given.epochs, given.structures = ["digits"], [1], 2
        given.recipes, given.alone = ["balanced"], [1]
        given.cells = given.out.with_suffix(".jsonl")
    if given.one_thread:
        one_thread()
    cells, results = Cells(given.cells), []
    for name in given.tasks:
        task = Task(name, given.data, given.size)
        subnets = subnets_of(task, given.structures)
        for epochs in given.epochs:
            where = f"{name}, {given.size} px, {epochs} epochs, seed {given.seed}"
            apart = list(enumerate(subnets)) if epochs in given.alone else [(len(subnets) - 1, subnets[-1])]
            reached = [
                cells(f"{where}: alone, {i}", partial(alone, task, epochs, given.seed, structure))["accuracy"]
                for i, structure in apart
            ]
            rows = []
            for recipe in given.recipes:
                work = partial(supernet, task, epochs, given.seed, RECIPES[recipe], subnets)
                found = cells(f"{where}: {recipe}", work)
                rows.append(row_of(recipe, found, reached))
                results.append({"task": name, "epochs": epochs, "recipe": recipe, **found, "alone": reached})
            show(where, COLUMNS, rows)
    save(given.out, " ".join(["python", *sys.argv]), given.device, results)


if __name__ == "__main__":
    main()

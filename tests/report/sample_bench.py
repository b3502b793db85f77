"""Results of a bench as a real one would leave them, made up from a seeded generator: every part of the format."""

from __future__ import annotations

import math
import random
from pathlib import Path

from sample_run import layers, write_lines

from glora.shapes import LayerShape
from glora.space import SearchSpace

TASKS = {
    "caltech101": "natural", "dtd": "natural", "eurosat": "specialised", "patch_camelyon": "specialised",
    "dsprites_loc": "structured", "clevr_count": "structured",
}  # fmt: skip
# Method of the plan: what it is, rank, parameters, skill.
METHODS = {
    "linear probe": ("linear", None, 0, -0.2),
    "BitFit": ("bitfit", None, 51_456, -0.05),
    "SSF": ("ssf", None, 143_616, 0.0),
    "IA3": ("ia3", None, 64_512, -0.04),
    "VPT-deep": ("vpt-deep", None, 230_400, -0.06),
    "AdaptFormer": ("adaptformer", None, 78_432, 0.0),
    "FacT-TT": ("fact-tt", None, 49_152, -0.01),
    "RepAdapter": ("repadapter", None, 156_672, 0.01),
    "full <fine-tuning> & co": ("full", None, 21_665_664, -0.1),
    "searched GLoRA": ("glora", 4, None, 0.03),
}
RANKS = {2: (73_728, -0.01), 8: (294_912, 0.015)}
TESTS = ("imagenet", "imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r")


def line(task: str, method: str, seed: int, **values) -> dict:
    """A finished cell; ``values`` in place of what all cells share."""
    common = {
        "format": 1, "task": task, "group": None, "protocol": None, "shots": None, "method": method, "peer": method,
        "options": {}, "rank": None, "seed": seed, "settings": {"epochs": 20, "batch_size": 32},
        "model": {"model": "vit_small_patch14_dinov2.lvd142m", "size": 56, "checkpoint": None, "drop_path": None},
        "preprocessing": {"size": 56, "interpolation": "bicubic"},
        "lr": 0.001, "trials": [{"lr": 0.001, "val": 0.81}, {"lr": 0.003, "val": 0.79}], "parameters": 147_456,
        "head": 3850, "val": 0.81, "tests": {"test": 0.79}, "trained_on": "train+val", "split": task,
        "structure": None, "seconds": 61.2, "memory": 734_003_200, "versions": {"glora": "0.1.0", "torch": "2.5.1"},
        "machine": "2 cores",
    } | values  # fmt: skip
    parts = (common[part] for part in ("task", "method", "rank", "seed", "shots", "protocol"))
    return common | {"key": "/".join(map(str, parts))}


def plan() -> list[tuple[str, str, int | None, int | None, float]]:
    lora = [("LoRA", "lora", rank, size, skill) for rank, (size, skill) in RANKS.items()]
    return [*((name, *about) for name, about in METHODS.items()), *lora]


def searched(generator: random.Random, adapted: list[dict]) -> dict:
    """A random structure, its parameters, and the shapes."""
    shapes = {layer["name"]: LayerShape(layer["out"], layer["in"]) for layer in adapted}
    bound = SearchSpace(4).bind(shapes)
    structure = bound.sample(generator)
    return {"structure": structure.to_dict(), "parameters": bound.size(structure), "layers": adapted}


def vtab(generator: random.Random, seeds: int, blocks: int) -> list[dict]:
    rows = []
    for number, (task, group) in enumerate(TASKS.items()):
        for name, peer, rank, size, skill in plan():
            for seed in range(seeds):
                accuracy = 0.62 + 0.05 * number + skill + generator.gauss(0, 0.006)
                extra = searched(generator, layers(blocks)) if size is None else {"parameters": size}
                about = {"peer": peer, "rank": rank, "group": group, "protocol": "vtab", "val": round(accuracy, 4)}
                rows.append(line(task, name, seed, **about, **extra, tests={"test": round(accuracy - 0.01, 4)}))
    return rows


def few_shot(generator: random.Random, seeds: int) -> list[dict]:
    rows = []
    for task in ("food-101", "oxford_pets"):
        for name in ("linear probe", "LoRA", "searched GLoRA"):
            for shots in (1, 2, 4, 8, 16):
                for seed in range(seeds):
                    accuracy = 0.9 - 0.5 * math.exp(-shots / 5) + METHODS.get(name, RANKS[8])[-1]
                    accuracy += generator.gauss(0, 0.02 / math.sqrt(shots))
                    peer, rank, size, _ = METHODS.get(name, ("lora", 8, *RANKS[8]))
                    about = {"protocol": "fewshot", "shots": shots, "peer": peer, "rank": rank}
                    about["parameters"] = 150_000 if size is None else size
                    rows.append(line(task, name, seed, **about, tests={"test": round(accuracy, 4)}))
    return rows


def domain(seeds: int) -> list[dict]:
    rows = []
    for name, skill in (("linear probe", 0.0), ("searched GLoRA", 0.05)):
        for seed in range(seeds):
            tests = {t: round(0.7 - 0.12 * i + skill + 0.01 * seed, 4) for i, t in enumerate(TESTS)}
            named = {f"{test}, 1000 classes": value for test, value in tests.items()}
            lost = {name: 0.3 if name.startswith("imagenet,") else 0.0 for name in named}
            alphas = {
                f"{a / 10:.1f}": {name: round(v - lost[name] * (1 - a / 10) ** 2, 4) for name, v in named.items()}
                for a in range(11)
            }
            peer, rank, size, _ = METHODS[name]
            about = {"protocol": "domain", "shots": 16, "tests": named, "peer": peer, "rank": rank}
            about["parameters"] = 150_000 if size is None else size
            rows.append(line("imagenet", name, seed, **about, alphas=alphas if skill else None))
    return rows


def bench_lines(seeds: int = 2, blocks: int = 12, seed: int = 0) -> list[dict]:
    """All lines: the tasks of three groups, few-shot, domain generalisation, and two cells that failed."""
    generator = random.Random(seed)
    failed = [
        {**line("dtd", "SSF", 7), "error": "the loss is not finite in epoch 3"},
        {**line("<script>", "SSF", 7), "error": 'no space left on "/data" <script>'},
    ]
    for one in failed:
        for name in ("val", "tests", "parameters", "lr", "seconds", "structure"):
            one.pop(name)
    return [*vtab(generator, seeds, blocks), *few_shot(generator, seeds), *domain(seeds), *failed]


def write_bench(folder: Path, **numbers: int) -> Path:
    """Write the results of a bench into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "results.jsonl", bench_lines(**numbers))
    return folder

"""A run folder as a real run would leave it, made up from a seeded generator: every file of the documented formats."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from glora.shapes import LayerShape
from glora.space import SearchSpace

LAYERS = {"attn.qkv": (1152, 384), "attn.proj": (384, 384), "mlp.fc1": (1536, 384), "mlp.fc2": (384, 1536)}
CLASSES = ["Abyssinian", "beagle", "<script>alert(1)</script>", "Maine Coon", 'shiba "inu" & co'] + [
    f"breed {i}" for i in range(32)
]


def layers(blocks: int) -> list[dict]:
    return [
        {"name": f"blocks.{block}.{name}", "out": out, "in": width, "bias": True, "kind": "Linear"}
        for block in range(blocks)
        for name, (out, width) in LAYERS.items()
    ]


def candidates(bound, budget: int, generations: int, population: int, seed: int) -> list[dict]:
    generator = random.Random(seed)
    found: list[dict] = []
    while len(found) < generations * population:
        generation = len(found) // population
        structure = bound.sample(generator)
        origin = "random" if generation == 0 else generator.choice(["mutant", "crossover", "random"])
        kept = {}
        for name, layer in structure.to_dict().items():
            cheap = {t: form for t, form in layer.items() if "rank" not in form or generator.random() < 0.35}
            kept[name] = cheap
        size = sum(bound.shapes[n].size(t, structure[n][t]) for n, forms in kept.items() for t in forms)
        if size > budget:
            continue
        skill = 0.0 if origin == "random" else 0.055 * (1 - math.exp(-generation / 5))
        accuracy = 0.845 + 0.045 * size / budget + skill + generator.gauss(0, 0.009)
        broken = len(found) % 97 == 96
        stopped = generation > 0 and not broken and len(found) % 7 == 3
        found.append(
            {
                "index": len(found),
                "generation": generation,
                "origin": origin,
                "size": size,
                "accuracy": None if broken else round(min(accuracy, 0.99) * 736) / 736,
                "loss": None if broken else round(2.2 * (1 - accuracy), 5),
                "samples": 736,
                "structure": kept,
            }
        )
        if stopped:
            limit = {"accuracy": found[-1]["accuracy"], "loss": 0.25}
            found[-1] |= {"accuracy": None, "loss": None, "samples": 500, "of": 736, "bound": limit}
    return found


def pareto(found: list[dict]) -> list[dict]:
    front: list[dict] = []
    for one in sorted((c for c in found if c["accuracy"] is not None), key=lambda c: (c["size"], -c["accuracy"])):
        if not front or one["accuracy"] > front[-1]["accuracy"]:
            front.append(one)
    return front


def epochs(count: int, seed: int) -> list[dict]:
    generator = random.Random(seed)
    rows = []
    for epoch in range(1, count + 1):
        done = epoch / count
        warm = min(1.0, epoch / max(1, count // 10))
        row = {
            "epoch": epoch,
            "step": 46 * epoch,
            "loss": round(3.4 * math.exp(-4 * done) + 0.35 + generator.gauss(0, 0.03), 5),
            "lr": 1e-3 * warm * (0.505 + 0.495 * math.cos(math.pi * done)),
        }
        if epoch % 5 == 0 or epoch == count:
            rise = 1 - math.exp(-4 * done)
            row["probes"] = {
                "smallest": round(0.58 + 0.22 * rise + generator.gauss(0, 0.006), 5),
                "largest": round(0.35 + 0.57 * rise + generator.gauss(0, 0.006), 5),
                **{f"random-{i}": round(0.4 + (0.48 - 0.015 * i) * rise, 5) for i in range(4)},
            }
        rows.append(row)
    return rows


def metrics(best: dict) -> dict:
    def row(method, val, test, parameters, seconds, note="", spread=None):
        return {
            "method": method, "val_accuracy": val, "val_spread": spread, "test_accuracy": test, "test_spread": spread,
            "parameters": parameters, "seconds": seconds, "note": note,
        }  # fmt: skip

    return {
        "format": 1,
        "title": "Pet breeds with DINOv2-small",
        "backbone": "vit_small_patch14_dinov2.lvd142m",
        "backbone_source": "timm",
        "data": {
            "name": "pets", "classes": CLASSES, "train": 2944, "val": 736, "test": 3669,
            "digest": "sha256:5f2b8c61d0a94e7f3ab1", "layout": "DIR/<class>/*.jpg", "skipped": 2,
        },
        "machine": "1 x GPU, 16 cores",
        "versions": {"glora": "0.1.0", "torch": "2.5.1", "timm": "1.0.15", "python": "3.11.9"},
        "seed": 0,
        "head_size": 14245,
        "search": {"candidates": 1000, "reused": 0, "stopped": 135, "sample_evaluations": 704140, "of": 736000},
        "seconds": {"train": 1912.4, "search": 741.2, "evaluate": 38.5, "merge": 0.82},
        "table": [
            row("frozen backbone, head only", 0.8655, 0.8612, 0, 95.2),
            row("BitFit", 0.9008, 0.8954, 50688, 611.0, "alone, same epochs", 0.0021),
            row("LoRA, rank 4", 0.9171, 0.9068, 294912, 640.8, "alone, same epochs", 0.0017),
            row("GLoRA, chosen structure", 0.9416, 0.9259, best["size"], 2692.0, "supernet and search", 0.0014),
            row("GLoRA, largest structure", 0.9130, 0.9027, 774336, 1912.4),
        ],
        "verification": {"max_difference": 3.1e-6, "batch": 64, "same_predictions": True},
        "command": "glora run --data pets --model vit_small_patch14_dinov2.lvd142m --budget 300k --out runs/pets",
    }  # fmt: skip


CONFIG = """\
model: vit_small_patch14_dinov2.lvd142m
budget: 300000
train:
  epochs: 100
  batch_size: 64
  lr: 0.001
search:
  population: 50
  generations: 20
"""


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_sample(folder: Path, *, blocks: int = 12, generations: int = 20, population: int = 50, seed: int = 0) -> Path:
    """Write a complete run folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    adapted = layers(blocks)
    shapes = {layer["name"]: LayerShape(layer["out"], layer["in"]) for layer in adapted}
    bound = SearchSpace(4).bind(shapes)
    budget = 25_000 * blocks
    found = candidates(bound, budget, generations, population, seed)
    best = max((c for c in found if c["accuracy"] is not None), key=lambda c: c["accuracy"])
    trimmed = [{key: value for key, value in one.items() if key != "samples"} for one in [best, *pareto(found)]]
    structure = {
        "format": 1,
        "best": trimmed[0],
        "front": trimmed[1:],
        "layers": adapted,
        "space": bound.space.to_dict(),
        "budget": budget,
        "range": [bound.smallest, bound.largest],
    }
    settings = {"strategy": "evolution", "population": population, "generations": generations, "seed": seed}
    (folder / "structure.json").write_text(json.dumps(structure, indent=1), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics(best), indent=1), encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    write_lines(folder / "search.jsonl", [{"format": 3, "settings": settings}, *found])
    write_lines(folder / "train.jsonl", epochs(100, seed))
    return folder

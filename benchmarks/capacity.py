"""How many random labels LoRA, SSF, BitFit, fixed GLoRA and searched GLoRA can fit, against their parameters.

Backbone: a small ViT of timm's that is trained here from random weights on gratings. Task: other gratings whose labels
are drawn at random, so that nothing can be generalised and all that is learnt is stored in the parameters. Every
structure is trained alone by the same loop, with the same number of learning rates tried, of which the better fit
counts. The searched ones come from one supernet a seed, by evolution on how many of the same labels they get right;
there is no other data, as the question is the fit itself. A fit is a lower bound of a capacity: a longer training may
find more. Cells go to a file of JSON lines beside the result, and what is there is not done again.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from common import parser, save, show
from gratings import pictures, pretrained
from torch import nn

import glora
from glora import LayerStructure, SearchSpace, Structure, TrainSettings
from glora.data import TensorSamples
from glora.evaluate import evaluate
from glora.files import write_text
from glora.report.chart import Axis, Chart
from glora.report.series import style_sheet

SIDE, CLASSES, RATES = 16, 10, (0.01, 0.03)
RANKED = ("rank-8", "rank-4", "rank-2", "rank-1", "vector", "scalar", "none")
METHODS = ("head alone", "BitFit", "SSF", "LoRA", "fixed GLoRA (A, C, D)", "searched GLoRA")
PICTURE = Path(__file__).parent.parent / "docs" / "capacity.svg"


@dataclass(frozen=True)
class Setting:
    """How large the experiment is."""

    images: int = 400
    pretraining: int = 5
    epochs: int = 40
    generations: int = 4
    population: int = 20

    @property
    def numbers(self) -> dict[str, int]:
        """Of the search."""
        return {"generations": self.generations, "population": self.population}


class Bench:
    """The backbone, and what is trained on it."""

    def __init__(self, setting: Setting, device: str) -> None:
        self.setting, self.device = setting, device
        self.backbone = pretrained(SIDE, setting.pretraining)
        self.backbone.reset_classifier(CLASSES)
        layers = glora.adapt(self.model(), SearchSpace(1)).bound.shapes
        self.blocks = 1 + max(int(name.split(".")[1]) for name in layers)
        self.layers = list(layers)

    def model(self) -> nn.Module:
        """The backbone as it was trained, with a fresh head."""
        return copy.deepcopy(self.backbone).to(self.device)

    def labels(self, seed: int) -> TensorSamples:
        """Gratings with random labels."""
        inputs, _ = pictures(self.setting.images, SIDE, CLASSES, seed=100 + seed)
        generator = torch.Generator().manual_seed(seed)
        return TensorSamples(inputs, torch.randint(CLASSES, (self.setting.images,), generator=generator))

    def train(self, space: SearchSpace, seed: int, lr: float) -> glora.GLoRAModel:
        """A structure or a supernet, trained on random labels."""
        net = glora.adapt(self.model(), space, head="head", seed=seed)
        settings = TrainSettings(epochs=self.setting.epochs, batch_size=50, lr=lr, weight_decay=0, seed=seed)
        glora.train_supernet(net, self.labels(seed), None, settings)
        return net

    def fit(self, structure: Structure, seed: int) -> dict[str, Any]:
        """The better fit among the learning rates."""
        trials = []
        for lr in RATES:
            net = self.train(SearchSpace.of(structure), seed, lr)
            score = evaluate(net, self.labels(seed))
            trials.append({"lr": lr, "fit": score.accuracy, "loss": score.loss})
        best = max(trials, key=lambda trial: (trial["fit"], -trial["loss"]))
        return {"parameters": net.bound.size(structure), **best, "trials": trials}

    def everywhere(self, forms: LayerStructure, blocks: int) -> Structure:
        """The same forms on all layers of the last so many blocks."""
        first = self.blocks - blocks
        return Structure({name: forms for name in self.layers if int(name.split(".")[1]) >= first})

    @lru_cache(maxsize=1)  # noqa: B019 (there is one bench, and it lives as long as the process)
    def supernet(self, seed: int) -> glora.GLoRAModel:
        """Of a space that has LoRA, SSF, BitFit and fixed GLoRA at any of the ranks in it."""
        return self.train(SearchSpace(8, A=RANKED, B=RANKED), seed, RATES[0])

    def searched(self, budget: int, seed: int) -> Structure:
        """The structure within a budget that gets most labels right with the supernet's weights."""
        found = glora.search(
            self.supernet(seed), self.labels(seed), budget, select=None, seed=seed, **self.setting.numbers
        )
        return found.winner.structure


def points(bench: Bench) -> Iterator[tuple[str, str, Callable[[int], Structure]]]:
    """Method, size in words, and what gives the structure for a seed."""

    def always(structure: Structure) -> Callable[[int], Structure]:
        return lambda seed: structure

    def fixed(rank: int) -> LayerStructure:
        return LayerStructure(A=f"rank-{rank}", C="vector", D="vector")

    yield "head alone", "", always(Structure())
    for blocks in (1, 2, bench.blocks):
        where = "every block" if blocks == bench.blocks else f"last {blocks} of {bench.blocks} blocks"
        yield "BitFit", where, always(bench.everywhere(LayerStructure(E="vector"), blocks))
        yield "SSF", where, always(bench.everywhere(LayerStructure(A="vector", D="vector", E="vector"), blocks))
    lora = {"rank 1, last block": bench.everywhere(LayerStructure(B="rank-1"), 1)}
    lora |= {f"rank {r}": bench.everywhere(LayerStructure(B=f"rank-{r}"), bench.blocks) for r in (1, 2, 4, 8)}
    yield METHODS[4], "rank 1, last block", always(bench.everywhere(fixed(1), 1))
    for rank in (1, 2, 4, 8):
        yield METHODS[4], f"rank {rank}", always(bench.everywhere(fixed(rank), bench.blocks))
    shapes = glora.adapt(bench.model(), SearchSpace(8)).bound
    for size, structure in lora.items():
        yield "LoRA", size, always(structure)
        budget = shapes.size(structure)
        yield METHODS[5], f"budget {budget:,}", lambda seed, budget=budget: bench.searched(budget, seed)


def cells(path: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """What an earlier call with the same settings has left in the file of lines; a new file if there is none."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(header) + "\n")
        return []
    whole = path.read_text(encoding="utf-8")
    first, *rest = whole[: whole.rfind("\n") + 1].splitlines()
    if json.loads(first) != header:
        raise SystemExit(f"{path} belongs to other settings: move it away, or give --out")
    write_text(path, "\n".join([first, *rest]) + "\n")  # without what a kill has left half written
    return [json.loads(line) for line in rest]


def table(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and deviation of the fit over the seeds, by method and size."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in sorted(done, key=lambda cell: METHODS.index(cell["method"])):
        rows.setdefault((cell["method"], cell["size"]), []).append(cell)
    return [
        {
            "method": method,
            "size": size,
            "parameters": statistics.mean(cell["parameters"] for cell in own),
            "fit": statistics.mean(cell["fit"] for cell in own),
            "deviation": statistics.stdev([cell["fit"] for cell in own]) if len(own) > 1 else None,
            "seeds": len(own),
            "lr": sorted({cell["lr"] for cell in own}),
        }
        for (method, size), own in rows.items()
    ]


def picture(rows: list[dict[str, Any]]) -> str:
    """Fit against parameters, a series a method, as SVG."""
    chart = Chart(
        Axis.fit(
            "adapter parameters, beside the head", [row["parameters"] for row in rows], lambda v: f"{v:,.0f}", log=True
        ),
        Axis("random labels fitted, %", 0, 1.04, lambda v: f"{100 * v:.0f}"),
        height=340,
    )
    for series, method in enumerate(METHODS):
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: row["parameters"])
        chart.line([(row["parameters"], row["fit"]) for row in own], f"series-{series}")
        for row in own:
            spread = row["deviation"] or 0.0
            chart.whisker(row["parameters"], row["fit"] - spread, row["fit"] + spread, f"series-{series}")
            tip = f"{method} {row['size']}: {100 * row['fit']:.1f} % with {row['parameters']:,.0f} parameters"
            chart.symbol((row["parameters"], row["fit"]), series, tip)
    return chart.file("Share of random labels fitted, against parameters", style_sheet(len(METHODS)), METHODS)


def main() -> None:
    arguments = parser(__doc__ or "", "capacity")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument(
        "--picture", type=Path, default=PICTURE, help="SVG file (default: %(default)s; --quick: beside --out)"
    )
    given = arguments.parse_args()
    setting = Setting()
    if given.quick:
        setting = Setting(60, 1, 2, 1, 4)
        given.out = given.out.with_stem(f"{given.out.stem}-quick")
        given.picture = given.out.with_suffix(".svg")
    bench = Bench(setting, given.device)
    header = {"format": 1, "settings": asdict(setting), "rates": list(RATES)}
    path = given.out.with_suffix(".jsonl")
    done = cells(path, header)
    known = {(cell["method"], cell["size"], cell["seed"]) for cell in done}
    for seed in range(1 if given.quick else given.seeds):
        for method, size, structure in points(bench):
            if (method, size, seed) in known:
                continue
            chosen = structure(seed)
            cell = {"method": method, "size": size, "seed": seed, **bench.fit(chosen, seed)}
            done.append(cell | {"structure": chosen.to_dict()})
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[-1]) + "\n")
            print(f"seed {seed}: {method} {size}: {100 * cell['fit']:.1f} %", file=sys.stderr, flush=True)
    rows = table(done)
    show(
        f"{setting.images} random labels of {CLASSES} classes, {setting.epochs} epochs, {rows[0]['seeds']} seeds",
        ["method", "size", "parameters", "fitted, %", "learning rate"],
        [
            [
                row["method"],
                row["size"],
                f"{row['parameters']:,.0f}",
                f"{100 * row['fit']:.1f}"
                + (f" ± {100 * row['deviation']:.1f}" if row["deviation"] is not None else ""),
                ", ".join(f"{lr:g}" for lr in row["lr"]),
            ]
            for row in rows
        ],
    )
    write_text(given.picture, picture(rows))
    save(given.out, " ".join(["python", *sys.argv]), given.device, {"setting": header["settings"], "rows": rows})


if __name__ == "__main__":
    main()

"""Search strategies at equal evaluations, on landscapes whose true quality is known.

A structure's quality is what its forms are worth (partly the same in all layers, partly by kind of layer, partly its
own) plus what pairs of forms are worth together. It is scored like a subnet on 200 validation images: every image has a
margin, normal around the quality; the accuracy is the share of margins above 0, with exactly the binomial noise of 200
samples, and the loss is the logistic loss of the margins, in the same samples. Layers are those of ViT-S (48 of them,
240 genes), built without a model. Reported is the true accuracy of the structure that the search chose, and after how
many evaluations a search's choice is for good as good as what the authors' evolution ends with (on the same landscape).

Last, a real supernet (of a small ViT on pictures made here, as in pruning.py), with exact pruning: after how many
evaluations of a single sample a search first has a candidate whose accuracy is that of the winner of the authors'
evolution, beside what its 1,050 candidates take as wholes.

`--only landscapes` or `--only supernet` does one of the two.
"""

from __future__ import annotations

import hashlib
import math
import random
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from common import parser, save, show
from pruning import supernet

from glora.evaluate import Evaluator
from glora.selection import POOL
from glora.shapes import LayerShape
from glora.space import BoundSpace, SearchSpace
from glora.strategies import (
    NSGA2,
    AgeingEvolution,
    Candidate,
    Evolution,
    RandomSearch,
    Samplewise,
    Score,
    SearchResult,
    Strategy,
    Surrogate,
    run_search,
)
from glora.structure import Form, Structure

KINDS = {"attn.qkv": (1152, 384), "attn.proj": (384, 384), "mlp.fc1": (1536, 384), "mlp.fc2": (384, 1536)}
SAMPLES = 200


def vit_small(depth: int = 12, width: int = 384) -> BoundSpace:
    """The default space on the linear layers of a ViT of this depth and width (ViT-S by default)."""
    scaled = {name: (out * width // 384, into * width // 384) for name, (out, into) in KINDS.items()}
    return SearchSpace(4).bind(
        {f"blocks.{i}.{name}": LayerShape(*shape) for i in range(depth) for name, shape in scaled.items()}
    )


class Landscape:
    """A task: the true quality of every structure, and its score on validation samples.

    Args:
        space: whose structures are scored.
        seed: of the worth of forms and pairs, and of the samples.
        spread: standard deviation of the quality of uniformly drawn structures, in those of a sample's margin.
        pairwise: share of that variance that pairs of forms make up.
    """

    def __init__(self, space: BoundSpace, seed: int, spread: float, pairwise: float) -> None:
        rng = np.random.default_rng(seed)
        self.space, self.seed = space, seed
        genes = [(gene, space.choices(*gene)) for gene in space.genes]
        shared: dict[object, float] = {}
        self.worth: dict[tuple[tuple[str, str], Form], float] = {}
        for (layer, tensor), forms in genes:
            kind = layer.split(".", 2)[2]
            for form in forms:
                own = rng.normal() * rng.gamma(0.5) * 2  # a few places matter much
                parts = ((tensor, form), (kind, tensor, form))
                self.worth[(layer, tensor), form] = own + sum(shared.setdefault(p, rng.normal()) for p in parts)
        self.pairs = []
        for _ in range(2 * len(genes)):
            first, second = (genes[i] for i in rng.choice(len(genes), 2, replace=False))
            self.pairs.append((first[0], second[0], {(a, b): rng.normal() for a in first[1] for b in second[1]}))
        drawn = [self._parts(space.sample(random.Random(f"{seed} {i}"))) for i in range(200)]
        linear, joint = (np.array(part) for part in zip(*drawn, strict=True))
        self.scales = (
            spread * math.sqrt(1 - pairwise) / linear.std(),
            spread * math.sqrt(pairwise) / joint.std(),
        )
        self.shift = 0.7 - self.scales[0] * linear.mean() - self.scales[1] * joint.mean()

    def _parts(self, structure: Structure) -> tuple[float, float]:
        forms = {(layer, tensor): structure[layer][tensor] for layer, tensor in self.space.genes}
        joint = sum(together[forms[first], forms[second]] for first, second, together in self.pairs)
        return sum(self.worth[choice] for choice in forms.items()), joint

    def quality(self, structure: Structure) -> float:
        """The mean margin of all samples that there could be."""
        linear, joint = self._parts(structure)
        return self.shift + self.scales[0] * linear + self.scales[1] * joint

    def accuracy(self, structure: Structure) -> float:
        """The true accuracy, over all samples that there could be."""
        return 0.5 * (1 + math.erf(self.quality(structure) / math.sqrt(2)))

    def __call__(self, structure: Structure) -> Score:
        """The score on 200 samples, always the same for the same structure."""
        digest = hashlib.sha256(f"{self.seed} {structure.to_json()}".encode()).digest()
        margins = self.quality(structure) + np.random.default_rng(list(digest)).normal(size=SAMPLES)
        return Score(float((margins > 0).mean()), float(np.logaddexp(0.0, -2.0 * margins).mean()), SAMPLES)

    def sensitivities(self, noise: float = 3.0) -> dict[tuple[str, str], dict[Form, float]]:
        """What each form is worth, with an error of ``noise`` times its standard deviation."""
        rng = np.random.default_rng([self.seed, 1])
        sd = noise * float(np.std(list(self.worth.values())))
        found: dict[tuple[str, str], dict[Form, float]] = {}
        for (gene, form), worth in self.worth.items():
            found.setdefault(gene, {})[form] = worth + sd * rng.normal()
        return found


LANDSCAPES = {
    "large differences, 0.3 of the variance from pairs": {"spread": 0.12, "pairwise": 0.3},
    "large differences, 0.7 of the variance from pairs": {"spread": 0.12, "pairwise": 0.7},
    "small differences, 0.3 of the variance from pairs": {"spread": 0.04, "pairwise": 0.3},
}


def contestants(landscape: Landscape, quick: bool) -> dict[str, Callable[..., Strategy]]:
    """The strategies, all with as many evaluations."""
    few, many = ({"generations": 3, "population": 10}, {"evaluations": 40}) if quick else ({}, {})
    breeding = {"parents": 4, "mutants": 5, "crossovers": 5} if quick else {}
    batch = {"batch": 10} if quick else {}
    return {
        "evolution (the authors')": partial(Evolution, **few, **breeding),
        "random": partial(RandomSearch, **many, **batch),
        "ageing": partial(AgeingEvolution, **many, **({"population": 10, "sample_size": 3} if quick else {})),
        "nsga2": partial(NSGA2, **few),
        "surrogate": partial(Surrogate, **many, **batch),
        "surrogate, rough priors": partial(Surrogate, **many, **batch, priors=landscape.sensitivities()),
    }


def reached(history: tuple[Candidate, ...], true: list[float], goal: float) -> int | None:
    """After how many evaluations the search's choice is at least this good and stays so; None for never."""
    best, since = history[0], 0
    for candidate in history:
        best = max(best, candidate, key=Candidate.rank_key)
        if true[best.index] >= goal:
            since = since or candidate.index + 1
        else:
            since = 0
    return since or None


def compete(settings: dict[str, float], budget: int, seeds: int, quick: bool) -> dict[str, dict[str, list[Any]]]:
    """For every strategy and seed: what it chose, in the whole budget and in half of it, and how soon."""
    space = vit_small(2, 96) if quick else vit_small()
    rows: dict[str, dict[str, list[Any]]] = {}
    for seed in range(seeds):
        landscape = Landscape(space, seed, **settings)
        goal = None
        for name, make in contestants(landscape, quick).items():
            history = run_search(make(space, budget, seed=seed), landscape).history
            true = [landscape.accuracy(candidate.structure) for candidate in history]
            chosen = max(history, key=Candidate.rank_key)
            goal = true[chosen.index] if goal is None else goal  # of evolution, which comes first
            halves = [candidate for candidate in history if 2 * candidate.size <= budget]
            half = max(halves, key=Candidate.rank_key, default=None)
            last = [true[c.index] for c in history if c.generation == history[-1].generation]
            row = rows.setdefault(name, {"chosen": [], "half": [], "last": [], "reached": []})
            row["chosen"].append(true[chosen.index])
            row["half"].append(None if half is None else true[half.index])
            row["last"].append(statistics.mean(last))
            row["reached"].append(reached(history, true, goal))
            print(f"seed {seed}, {name}: {true[chosen.index]:.3f}", file=sys.stderr, flush=True)
    return rows


def on_a_supernet(seeds: int, quick: bool) -> list[dict[str, Any]]:
    """Searches of one supernet: how many evaluations of a sample each took until it had what evolution ends with."""
    net, val = supernet(32, 8, 2 if quick else 30)
    space, score = net.bound, Evaluator(net, val, 25)
    budget, batch = space.smallest + (space.largest - space.smallest) // 3, 10 if quick else 50
    breeding = {"parents": 4, "mutants": 5, "crossovers": 5} if quick else {}
    few = 4 * batch if quick else 350
    rows = []
    for seed in range(seeds):
        numbers: dict[str, Any] = {"population": batch, "generations": 3 if quick else 20, **breeding}
        runs = {
            "evolution (the authors')": Evolution(space, budget, seed=seed, **numbers),
            "surrogate": Surrogate(space, budget, seed=seed, evaluations=few, batch=batch),
            "samplewise": Samplewise(space, budget, seed=seed, evaluations=few, first=batch),
        }
        goal, whole = math.nan, 0
        for name, strategy in runs.items():
            found = run_search(strategy, score, keep=POOL)
            ends, effort = found.winner.score.accuracy, found.effort
            if math.isnan(goal):
                goal, whole = ends, effort["of"]
            soon = samples_until(found, goal)
            row = {
                "seed": seed,
                "search": name,
                "candidates": effort["candidates"],
                "ends with": ends,
                "samples in all": effort["sample_evaluations"],
                "until evolution's end": soon,
                "fewer than evolution as wholes, times": None if soon is None else round(whole / soon, 2),
            }
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def samples_until(found: SearchResult, goal: float) -> int | None:
    """Evaluations of a sample until a candidate had this accuracy; None for never."""
    stopped = {candidate.index: candidate for candidate in found.completed}
    spent = 0
    for candidate in found.history:
        score = stopped.get(candidate.index, candidate).score
        spent += score.samples if score.same_as is None else 0
        if score.accuracy >= goal:
            return spent
    return None


def table(rows: dict[str, dict[str, list[Any]]]) -> list[list[str]]:
    shown = []
    for name, row in rows.items():
        half = [value for value in row["half"] if value is not None]
        soon = sorted(math.inf if n is None else n for n in row["reached"])
        middle = soon[len(soon) // 2]
        shown.append(
            [
                name,
                f"{100 * statistics.mean(row['chosen']):.1f} ± {100 * statistics.pstdev(row['chosen']):.1f}",
                f"{100 * statistics.mean(half):.1f}" if half else "-",
                f"{100 * statistics.mean(row['last']):.1f}",
                "never" if math.isinf(middle) else f"{middle:.0f}",
                f"{sum(n is not None for n in row['reached'])} of {len(soon)}",
            ]
        )
    return shown


def main() -> None:
    made = parser(__doc__ or "", "strategies")
    made.add_argument("--seeds", type=int, default=5, help="landscapes of each kind (default: %(default)s)")
    made.add_argument("--budget", type=int, default=200_000, help="most parameters (default: %(default)s)")
    made.add_argument("--only", choices=["landscapes", "supernet"])
    given = made.parse_args()
    seeds, budget = (1, 4000) if given.quick else (given.seeds, given.budget)
    results: dict[str, Any] = {}
    for title, settings in LANDSCAPES.items() if given.only != "supernet" else []:
        results[title] = compete(settings, budget, seeds, given.quick)
        show(
            f"{title}: true accuracy in %, {seeds} landscapes, budget {budget:,}",
            [
                "strategy",
                "chosen",
                "in half the budget",
                "last generation",
                "evaluations to evolution's end",
                "got there",
            ],
            table(results[title]),
        )
    if given.only != "landscapes":
        results["supernet"] = real = on_a_supernet(seeds, given.quick)
        cells = [[str(value) for value in row.values()] for row in real]
        show("a real supernet: evaluations of a sample, with exact pruning", list(real[0]), cells)
    save(given.out, " ".join(["python", *sys.argv]), given.device, results)


if __name__ == "__main__":
    main()

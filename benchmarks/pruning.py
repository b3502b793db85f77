"""How many evaluations of samples exact pruning saves over a search of the authors' size, with the identical result.

(a) Synthetic: an answer is right where the skill that the structure's forms add up to, and a part of its own for each
sample, outweigh the sample's difficulty. Settings from an easy task to a hard one. (b) Real: the supernet of a ViT of
timm's that is trained, from random weights, on pictures made here. Every search is run with and without pruning;
every structure asked for, the winner, the front and the 20 best, from which one is taken, must be equal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any, final

import numpy as np
from common import parser, save, seconds, show
from gratings import pictures, pretrained

import glora
from glora.data import TensorSamples
from glora.evaluate import Evaluator
from glora.selection import POOL
from glora.shapes import LayerShape
from glora.space import BoundSpace
from glora.strategies import (
    Batches,
    Candidate,
    Evolution,
    Key,
    Merit,
    RandomSearch,
    Score,
    Scorer,
    SearchResult,
    Strategy,
    run_search,
)
from glora.strategies.score import loss_levels, pack_bits
from glora.structure import Structure


@final
class Synthetic(Scorer):
    """Right and wrong from random numbers: skill by form, difficulty by sample, and how well a form suits a sample."""

    def __init__(self, space: BoundSpace, samples: int, batch_size: int, mean: float, skill: float, seed: int) -> None:
        self.samples, self.batch_size = samples, batch_size
        generator = np.random.default_rng(seed)
        scale = 1 / np.sqrt(len(space.genes))
        self._worth = {
            (*gene, form): (skill * generator.normal() * scale, generator.normal(size=samples) * scale)
            for gene in space.genes
            for form in space.choices(*gene)
        }
        self._easy = mean + 2 * generator.normal(size=samples)
        self._genes = space.genes

    def logits(self, structure: Structure) -> np.ndarray[Any, Any]:
        """One number a sample: right where it is above 0."""
        parts = [self._worth[layer, tensor, structure[layer][tensor]] for layer, tensor in self._genes]
        return self._easy + sum(common for common, _ in parts) + np.sum([own for _, own in parts], axis=0)

    def scores(self, structures: Sequence[Structure], batches: Batches, bar: Key | None) -> Generator[Score]:
        """As an evaluator gives them."""
        for structure in structures:
            logits = self.logits(structure)
            yield _stopped(logits, batches, bar) or _whole(logits)


def _whole(logits: np.ndarray[Any, Any]) -> Score:
    right, losses = logits > 0, np.logaddexp(0, -logits)
    accuracy, levels = int(right.sum()) / len(right), loss_levels(losses.tolist())
    return Score(accuracy, float(losses.mean()), len(right), pack_bits(right), levels=levels)


def _stopped(logits: np.ndarray[Any, Any], batches: Batches, bar: Key | None) -> Score | None:
    count, seen, wrong, loss = len(logits), 0, 0, 0.0
    for batch in batches[:-1]:
        own = logits[list(batch)]
        seen, wrong = seen + len(batch), wrong + int((own <= 0).sum())
        loss += float(np.logaddexp(0, -own).sum())
        bound = Merit((count - wrong) / count, loss / count * (1 - 1e-9))
        if bar is not None and bound.key("accuracy") < bar:
            return Score.stopped(bound, seen, count)
    return None


def space_of(blocks: int, width: int) -> BoundSpace:
    """The layers of a ViT."""
    sizes = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    shapes = {
        f"blocks.{i}.{name}": LayerShape(out * width, into * width)
        for i in range(blocks)
        for name, (out, into) in sizes.items()
    }
    return glora.SearchSpace(4).bind(shapes)


def both(strategy: Callable[[], Strategy], scorer: Scorer) -> tuple[SearchResult, float, float]:
    """The pruned search, and the seconds it and the whole one took; both must come to the same."""
    found: dict[bool, SearchResult] = {}
    took = {
        prune: seconds(lambda p=prune: found.update({p: run_search(strategy(), scorer, prune=p, keep=POOL)}), "cpu")
        for prune in (False, True)
    }
    pruned, whole = found[True], found[False]
    assert [c.structure for c in pruned.history] == [c.structure for c in whole.history]
    assert (pruned.winner, pruned.front) == (whole.winner, whole.front)
    assert _best(pruned) == _best(whole)
    assert all(a == b or a.score.bound is not None for a, b in zip(pruned.history, whole.history, strict=True))
    return pruned, took[True], took[False]


def _best(found: SearchResult) -> list[Candidate]:
    return sorted(found.history, key=Candidate.rank_key, reverse=True)[:POOL]


def row(name: str, found: SearchResult, took: tuple[float, float] | None) -> tuple[list[str], dict[str, Any]]:
    first = [c.score.accuracy for c in found.history if c.generation == 0]
    effort = found.effort
    saved = effort["of"] / effort["sample_evaluations"]
    cells = [
        name,
        f"{sum(first) / len(first):.3f} to {found.winner.score.accuracy:.3f}",
        f"{effort['stopped']} of {effort['candidates']}",
        f"{effort['completed']}",
        f"{saved:.2f}",
        "" if took is None else f"{took[1] / took[0]:.2f}",
    ]
    return cells, {"name": name, "first": first, "best": found.winner.score.accuracy, **effort, "saved": saved}


def supernet(side: int, classes: int, epochs: int) -> tuple[glora.GLoRAModel, TensorSamples]:
    """A small ViT, first trained as a whole on other pictures of more classes, and its trained supernet."""
    model = pretrained(side, epochs)
    model.reset_classifier(classes)
    net = glora.adapt(model, glora.SearchSpace(4), head="head")
    train, val = pictures(800, side, classes, seed=2), pictures(200, side, classes, seed=3)
    settings = glora.TrainSettings(epochs=epochs, batch_size=50, lr=2e-3)
    glora.train_supernet(net, TensorSamples(*train), None, settings)
    return net, TensorSamples(*val)


def main() -> None:
    arguments = parser(__doc__ or "", "pruning")
    arguments.add_argument("--batch", type=int, default=50, help="samples evaluated together (default: %(default)s)")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--only", choices=["synthetic", "vit"], help="one of the two parts")
    given = arguments.parse_args()
    generations, population, epochs = (4, 20, 2) if given.quick else (20, 50, 30)
    numbers = {"generations": generations, "population": population}
    numbers |= {"parents": population // 5, "mutants": population // 2, "crossovers": population // 2}
    rows: list[list[str]] = []
    results: list[dict[str, Any]] = []

    def add(name: str, found: SearchResult, took: tuple[float, float] | None) -> None:
        cells, values = row(name, found, took)
        print(*cells, sep=" | ", file=sys.stderr, flush=True)
        rows.append(cells)
        results.append(values)

    def strategies(space: BoundSpace, seed: int) -> dict[str, Callable[[], Strategy]]:
        budget, count = space.smallest + (space.largest - space.smallest) // 3, population * (generations + 1)
        return {
            "evolution": lambda: Evolution(space, budget, seed=seed, **numbers),
            "random": lambda: RandomSearch(space, budget, seed=seed, evaluations=count, batch=population),
        }

    for samples in (200, 1000) if given.only != "vit" else ():
        for label, mean, skill in (("hard", 0.0, 0.7), ("middling", 1.5, 0.5), ("easy", 3.5, 0.3)):
            for seed in range(1 if given.quick else given.seeds):
                scorer = Synthetic(space_of(12, 384), samples, given.batch, mean, skill, seed)
                for strategy, make in strategies(space_of(12, 384), seed).items():
                    found, *_ = both(make, scorer)
                    add(f"{strategy}: synthetic, {label}, {samples} samples, seed {seed}", found, None)
    real = None if given.only == "synthetic" else supernet(32, 8, epochs)
    for batch in sorted({given.batch, 25, 10}, reverse=True) if real else ():
        net, val = real
        evaluator = Evaluator(net, val, batch)
        for seed in range(1 if given.quick else given.seeds):
            found, *took = both(strategies(net.bound, seed)["evolution"], evaluator)
            name = f"evolution: ViT on gratings, 200 samples in batches of {batch}, seed {seed}"
            add(name, found, (took[0], took[1]))
    setting = f"{generations + 1} generations of {population}, batches of {given.batch} unless said"
    columns = [
        "search",
        "accuracy, first mean to best",
        "stopped",
        "completed at the end",
        "evaluations saved, times",
        "time saved, times",
    ]
    show(setting, columns, rows)
    print(f"\nequal with and without pruning, the {POOL} best included: {len(rows)} of {len(rows)}")
    save(given.out, " ".join(["python", *sys.argv]), "cpu", {"setting": setting, "searches": results})


if __name__ == "__main__":
    main()

"""Spaces and scores whose answers are known."""

from __future__ import annotations

import hashlib
import math
import random

import numpy as np
from hypothesis import strategies as st

from glora.shapes import BlockShape, LayerShape
from glora.space import BoundSpace, SearchSpace
from glora.strategies import Score
from glora.structure import LayerStructure, Structure


def bound(*shapes: tuple[int, int], space: SearchSpace | None = None) -> BoundSpace:
    return (space or SearchSpace(2)).bind({f"blocks.{i}.fc": LayerShape(*shape) for i, shape in enumerate(shapes)})


def two_layers() -> BoundSpace:
    return bound((12, 8), (6, 12))


def hybrid() -> BoundSpace:
    """Two blocks of a layer each, with prompts and adapters beside the support tensors."""
    space = SearchSpace(2, prompts=["none", "tokens-1", "tokens-2"], adapters=["none", "bottleneck-1", "serial-1"])
    layers = {f"blocks.{i}.fc": LayerShape(12, 8) for i in range(2)}
    return space.bind({**layers, **{f"blocks.{i}": BlockShape(8) for i in range(2)}})


def vit_base() -> BoundSpace:
    sizes = {"attn.qkv": (2304, 768), "attn.proj": (768, 768), "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
    return SearchSpace(4).bind(
        {f"blocks.{i}.{name}": LayerShape(*shape) for i in range(12) for name, shape in sizes.items()}
    )


class Planted:
    """An additive score: every form of every gene is worth a fixed random amount."""

    def __init__(self, space: BoundSpace, seed: int = 0) -> None:
        generator = random.Random(seed)
        self.space = space
        self.worth = {(*gene, form): generator.random() for gene in space.genes for form in space.choices(*gene)}
        self.asked: list[Structure] = []

    def __call__(self, structure: Structure) -> Score:
        self.asked.append(structure)
        total = sum(self.worth[place, gene, structure[place][gene]] for place, gene in self.space.genes)
        return Score(total / len(self.space.genes), 1 - total, 100)


class Sampled:
    """An additive quality seen through 200 samples, with the noise that a validation set has.

    Every sample has a margin, normal around the quality; the accuracy is the share of margins above 0, the loss their
    mean logistic loss, in the same samples. The same structure always has the same score.
    """

    def __init__(self, space: BoundSpace, seed: int, spread: float = 0.1) -> None:
        generator = random.Random(seed)
        self.space, self.seed = space, seed
        self.worth = {gene: {form: generator.gauss(0, 1) for form in space.choices(*gene)} for gene in space.genes}
        drawn = [self._sum(space.sample(generator)) for _ in range(200)]
        self.scale = spread / float(np.std(drawn))
        self.shift = 0.6 - self.scale * float(np.mean(drawn))

    def _sum(self, structure: Structure) -> float:
        return sum(forms[structure[layer][tensor]] for (layer, tensor), forms in self.worth.items())

    def accuracy(self, structure: Structure) -> float:
        """The true one, without noise."""
        return 0.5 * (1 + math.erf((self.shift + self.scale * self._sum(structure)) / math.sqrt(2)))

    def __call__(self, structure: Structure) -> Score:
        digest = hashlib.sha256(f"{self.seed} {structure.to_json()}".encode()).digest()
        noise = np.random.default_rng(list(digest)).normal(size=200)
        margins = self.shift + self.scale * self._sum(structure) + noise
        return Score(float((margins > 0).mean()), float(np.logaddexp(0, -2 * margins).mean()), 200)

    def optimum(self, budget: int) -> float:
        """The greatest true accuracy within the budget, by dynamic programming over all sizes."""
        best = np.full(budget + 1, -np.inf)
        best[0] = 0.0
        for gene, forms in self.worth.items():
            grown = np.full(budget + 1, -np.inf)
            for form, worth in forms.items():
                cost = self.space.cost(*gene, form)
                if cost <= budget:
                    grown[cost:] = np.maximum(grown[cost:], best[: budget + 1 - cost] + worth)
            best = grown
        return 0.5 * (1 + math.erf((self.shift + self.scale * float(best.max())) / math.sqrt(2)))


shapes = st.builds(LayerShape, st.integers(1, 40), st.integers(1, 40), st.booleans())
spaces = st.one_of(
    st.builds(SearchSpace, st.integers(1, 5)),
    st.builds(SearchSpace.paper, st.integers(1, 5)),
    st.just(SearchSpace(2, A=["mul-2", "vector"], B=["rank-3", "rank-1"], E="vector")),
    st.just(SearchSpace.point(LayerStructure(B="rank-2"))),
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[BoundSpace, int | None, random.Random]:
    """A space on one to four layers, a feasible budget or none, and a generator."""
    layers = draw(st.lists(shapes, min_size=1, max_size=4))
    space = draw(spaces).bind(
        {f"layer{i}": shape for i, shape in enumerate(layers)}, draw(st.sampled_from(["create", "keep"]))
    )
    budget = draw(st.none() | st.integers(space.smallest, space.largest + 5))
    return space, budget, random.Random(draw(st.integers(0, 999)))

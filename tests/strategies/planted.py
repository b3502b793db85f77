"""Spaces and scores whose answers are known."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from glora.space import BoundSpace, LayerShape, SearchSpace
from glora.strategies import Score
from glora.structure import TENSORS, LayerStructure, Structure


def bound(*shapes: tuple[int, int], space: SearchSpace | None = None) -> BoundSpace:
    return (space or SearchSpace(2)).bind({f"blocks.{i}.fc": LayerShape(*shape) for i, shape in enumerate(shapes)})


def two_layers() -> BoundSpace:
    return bound((12, 8), (6, 12))


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
        total = sum(self.worth[layer, t, structure[layer][t]] for layer in self.space.layers for t in TENSORS)
        return Score(total / len(self.space.genes), 1 - total, 100)


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

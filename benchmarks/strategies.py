"""Search strategies at equal evaluations, on landscapes whose true quality is known.

A structure's quality is what its forms are worth (partly the same in all layers, partly by kind of layer, partly its
own) plus what pairs of forms are worth together. It is scored like a subnet on 200 validation images: every image has a
margin, normal around the quality; the accuracy is the share of margins above 0, with exactly the binomial noise of 200
samples, and the loss is the logistic loss of the margins, in the same samples. Layers are those of ViT-S (48 of them,
240 genes), built without a model. Reported is the true accuracy of the structure that the search chose, and after how
many evaluations a search's choice is for good as good as what the authors' evolution ends with (on the same landscape).
"""

from __future__ import annotations

import hashlib
import math
import statistics
import sys
import time
from functools import partial
from typing import Any

import numpy as np
from common import parser, save, show

from glora.space import BoundSpace, LayerShape, SearchSpace
from glora.strategies import AgeingEvolution, Candidate, Evolution, NSGA2, RandomSearch, Score, Strategy, Surrogate
from glora.strategies import run_search
from glora.structure import Structure

KINDS = {"attn.qkv": (1152, 384), "attn.proj": (384, 384), "mlp.fc1": (1536, 384), "mlp.fc2": (384, 1536)}
SAMPLES = 200


def vit_small(depth: int = 12, width: int = 384) -> BoundSpace:
    """The default space on the linear layers of a ViT of this depth and width (ViT-S by default)."""
    scaled = {name: (out * width // 384, into * width // 384) for name, (out, into) in KINDS.items()}
    return SearchSpace(4).bind(
        {f"blocks.{i}.{name}": LayerShape(*shape) for i in range(depth) for name, shape in scaled.items()}
    )


class Landscape:
    """A task: the true quality of every structure, and its score on validation samples."""

    def __init__(self, space: BoundSpace, seed: int, pairwise: float = 0.3, mean: float = 0.7, sd: float = 0.12) -> None:
        rng = np.random.default_rng(seed)
        self.space, self.seed = space, seed
        self.column = {}
        for gene in space.genes:
            for form in space.choices(*gene):
                self.column[gene, form] = len(self.column)
        shared = {}
        worth = np.empty(len(self.column))
        for ((layer, tensor), form), i in self.column.items():
            kind = layer.split(".", 2)[2]
            own = rng.normal() * rng.gamma(0.5) * 2  # a few places matter much
            worth[i] = own + sum(
                shared.setdefault(key, rng.normal()) for key in ((tensor, form), (kind, tensor, form))
            )
        self.worth = worth
        genes, pairs = list(space.genes), []
        for _ in range(2 * len(genes)):
            first, second = rng.choice(len(genes), 2, replace=False)
            one, other = (space.choices(*genes[g]) for g in (first, second))
            pairs.append((first, second, rng.normal(size=(len(one), len(other)))))
        self.genes, self.pairs = genes, pairs
        import random

        draws = [space.sample(random.Random(f"{seed} {i}")) for i in range(300)]
        linear, joint = np.array([self._parts(s) for s in draws]).T
        # Quality of random structures: this mean and spread, of whose variance the pairs make up a share.
        self.scale = (sd * math.sqrt(1 - pairwise) / linear.std(), sd * math.sqrt(pairwise) / joint.std())
        self.shift = mean - self.scale[0] * linear.mean() - self.scale[1] * joint.mean()

    def _parts(self, structure: Structure) -> tuple[float, float]:
        forms = [structure[layer][tensor] for layer, tensor in self.genes]
        linear = sum(self.worth[self.column[gene, form]] for gene, form in zip(self.genes, forms, strict=True))
        index = [self.space.choices(*gene).index(form) for gene, form in zip(self.genes, forms, strict=True)]
        return linear, sum(table[index[a], index[b]] for a, b, table in self.pairs)

    def quality(self, structure: Structure) -> float:
        linear, joint = self._parts(structure)
        return self.shift + self.scale[0] * linear + self.scale[1] * joint

    def accuracy(self, structure: Structure) -> float:
        """The true one, over all samples that there could be."""
        return 0.5 * (1 + math.erf(self.quality(structure) / math.sqrt(2)))

    def __call__(self, structure: Structure) -> Score:
        """The score on 200 samples, always the same for the same structure."""
        digest = hashlib.sha256(f"{self.seed} {structure.to_json()}".encode()).digest()
        margins = self.quality(structure) + np.random.default_rng(list(digest)).normal(size=SAMPLES)
        loss = np.logaddexp(0.0, -2.0 * margins).mean()
        return Score(float((margins > 0).mean()), float(loss), SAMPLES)

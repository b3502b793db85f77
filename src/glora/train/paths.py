"""Which structure a training step draws: a function of the seed and the step, so that a resumed run needs no state."""

from __future__ import annotations

import random
from functools import partial
from typing import final

from glora.space import BoundSpace
from glora.strategies.operators import legal_sample
from glora.structure import Form, Structure
from glora.train.settings import TrainSettings

__all__ = ["Paths", "dearest"]

Gene = tuple[str, str]


def dearest(bound: BoundSpace) -> dict[Gene, Form]:
    """The form of each gene that costs most: the largest structure."""
    return {gene: max(bound.choices(*gene), key=partial(bound.cost, *gene)) for gene in bound.genes}


@final
class Paths:
    """The structures of a training, one for each step, the same in all processes.

    - ``uniform``: every form uniform and independent (paper, section 3.3);
    - ``fair``: in any block of as many steps as a gene has forms, each of them once, in random order (strict fairness
      of FairNAS, arXiv 1907.01845);
    - ``sandwich``: in turn the largest structure, a random one, the smallest in which every tensor acts, and a random
      one (arXiv 1903.05134, spread over steps, so that a step costs what it does otherwise);
    - ``warmup``: the largest form of each gene with a probability that falls from 1 to 0 over the first
      ``path_warmup`` of the training, else a random one.

    With ``train_budget`` a random structure is drawn as the search draws its first ones, so that what is trained is
    what is searched. With ``shallow_rate`` one is cut off now and then: none in the layers before a random one.

    Args:
        bound: the search space.
        settings: how to draw, and the seed.
        steps: of the whole training.
    """

    def __init__(self, bound: BoundSpace, settings: TrainSettings, steps: int) -> None:
        self._bound, self._settings = bound, settings
        self._warmup = settings.path_warmup * steps if settings.paths == "warmup" else 0.0
        self._largest = dearest(bound)
        self._block: dict[int, tuple[int, dict[Gene, list[Form]]]] = {}

    def __call__(self, step: int) -> Structure:
        """The structure of training step ``step``, counted from 0."""
        how, generator = self._settings.paths, random.Random(f"structure {self._settings.seed} {step}")
        if how == "fair":
            return self._fair(step)
        if how == "sandwich" and step % 2 == 0:
            return self._bound.build(self._largest if step % 4 == 0 else self._acting())
        return self._random(generator, step)

    def twin(self, step: int) -> Structure:
        """Another structure for the same step: random and independent of the first."""
        return self._random(random.Random(f"twin {self._settings.seed} {step}"), step)

    def _random(self, generator: random.Random, step: int) -> Structure:
        if self._settings.train_budget is not None and self._bound.cardinality > 1:
            return legal_sample(self._bound, self._settings.train_budget, generator)
        large = 1 - step / self._warmup if step < self._warmup else 0.0
        chosen = {gene: self._form(gene, generator, large) for gene in self._bound.genes}
        rate = self._settings.shallow_rate
        if rate and generator.random() < rate:
            layers = list(self._bound.layers)
            left = set(layers[: generator.randrange(len(layers))])
            absent = [gene for gene in chosen if gene[0] in left and Form.NONE in self._bound.choices(*gene)]
            chosen |= dict.fromkeys(absent, Form.NONE)
        return self._bound.build(chosen)

    def _form(self, gene: Gene, generator: random.Random, large: float) -> Form:
        forms, rate = self._bound.choices(*gene), self._settings.none_rate
        if large and generator.random() < large:
            return self._largest[gene]
        if rate is not None and Form.NONE in forms and len(forms) > 1:
            acting = [form for form in forms if form.kind != "none"]
            return Form.NONE if generator.random() < rate else generator.choice(acting)
        return generator.choice(forms)

    def _fair(self, step: int) -> Structure:
        """Genes with as many forms as each other share a generator, drawn anew for each block of so many steps."""
        chosen: dict[Gene, Form] = {}
        for count in {len(self._bound.choices(*gene)) for gene in self._bound.genes}:
            number, place = divmod(step, count)
            if self._block.get(count, (-1, {}))[0] != number:
                self._block[count] = number, self._orders(count, number)
            chosen |= {gene: order[place] for gene, order in self._block[count][1].items()}
        return self._bound.build({gene: chosen[gene] for gene in self._bound.genes})

    def _orders(self, count: int, number: int) -> dict[Gene, list[Form]]:
        generator = random.Random(f"fair {self._settings.seed} {count} {number}")
        genes = [gene for gene in self._bound.genes if len(self._bound.choices(*gene)) == count]
        return {gene: generator.sample(self._bound.choices(*gene), count) for gene in genes}

    def _acting(self) -> dict[Gene, Form]:
        """The cheapest form other than none, where there is one: all none would train nothing but the head."""
        found = {}
        for gene in self._bound.genes:
            forms = self._bound.choices(*gene)
            acting = [form for form in forms if form.kind != "none"] or forms
            found[gene] = min(acting, key=partial(self._bound.cost, *gene))
        return found

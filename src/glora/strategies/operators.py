"""Drawing, mutating and crossing structures that keep within a budget by construction.

All three are one act: every gene (a layer and a support tensor) has options, the genes are visited in random order
and each is drawn uniformly among its options that still fit. A gene's cheapest option always fits, so a legal
structure comes out of a single pass, whatever the budget; without a budget, or under a loose one, the draw is the
plain uniform one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from glora.errors import BudgetError
from glora.space import BoundSpace
from glora.structure import Form, Structure

__all__ = ["crossover", "legal_sample", "mutate"]

Gene = tuple[str, str]


def legal_sample(space: BoundSpace, budget: int | None, rng: random.Random) -> Structure:
    """Draw a random structure of at most ``budget`` adapter parameters.

    A uniform draw if that is legal. Otherwise a size is drawn uniformly between the smallest and the budget and
    filled up gene by gene in random order: what was drawn first may be large, and what no longer fits is drawn among
    the cheaper forms. Sizes then cover the whole range, where rejecting or shrinking uniform draws would press all
    of them against the budget, and the few large forms a tight budget allows fall anywhere.

    Raises:
        BudgetError: if no structure is that small.
    """
    structure = space.sample(rng)
    if budget is None or space.size(structure) <= budget:
        return structure
    space.check_budget(budget)
    target = rng.randint(space.smallest, budget)
    return _fill(space, {gene: space.choices(*gene) for gene in space.genes}, target, rng)


def mutate(
    space: BoundSpace, budget: int | None, structure: Structure, probability: float, rng: random.Random
) -> Structure:
    """Redraw each form of each layer with ``probability``; the other forms stay as they are.

    Args:
        space: where the new forms come from.
        budget: most adapter parameters of the result.
        structure: the parent, in the space and within the budget.
        probability: of redrawing a form; the same form may be drawn again.
        rng: source of all draws.

    Raises:
        BudgetError: if the parent is over the budget and its unchanged forms leave no room.
    """
    options: dict[Gene, Sequence[Form]] = {}
    for layer, tensor in space.genes:
        redrawn = rng.random() < probability
        options[layer, tensor] = space.choices(layer, tensor) if redrawn else (structure[layer][tensor],)
    return _fill(space, options, budget, rng)


def crossover(
    space: BoundSpace, budget: int | None, first: Structure, second: Structure, rng: random.Random
) -> Structure:
    """Take each form of each layer from either parent at random; from the cheaper one where the other does not fit.

    Raises:
        BudgetError: if the cheaper forms of both parents together are over the budget.
    """
    options = {(layer, tensor): (first[layer][tensor], second[layer][tensor]) for layer, tensor in space.genes}
    return _fill(space, options, budget, rng)


def _fill(
    space: BoundSpace, options: Mapping[Gene, Sequence[Form]], budget: int | None, rng: random.Random
) -> Structure:
    """Draw each gene, in random order, uniformly among its options that leave room for the cheapest of the others."""
    cheapest = {gene: min(space.cost(*gene, form) for form in forms) for gene, forms in options.items()}
    room = (space.largest if budget is None else budget) - sum(cheapest.values())
    if room < 0:
        raise BudgetError(f"no choice among these forms is within {budget:,} adapter parameters")
    chosen: dict[Gene, Form] = {}
    for gene in rng.sample(list(options), len(options)):
        extra = {form: space.cost(*gene, form) - cheapest[gene] for form in options[gene]}
        chosen[gene] = rng.choice([form for form in options[gene] if extra[form] <= room])
        room -= extra[chosen[gene]]
    return space.build({gene: chosen[gene] for gene in options})

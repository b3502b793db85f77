from __future__ import annotations

import random
import statistics
from collections import Counter

import pytest
from hypothesis import given
from planted import bound, problems, two_layers, vit_base

from glora.errors import BudgetError
from glora.space import BoundSpace, SearchSpace
from glora.strategies import crossover, legal_sample, mutate
from glora.structure import Form, LayerStructure, Structure


def assert_legal(space: BoundSpace, budget: int | None, structure: Structure) -> None:
    space.check(structure)
    assert budget is None or space.size(structure) <= budget


@given(problems())
def test_everything_drawn_is_legal(problem: tuple[BoundSpace, int | None, random.Random]) -> None:
    space, budget, rng = problem
    first, second = legal_sample(space, budget, rng), legal_sample(space, budget, rng)
    for structure in (first, second, mutate(space, budget, first, rng.random(), rng)):
        assert_legal(space, budget, structure)
    child = crossover(space, budget, first, second, rng)
    assert_legal(space, budget, child)
    assert all(child[n][t] in (first[n][t], second[n][t]) for n, t in space.genes)


@given(problems())
def test_the_smallest_budget_leaves_the_smallest_structure(
    problem: tuple[BoundSpace, int | None, random.Random],
) -> None:
    space, _, rng = problem
    assert space.size(legal_sample(space, space.smallest, rng)) == space.smallest


def test_an_infeasible_budget_is_an_error() -> None:
    space = bound((4, 4), space=SearchSpace(B=["rank-1", "vector"]))
    with pytest.raises(BudgetError, match="feasible budgets are 4 to"):
        legal_sample(space, 3, random.Random(0))


def test_without_a_tight_budget_a_draw_is_the_uniform_one() -> None:
    space = vit_base()
    for budget in (None, space.largest):
        assert legal_sample(space, budget, random.Random(5)) == space.sample(random.Random(5))
    rng = random.Random(0)
    uniform = statistics.mean(
        statistics.mean(space.cost(*gene, form) for form in space.choices(*gene)) * len(space.genes)
        for gene in space.genes
    )
    drawn = [space.size(legal_sample(space, 750_000, rng)) for _ in range(100)]
    assert statistics.mean(drawn) == pytest.approx(uniform, rel=0.05)


@pytest.mark.parametrize("budget", [20_000, 50_000, 100_000, 200_000, 300_000, 500_000, 750_000])
def test_legal_draws_are_distinct_and_spread(budget: int) -> None:
    space, rng = vit_base(), random.Random(0)
    drawn = [legal_sample(space, budget, rng) for _ in range(50)]
    assert len(set(drawn)) == 50
    sizes = sorted(space.size(structure) for structure in drawn)
    assert sizes[-1] <= budget
    if budget <= 300_000:
        # Uniform up to the budget, or nearly: neither pressed against it nor all near nothing.
        assert 0.3 * budget < statistics.mean(sizes) < 0.7 * budget
        assert sizes[12] < 0.45 * budget
        assert sizes[37] > 0.55 * budget
    used = statistics.mean(sum(len(layer.to_dict()) for layer in structure.values()) for structure in drawn)
    assert used > 0.3 * len(space.genes)
    layers_with_rank = {n for s in drawn for n, layer in s.items() for _, form in layer.items() if form.kind == "rank"}
    assert len(layers_with_rank) >= (5 if budget == 20_000 else 25)


def test_mutation_redraws_with_its_probability() -> None:
    space, rng = vit_base(), random.Random(0)
    parent = Structure({name: LayerStructure(B="rank-4", E="vector") for name in space.layers})
    assert mutate(space, None, parent, 0.0, rng) == parent
    changed = [
        sum(child[n][t] != parent[n][t] for n, t in space.genes)
        for child in (mutate(space, None, parent, 0.2, rng) for _ in range(100))
    ]
    expected = sum(0.2 * (1 - 1 / len(space.choices(*gene))) for gene in space.genes)
    assert statistics.mean(changed) == pytest.approx(expected, rel=0.05)


def test_a_full_mutation_is_uniform() -> None:
    space, rng = two_layers(), random.Random(0)
    children = [mutate(space, None, Structure(), 1.0, rng) for _ in range(1200)]
    for name, tensor in space.genes:
        counts = Counter(child[name][tensor] for child in children)
        assert set(counts) == set(space.choices(name, tensor))
        assert all(abs(count * len(counts) / 1200 - 1) < 0.2 for count in counts.values())


def test_crossover_takes_from_both_parents_alike() -> None:
    space, rng = vit_base(), random.Random(0)
    rich = Structure(
        {name: LayerStructure(A="vector", B="rank-4", C="vector", D="vector", E="vector") for name in space.layers}
    )
    assert crossover(space, None, rich, rich, rng) == rich
    from_rich = [
        sum(child[n][t] == rich[n][t] for n, t in space.genes) / len(space.genes)
        for child in (crossover(space, None, rich, Structure(), rng) for _ in range(50))
    ]
    assert statistics.mean(from_rich) == pytest.approx(0.5, abs=0.02)


class FirstInOrder(random.Random):
    """A generator without chance: genes in order, always the first that fits."""

    def sample(self, population, k, **_):
        return list(population)[:k]

    def choice(self, seq):
        return seq[0]

    def random(self) -> float:
        return 0.0


def test_children_by_hand() -> None:
    """One 6 x 4 layer: rank-2 costs 20, a vector of A, B, D or E 6, of C 4."""
    space = bound((6, 4))
    (name,) = space.layers

    def structure(**forms: str) -> Structure:
        return Structure({name: LayerStructure(**forms)})

    rng = FirstInOrder()
    first = structure(A="rank-2", C="vector")
    second = structure(B="rank-2", E="vector")
    assert crossover(space, 26, first, second, rng) == structure(A="rank-2", C="vector")
    # Nothing of the second parent's fits after A, but its cheaper forms do.
    assert crossover(space, 23, first, second, rng) == structure(A="rank-2")
    assert crossover(space, 26, second, first, rng) == structure(B="rank-2", E="vector")
    assert crossover(space, 6, second, first, rng) == structure(E="vector")
    # Everything is redrawn: A takes 20 of 31, then B a vector, C a vector, and a scalar is left for D.
    assert mutate(space, 31, first, 1.0, rng) == structure(A="rank-2", B="vector", C="vector", D="scalar")


def test_a_parent_over_the_budget_is_an_error() -> None:
    space = bound((6, 4))
    rich = Structure({space.layers[0]: LayerStructure(B="rank-2")})
    with pytest.raises(BudgetError, match="within 19 adapter parameters"):
        mutate(space, 19, rich, 0.0, random.Random(0))
    with pytest.raises(BudgetError, match="within 19 adapter parameters"):
        crossover(space, 19, rich, rich, random.Random(0))


def test_only_the_given_generator_is_used() -> None:
    state = random.getstate()
    space = two_layers()
    one, other = random.Random(1), random.Random(1)
    for rng in (one, other):
        legal_sample(space, 30, rng)
    assert one.getstate() == other.getstate()
    assert random.getstate() == state


def test_forms_that_are_not_none_can_be_the_cheapest() -> None:
    space = bound((6, 4), space=SearchSpace(2, A="none", B=["rank-2", "vector"], C="none", D="none", E="vector"))
    sizes = Counter(space.size(legal_sample(space, 15, random.Random(seed))) for seed in range(20))
    assert sizes == {12: 20}
    assert legal_sample(space, 15, random.Random(0))[space.layers[0]].B == Form.VECTOR

"""How a training's structures are drawn, against the definitions of the four rules."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glora import SearchSpace, Structure, TrainSettings, presets
from glora.shapes import LayerShape
from glora.space import BoundSpace
from glora.structure import Form
from glora.train.paths import Paths

RULES = ("uniform", "fair", "sandwich", "warmup")


def space() -> BoundSpace:
    """Genes of 4, 3, 2 and 1 forms: the second layer has no bias."""
    return SearchSpace.paper(2).bind({"a": LayerShape(12, 8), "b": LayerShape(6, 12, has_bias=False)})


def draws(count: int, bound: BoundSpace | None = None, start: int = 0, steps: int = 100, **how: Any) -> list[Structure]:
    paths = Paths(bound or space(), TrainSettings(**how), steps)
    return [paths(step) for step in range(start, start + count)]


def largest(bound: BoundSpace) -> Structure:
    shaped = {"A": "rank-2", "B": "rank-2", "C": "rank-2", "D": "vector", "E": "vector"}
    return bound.build(
        {(n, t): Form.parse(shaped[t]) if len(bound.choices(n, t)) > 1 else Form.NONE for n, t in bound.genes}
    )


@given(st.sampled_from(RULES), st.integers(0, 1000), st.integers(0, 300))
def test_a_step_draws_the_same_whatever_was_drawn_before(rule: str, seed: int, step: int) -> None:
    settings = TrainSettings(paths=rule, seed=seed)
    fresh, used = (Paths(space(), settings, 100) for _ in range(2))
    for other in (step + 7, 0, step + 1):
        used(other)
        used.twin(other)
    assert fresh(step) == used(step)
    assert fresh.twin(step) == used.twin(step)
    assert space().contains(fresh(step))


@given(st.integers(0, 10**6), st.integers(0, 50))
def test_fair_draws_every_form_once_in_each_block_of_a_gene(seed: int, block: int) -> None:
    bound = space()
    for gene in bound.genes:
        forms = bound.choices(*gene)
        drawn = draws(len(forms), bound, block * len(forms), paths="fair", seed=seed)
        assert sorted(str(s[gene[0]][gene[1]]) for s in drawn) == sorted(map(str, forms))


def test_fair_orders_differ_between_genes_blocks_and_seeds() -> None:
    bound = SearchSpace(2).bind({str(i): LayerShape(4, 4) for i in range(20)})
    drawn = draws(12, bound, paths="fair")
    assert len({tuple(s[name].A for s in drawn[:4]) for name in bound.layers}) > 8
    assert len({tuple(s["3"].A for s in drawn[i : i + 4]) for i in (0, 4, 8)} | {()}) > 2
    assert drawn != draws(12, bound, paths="fair", seed=1)
    orders = Counter(tuple(s["3"].D for s in draws(3, bound, 3 * i, paths="fair")) for i in range(600))
    assert len(orders) == 6
    assert min(orders.values()) > 60


def test_sandwich_takes_largest_random_smallest_random_in_turn() -> None:
    bound = space()
    drawn, uniform = draws(40, bound, paths="sandwich"), draws(40, bound)
    assert set(drawn[0::4]) == {largest(bound)}
    assert drawn[1::2] == uniform[1::2]
    (small,) = set(drawn[2::4])
    # One number a tensor, but for C, whose cheapest form that acts is its vector; D is not offered without a bias.
    scalars = {"A": "scalar", "B": "scalar", "C": "vector", "E": "scalar"}
    assert small.to_dict() == {"a": {**scalars, "D": "scalar"}, "b": scalars}


def test_warmup_moves_from_the_largest_to_uniform_over_its_share() -> None:
    bound = SearchSpace(2).bind({str(i): LayerShape(8, 8) for i in range(400)})
    how = {"paths": "warmup", "path_warmup": 0.5, "steps": 200}
    top = {"A": Form.low_rank(2), "B": Form.low_rank(2), "C": Form.VECTOR, "D": Form.VECTOR, "E": Form.VECTOR}
    for step in (0, 25, 50, 90, 99, 100, 150):
        (drawn,) = draws(1, bound, step, **how)
        share = max(0.0, 1 - step / 100)
        for tensor, form in top.items():
            wanted = share + (1 - share) / len(bound.choices("0", tensor))
            found = sum(drawn[name][tensor] == form for name in bound.layers) / 400
            assert abs(found - wanted) < 0.1, (step, tensor)
    assert draws(1, bound, 0, **how)[0] == bound.build({gene: top[gene[1]] for gene in bound.genes})
    plain = Paths(bound, TrainSettings(), 200)
    assert draws(2, bound, 100, **how) == [plain(100), plain(101)]


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_none_is_drawn_at_its_rate_and_the_other_forms_equally(rate: float) -> None:
    bound = SearchSpace(2).bind({str(i): LayerShape(8, 8) for i in range(500)})
    drawn = draws(4, bound, none_rate=rate)
    for tensor in "ABCDE":
        seen = Counter(str(s[name][tensor]) for s in drawn for name in bound.layers)
        assert abs(seen["none"] / 2000 - rate) < 0.03 if 0 < rate < 1 else seen["none"] == 2000 * rate
        others = [seen[str(form)] for form in bound.choices("0", tensor) if form.kind != "none"]
        assert all(abs(count - (1 - rate) * 2000 / len(others)) < 100 for count in others)


def test_a_budget_for_training_holds_for_every_step_and_uses_all_of_it() -> None:
    bound = space()
    uniform = [bound.size(s) for s in draws(300, bound)]
    budget = (bound.smallest + bound.largest) // 4
    assert sum(size <= budget for size in uniform) < 150
    sizes = [bound.size(s) for s in draws(300, bound, train_budget=budget)]
    assert max(sizes) <= budget
    assert max(sizes) > 0.9 * budget
    assert min(sizes) < 0.2 * budget
    paths = Paths(bound, TrainSettings(train_budget=budget), 100)
    assert all(bound.size(paths.twin(step)) <= budget for step in range(100))
    assert draws(300, bound, train_budget=bound.largest) == draws(300, bound)


def test_a_budget_for_training_leaves_a_single_structure_alone() -> None:
    bound = presets.lora(4).bind({"a": LayerShape(12, 8)})
    (drawn,) = draws(1, bound, train_budget=10)
    assert bound.size(drawn) == 80


def test_shallow_steps_leave_every_number_of_first_layers_equally_often() -> None:
    names = ["a", "b", "c", "d"]
    bound = SearchSpace(2).bind({name: LayerShape(8, 8) for name in names})

    def first_acting(structure: Structure) -> int:
        return next(i for i, name in enumerate(names) if not structure[name].is_none)

    first = Counter(map(first_acting, draws(4000, bound, shallow_rate=0.6, none_rate=0.0)))
    assert [first[i] / 4000 for i in range(4)] == pytest.approx([0.4 + 0.15, 0.15, 0.15, 0.15], abs=0.03)
    assert set(map(first_acting, draws(100, bound, none_rate=0.0))) == {0}


def test_none_stays_where_there_is_nothing_else() -> None:
    (drawn,) = draws(1, none_rate=0.0)
    assert drawn["b"].D == Form.NONE
    assert drawn["a"].D != Form.NONE


@pytest.mark.parametrize("rule", RULES)
def test_a_space_of_one_point_has_one_structure(rule: str) -> None:
    bound = presets.lora(2).bind({"a": LayerShape(4, 4)})
    assert set(draws(8, bound, paths=rule)) == {Structure({"a": {"B": "rank-2"}})}


def test_a_twin_is_random_and_independent_of_its_step() -> None:
    bound = SearchSpace(2).bind({str(i): LayerShape(8, 8) for i in range(30)})
    settings = TrainSettings(paths="sandwich")
    paths, plain = Paths(bound, settings, 100), Paths(bound, replace(settings, paths="uniform"), 100)
    twins = [paths.twin(step) for step in range(20)]
    assert len(set(twins) | {paths(step) for step in range(1, 20, 2)}) == 30
    assert twins == [plain.twin(step) for step in range(20)]

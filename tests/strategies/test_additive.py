from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import bound, problems, vit_base

from glora.space import BoundSpace, SearchSpace
from glora.strategies import additive, legal_sample
from glora.strategies.additive import AdditiveModel, Table
from oracles.brute_force import best_choice

SMALL = SearchSpace(2, A="none", B=["rank-2", "vector", "none"], C="none", D=["vector", "none"], E=["vector", "none"])


def small() -> BoundSpace:
    return bound((6, 5), (4, 3), (6, 5), space=SMALL)


def columns(space: BoundSpace) -> list[tuple[str, str, str]]:
    return [(layer, tensor, str(form)) for layer, tensor in space.genes for form in space.choices(layer, tensor)]


def covariance(space: BoundSpace, shared: float, prior: float, priors: np.ndarray) -> np.ndarray:
    """Entry by entry: 1 for the same column, the shared parts for the same form in layers alike and in all layers."""
    names = columns(space)
    found = np.zeros((len(names), len(names)))
    for i, (layer, tensor, form) in enumerate(names):
        for j, (other, *same) in enumerate(names):
            if [tensor, form] == same:
                alike = space.shapes[layer] == space.shapes[other]
                found[i, j] = (1 - shared) * (i == j) + shared / 2 * alike + shared / 2
    return (1 - prior) * found + prior * np.outer(priors, priors)


def data(space: BoundSpace, count: int, seed: int = 0) -> tuple[Table, np.ndarray, np.ndarray]:
    """Rows and noisy gains of random structures."""
    rng, generator = random.Random(seed), np.random.default_rng(seed)
    table = Table(space)
    rows = np.array([table.row(legal_sample(space, None, rng)) for _ in range(count)])
    return table, rows, rows @ generator.normal(size=len(table)) + 0.3 * generator.normal(size=count)


def test_a_row_says_which_forms_a_structure_has() -> None:
    space = small()
    structure = legal_sample(space, None, random.Random(1))
    wanted = [float(str(structure[layer][tensor]) == form) for layer, tensor, form in columns(space)]
    assert Table(space).row(structure).tolist() == wanted
    assert sum(wanted) == len(space.genes)


@pytest.mark.parametrize("prior", [False, True])
def test_mean_and_covariance_are_the_textbooks(prior: bool) -> None:
    """Against the posterior of a linear model with dense matrices, and the leave-one-out errors by leaving one out."""
    space = small()
    table, rows, gains = data(space, 24)
    priors = np.random.default_rng(3).normal(size=len(table)) if prior else np.zeros(len(table))
    model = AdditiveModel(table, rows, gains, priors)
    unit = priors / np.sqrt(np.mean(priors**2)) if prior else priors
    x, y = rows - rows.mean(axis=0), gains - gains.mean()

    def posterior(p: np.ndarray, noise: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return p @ x.T @ np.linalg.inv(x @ p @ x.T + noise * np.eye(len(x))) @ y

    errors = {}
    for shared in additive._SHARED:
        for share in additive._PRIOR if prior else (0.0,):
            p = covariance(space, shared, share, unit)
            for factor in additive._NOISE:
                noise = factor * np.trace(x @ p @ x.T) / len(x)
                left = [np.delete(np.arange(len(x)), i) for i in range(len(x))]
                missed = [y[i] - x[i] @ posterior(p, noise, x[own], y[own]) for i, own in enumerate(left)]
                errors[shared, share, noise] = np.mean(np.square(missed))
    shared, share, noise = min(errors, key=errors.__getitem__)
    p = covariance(space, shared, share, unit)
    mean = model.draws(1, random.Random(0), 0.0)[0]
    assert mean == pytest.approx(posterior(p, noise, x, y), abs=1e-8)

    inverse = np.linalg.inv(x @ p @ x.T + noise * np.eye(len(x)))
    scale = y @ inverse @ y / len(y)
    wanted = scale * (p - p @ x.T @ inverse @ x @ p)
    drawn = model.draws(20_000, random.Random(0))
    assert np.abs(drawn.mean(axis=0) - mean).max() < 5 * np.sqrt(wanted.diagonal().max() / 20_000)
    assert np.cov(drawn.T) == pytest.approx(wanted, abs=0.05 * wanted.diagonal().max())
    assert np.cov(model.draws(20_000, random.Random(0), 0.5).T) == pytest.approx(np.cov(drawn.T) / 4, abs=1e-9)


def test_what_was_never_tried_is_judged_by_its_kin() -> None:
    """Forms of one tensor are good in two layers; the third layer of that shape had only one form in all rows."""
    space = bound((6, 5), (6, 5), (6, 5), (9, 5), space=SearchSpace(2, A="none", B="none", C="none", D="none"))
    table = Table(space)
    names = columns(space)
    worth = np.array([{"vector": 1.0, "scalar": 0.0, "none": -1.0}[form] if t == "E" else 0 for _, t, form in names])
    rng = random.Random(0)
    rows = []
    for _ in range(30):
        chosen = {gene: rng.choice(space.choices(*gene)) for gene in space.genes}
        chosen["blocks.2.fc", "E"] = space.choices("blocks.2.fc", "E")[1]
        rows.append(table.row(space.build(chosen)))
    matrix = np.array(rows)
    mean = AdditiveModel(table, matrix, matrix @ worth, np.zeros(len(table))).draws(1, rng, 0.0)[0]
    guessed = [mean[names.index(("blocks.2.fc", "E", form))] for form in ("vector", "scalar", "none")]
    assert guessed[0] > guessed[1] + 0.2 > guessed[2] + 0.4


def test_no_scores_and_equal_scores_say_nothing() -> None:
    space = small()
    table, rows, _ = data(space, 5)
    nothing = np.zeros(len(table))
    for given_rows, gains in ((rows[:0], np.zeros(0)), (rows, np.full(5, 3.0)), (rows[:1], np.ones(1))):
        model = AdditiveModel(table, given_rows, gains, nothing)
        assert model.draws(2, random.Random(0), 0.0) == pytest.approx(0)
        assert np.isfinite(model.draws(2, random.Random(0))).all()


def test_priors_are_the_mean_before_any_score() -> None:
    table = Table(small())
    priors = np.arange(float(len(table)))
    mean = AdditiveModel(table, np.zeros((0, len(table))), np.zeros(0), priors).draws(1, random.Random(0), 0.0)[0]
    assert mean == pytest.approx(priors / np.sqrt(np.mean(priors**2)))


@given(problems(), st.integers(0, 9))
@settings(max_examples=60)
def test_the_best_structure_is_legal_and_without_a_limit_the_best(
    problem: tuple[BoundSpace, int | None, random.Random], seed: int
) -> None:
    space, budget, _ = problem
    table = Table(space)
    worth = np.random.default_rng(seed).normal(size=len(table))
    found = table.best(worth, budget)
    space.check(found)
    assert budget is None or space.size(found) <= budget
    greatest = sum(max(worth[table._column[gene, form]] for form in space.choices(*gene)) for gene in space.genes)
    if budget is None or budget >= space.largest:
        assert float(worth @ table.row(found)) == pytest.approx(greatest)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_structure_against_trying_everything(seed: int) -> None:
    space = small()
    table = Table(space)
    worth = np.random.default_rng(seed).normal(size=len(table))
    costs = [[space.cost(*gene, form) for form in space.choices(*gene)] for gene in space.genes]
    gains = [[float(worth[table._column[gene, form]]) for form in space.choices(*gene)] for gene in space.genes]
    step = max(max(own) - min(own) for own in gains)
    exact = 0
    budgets = range(space.smallest, space.largest + 1, 5)
    for budget in budgets:
        choice = best_choice(costs, gains, budget)
        optimum = sum(own[i] for own, i in zip(gains, choice, strict=True))
        found = float(worth @ table.row(table.best(worth, budget)))
        assert optimum - step < found <= optimum + 1e-9
        exact += found > optimum - 1e-9
    assert exact > len(budgets) / 2


def test_a_large_space_is_filled_to_the_budget() -> None:
    space = vit_base()
    table = Table(space)
    worth = np.random.default_rng(0).normal(size=len(table))
    for budget in (0, 50_000, 300_000):
        size = space.size(table.best(worth, budget))
        assert budget - 3000 < size <= budget

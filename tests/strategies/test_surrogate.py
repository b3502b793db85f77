from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from planted import Planted, Sampled, bound, two_layers

from glora.errors import ConfigError
from glora.space import BoundSpace
from glora.strategies import Evolution, RandomSearch, Score, Strategy, Surrogate, run_search
from glora.strategies.additive import Table
from glora.structure import Form, Structure

BUDGET = 400


def twelve_layers() -> BoundSpace:
    return bound(*[(12, 8), (8, 6), (16, 8)] * 4)


def regret(strategy: Strategy, landscape: Sampled) -> float:
    """By how much the structure that the search chooses is truly less accurate than the best within the budget."""
    return landscape.optimum(BUDGET) - landscape.accuracy(run_search(strategy, landscape).best)


def test_it_comes_nearer_to_a_planted_optimum_in_half_the_evaluations() -> None:
    """Noise as of 200 images: 240 structures of the surrogate against 480 of the authors' evolution and of chance."""
    space, seeds = twelve_layers(), range(4)
    numbers: dict[str, Any] = {"generations": 15, "population": 30, "parents": 6, "mutants": 15, "crossovers": 15}
    landscapes = [Sampled(space, seed) for seed in seeds]
    ours = [regret(Surrogate(space, BUDGET, seed=s, evaluations=240, batch=30), landscapes[s]) for s in seeds]
    authors = [regret(Evolution(space, BUDGET, seed=s, **numbers), landscapes[s]) for s in seeds]
    chance = [regret(RandomSearch(space, BUDGET, seed=s, evaluations=480), landscapes[s]) for s in seeds]
    assert all(a < b for a, b in zip(ours, authors, strict=True))
    assert np.mean(ours) < 0.6 * np.mean(authors)
    assert np.mean(ours) < 0.4 * np.mean(chance)


def test_without_noise_it_finds_the_optimum_itself() -> None:
    space = twelve_layers()
    landscape = Sampled(space, 0)

    def quiet(structure: Structure) -> Score:
        accuracy = landscape.accuracy(structure)
        return Score(accuracy, 1 - accuracy)

    found = run_search(Surrogate(space, BUDGET, evaluations=300, batch=30), quiet)
    assert landscape.optimum(BUDGET) - 0.004 < found.winner.score.accuracy <= landscape.optimum(BUDGET) + 1e-9


def some_priors(landscape: Sampled, sign: int) -> dict[tuple[str, str], dict[Form, float]]:
    """The worth of the forms in another unit, with errors as large as their differences."""
    rng = np.random.default_rng(0)
    return {
        gene: {form: 100 * sign * (worth + rng.normal()) for form, worth in forms.items()}
        for gene, forms in landscape.worth.items()
    }


@pytest.mark.parametrize("seed", range(3))
def test_priors_help_from_the_first_generation_on_and_wrong_ones_are_unlearnt(seed: int) -> None:
    space = twelve_layers()
    landscape = Sampled(space, seed)
    without, right, wrong = (
        [landscape.accuracy(c.structure) for c in run_search(strategy, landscape).history]
        for strategy in (
            Surrogate(space, BUDGET, seed=seed, evaluations=150, batch=30, priors=priors)
            for priors in (None, some_priors(landscape, 1), some_priors(landscape, -1))
        )
    )
    assert np.mean(right[:30]) > np.mean(without[:30]) + 0.05 > np.mean(wrong[:30]) + 0.1
    assert np.mean(right[-30:]) > np.mean(without[-30:])
    assert np.mean(wrong[-30:]) > np.mean(without[:30]) + 0.05


def test_the_first_generation_is_random_and_the_others_are_predicted() -> None:
    space = twelve_layers()
    history = run_search(Surrogate(space, BUDGET, evaluations=70, batch=20), Sampled(space, 0)).history
    assert [Counter(c.origin for c in history if c.generation == g) for g in range(4)] == [
        {"random": 20},
        {"predicted": 20},
        {"predicted": 20},
        {"predicted": 10},
    ]
    priors = some_priors(Sampled(space, 0), 1)
    history = run_search(Surrogate(space, BUDGET, evaluations=20, batch=20, priors=priors), Sampled(space, 0)).history
    assert Counter(c.origin for c in history) == {"predicted": 20}


def test_where_the_model_has_nothing_new_the_best_is_mutated() -> None:
    space = two_layers()
    history = run_search(Surrogate(space, 60, evaluations=40, batch=20, spread=0.0), Planted(space)).history
    origins = [c.origin for c in history if c.generation == 1]
    assert origins[0] == "predicted"
    assert origins.count("mutant") > 10


def test_it_learns_from_the_loss_and_not_from_the_accuracy() -> None:
    space = twelve_layers()
    landscape = Sampled(space, 1)
    history = run_search(
        Surrogate(space, BUDGET, evaluations=150, batch=30), lambda s: Score(0.5, landscape(s).loss, 200)
    ).history
    by_generation = [np.mean([landscape.accuracy(c.structure) for c in history if c.generation == g]) for g in range(5)]
    assert by_generation[-1] > by_generation[0] + 0.1


def test_one_form_that_ruins_everything_is_avoided_and_does_not_hide_the_rest() -> None:
    """Losses a million times larger, or none at all, as of a supernet whose subnets diverge."""
    space = twelve_layers()
    landscape = Sampled(space, 2)

    def score(structure: Structure) -> Score:
        bad = structure["blocks.0.fc"].A.kind
        if bad == "rank":
            return Score(0.1, 1e6)
        return Score(float("nan"), float("nan")) if bad == "vector" else landscape(structure)

    history = run_search(Surrogate(space, BUDGET, evaluations=150, batch=30), score).history
    kinds = [Counter(c.structure["blocks.0.fc"].A.kind for c in history if c.generation == g) for g in range(5)]
    assert kinds[0]["rank"] + kinds[0]["vector"] > 4
    assert kinds[-1]["rank"] + kinds[-1]["vector"] == 0
    quality = [np.mean([landscape.accuracy(c.structure) for c in history if c.generation == g]) for g in range(5)]
    assert quality[-1] > quality[0] + 0.1


def test_if_all_failed_the_next_generation_is_random() -> None:
    strategy = Surrogate(two_layers(), evaluations=40, batch=20)
    strategy.tell([Score(float("nan"), 1.0)] * len(strategy.ask()))
    assert Counter(proposal.origin for proposal in strategy.ask()) == {"random": 20}


def test_the_cut_is_that_of_a_box_plot() -> None:
    strategy = Surrogate(two_layers(), evaluations=9, batch=9)
    losses = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 50.0, float("nan")]
    strategy.ask()
    strategy.tell([Score(0.5, loss) for loss in losses])
    low, high = np.quantile(losses[:-1], [0.25, 0.75])
    fence = high + 1.5 * (high - low)
    assert fence == pytest.approx(2.05, abs=0.3)
    assert -strategy._gains() == pytest.approx([*losses[:7], fence, fence])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluations": 0}, "surrogate: evaluations is 1 or more, not 0"),
        ({"batch": 0}, "surrogate: batch is 1 or more, not 0"),
        ({"spread": -0.5}, r"surrogate: spread is 0 or more, not -0\.5"),
        ({"spread": float("nan")}, "surrogate: spread is 0 or more, not nan"),
        ({"spread": float("inf")}, "surrogate: spread is 0 or more, not inf"),
        ({"priors": {("head", "A"): {Form.VECTOR: 1.0}}}, r"the priors name vector for \('head', 'A'\), which is not"),
        ({"priors": {("blocks.0.fc", "C"): {Form.SCALAR: 1.0}}}, r"name scalar for \('blocks.0.fc', 'C'\), which is"),
        ({"priors": {("blocks.0.fc", "A"): {Form.VECTOR: float("nan")}}}, r"'A'\) is a finite number, not nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Surrogate(two_layers(), **settings)


@pytest.mark.parametrize(
    "change",
    [
        {"evaluations": 31},
        {"batch": 5},
        {"spread": 0.5},
        {"priors": {("blocks.0.fc", "A"): {Form.VECTOR: 1.0}}},
        {"priors": {("blocks.0.fc", "A"): {Form.VECTOR: 2.0, Form.SCALAR: 1.0}}},
    ],
)
def test_its_numbers_tell_searches_apart(change: dict[str, Any]) -> None:
    numbers: dict[str, Any] = {"evaluations": 30, "batch": 8, "priors": {("blocks.0.fc", "A"): {Form.VECTOR: 2.0}}}
    one, other = (Surrogate(two_layers(), **n).settings for n in (numbers, numbers | change))
    assert {key for key in one if one[key] != other[key]} == set(change)


def test_priors_are_told_by_gene_and_form() -> None:
    table = Table(two_layers())
    values = table.values({("blocks.1.fc", "E"): {Form.VECTOR: 3.0}})
    assert np.flatnonzero(values).tolist() == [table._column[("blocks.1.fc", "E"), Form.VECTOR]]

"""The learning rate and the draws of a step: functions of the step, written down a second time."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from glora import SearchSpace, TrainSettings
from glora.errors import ConfigError
from glora.shapes import LayerShape
from glora.space import BoundSpace
from glora.train.paths import Paths
from glora.train.schedule import image_order, learning_rate

AUTHORS = TrainSettings(epochs=500, lr=5e-4, warmup_epochs=10, warmup_lr=1e-6, min_lr=1e-5)
rates = st.floats(1e-8, 1.0)
recipes = st.builds(
    TrainSettings,
    epochs=st.integers(1, 600),
    lr=rates,
    warmup_epochs=st.integers(0, 40),
    warmup_lr=rates,
    min_lr=rates,
)


def space() -> BoundSpace:
    return SearchSpace.paper(2).bind({"a": LayerShape(12, 8), "b": LayerShape(6, 12, has_bias=False)})


def by_hand(s: TrainSettings, epoch: float) -> float:
    """One tenth of the epochs at most goes straight up; the cosine, counted from the very start, is a half angle's."""
    warm = min(s.warmup_epochs, s.epochs / 10)
    if epoch < warm:
        share = epoch / warm
        return share * s.lr + (1 - share) * min(s.warmup_lr, s.lr)
    end = min(s.min_lr, s.lr)
    return end + (s.lr - end) * math.cos(math.pi / 2 * epoch / s.epochs) ** 2


# The learning rate


@given(recipes, st.floats(0, 1, exclude_max=True))
def test_the_rate_is_a_line_and_then_a_cosine(settings: TrainSettings, share: float) -> None:
    epoch = share * settings.epochs
    assert learning_rate(settings, epoch) == pytest.approx(by_hand(settings, epoch), rel=1e-9, abs=1e-15)


@given(recipes, st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=20))
def test_the_rate_goes_up_to_its_peak_then_down_and_stays_between_its_ends(
    settings: TrainSettings, shares: list[float]
) -> None:
    warm = min(settings.warmup_epochs, settings.epochs / 10)
    epochs = sorted(share * settings.epochs for share in shares)
    found = [learning_rate(settings, epoch) for epoch in epochs]
    lowest = min(settings.lr, settings.warmup_lr, settings.min_lr)
    assert all(lowest * (1 - 1e-9) <= rate <= settings.lr * (1 + 1e-9) for rate in found)
    for (early, slow), (late, fast) in itertools.pairwise(zip(epochs, found, strict=True)):
        if late < warm:
            assert slow <= fast * (1 + 1e-9)
        elif early >= warm:
            assert fast <= slow * (1 + 1e-9)


def test_the_authors_recipe() -> None:
    assert learning_rate(AUTHORS, 0) == 1e-6
    assert learning_rate(AUTHORS, 5) == pytest.approx((1e-6 + 5e-4) / 2)
    assert learning_rate(AUTHORS, 9.9999) == pytest.approx(5e-4, rel=1e-4)
    assert learning_rate(AUTHORS, 250) == pytest.approx((5e-4 + 1e-5) / 2)
    assert learning_rate(AUTHORS, 500) == pytest.approx(1e-5)


def test_a_short_training_warms_up_for_a_tenth_of_it() -> None:
    settings = TrainSettings(epochs=20, lr=1e-3, warmup_epochs=10)
    assert learning_rate(settings, 1) == pytest.approx(5e-4, rel=2e-3)
    assert learning_rate(settings, 2) == pytest.approx(by_hand(TrainSettings(epochs=20, warmup_epochs=0), 2))


def test_a_rate_of_zero_stays_zero() -> None:
    settings = TrainSettings(lr=0.0)
    assert [learning_rate(settings, epoch) for epoch in (0, 3, 50, 99.9)] == [0.0] * 4


# The draws


def test_every_form_is_drawn_equally_often_and_independently_of_the_others() -> None:
    bound, count = space(), 6000
    paths = Paths(bound, TrainSettings(), count)
    drawn = [paths(step) for step in range(count)]
    columns = {gene: [structure[gene[0]][gene[1]] for structure in drawn] for gene in bound.genes}
    for gene, column in columns.items():
        forms, seen = bound.choices(*gene), Counter(column)
        assert set(seen) == set(forms)
        assert_even([seen[form] for form in forms])
    for one, other in itertools.combinations(bound.genes, 2):
        seen_pairs = Counter(zip(columns[one], columns[other], strict=True))
        assert_even([seen_pairs[pair] for pair in itertools.product(bound.choices(*one), bound.choices(*other))])
    for gene in bound.genes:  # and independently of the step before
        forms = bound.choices(*gene)
        follow = Counter(itertools.pairwise(columns[gene]))
        assert_even([follow[pair] for pair in itertools.product(forms, forms)])


def assert_even(counts: list[int]) -> None:
    """Chi-squared within five standard deviations of its mean; the draws are fixed, so this cannot flicker."""
    wanted = sum(counts) / len(counts)
    freedom = len(counts) - 1
    assert sum((count - wanted) ** 2 / wanted for count in counts) <= freedom + 5 * math.sqrt(2 * freedom)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_draw_depends_on_the_seed_and_the_step_and_nothing_else(seed: int, step: int, a: int, b: int) -> None:
    assume((seed, step) != (a, b))
    bound = SearchSpace.paper(2).bind({str(i): LayerShape(4, 4) for i in range(20)})
    first = Paths(bound, TrainSettings(seed=seed), 10)(step)
    state = random.getstate(), torch.get_rng_state().tolist()
    other = Paths(bound, TrainSettings(seed=a), 10)(b)
    assert (random.getstate(), torch.get_rng_state().tolist()) == state
    random.seed(step)
    assert Paths(bound, TrainSettings(seed=seed), 10)(step) == first != other
    assert bound.contains(first)


@given(st.integers(0, 200), st.integers(0, 1000), st.integers(0, 1000))
def test_an_order_is_a_permutation_of_its_epoch(count: int, seed: int, epoch: int) -> None:
    order = image_order(count, seed, epoch)
    assert sorted(order) == list(range(count))
    state = random.getstate()
    random.random()
    assert image_order(count, seed, epoch) == order
    random.setstate(state)
    if count > 20:
        assert order != image_order(count, seed, epoch + 1)
        assert order != image_order(count, seed + 1, epoch)
        assert order != list(range(count))


def test_every_image_comes_equally_often_at_every_place() -> None:
    orders = [image_order(5, 7, epoch) for epoch in range(4000)]
    for place in range(5):
        seen = Counter(order[place] for order in orders)
        assert_even([seen[image] for image in range(5)])


# The settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": -3}, "batch_size must be at least 1, not -3"),
        ({"lr": -1e-3}, "lr must not be negative, but is -0.001"),
        ({"lr": math.nan}, "lr must not be negative, but is nan"),
        ({"weight_decay": -1.0}, r"weight_decay must not be negative, but is -1\.0"),
        ({"warmup_epochs": -1}, "warmup_epochs must not be negative, but is -1"),
        ({"warmup_lr": -1.0}, "warmup_lr must not be negative"),
        ({"min_lr": -1.0}, "min_lr must not be negative"),
        ({"probes": -1}, "probes must not be negative, but is -1"),
        ({"evaluations": -1}, "evaluations must not be negative, but is -1"),
        ({"paths": "greedy"}, "paths must be one of uniform, fair, sandwich, warmup, not 'greedy'"),
        ({"path_warmup": 1.5}, r"path_warmup must be from 0 to 1, but is 1\.5"),
        ({"none_rate": -0.1}, r"none_rate must be from 0 to 1, but is -0\.1"),
        ({"shallow_rate": 1.5}, r"shallow_rate must be from 0 to 1, but is 1\.5"),
        ({"shallow_rate": 0.5, "paths": "fair"}, "paths=fair draws every form equally often: leave shallow_rate out"),
        ({"train_budget": 9, "paths": "fair"}, "train_budget draws in a way of its own: leave paths, none_rate and"),
        ({"train_budget": 9, "none_rate": 0.1}, "train_budget draws in a way of its own"),
        ({"train_budget": 9, "shallow_rate": 0.1}, "train_budget draws in a way of its own"),
        ({"none_rate": 0.5, "paths": "fair"}, "paths=fair draws every form equally often: leave none_rate out"),
        ({"ema": 1.0}, r"ema must be from 0 to 0\.999999, but is 1\.0"),
        ({"ema": math.nan}, r"ema must be from 0 to 0\.999999, but is nan"),
        ({"lr_scale": {"up": 2.0}}, "lr_scale has factors for rank, vector, scalar, head, not for 'up'"),
        ({"lr_scale": {"head": -1.0}}, r"lr_scale of head must not be negative or infinite, but is -1\.0"),
        ({"consistency": -1.0}, r"consistency must not be negative, but is -1\.0"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, fp16, not 'fp8'"),
        ({"augment": "mixup"}, r"augment must be none, flip, crop, randaugment or timm's .*, not 'mixup'$"),
        ({"augment": None}, "augment must be none, .*, not None; did you mean"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainSettings(**change)


def test_settings_cannot_be_changed_or_given_by_place() -> None:
    with pytest.raises(AttributeError, match="cannot assign to field 'lr'"):
        TrainSettings().lr = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional argument"):
        TrainSettings(100)  # type: ignore[misc]

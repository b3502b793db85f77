from __future__ import annotations

import random
from typing import Any

import pytest
from planted import Planted, two_layers

from glora.errors import ConfigError
from glora.strategies import RandomSearch, legal_sample, run_search


@pytest.mark.parametrize(("evaluations", "batch"), [(1, 1), (7, 3), (12, 4), (5, 50)])
def test_it_asks_for_as_many_as_told_in_batches(evaluations: int, batch: int) -> None:
    history = run_search(
        RandomSearch(two_layers(), evaluations=evaluations, batch=batch), Planted(two_layers())
    ).history
    assert [c.generation for c in history] == [index // batch for index in range(evaluations)]
    assert {c.origin for c in history} == {"random"}


def test_it_draws_legal_structures_and_learns_nothing() -> None:
    space, rng = two_layers(), random.Random(5)
    drawn = dict.fromkeys(legal_sample(space, 60, rng) for _ in range(100))  # without repetitions, in order
    history = run_search(RandomSearch(space, 60, seed=5, evaluations=40), Planted(space)).history
    assert [c.structure for c in history] == list(drawn)[:40]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluations": 0}, "random: evaluations is 1 or more, not 0"),
        ({"batch": 0}, "random: batch is 1 or more, not 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RandomSearch(two_layers(), **settings)


@pytest.mark.parametrize("change", [{"evaluations": 31}, {"batch": 5}])
def test_its_numbers_tell_searches_apart(change: dict[str, Any]) -> None:
    numbers = {"evaluations": 30, "batch": 8}
    one, other = (RandomSearch(two_layers(), **n).settings for n in (numbers, numbers | change))
    assert {key for key in one if one[key] != other[key]} == set(change)

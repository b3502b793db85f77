"""Bootstrap intervals, rank correlation and what is said of them, against other libraries and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glora.errors import DataError
from glora.evidence import Gain, gain, kendall_tau, verdict

values = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12)


@given(values)
def test_tau_is_scipys(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = ([float(pair[i]) for pair in pairs] for i in (0, 1))
    found = kendall_tau(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.kendalltau(first, second).statistic)


def test_tau_of_too_few() -> None:
    assert kendall_tau([], []) is None
    assert kendall_tau([1.0], [2.0]) is None
    assert kendall_tau([1.0, 2.0], [5.0, 3.0]) == -1


def resampled(ours: str, other: str, seed: int) -> tuple[float, float]:
    """Images drawn one by one, with both their results."""
    pairs = np.array([[int(a), int(b)] for a, b in zip(ours, other, strict=True)])
    generator = np.random.default_rng(seed)
    drawn = [pairs[generator.integers(0, len(pairs), len(pairs))].mean(0) for _ in range(4000)]
    low, high = np.quantile([a - b for a, b in drawn], [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize(("wins", "losses", "same"), [(30, 10, 160), (5, 5, 90), (0, 12, 28), (40, 39, 0)])
def test_an_interval_is_that_of_drawing_images_one_by_one(wins: int, losses: int, same: int) -> None:
    ours, other = "1" * wins + "0" * losses + "1" * same, "0" * wins + "1" * losses + "1" * same
    found = gain(ours, other, "it")
    count = wins + losses + same
    assert found.difference == pytest.approx((wins - losses) / count)
    low, high = resampled(ours, other, 1)
    # By one step of what differences there may be: 2 where all images differ.
    assert (found.low, found.high) == pytest.approx((low, high), abs=(2.5 if same == 0 else 1.5) / count)
    assert found.low <= found.difference <= found.high
    assert (found.over, found.images) == ("it", count)
    back = gain(other, ours)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=2.5 / count)
    assert gain(ours, other, "it") == found


def test_pairing_narrows_the_interval() -> None:
    """Two models that err on the same images differ by what they differ in, not by what each errs."""
    ours, other = "1" * 60 + "0" * 40, "1" * 58 + "0" * 42
    paired = gain(ours, other)
    unpaired = math.sqrt(0.6 * 0.4 / 100 + 0.58 * 0.42 / 100)
    assert paired.high - paired.low < 2 * unpaired
    assert gain(ours, ours) == Gain("", 0.0, 0.0, 0.0, 100)


@pytest.mark.parametrize(("ours", "other"), [("", ""), ("11", "1")])
def test_results_of_other_images_are_refused(ours: str, other: str) -> None:
    with pytest.raises(DataError, match=f"results of {len(ours)} and {len(other)} images cannot be paired"):
        gain(ours, other)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.03, "The search gained over LoRA, with 10 against 2,000 parameters: +2.0 points"),
        (-0.03, -0.01, "The search lost over LoRA"),
        (0.0, 0.03, "The search gained nothing that can be told from noise over LoRA"),
        (-0.01, 0.0, "The search gained nothing that can be told from noise over LoRA"),
    ],
)
def test_the_verdict_says_what_the_interval_allows(low: float, high: float, said: str) -> None:
    text = verdict(Gain("LoRA", 0.02, low, high, 2000), None, "test", (10, 2000))
    assert text.startswith(said)
    assert text.endswith(" on 2,000 test images.")
    both = verdict(Gain("LoRA", 0.02, low, high, 2000), Gain("random search", 0.0, -0.01, 0.01, 2000), "test", (1, 2))
    assert (
        " It gained nothing that can be told from noise over random search: +0.0 points (95 % interval -1.0 to" in both
    )

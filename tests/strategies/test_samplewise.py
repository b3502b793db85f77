from __future__ import annotations

import math
import random
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import bound, problems
from scipy.stats import norm

from glora.errors import ConfigError
from glora.space import BoundSpace, SearchSpace
from glora.strategies import Batches, Evolution, Key, Merit, RandomSearch, Samplewise, Score, Scorer, run_search
from glora.strategies import additive as additive_module
from glora.strategies.additive import Table
from glora.strategies.operators import legal_sample
from glora.strategies.sample_model import Outlook, SampleModel, edge_of, unpacked
from glora.strategies.score import Fitness, bits, loss_levels, pack_bits
from glora.structure import Structure

BUDGET = 400


def twelve_layers() -> BoundSpace:
    return bound(*[(12, 8), (8, 6), (16, 8)] * 4)


class Margins(Scorer):
    """Every sample's margin is a sum over the forms: partly the same for all samples, partly its own."""

    def __init__(self, space: BoundSpace, seed: int) -> None:
        self.samples, self.batch_size = 200, 25
        rng = np.random.default_rng(seed)
        self.table = Table(space)
        scale = len(space.genes) ** -0.5
        # Samples differ so much that no structure is right on all of them.
        common = 0.5 * scale * rng.normal(size=(len(self.table), 1))
        self.worth = common + scale * rng.normal(size=(len(self.table), self.samples))
        self.base = 0.5 + 3 * rng.normal(size=self.samples)
        self.looked = 0

    def margins(self, structure: Structure) -> np.ndarray[Any, Any]:
        return self.base + self.worth[self.table.chosen(structure)].sum(axis=0)

    def scores(self, structures: Sequence[Structure], batches: Batches, bar: Key | None) -> Generator[Score]:
        for structure in structures:
            margins = self.margins(structure)
            right, losses, seen = margins > 0, np.logaddexp(0, -margins), np.zeros(self.samples, bool)
            for batch in batches:
                seen[list(batch)] = True
                self.looked += len(batch)
                bound = Merit(float((right | ~seen).mean()), float(np.where(seen, losses, 0).mean()) * (1 - 1e-9))
                if bar is not None and not seen.all() and bound.key("accuracy") < bar:
                    levels = loss_levels(losses.tolist(), seen.tolist())
                    yield Score.stopped(bound, int(seen.sum()), self.samples, levels=levels)
                    break
            else:
                levels = loss_levels(losses.tolist())
                accuracy, loss = float(right.mean()), float(losses.mean())
                yield Score(accuracy, loss, self.samples, pack_bits(right.tolist()), levels=levels)


class ByLoss(Margins):
    """The same, ranked by the loss, of which nothing is stopped."""

    def scores(self, structures: Sequence[Structure], batches: Batches, bar: Key | None) -> Generator[Score]:
        for score in super().scores(structures, batches, None):
            value = score.to_dict() | {"fitness": "loss"}
            yield Score.from_dict(value)


@pytest.mark.parametrize("seed", range(3))
def test_it_has_what_evolution_ends_with_for_a_fifth_of_the_samples(seed: int) -> None:
    """Against the authors' 1,050 candidates, evaluated as wholes."""
    space = twelve_layers()
    whole, pruned = Margins(space, seed), Margins(space, seed)
    authors = run_search(Evolution(space, BUDGET, seed=seed), whole, prune=False, keep=20)
    ours = run_search(Samplewise(space, BUDGET, seed=seed, evaluations=200), pruned, keep=20)
    assert 1 > ours.winner.score.accuracy >= authors.winner.score.accuracy
    assert pruned.looked == ours.effort["sample_evaluations"] <= whole.looked / 5


def test_stopped_evaluations_teach_and_best_and_front_are_those_of_whole_ones() -> None:
    space = twelve_layers()
    scorer = Margins(space, 0)
    found = run_search(Samplewise(space, BUDGET, evaluations=250), scorer, keep=20)
    assert found.effort["stopped"] > 20
    accuracies = [float((scorer.margins(c.structure) > 0).mean()) for c in found.history]
    assert found.winner.score.accuracy == max(accuracies)
    known = sorted((c.score.accuracy for c in found.history if not c.score.failed), reverse=True)
    assert known[:20] == sorted(accuracies, reverse=True)[:20]
    stopped = next(c for c in found.history if c.score.bound is not None)
    levels = loss_levels(np.logaddexp(0, -scorer.margins(stopped.structure)).tolist())
    assert {a for a, b in zip(stopped.score.levels, levels, strict=True) if a != b} == {"-"}
    assert stopped.score.levels.count("-") == 200 - stopped.score.samples
    # Another search, since its draws depend on what was stopped.
    without = run_search(Samplewise(space, BUDGET, evaluations=250), Margins(space, 0), prune=False)
    assert [c.structure for c in without.history[:60]] == [c.structure for c in found.history[:60]]
    assert [c.structure for c in without.history] != [c.structure for c in found.history]


def seen_in_part(space: BoundSpace, count: int, samples: int) -> tuple[Table, Any, Any]:
    """Rows and levels of random structures, a third of them seen in the first half of the samples alone."""
    rng, generator = random.Random(0), np.random.default_rng(0)
    table = Table(space)
    rows = np.array([table.row(legal_sample(space, None, rng)) for _ in range(count)])
    levels = 8 + rows @ generator.normal(size=(len(table), samples)) + 0.3 * generator.normal(size=(count, samples))
    levels[::3, samples // 2 :] = np.nan
    return table, rows, levels


def test_every_sample_has_the_textbooks_regression_on_what_was_seen_of_it() -> None:
    """Generalised least squares with dense matrices; share and noise by leaving one out of the whole ones."""
    table, rows, levels = seen_in_part(bound((6, 5), (9, 5)), 30, 6)
    columns = [(*gene, form) for gene in table.genes for form in table.space.choices(*gene)]
    shapes = [table.space.shapes[layer] for layer, _, _ in columns]
    alike = np.array([[(a[1:] == b[1:]) for b in columns] for a in columns], float)
    near = alike * np.array([[a == b for b in shapes] for a in shapes])

    def covariance(shared: float) -> Any:
        return (1 - shared) * np.eye(len(columns)) + shared / 2 * (alike + near)

    center = rows.mean(axis=0)

    def predicted(shared: float, noise: float, x: Any, y: Any, new: Any) -> Any:
        inverse = np.linalg.inv(x @ covariance(shared) @ x.T + noise * np.eye(len(x)))
        mean = (inverse @ y).sum(axis=0) / inverse.sum()
        return mean + new @ covariance(shared) @ x.T @ inverse @ (y - mean)

    def missed(shared: float, noise: float, x: Any, y: Any) -> Any:
        """Squared errors of each, predicted from the others, whose mean is their own."""
        rest = [np.delete(np.arange(len(x)), i) for i in range(len(x))]
        return np.square([y[i] - predicted(shared, noise, x[r], y[r], x[i]) for i, r in enumerate(rest)])

    whole = ~np.isnan(levels).any(axis=1)
    x, y = rows[whole] - rows[whole].mean(axis=0), levels[whole]
    errors = {}
    for shared in additive_module._SHARED:
        for factor in additive_module._NOISE:
            noise = factor * np.trace(x @ covariance(shared) @ x.T) / len(x)
            errors[shared, noise] = missed(shared, noise, x, y).mean()
    shared, noise = min(errors, key=errors.__getitem__)

    model = SampleModel(table, rows, levels)
    outlook = model.draw(random.Random(0), 0.0, 8.5)
    new = [table.chosen(legal_sample(table.space, None, random.Random(s))) for s in range(5)]
    for sample in range(levels.shape[1]):
        own = ~np.isnan(levels[:, sample])
        x, y = rows[own] - center, levels[own, sample]
        assert model._missed[sample] == pytest.approx(missed(shared, noise, x, y).mean(), rel=1e-6)
        for chosen in new:
            row = np.zeros(len(table))
            row[chosen] = 1
            got = outlook._base[sample] + outlook._worth[chosen, sample].sum()
            assert got == pytest.approx(predicted(shared, noise, x, y, row - center), abs=1e-6)


def test_what_forms_do_not_explain_is_taken_for_noise() -> None:
    table, rows, _ = seen_in_part(twelve_layers(), 50, 1)
    model = SampleModel(table, rows, 8 + 1.5 * np.random.default_rng(0).normal(size=(50, 200)))
    assert model._missed.mean() == pytest.approx(1.5**2, rel=0.1)


def test_draws_scatter_as_what_is_still_possible() -> None:
    table, rows, levels = seen_in_part(bound((6, 5)), 12, 3)
    model = SampleModel(table, rows, levels)
    mean, *drawn = (model.draw(random.Random(s), 0.0 if s < 0 else 1.0, None)._worth for s in range(-1, 4000))
    scatter = np.array([one[:, 0] - mean[:, 0] for one in drawn])
    p, x = model._covariance.times(np.eye(len(table))), rows - rows.mean(axis=0)
    inverse = np.linalg.inv(x @ p @ x.T + model._noise * np.eye(len(x)))
    wanted = model._scale[0] ** 2 * (p - p @ x.T @ inverse @ x @ p)
    assert np.cov(scatter.T) == pytest.approx(wanted, abs=0.1 * wanted.diagonal().max())
    ratio = model._scale[1] / model._scale[0]
    assert (drawn[0][:, 1] - mean[:, 1]) == pytest.approx(ratio * scatter[0], abs=1e-9)


def test_expected_accuracy_and_loss_are_those_of_normal_levels() -> None:
    table = Table(bound((6, 5)))
    variance, levels = np.array([0.3, 1.0, 4.0]), np.array([[7.0, 9.0, 12.0], [8.5, 3.0, 8.0]])
    nothing = np.zeros((len(table), 3))
    accuracy = Outlook(table, nothing, np.zeros(3), variance, 8.5).merits(levels)
    assert accuracy == pytest.approx(norm.cdf((8.5 - levels) / np.sqrt(variance)).mean(axis=1), abs=0.01)
    rng = np.random.default_rng(0)
    drawn = levels + np.sqrt(variance) * rng.normal(size=(400_000, 1, 3))
    # A level stands for the losses from it to the next one.
    loss = Outlook(table, nothing, np.zeros(3), variance, None).merits(levels)
    assert -loss == pytest.approx((2 ** ((drawn + 0.5 - 10) / 2)).mean(axis=(0, 2)), rel=0.01)


@given(problems(), st.integers(0, 3), st.sampled_from([8.5, None]), st.integers(1, 4))
@settings(max_examples=30)
def test_a_climb_takes_the_best_change_that_fits(
    problem: tuple[BoundSpace, int | None, Any], seed: int, edge: float | None, changes: int
) -> None:
    space, budget, _ = problem
    table, rng = Table(space), np.random.default_rng(seed)
    outlook = Outlook(table, rng.normal(size=(len(table), 5)), 8 + rng.normal(size=5), np.ones(5), edge)
    chosen = table.chosen(legal_sample(space, budget, random.Random(seed)))

    def merit(chosen: Any) -> float:
        return float(outlook.merits(outlook._base + outlook._worth[chosen].sum(axis=0)))

    wanted = chosen.copy()
    for _ in range(changes):
        others = []
        for gene, options in enumerate(table.options):
            for column in options:
                other = wanted.copy()
                other[gene] = column
                if budget is None or table.costs[other].sum() <= budget:
                    others.append(other)
        best = max(others, key=merit, default=wanted)
        if merit(best) <= merit(wanted) + 1e-12:
            break
        wanted = best
    got = outlook.climbed(chosen, budget, changes)
    assert merit(got) == pytest.approx(merit(wanted), abs=1e-9)
    assert budget is None or table.costs[got].sum() <= budget


@given(st.lists(st.tuples(st.integers(0, 15), st.booleans()), min_size=1, max_size=40))
def test_the_edge_has_the_fewest_errors(samples: list[tuple[int, bool]]) -> None:
    levels, right = (np.array(part) for part in zip(*samples, strict=True))
    edge = edge_of(levels.astype(float), right)

    def errors(edge: float) -> int:
        return sum((level < edge) != good for level, good in samples)

    # From 15 on a loss is open-ended, or no number: never right.
    assert errors(edge) == min(errors(k - 0.5) for k in range(16))


def test_levels_of_samples_not_looked_at_are_nan() -> None:
    assert unpacked("0f-a")[:2] == [0.0, 15.0]
    assert [math.isnan(one) for one in unpacked("0f-a")] == [False, False, True, False]


@pytest.mark.parametrize("fitness", ["accuracy", "loss"])
def test_the_model_has_all_that_was_seen_and_the_edge_of_whole_evaluations(
    fitness: Fitness, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, Any]] = []
    edges: list[float | None] = []
    init, draw = SampleModel.__init__, SampleModel.draw

    def noting(self: SampleModel, table: Table, rows: Any, levels: Any) -> None:
        given.append((rows, levels))
        init(self, table, rows, levels)

    def drawing(self: SampleModel, rng: random.Random, spread: float, edge: float | None) -> Outlook:
        edges.append(edge)
        assert spread == pytest.approx(0.3 * (1 - len(given[-1][0]) / 250))
        return draw(self, rng, spread, edge)

    monkeypatch.setattr(SampleModel, "__init__", noting)
    monkeypatch.setattr(SampleModel, "draw", drawing)
    space = twelve_layers()
    strategy = Samplewise(space, BUDGET, evaluations=250)
    found = run_search(strategy, Margins(space, 0) if fitness == "accuracy" else ByLoss(space, 0))
    told = strategy.candidates[:240]  # before the last generation
    assert any(c.score.bound for c in told) == (fitness == "accuracy")
    rows, levels = given[-1]
    assert rows.tolist() == [strategy._table.row(c.structure).tolist() for c in told]
    text = ["".join("-" if math.isnan(one) else f"{int(one):x}" for one in row) for row in levels]
    assert text == [c.score.levels for c in told]
    if fitness == "loss":
        assert set(edges) == {None}
    else:
        able = [c.score for c in told if not c.score.failed]
        right = np.array([[one == "1" for one in bits(score.right, 200)] for score in able])
        assert edges[-1] == edge_of(np.array([unpacked(score.levels) for score in able]), right)
    assert sum(c.origin == "predicted" for c in found.history) >= 100


def test_the_worst_parent_is_the_bar() -> None:
    strategy = Samplewise(twelve_layers(), first=8, parents=3)
    assert strategy.bar() is None
    proposals = strategy.ask()
    strategy.tell([Score(0.5 + 0.01 * p.index, 1.0) for p in proposals])
    assert strategy.bar() == (0.55, -1.0)
    assert strategy.bar([proposals[0].scored(Score(0.9, 1.0))]) == (0.56, -1.0)


def test_without_samples_the_loss_is_learnt_from() -> None:
    space = twelve_layers()
    landscape = Margins(space, 1)

    def whole(structure: Structure) -> Score:
        loss = float(np.logaddexp(0, -landscape.margins(structure)).mean())
        return Score(1 - loss / 10, loss)

    first, last = [], []
    found = run_search(Samplewise(space, BUDGET, evaluations=150), whole)
    for candidate in found.history:
        (first if candidate.generation == 0 else last).append(candidate.score.loss)
    assert found.winner.score.loss < min(first)
    assert np.mean(last[-30:]) < min(first)


def test_by_the_loss_it_climbs_the_loss() -> None:
    space = twelve_layers()
    ours = run_search(Samplewise(space, BUDGET, evaluations=150), ByLoss(space, 2))
    chance = run_search(RandomSearch(space, BUDGET, evaluations=600), ByLoss(space, 2))
    assert ours.winner.score.loss < 0.8 * chance.winner.score.loss


def test_a_space_smaller_than_the_first_generation_is_seen_whole() -> None:
    space = bound((6, 5), space=SearchSpace(A="none", B=["rank-1", "none"], C="none", D="none", E=["vector", "none"]))
    assert len(run_search(Samplewise(space), Margins(space, 0)).history) == 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"parents": 0}, "samplewise: parents is 1 or more, not 0"),
        ({"changes": 0}, "samplewise: changes is 1 or more, not 0"),
        ({"spread": -0.5}, "samplewise: spread is 0 or more, not -0.5"),
        ({"first": 0}, "samplewise: first is 1 or more, not 0"),
        ({"batch": 0}, "samplewise: batch is 1 or more, not 0"),
        ({"evaluations": 0}, "samplewise: evaluations is 1 or more, not 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Samplewise(twelve_layers(), **setting)

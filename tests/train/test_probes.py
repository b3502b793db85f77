"""The structures that a training is watched by, and when it is."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import glora
from glora import GLoRAModel, SearchSpace, Structure, TrainSettings, presets, train_supernet
from glora.shapes import LayerShape
from glora.space import BoundSpace
from glora.structure import TENSORS
from glora.train.probes import probe_structures
from helpers import MLP
from oracles.brute_force import parameters

pytestmark = pytest.mark.usefixtures("single_threaded")

FORMS = {
    "A": ["rank-3", "rank-1", "mul-2", "vector", "scalar", "none"],
    "B": ["rank-3", "rank-1", "vector", "scalar", "none"],
    "C": ["rank-2", "vector", "none"],
    "D": ["vector", "scalar", "none"],
    "E": ["vector", "scalar", "none"],
}
X = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(20) % 4


@st.composite
def spaces(draw: st.DrawFn) -> BoundSpace:
    """One or two layers, each tensor with one or two forms, in any order."""
    forms: dict[str, Any] = {
        t: draw(st.lists(st.sampled_from(FORMS[t]), min_size=1, max_size=2, unique=True)) for t in TENSORS
    }
    shape = st.builds(LayerShape, st.integers(1, 9), st.integers(1, 9), st.booleans())
    shapes = {f"layer{i}": draw(shape) for i in range(draw(st.integers(1, 2)))}
    return SearchSpace(3, **forms).bind(shapes, draw(st.sampled_from(["create", "keep"])))


def size(bound: BoundSpace, structure: Structure) -> int:
    return sum(
        parameters(t, form, shape.out_features, shape.in_features)
        for name, shape in bound.shapes.items()
        for t, form in structure[name].to_dict().items()
    )


def everything(bound: BoundSpace) -> list[Structure]:
    choices = [bound.choices(*gene) for gene in bound.genes]
    return [bound.build(dict(zip(bound.genes, forms, strict=True))) for forms in itertools.product(*choices)]


@given(spaces(), st.integers(0, 5), st.integers(0, 10**6))
def test_the_extremes_are_the_smallest_and_the_largest_of_all(bound: BoundSpace, count: int, seed: int) -> None:
    probes = probe_structures(bound, count, seed)
    structures = everything(bound)
    sizes = [size(bound, structure) for structure in structures]
    assert all(probe in structures for probe in probes.values())
    if len(structures) == 1:
        assert probes == {"fixed": structures[0]}
        return
    assert list(probes) == ["smallest", "largest", *(f"random-{i}" for i in range(count))]
    assert size(bound, probes["smallest"]) == min(sizes)
    assert size(bound, probes["largest"]) == max(sizes)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_one_seed_gives_the_same_probes_and_another_seed_others(seed: int, outside: int) -> None:
    bound = SearchSpace.paper(4).bind({f"{i}": LayerShape(8, 8) for i in range(6)})
    probes = probe_structures(bound, 3, seed)
    random.seed(outside)
    before = random.getstate()
    assert probe_structures(bound, 3, seed) == probes
    assert random.getstate() == before
    assert len(set(probes.values())) == 5
    assert probe_structures(bound, 2, seed) == {name: probes[name] for name in list(probes)[:-1]}
    other = probe_structures(bound, 3, seed + 1)
    assert [other[name] == probes[name] for name in probes] == [True, True, False, False, False]


def test_the_largest_is_all_low_rank_where_that_costs_most() -> None:
    bound = SearchSpace(4).bind({"a": LayerShape(64, 32), "b": LayerShape(32, 64)})
    probes = probe_structures(bound, 0, 0)
    full = {"A": "rank-4", "B": "rank-4", "C": "vector", "D": "vector", "E": "vector"}
    assert probes == {"smallest": Structure(), "largest": Structure({"a": full, "b": full})}


# Along a training


def net_of(space: SearchSpace | None = None) -> GLoRAModel:
    return glora.adapt(MLP(), space or SearchSpace(2))


def accuracy(net: GLoRAModel, structure: Structure) -> float:
    with torch.no_grad():
        logits = net.merge(structure).eval()(X)
    right = [
        max(range(4), key=row.__getitem__) == label for row, label in zip(logits.tolist(), Y.tolist(), strict=True)
    ]
    return sum(right) / len(right)


@given(st.integers(1, 25), st.integers(0, 30))
def test_probes_are_evaluated_as_often_as_asked_and_evenly(epochs: int, evaluations: int) -> None:
    settings = TrainSettings(epochs=epochs, batch_size=20, evaluations=evaluations, probes=0)
    records = train_supernet(net_of(presets.bitfit()), (X, Y), (X, Y), settings)
    found = [record.epoch for record in records if record.probes is not None]
    assert len(found) == min(epochs, evaluations)
    if evaluations:
        assert found[-1] == epochs
        gaps = [late - early for early, late in itertools.pairwise([0, *found])]
        assert max(gaps) - min(gaps) <= 1
        assert min(gaps) >= 1


def test_the_figures_are_accuracies_of_the_merged_models() -> None:
    net = net_of()
    wanted: list[dict[str, float]] = []
    found: list[dict[str, float]] = []
    probes = probe_structures(net.bound, 2, 5)

    def compare(record: Any) -> None:
        wanted.append({name: accuracy(net, structure) for name, structure in probes.items()})
        found.append(record.probes)

    settings = TrainSettings(epochs=15, batch_size=10, lr=0.1, seed=5, evaluations=15)
    train_supernet(net, (X, Y), (X, Y), settings, on_epoch=compare)
    assert found == wanted
    assert len({value for scores in found for value in scores.values()}) > 4


def test_two_trainings_are_watched_by_the_same_figures() -> None:
    settings = TrainSettings(epochs=6, batch_size=10, lr=2e-2)
    records = [train_supernet(net_of(), (X, Y), (X, Y), settings) for _ in range(2)]
    assert records[0] == records[1]
    assert all(record.probes for record in records[0])


def test_a_preset_is_watched_by_itself() -> None:
    net = net_of(presets.lora(2))
    (record,) = train_supernet(net, (X, Y), (X, Y), TrainSettings(epochs=1, batch_size=10))
    assert record.probes == {"fixed": accuracy(net, net.active)}


@pytest.mark.parametrize("val", [None, (X, Y)])
def test_without_data_or_evaluations_there_are_no_figures(val: Any) -> None:
    settings = TrainSettings(epochs=2, batch_size=10, evaluations=0 if val else 5)
    records = train_supernet(net_of(), (X, Y), val, settings)
    assert [record.probes for record in records] == [None, None]
    assert all("probes" not in record.to_dict() for record in records)

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glora.errors import BudgetError, StructureError
from glora.shapes import LayerShape
from glora.space import BoundSpace, SearchSpace
from glora.structure import TENSORS, Form, LayerStructure, Structure
from oracles.brute_force import parameters

FORMS = {
    "A": ["none", "scalar", "vector", "rank-1", "rank-4", "mul-2"],
    "B": ["none", "scalar", "vector", "rank-1", "rank-4"],
    "C": ["none", "vector", "rank-1", "rank-4"],
    "D": ["none", "scalar", "vector"],
    "E": ["none", "scalar", "vector"],
}
some_forms = {tensor: st.lists(st.sampled_from(forms), min_size=1, unique=True) for tensor, forms in FORMS.items()}
patterns = st.dictionaries(
    st.sampled_from(["a*", "b", "*"]), st.fixed_dictionaries({}, optional=some_forms), max_size=3
)
spaces = st.builds(SearchSpace, st.integers(1, 9), **some_forms, layers=patterns)
shapes = st.builds(LayerShape, st.integers(1, 50), st.integers(1, 50), st.booleans())


@st.composite
def bound_spaces(draw: st.DrawFn) -> BoundSpace:
    layers = {name: draw(shapes) for name in ("a1", "b")}
    return draw(spaces).bind(layers, draw(st.sampled_from(["create", "keep"])))


def test_the_default_space_is_that_of_the_method() -> None:
    texts = {tensor: [str(form) for form in forms] for tensor, forms in SearchSpace(8).choices("any").items()}
    assert texts == {
        "A": ["rank-8", "vector", "scalar", "none"],
        "B": ["rank-8", "vector", "scalar", "none"],
        "C": ["vector", "none"],
        "D": ["vector", "scalar", "none"],
        "E": ["vector", "scalar", "none"],
    }
    assert SearchSpace().cardinality(["a"]) == 288
    assert SearchSpace.paper().cardinality(["a"]) == 432
    assert SearchSpace.paper().cardinality([f"{i}" for i in range(48)]) == 432**48


@given(spaces)
def test_spaces_round_trip(space: SearchSpace) -> None:
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert hash(again) == hash(space)
    assert repr(again) == repr(space)


def test_spaces_that_differ_are_not_equal() -> None:
    pattern = {"a*": {"B": "none"}, "*": {"B": "vector"}}
    space = SearchSpace(layers=pattern)
    assert space == SearchSpace(layers=pattern)
    assert space != SearchSpace(layers=dict(reversed(pattern.items())))
    assert space != SearchSpace()
    assert SearchSpace(4) != SearchSpace(8)
    assert SearchSpace() != "SearchSpace"
    assert len({SearchSpace(), SearchSpace(4), SearchSpace(8)}) == 2


def test_the_first_pattern_that_matches_counts() -> None:
    space = SearchSpace(layers={"*.fc1": {"B": ["rank-8", "none"]}, "blocks.*": {"B": "none", "A": "vector"}})
    assert [str(form) for form in space.choices("blocks.0.fc1")["B"]] == ["rank-8", "none"]
    assert len(space.choices("blocks.0.fc1")["A"]) == 4
    assert space.choices("blocks.0.fc2")["B"] == (Form.NONE,)
    assert space.choices("blocks.0.fc2")["A"] == (Form.VECTOR,)
    assert space.choices("neck") == SearchSpace().choices("neck")


def test_forms_are_kept_once() -> None:
    assert SearchSpace(B=["LoRA_4", "rank-4", "constant", "scalar"]).forms["B"] == (Form.low_rank(4), Form.SCALAR)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "the rank of a search space is 1 or more, not 0"),
        ({"B": []}, "support tensor B needs at least one form"),
        ({"D": ["rank-4"]}, "support tensor D cannot have the form rank-4: choose from none, scalar, vector"),
        ({"B": "mul-2"}, "support tensor B cannot have the form mul-2"),
        ({"A": ["dense"]}, "unknown form 'dense'"),
        ({"layers": {"*": {"W": "none"}}}, r"pattern '\*' names 'W'; support tensors are A, B, C, D and E"),
        ({"layers": {"*": {"E": []}}}, "support tensor E needs at least one form"),
    ],
)
def test_spaces_that_cannot_be_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        SearchSpace(**settings)


def test_an_unknown_entry_of_a_file_is_an_error() -> None:
    with pytest.raises(StructureError, match="a search space has no entry 'ranks'"):
        SearchSpace.from_dict({"ranks": 4})


@given(spaces, st.integers(0, 99))
def test_samples_are_in_the_space(space: SearchSpace, seed: int) -> None:
    structure = space.sample(random.Random(seed), ["a1", "b", "c"])
    assert space.contains(structure)
    assert structure == space.sample(random.Random(seed), ["a1", "b", "c"])


def test_a_sample_is_uniform() -> None:
    space, rng = SearchSpace(), random.Random(0)
    drawn = [space.sample(rng, ["a"])["a"] for _ in range(2400)]
    for tensor, forms in space.forms.items():
        counts = Counter(layer[tensor] for layer in drawn)
        assert set(counts) == set(forms)
        assert all(abs(count * len(forms) / 2400 - 1) < 0.15 for count in counts.values())


def test_what_a_space_contains() -> None:
    space = SearchSpace(4, layers={"b": {"B": "vector"}})
    assert space.contains(Structure({"a": LayerStructure(B="rank-4")}))
    assert not space.contains(Structure({"a": LayerStructure(B="rank-2")}))
    assert not space.contains(Structure({"b": LayerStructure(B="rank-4")}))


@given(
    st.dictionaries(st.text(min_size=1, max_size=5), st.sampled_from([{"B": "rank-3"}, {"C": "vector", "E": "scalar"}]))
)
def test_the_space_of_a_structure_holds_only_it(layers: dict[str, dict[str, str]]) -> None:
    structure = Structure(layers)
    space = SearchSpace.of(structure)
    assert space.sample(random.Random(0), [*structure, "\0another"]) == structure
    assert space.cardinality([*structure, "\0another"]) == 1


def test_names_are_no_patterns_in_the_space_of_a_structure() -> None:
    names = ["a*", "a?", "a[b]", "ab", "a]"]
    structure = Structure({name: LayerStructure(B=f"rank-{rank}") for rank, name in enumerate(names, start=1)})
    assert SearchSpace.of(structure).sample(random.Random(0), [*names, "ac"]) == structure


@given(shapes)
def test_sizes_are_numbers_counted(shape: LayerShape) -> None:
    for tensor, forms in FORMS.items():
        for text in forms:
            counted = parameters(tensor, text, shape.out_features, shape.in_features)
            assert shape.size(tensor, Form.parse(text)) == counted


@given(bound_spaces(), st.integers(0, 99))
def test_bound_draws_and_sizes(space: BoundSpace, seed: int) -> None:
    structure = space.sample(random.Random(seed))
    space.check(structure)
    assert space.contains(structure)
    counted = sum(
        parameters(t, str(form), space.shapes[name].out_features, space.shapes[name].in_features)
        for name, layer in structure.items()
        for t, form in layer.items()
    )
    assert space.size(structure) == counted
    assert counted == sum(space.cost(name, t, structure[name][t]) for name, t in space.genes)
    assert space.smallest <= counted <= space.largest
    assert space.build({(name, t): structure[name][t] for name, t in space.genes}) == structure


@given(st.lists(shapes, min_size=1, max_size=2), st.sampled_from(["create", "keep"]))
def test_range_and_cardinality_by_trying_everything(layers: list[LayerShape], bias: Any) -> None:
    space = SearchSpace(2, A=["rank-2", "scalar"], B=["vector", "rank-1"]).bind(
        {str(i): s for i, s in enumerate(layers)}, bias
    )
    sizes = [
        sum(space.cost(*gene, form) for gene, form in zip(space.genes, chosen, strict=True))
        for chosen in itertools.product(*(space.choices(*gene) for gene in space.genes))
    ]
    assert (min(sizes), max(sizes), len(sizes)) == (space.smallest, space.largest, space.cardinality)


def test_genes_are_layers_by_tensors_in_order() -> None:
    space = SearchSpace().bind({"b": LayerShape(2, 3), "a": LayerShape(2, 3)})
    assert space.layers == ("b", "a")
    assert space.genes == tuple((name, tensor) for name in ("b", "a") for tensor in TENSORS)


@pytest.mark.parametrize(("bias", "left"), [("create", "ABCE"), ("keep", "AB")])
def test_a_layer_without_a_bias_has_fewer_choices(bias: Any, left: str) -> None:
    space = SearchSpace().bind({"a": LayerShape(2, 3, has_bias=False), "b": LayerShape(2, 3)}, bias)
    for tensor in TENSORS:
        expected = SearchSpace().forms[tensor] if tensor in left else (Form.NONE,)
        assert space.choices("a", tensor) == expected
        assert space.choices("b", tensor) == SearchSpace().forms[tensor]


def test_what_is_not_in_a_bound_space_is_named() -> None:
    space = SearchSpace(4).bind({"a": LayerShape(2, 3, has_bias=False), "b": LayerShape(2, 3)})
    cases = {
        r"a: D=vector is not in the search space \(the layer has no bias: none\)": {"a": {"D": "vector"}},
        r"b: B=rank-2 is not in the search space \(allowed: rank-4, vector, scalar, none\)": {"b": {"B": "rank-2"}},
        "layer 'c' is not adapted; the adapted layers are a, b": {"c": {"E": "vector"}},
    }
    for message, layers in cases.items():
        structure = Structure(layers)
        assert not space.contains(structure)
        with pytest.raises(StructureError, match=message):
            space.check(structure)
    with pytest.raises(StructureError, match="layer 'c' is not adapted"):
        space.size(Structure({"c": {"E": "vector"}}))


def test_many_layers_are_not_all_listed() -> None:
    space = SearchSpace().bind({f"l{i}": LayerShape(1, 1) for i in range(9)})
    with pytest.raises(StructureError, match="the adapted layers are l0, l1, l2, l3, l4, l5 and 3 more"):
        space.check_layers(Structure({"x": {"E": "vector"}}))


def test_a_pattern_that_matches_no_layer_is_an_error() -> None:
    with pytest.raises(StructureError, match=r"pattern '\*\.fc3' of the search space matches none"):
        SearchSpace(layers={"*.fc3": {"B": "none"}}).bind({"a.fc1": LayerShape(1, 1)})


def test_a_budget_below_the_smallest_is_an_error() -> None:
    space = SearchSpace(E=["vector", "scalar"]).bind({"a": LayerShape(2000, 3)})
    space.check_budget(1)
    with pytest.raises(BudgetError, match=r"has 0 adapter parameters or fewer: feasible budgets are 1 to 20,027"):
        space.check_budget(0)


def test_samples_use_only_the_given_generator() -> None:
    state = random.getstate()
    space = SearchSpace().bind({"a": LayerShape(2, 3)})
    assert space.sample(random.Random(3)) == space.sample(random.Random(3))
    assert random.getstate() == state

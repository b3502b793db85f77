from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glora.errors import StructureError
from glora.structure import TENSORS, Form, LayerStructure, Structure

FORMS = {
    "A": ["none", "scalar", "vector", "rank-1", "rank-16", "mul-1", "mul-8"],
    "B": ["none", "scalar", "vector", "rank-1", "rank-16"],
    "C": ["none", "vector", "rank-1", "rank-16"],
    "D": ["none", "scalar", "vector"],
    "E": ["none", "scalar", "vector"],
}
forms = st.one_of(
    st.sampled_from([Form.NONE, Form.SCALAR, Form.VECTOR]),
    st.builds(Form, st.sampled_from(["rank", "mul"]), st.integers(1, 10**6)),
)
layers = st.builds(LayerStructure, **{tensor: st.sampled_from(given) for tensor, given in FORMS.items()})
structures = st.dictionaries(st.text(), layers, max_size=6).map(Structure)


@given(forms)
def test_the_text_of_a_form_and_its_reading_are_inverses(form: Form) -> None:
    assert Form.parse(str(form)) == form
    assert Form.parse(form) is form
    assert hash(Form.parse(str(form))) == hash(form)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("constant", Form.SCALAR),
        ("LoRA_4", Form("rank", 4)),
        ("lora_16", Form("rank", 16)),
        ("none", Form.NONE),
        ("vector", Form.VECTOR),
        ("rank-4", Form.low_rank(4)),
        ("mul-2", Form("mul", 2)),
    ],
)
def test_other_spellings_are_understood(text: str, form: Form) -> None:
    assert Form.parse(text) == form


@pytest.mark.parametrize(
    "text", ["", "None", "rank", "rank-0", "rank--1", "rank-4 ", "rank-04", "rank4", "lora", "LoRA_0", 4, None]
)
def test_other_texts_are_errors(text: Any) -> None:
    with pytest.raises(StructureError, match=r"unknown form .*: write none, scalar, vector, rank-<r> or mul-<r>"):
        Form.parse(text)


@pytest.mark.parametrize(
    ("kind", "rank"), [("rank", 0), ("mul", -1), ("none", 1), ("vector", 2), ("lora", 0), ("scalar", -1)]
)
def test_a_form_has_a_rank_if_and_only_if_it_is_ranked(kind: Any, rank: int) -> None:
    with pytest.raises(StructureError, match=f"no form with kind '{kind}' and rank {rank}"):
        Form(kind, rank)


@pytest.mark.parametrize("tensor", TENSORS)
def test_which_tensor_has_which_form(tensor: str) -> None:
    for text in FORMS["A"]:
        if text in FORMS[tensor]:
            assert str(LayerStructure(**{tensor: text})[tensor]) == text
        else:
            with pytest.raises(
                StructureError, match=f"support tensor {tensor} cannot have the form {text}: choose from"
            ):
                LayerStructure(**{tensor: text})


def test_unnamed_tensors_are_none() -> None:
    layer = LayerStructure(B="LoRA_4", E=Form.VECTOR)
    assert dict(layer.items()) == {
        "A": Form.NONE,
        "B": Form.low_rank(4),
        "C": Form.NONE,
        "D": Form.NONE,
        "E": Form.VECTOR,
    }
    assert str(layer) == "B=rank-4 E=vector"
    assert not layer.is_none
    assert LayerStructure().is_none
    assert str(LayerStructure()) == "none"


@given(layers)
def test_layer_structures_round_trip(layer: LayerStructure) -> None:
    again = LayerStructure.from_dict(json.loads(json.dumps(layer.to_dict())))
    assert again == layer
    assert hash(again) == hash(layer)
    assert layer.is_none == (layer.to_dict() == {})


@pytest.mark.parametrize("act", [lambda: LayerStructure.from_dict({"F": "vector"}), lambda: LayerStructure()["F"]])
def test_there_are_five_support_tensors(act: Any) -> None:
    with pytest.raises(StructureError, match="no support tensor 'F': they are A, B, C, D and E"):
        act()


def test_values_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="cannot assign to field"):
        LayerStructure().A = Form.VECTOR  # type: ignore[misc]
    with pytest.raises(AttributeError, match="cannot assign to field"):
        Form.NONE.rank = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="does not support item assignment"):
        Structure()["fc"] = LayerStructure()  # type: ignore[index]


@given(structures)
def test_structures_round_trip(structure: Structure) -> None:
    for again in (
        Structure.from_json(structure.to_json()),
        Structure(structure.to_dict()),
        Structure(structure),
        pickle.loads(pickle.dumps(structure)),
        copy.deepcopy(structure),
    ):
        assert again == structure
        assert hash(again) == hash(structure)
        assert list(again) == list(structure)
        assert again.to_json() == structure.to_json()


@given(structures, structures)
def test_structures_are_equal_if_all_layers_are(first: Structure, second: Structure) -> None:
    names = set(first) | set(second)
    assert (first == second) == all(first[name] == second[name] for name in names)
    if first == second:
        assert hash(first) == hash(second)
    turned = Structure(dict(reversed(list(first.items()))))
    assert turned == first
    assert hash(turned) == hash(first)


def test_a_layer_that_is_all_none_is_a_layer_not_named() -> None:
    structure = Structure({"a": LayerStructure(), "b": {"E": "vector"}, "c": {}})
    assert structure == Structure({"b": LayerStructure(E="vector")})
    assert list(structure) == ["b"]
    assert len(structure) == 1
    assert "a" not in structure
    assert structure["a"] == structure["anything"] == LayerStructure()
    assert {structure: 1}[Structure({"b": {"E": "vector"}})] == 1
    assert repr(structure) == "Structure({'b': E=vector})"


def test_a_structure_is_no_dict() -> None:
    assert Structure() != {}
    assert Structure() == Structure({})


def test_a_structure_does_not_follow_what_it_was_made_from() -> None:
    source = {"b": LayerStructure(E="vector")}
    structure = Structure(source)
    source["c"] = LayerStructure(E="vector")
    structure.to_dict()["b"]["E"] = "none"
    assert structure == Structure({"b": LayerStructure(E="vector")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "this is no JSON"),
        ("[]", "a structure is a JSON object such as"),
        ('{"fc": "vector"}', "a structure is a JSON object such as"),
        ('{"fc": {"B": "rank-0"}}', "unknown form 'rank-0'"),
        ('{"fc": {"B": null}}', "unknown form None"),
        ('{"fc": {"D": "rank-2"}}', "support tensor D cannot have the form rank-2"),
        ('{"fc": {"X": "vector"}}', "no support tensor 'X'"),
    ],
)
def test_other_json_is_an_error(text: str, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        Structure.from_json(text)

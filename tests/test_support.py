"""The storage: what is allocated, how it starts, and that forms read the same numbers where they share it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glora.errors import StructureError
from glora.functional import LowRank, Multiplicative
from glora.shapes import LayerShape
from glora.structure import TENSORS, Form, LayerStructure
from glora.support import Storage, SupportTensors, read_form, sizes_of, slice_down
from helpers import FORMS
from oracles import dense

SHAPE = LayerShape(5, 7)


def support(storage: Storage = "shared", **forms: list[str]) -> SupportTensors:
    return SupportTensors(SHAPE, {t: [Form.parse(f) for f in texts] for t, texts in forms.items()}, {}, storage)


def sizes(module: SupportTensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


@pytest.mark.parametrize(
    ("forms", "wanted"),
    [
        ({}, {}),
        ({"A": ["none"]}, {}),
        ({"A": ["scalar", "none"]}, {"A": (1,)}),
        ({"A": ["vector", "scalar"]}, {"A": (5,)}),
        ({"B": ["rank-2", "rank-4", "vector"]}, {"B": (5, 4), "B_up": (4, 7)}),
        ({"C": ["vector"]}, {"C": (7,)}),
        ({"C": ["rank-3", "vector"]}, {"C": (7, 3), "C_up": (3, 1)}),
        ({"D": ["scalar"], "E": ["vector"]}, {"D": (1,), "E": (5,)}),
        ({"A": ["mul-2"]}, {"A_mul_down": (7, 2), "A_mul_up": (2, 7)}),
        ({"A": ["mul-2", "scalar"]}, {"A": (1,), "A_mul_down": (7, 2), "A_mul_up": (2, 7)}),
    ],
)
def test_only_what_the_forms_need_is_allocated(forms: dict[str, list[str]], wanted: dict[str, tuple[int, ...]]) -> None:
    assert sizes(support(**forms)) == wanted


@pytest.mark.parametrize(
    ("forms", "wanted"),
    [
        ({"A": ["vector"], "E": ["scalar", "none"]}, {"A": (5,), "E": (1,)}),
        ({"A": ["vector", "scalar"]}, {"A": (5,), "A_scalar": (1,)}),
        ({"B": ["rank-2", "rank-4", "vector"]}, {"B": (5, 4), "B_vector": (5,), "B_up": (4, 7)}),
        ({"C": ["rank-3", "vector"]}, {"C": (7, 3), "C_vector": (7,), "C_up": (3, 1)}),
        ({"A": ["mul-2", "scalar"]}, {"A": (1,), "A_mul_down": (7, 2), "A_mul_up": (2, 7)}),
    ],
)
def test_separate_storage_has_a_parameter_for_each_kind(
    forms: dict[str, list[str]], wanted: dict[str, tuple[int, ...]]
) -> None:
    module = support("separate", **forms)
    assert sizes(module) == wanted
    pointers = {
        kind: {module.parts(tensor, Form.parse(text))[0].data_ptr() for text in texts if text.startswith(kind)}
        for tensor, texts in forms.items()
        for kind in ("rank", "vector", "scalar")
    }
    assert all(len(own) <= 1 for own in pointers.values())  # the ranks share their factors


@pytest.mark.parametrize("storage", ["separate", "shared"])
def test_the_start_is_the_same_in_both_storages(storage: Storage) -> None:
    module = SupportTensors(SHAPE, FORMS, {}, storage, generator=torch.Generator().manual_seed(1))
    first = SupportTensors(SHAPE, FORMS, {}, generator=torch.Generator().manual_seed(1))
    assert all(first.get_parameter(f"{t}_up").equal(module.get_parameter(f"{t}_up")) for t in "ABC")


@pytest.mark.parametrize("tensor", TENSORS)
def test_one_form_stores_exactly_its_size(tensor: str) -> None:
    for out, into in ((5, 7), (1, 7), (5, 1), (1, 1)):
        shape = LayerShape(out, into)
        for form in FORMS[tensor]:
            numbers = sum(math.prod(size) for size in sizes_of(shape, tensor, [form], "separate").values())
            assert numbers == shape.size(tensor, form) == dense.size({tensor: str(form)}, out, into)


def test_every_form_starts_at_zero_effect_and_up_is_xavier_uniform() -> None:
    module = SupportTensors(LayerShape(40, 60), FORMS, {})
    for name, parameter in module.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.requires_grad
        if name.endswith("_up"):
            bound = math.sqrt(6 / sum(parameter.shape))
            assert parameter.abs().max() <= bound * (1 + 1e-6)
            if name != "C_up":  # three numbers only
                assert float(parameter.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
        else:
            assert not parameter.any()


def test_the_start_follows_from_the_generator_alone() -> None:
    def start(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [p.detach() for p in SupportTensors(SHAPE, FORMS, {}, generator=generator).parameters()]

    state = torch.get_rng_state()
    first, again, other = start(1), start(1), start(2)
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not all(a.equal(b) for a, b in zip(first, other, strict=True))
    assert torch.get_rng_state().equal(state)


def test_all_forms_of_a_tensor_read_the_same_memory_in_shared_storage() -> None:
    module = SupportTensors(SHAPE, FORMS, {})
    for tensor in "ABC":
        reads = [module.parts(tensor, form) for form in FORMS[tensor] if form.kind in ("rank", "vector", "scalar")]
        assert len({down.data_ptr() for down, _ in reads}) == 1
        assert {slice_down(down, form).data_ptr() for (down, _), form in zip(reads, FORMS[tensor], strict=False)} == {
            reads[0][0].data_ptr()
        }
    with torch.no_grad():
        module.get_parameter("B")[0, 0] = 4.0
    values = [module.values(LayerStructure(B=form)).B for form in ("rank-3", "vector", "scalar")]
    assert values[0].down[0, 0] == values[1][0] == values[2][0] == 4.0


def test_a_lower_rank_reads_the_first_columns() -> None:
    module = SupportTensors(SHAPE, FORMS, {})
    with torch.no_grad():
        module.get_parameter("A").copy_(torch.arange(15.0).reshape(5, 3))
    value = module.values(LayerStructure(A="rank-2")).A
    assert isinstance(value, LowRank)
    assert value.down.tolist() == [[0, 1], [3, 4], [6, 7], [9, 10], [12, 13]]
    assert value.up.equal(module.get_parameter("A_up")[:2])


def test_gains_multiply_and_default_to_one() -> None:
    module = SupportTensors(SHAPE, FORMS, {"B.vector": 0.5, "B.rank": 3.0})
    with torch.no_grad():
        module.get_parameter("B").fill_(2.0)
    assert module.gain("B", Form.VECTOR) == 0.5
    assert module.gain("B", Form.SCALAR) == 1.0
    assert module.values(LayerStructure(B="vector")).B.tolist() == [1.0] * 5
    assert module.values(LayerStructure(B="scalar")).B.tolist() == [2.0]
    assert module.values(LayerStructure(B="rank-1")).B.down.tolist() == [[6.0]] * 5
    assert module.values(LayerStructure(B="rank-1")).B.up.equal(module.get_parameter("B_up")[:1])


def test_values_in_another_dtype() -> None:
    module = SupportTensors(SHAPE, FORMS, {})
    values = module.values(LayerStructure(A="mul-3", B="rank-3", C="vector", D="vector", E="scalar"), torch.float64)
    assert isinstance(values.A, Multiplicative)
    tensors = [values.A.down, values.A.up, values.B.down, values.B.up, values.C, values.D, values.E]
    assert {t.dtype for t in tensors} == {torch.float64}


def test_without_active_forms_there_are_no_values() -> None:
    assert all(value is None for value in SupportTensors(SHAPE, FORMS, {}).values(LayerStructure()))


@pytest.mark.parametrize(
    ("tensor", "form"),
    [("A", "rank-4"), ("A", "mul-4"), ("D", "vector"), ("E", "vector"), ("B", "scalar")],
)
def test_a_form_that_was_not_allocated_is_refused(tensor: str, form: str) -> None:
    module = support(A=["rank-3", "mul-3"], E=["scalar"])
    with pytest.raises(StructureError, match=f"{tensor}={form} has no storage here"):
        module.parts(tensor, Form.parse(form))


@pytest.mark.parametrize("storage", ["separate", "shared"])
@given(st.sampled_from(sorted(FORMS)), st.integers(1, 6), st.integers(1, 6), st.data())
def test_reading_a_form_is_the_oracles_dense_value(
    storage: Storage, tensor: str, out: int, into: int, data: st.DataObject
) -> None:
    form = data.draw(st.sampled_from([f for f in FORMS[tensor] if f.kind not in ("none", "mul")]))
    gain = data.draw(st.sampled_from([1.0, 0.25, 30.0]))
    module = SupportTensors(LayerShape(out, into), FORMS, {}, storage, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(out))
    value = read_form(*module.parts(tensor, form), form, gain)
    stored = dict(module.named_parameters())
    wanted = dense.support(tensor, {tensor: str(form)}, stored, {f"{tensor}.{form.kind}": gain}, out, into)
    full = value.down @ value.up if isinstance(value, LowRank) else value.expand(len(wanted)).unsqueeze(1)
    assert torch.allclose(full.expand(len(wanted), -1), wanted.reshape(len(wanted), -1), atol=1e-12)


def test_on_the_meta_device_nothing_is_drawn() -> None:
    module = SupportTensors(SHAPE, FORMS, {}, device=torch.device("meta"))
    assert all(p.is_meta for p in module.parameters())

"""The capacity claim's premise: what each structure can compute, another one or the whole space can too, or cannot."""

from __future__ import annotations

import pytest
import torch

from glora import LayerStructure, SearchSpace, Structure, presets
from helpers import RANK, adapted, layer_structures, linear, randomise, storage
from oracles import dense

OUT, INTO = 5, 6
LARGEST = LayerStructure(A=f"rank-{RANK}", B=f"rank-{RANK}", C="vector", D="vector", E="vector")
WITH_MUL = SearchSpace(4, A=["rank-4", "mul-4", "vector", "scalar", "none"])


def point(space: SearchSpace) -> Structure:
    return Structure({"fc": LayerStructure(**{tensor: forms[0] for tensor, forms in space.forms.items()})})


@pytest.mark.parametrize(
    ("method", "default", "with_mul"),
    [
        (presets.lora(4), True, True),
        (presets.ssf(), True, True),
        (presets.ia3(), True, True),
        (presets.bitfit(), True, True),
        (presets.prompt(), True, True),
        (presets.frozen(), True, True),
        (presets.repadapter(4), False, True),
        (SearchSpace.point(LayerStructure(A="rank-4", C="vector", D="vector")), True, True),
        (SearchSpace.point(LayerStructure(B="rank-4", C="vector", E="vector")), True, True),
    ],
    ids=["LoRA", "SSF", "IA3", "BitFit", "prompt", "probe", "RepAdapter", "fixed GLoRA", "LoRA, prompt and BitFit"],
)
def test_which_methods_are_points_of_the_space(method: SearchSpace, default: bool, with_mul: bool) -> None:
    assert SearchSpace(4).contains(point(method)) is default
    assert SearchSpace.paper(4).contains(point(method)) is default
    assert WITH_MUL.contains(point(method)) is with_mul


def test_every_structure_is_contained_in_the_largest() -> None:
    seen = 0
    for seed, structure in enumerate(layer_structures()):
        if structure.A.kind == "mul":
            continue
        one, largest = adapted(linear(OUT, INTO)), adapted(linear(OUT, INTO), {t: (f,) for t, f in LARGEST.items()})
        randomise(one, seed)
        one.activate(structure)
        largest.activate(LARGEST)
        with torch.no_grad():
            for tensor in "ABCDE":
                value = dense.support(tensor, structure.to_dict(), storage(one), {}, OUT, INTO)
                if tensor in "AB":  # of rank 3 at most, so that its singular vectors are the factors
                    left, scale, right = torch.linalg.svd(value)
                    largest.support.get_parameter(tensor).copy_((left * scale)[:, :RANK])
                    largest.support.get_parameter(f"{tensor}_up").copy_(right[:RANK])
                else:
                    largest.support.get_parameter(tensor).copy_(
                        value.reshape(largest.support.get_parameter(tensor).shape)
                    )
        for found, wanted in zip(largest.merged(), one.merged(), strict=True):
            assert torch.allclose(found, wanted, atol=1e-10), structure
        seen += 1
    assert seen == 4 * 4 * 3 * 3 * 3


def change(structure: LayerStructure) -> torch.Tensor:
    """W* - W0 of a layer with random support tensors."""
    layer = adapted(linear(OUT, INTO), {t: (f,) for t, f in structure.items()})
    randomise(layer)
    layer.activate(structure)
    return layer.merged()[0] - layer.weight


@pytest.mark.parametrize(
    ("forms", "rank"),
    [
        ({"B": "rank-1"}, 1),
        ({"B": "rank-2"}, 2),
        ({"A": "mul-2"}, 2),
        ({"A": "vector"}, OUT),
        ({"A": "rank-1"}, OUT),
        ({"C": "vector", "D": "vector", "E": "vector"}, 0),
    ],
    ids=str,
)
def test_a_scale_of_the_weight_reaches_what_lora_cannot(forms: dict[str, str], rank: int) -> None:
    """LoRA's change has at most its rank; that of A is W0 with other rows, which no lower rank than W0's own has."""
    assert int(torch.linalg.matrix_rank(change(LayerStructure(**forms)))) == rank

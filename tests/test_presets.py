from __future__ import annotations

import random

import pytest

from glora import presets
from glora.errors import StructureError
from glora.shapes import LayerShape
from glora.space import SearchSpace
from glora.structure import LayerStructure

# Method, its layer structure (table of special cases in docs/method.md), and its size on a 6 x 4 layer by hand.
PRESETS = {
    "lora": (presets.lora(3), LayerStructure(B="rank-3"), 3 * (6 + 4)),
    "ssf": (presets.ssf(), LayerStructure(A="vector", D="vector", E="vector"), 6 + 6 + 6),
    "ia3": (presets.ia3(), LayerStructure(A="vector", D="vector"), 6 + 6),
    "bitfit": (presets.bitfit(), LayerStructure(E="vector"), 6),
    "prompt": (presets.prompt(), LayerStructure(C="vector"), 4),
    "repadapter": (presets.repadapter(2), LayerStructure(A="mul-2", C="vector"), 2 * (4 + 4) + 4),
    "frozen": (presets.frozen(), LayerStructure(), 0),
}


@pytest.mark.parametrize(("space", "layer", "size"), PRESETS.values(), ids=PRESETS.keys())
def test_a_preset_is_a_space_with_one_point(space: SearchSpace, layer: LayerStructure, size: int) -> None:
    bound = space.bind({"fc": LayerShape(6, 4)})
    assert space.cardinality(["a", "b"]) == bound.cardinality == 1
    structure = space.sample(random.Random(0), ["fc"])
    assert structure["fc"] == layer
    assert bound.sample(random.Random(1)) == structure
    assert bound.smallest == bound.largest == bound.size(structure) == size
    assert SearchSpace.from_dict(space.to_dict()) == space == SearchSpace.point(layer)


def test_all_presets_are_here() -> None:
    assert sorted(presets.__all__) == sorted(PRESETS)


@pytest.mark.parametrize("preset", [presets.lora, presets.repadapter])
def test_ranks_are_positive(preset) -> None:
    with pytest.raises(StructureError, match="only 'rank' and 'mul' have a rank, of 1 or more"):
        preset(0)

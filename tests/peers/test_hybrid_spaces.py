"""Spaces with prompts and adapters: what is refused, what stays as it was, training and search."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hybrid_nets import BLOCKS, MIXED, NETS, PROMPTS, SPACE
from timm.models.vision_transformer import Block
from torch import nn
from vits import CLASSES, DEPTH, WIDTH, X, vit

import glora
from glora import SearchSpace, Structure, TrainSettings, adapt
from glora.blend import blended_structure
from glora.errors import CheckpointError, StructureError, TargetError
from glora.shapes import BlockShape, LayerShape
from glora.soup import Soup
from glora.structure import BlockStructure, Form, LayerStructure
from glora.train import train_supernet
from helpers import MLP

# What is refused


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: SearchSpace(prompts=["bottleneck-4"]), "the prompt of a block cannot have the form bottleneck-4"),
        (lambda: SearchSpace(adapters="tokens-4"), "choose from bottleneck-<r>, none, serial-<r>"),
        (lambda: SearchSpace(adapters=[]), "the adapter of a block needs at least one form"),
        (lambda: SearchSpace(B="tokens-4"), "support tensor B cannot have the form tokens-4"),
        (lambda: SearchSpace(blocks={"blocks.0": {"B": "vector"}}), "names 'B'; blocks have a prompt and an adapter"),
        (lambda: SearchSpace.from_dict({"prompt": []}), "it has rank, A to E and layers, and for hybrids prompts"),
        (lambda: adapt(vit(), SearchSpace(blocks={"block.*": {"prompt": PROMPTS}})), "matches none of the model's blo"),
        (lambda: Structure({"blocks.0": {"prompt": "tokens-1", "B": "vector"}}), "no support tensor 'prompt'"),
        (lambda: adapt(vit()).activate(MIXED), "block 'blocks.0' cannot have a prompt or an adapter here"),
        (lambda: NETS["vit"].activate(Structure({"blocks.0": {"B": "vector"}})), "layer 'blocks.0' is not adapted"),
        (
            lambda: NETS["vit"].activate(Structure({"blocks.1": {"prompt": "tokens-4"}})),
            "blocks.1: prompt=tokens-4 has",
        ),
        (lambda: blended_structure(Soup((MIXED,), (1.0,))), "prompts and adapters of blocks have no mean"),
        (
            lambda: glora.search(NETS["vit"], (X, torch.zeros(4)), select="soup"),
            "prompts and adapters of blocks have no mean: leave them out of the space",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(make: Any, why: str) -> None:
    with pytest.raises(StructureError, match=why):
        make()
    assert NETS["vit"].active == Structure()


def test_other_models_are_refused_and_left_alone() -> None:
    model = MLP()
    with pytest.raises(TargetError, match=r"MLP is not supported .* plain blocks, as ViT, DeiT and DINOv2 are"):
        adapt(model, SPACE)
    assert type(model.first) is nn.Linear
    changed = vit()
    changed.blocks[1].forward = lambda x: x  # type: ignore[attr-defined]
    with pytest.raises(TargetError, match="plain blocks"):
        adapt(changed, SPACE)


# Plain spaces are as they were


def test_without_hybrids_files_and_models_are_as_before() -> None:
    structure = Structure({"blocks.0.attn.qkv": LayerStructure(A="vector", B="rank-4"), "head": {"E": "scalar"}})
    assert structure.to_json() == '{"blocks.0.attn.qkv": {"A": "vector", "B": "rank-4"}, "head": {"E": "scalar"}}'
    assert json.dumps(SearchSpace(4, layers={"*.fc1": {"B": "none"}}).to_dict()) == (
        '{"rank": 4, "A": ["rank-4", "vector", "scalar", "none"], "B": ["rank-4", "vector", "scalar", "none"], '
        '"C": ["vector", "none"], "D": ["vector", "scalar", "none"], "E": ["vector", "scalar", "none"], '
        '"layers": {"*.fc1": {"B": ["none"]}}}'
    )
    assert not SearchSpace().is_hybrid
    assert SPACE.is_hybrid
    net = adapt(vit())
    assert all(type(block) is Block for block in net.model.blocks)
    assert "block" not in str(net).replace("blocks.", "")
    assert not any(place.__class__ is BlockStructure for place in net.sample(random.Random(0)).values())


def test_the_genes_of_layers_come_first_and_draw_as_without_blocks() -> None:
    plain, hybrid = adapt(vit(), SearchSpace(2)).bound, NETS["vit"].bound
    assert hybrid.genes[: len(plain.genes)] == plain.genes
    assert hybrid.genes[len(plain.genes) :] == tuple(
        (block, part) for block in BLOCKS for part in ("prompt", "adapter")
    )
    for seed in range(3):
        assert hybrid.sample(random.Random(seed)).layers == plain.sample(random.Random(seed)).layers
    one = WIDTH * 5 + 5 + 5 * WIDTH + WIDTH
    two = 2 * (WIDTH * 4 + 4 + 4 * WIDTH + WIDTH)
    assert hybrid.largest == plain.largest + DEPTH * (3 * WIDTH + max(one, two))
    assert hybrid.cardinality == plain.cardinality * 15**DEPTH


def test_blocks_may_differ() -> None:
    space = SearchSpace(2, prompts=PROMPTS, blocks={"blocks.0": {"prompt": "none", "adapter": ["none", "serial-2"]}})
    bound = space.bind({"blocks.0": BlockShape(8), "blocks.1": BlockShape(8), "fc": LayerShape(4, 4)})
    assert bound.choices("blocks.0", "prompt") == (Form.NONE,)
    assert bound.cost("blocks.0", "adapter", Form.parse("serial-2")) == 2 * (2 * 8 + 2 + 2 * 8 + 8)
    assert bound.choices("blocks.1", "adapter") == (Form.NONE,)
    assert bound.layers == ("fc",)
    assert bound.blocks == ("blocks.0", "blocks.1")
    assert SearchSpace.from_dict(space.to_dict()) == space != SearchSpace(2, prompts=PROMPTS)


# Training and search


def test_a_supernet_is_trained_resumed_and_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glora.train.supernet._CHECKPOINT_SECONDS", 0.0)
    data = X.repeat(4, 1, 1, 1), torch.arange(16) % CLASSES
    recipe = TrainSettings(epochs=3, batch_size=4, warmup_epochs=0, precision="fp32")

    class Killed(Exception):
        pass

    def kill(record: Any) -> None:
        if record.epoch == 2:
            raise Killed

    whole, state = adapt(vit(), SPACE), tmp_path / "state.safetensors"
    start = {key: p.detach().clone() for key, p in whole.adapter_parameters().items()}
    train_supernet(whole, data, settings=recipe)
    with pytest.raises(Killed):
        train_supernet(adapt(vit(), SPACE), data, settings=recipe, state=state, on_epoch=kill)
    resumed = adapt(vit(), SPACE)
    train_supernet(resumed, data, settings=recipe, state=state)
    for key, parameter in whole.adapter_parameters().items():
        assert torch.equal(parameter, resumed.adapter_parameters()[key])
        if "support" not in key:
            assert not torch.equal(parameter, start[key]), f"{key} was never trained"
    with pytest.raises(CheckpointError, match="was trained with space=others"):
        train_supernet(adapt(vit(), SearchSpace(2, prompts=PROMPTS)), data, settings=recipe, state=state)
    budget = (whole.bound.smallest + whole.bound.largest) // 3
    found = glora.search(whole, data, budget, generations=2, population=6, history=tmp_path / "search.jsonl")
    assert found.winner.size == whole.size(found.best) <= budget
    assert any(candidate.structure.blocks for candidate in found.history)
    again = glora.search(resumed, data, budget, generations=2, population=6, history=tmp_path / "search.jsonl")
    assert again.best == found.best


def test_rates_by_kind_count_parts_as_low_rank() -> None:
    data = X, torch.arange(4) % CLASSES
    nets = [adapt(vit(), SearchSpace.of(MIXED)) for _ in range(2)]
    for net, scale in zip(nets, ({"rank": 0.0, "vector": 0.0, "scalar": 0.0}, {"rank": 2.0}), strict=True):
        net.activate(MIXED)
        start = net.adapter_parameters()["blocks.0.enter.tokens"].detach().clone()
        settings_ = TrainSettings(epochs=1, batch_size=4, warmup_epochs=0, lr_scale=scale, precision="fp32")
        train_supernet(net, data, settings=settings_)
        moved = not torch.equal(start, net.adapter_parameters()["blocks.0.enter.tokens"])
        assert moved == (scale["rank"] > 0)


def test_what_is_printed_says_so() -> None:
    net = adapt(vit(), SPACE)
    net.activate(MIXED)
    text = str(net)
    assert f"{4 * DEPTH} layers ({4 * DEPTH} Linear) and {DEPTH} blocks" in text
    assert "prompts=[none, tokens-1, tokens-3]" in text
    assert f"{net.size(MIXED):,} parameters in 1 layers and 2 blocks" in text
    assert "cannot be merged" in text

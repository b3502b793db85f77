"""Prompts and adapters as genes of blocks, against the formulas in float64, the peers, and what plain spaces give."""

from __future__ import annotations

import copy
import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hybrid_nets import BLOCKS, MIXED, NETS, PROMPTS, SPACE, filled
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import Block
from torch import Tensor
from vits import HEADS, KINDS, WIDTH, X, vit

from glora import GLoRAModel, SearchSpace, Structure, adapt
from glora.checkpoint import load, load_merged, load_supernet, read_metadata, save_merged, save_supernet
from glora.errors import CheckpointError, MergeError, TargetError
from glora.layers import AdaptedLayer
from glora.layers.block import ExtendedBlock
from glora.peers import peer
from helpers import MLP
from oracles import vit as oracle


def formula(net: GLoRAModel, structure: Structure, kind: str) -> Tensor:
    """The oracle's forward over weights merged without the blocks, which merging is tested for elsewhere."""
    pool, before, _ = KINDS[kind]
    own = net.adapter_parameters()
    blocks = {int(name.split(".")[1]): place.to_dict() for name, place in structure.blocks.items()}
    state = net.merge(Structure(structure.layers)).state_dict()
    return oracle.vit(state, X, HEADS, pool, oracle.hybrid(own, blocks, before))


SEEDS = st.integers(0, 10_000)


@given(seed=SEEDS, kind=st.sampled_from(list(KINDS)))
@settings(max_examples=15)
def test_any_structure_is_the_published_formulas(seed: int, kind: str) -> None:
    net = NETS[kind]
    structure = net.sample(random.Random(seed))
    wanted = formula(net, structure, kind)
    with net.using(structure):
        assert torch.allclose(net(X.double()), wanted, atol=1e-10)
    with net.folded(structure):
        assert torch.allclose(net(X.double()), wanted, atol=1e-10)


def test_gradients_are_those_of_the_formula_and_nothing_beyond_what_acts() -> None:
    net = NETS["dinov2"]
    blocks = {name: p for name, p in net.adapter_parameters().items() if "support" not in name}
    leaves = list(blocks.values())
    with net.using(MIXED):
        found = torch.autograd.grad(net(X.double()).square().sum(), leaves, allow_unused=True)
    wanted = torch.autograd.grad(formula(net, MIXED, "dinov2").square().sum(), leaves, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-9)
    tokens = dict(zip(blocks, found, strict=True))["blocks.0.enter.tokens"]
    assert tokens is not None
    assert tokens[0].any()
    assert not tokens[1:].any()


@pytest.mark.parametrize(
    ("name", "form", "options"),
    [
        ("vpt-deep", {"prompt": "tokens-3"}, {"tokens": 3}),
        ("adaptformer", {"adapter": "bottleneck-5"}, {"hidden": 5}),
        ("adapter", {"adapter": "serial-4"}, {"hidden": 4}),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_one_part_in_every_block_is_the_peer_of_that_method(name: str, form: dict, options: dict, kind: str) -> None:
    net, structure = NETS[kind], Structure(dict.fromkeys(BLOCKS, form))
    other = peer(name, vit(kind).double(), **options).eval()
    own = net.adapter_parameters()
    with torch.no_grad():
        for key, parameter in (*other.adapter_parameters().items(), *other.head_parameters().items()):
            parameter.copy_((own | net.head_parameters())[key])
    with net.using(structure):
        assert torch.equal(net(X.double()), other(X.double()))
    assert net.size(structure) == other.size


@given(seed=SEEDS)
@settings(max_examples=10)
def test_structures_round_trip_and_files_hold_exactly_their_tensors(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    net = NETS["vit"]
    structure = net.sample(random.Random(seed))
    assert Structure.from_json(structure.to_json()) == structure
    assert hash(Structure.from_json(structure.to_json())) == hash(structure)
    assert SPACE.contains(structure)
    assert net.bound.contains(structure)
    assert SearchSpace.from_dict(json.loads(json.dumps(SPACE.to_dict()))) == SPACE
    path = tmp_path_factory.mktemp("hybrid") / "adapter.safetensors"
    net.save(path, structure)
    tensors = load_file(path)
    assert sum(t.numel() for key, t in tensors.items() if not key.startswith("head.")) == net.size(structure)
    loaded = load(vit().double(), path)
    assert loaded.active == structure
    with net.using(structure):
        assert torch.equal(loaded(X.double()), net(X.double()))


def test_a_file_is_the_same_in_a_fresh_process(tmp_path: Path, environment: dict[str, str]) -> None:
    net = filled()
    net.save(tmp_path / "adapter.safetensors", MIXED)
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}\n"
        "from vits import X, vit; from glora import load\n"
        f"print(load(vit().double(), {str(tmp_path / 'adapter.safetensors')!r})(X.double()).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    with net.using(MIXED):
        assert torch.allclose(torch.tensor(json.loads(done.stdout)), net(X.double()).float(), atol=1e-6)


@pytest.mark.parametrize(
    ("key", "why"), [("layers.blocks.0.enter.tokens", "lacks 1 tensors"), (None, "has 1 tensors that do not belong")]
)
def test_files_that_lack_a_tensor_or_have_another_are_refused(tmp_path: Path, key: str | None, why: str) -> None:
    path = tmp_path / "adapter.safetensors"
    NETS["vit"].save(path, MIXED)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    if key is None:
        tensors["layers.blocks.1.enter.tokens"] = torch.zeros(1, WIDTH)
    else:
        del tensors[key]
    save_file(tensors, path, metadata)
    model = vit().double()
    with pytest.raises(CheckpointError, match=why):
        load(model, path)
    assert all(type(block) is Block for block in model.blocks)


def test_a_supernet_file_fills_prompts_and_adapters(tmp_path: Path) -> None:
    net, path = NETS["vit"], tmp_path / "supernet.safetensors"
    save_supernet(net, path)
    other = adapt(vit().double(), SPACE, seed=7)
    load_supernet(other, path)
    assert all(torch.equal(p, net.adapter_parameters()[key]) for key, p in other.adapter_parameters().items())
    with pytest.raises(CheckpointError, match="another space"):
        load_supernet(adapt(vit().double(), SearchSpace(2, prompts=PROMPTS)), path)


def test_adapters_start_at_zero_and_one_seed_gives_one_start() -> None:
    net = adapt(vit(), SPACE, seed=3)
    before = vit()(X)
    state = torch.get_rng_state()
    again, other = adapt(vit(), SPACE, seed=3), adapt(vit(), SPACE, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net(X), before)
    with net.using(Structure({"blocks.1": {"adapter": "serial-4"}, "blocks.2": {"adapter": "bottleneck-2"}})):
        assert torch.equal(net(X), before)
    with net.using(Structure({"blocks.1": {"prompt": "tokens-1"}})):
        assert not torch.allclose(net(X), before)
    name = "blocks.1.enter.tokens"
    assert torch.equal(net.adapter_parameters()[name], again.adapter_parameters()[name])
    assert not torch.equal(net.adapter_parameters()[name], other.adapter_parameters()[name])


# Leaving


def test_merging_names_the_blocks_and_refuses() -> None:
    net = filled()
    net.activate(MIXED)
    before = net(X.double())
    with pytest.raises(
        MergeError, match=r"^blocks\.0, blocks\.2: prompts and adapters cannot be merged .*keep_hybrids"
    ):
        net.merge()
    with pytest.raises(MergeError, match="leave alpha at 1"):
        net.merge(alpha=0.5, keep_hybrids=True)
    assert torch.equal(net(X.double()), before)
    plain = net.merge(Structure(MIXED.layers))
    assert all(type(block) is Block for block in plain.blocks)


@pytest.mark.parametrize("inplace", [False, True])
def test_merging_may_leave_hybrids_in(inplace: bool) -> None:
    net = filled()
    net.activate(MIXED)
    before = net(X.double())
    merged = net.merge(inplace=inplace, keep_hybrids=True).eval()
    assert torch.allclose(merged(X.double()), before, atol=1e-10)
    assert not any(isinstance(module, AdaptedLayer) for module in merged.modules())
    kept = {name for name, module in merged.named_modules() if isinstance(module, ExtendedBlock)}
    assert kept == {"blocks.0", "blocks.2"}
    pretrained = sum(p.numel() for p in vit().parameters())
    blocks = net.bound.size(Structure(MIXED.blocks))
    assert sum(p.numel() for p in merged.parameters()) == pretrained + blocks
    if not inplace:
        assert torch.equal(net(X.double()), before)
    with pytest.raises(TargetError, match="adapted already"):
        adapt(merged)


def test_ejecting_gives_the_blocks_back() -> None:
    model = vit().double()
    blocks, state = list(model.blocks), {key: value.clone() for key, value in model.state_dict().items()}
    net = adapt(model, SPACE)
    net.activate(MIXED)
    ejected = net.eject()
    assert list(ejected.blocks) == blocks
    assert all(torch.equal(value, ejected.state_dict()[key]) for key, value in state.items())
    assert ejected.state_dict().keys() == state.keys()


def test_a_merged_file_says_that_it_is_a_hybrid_and_loads(tmp_path: Path) -> None:
    net, path = filled(), tmp_path / "merged.safetensors"
    merged = net.merge(MIXED, keep_hybrids=True).eval()
    save_merged(merged, path)
    assert read_metadata(path).values["hybrids"] == {
        "blocks.0": {
            "forms": {"prompt": "tokens-1", "adapter": "bottleneck-2"},
            "gains": {"adapter.bottleneck": 0.1},
        },
        "blocks.2": {"forms": {"prompt": "tokens-3", "adapter": "serial-1"}, "gains": {"adapter.serial": 1.0}},
    }
    loaded = load_merged(vit(seed=9).double(), path).double().eval()
    assert torch.equal(loaded(X.double()), merged(X.double()))
    with pytest.raises(CheckpointError, match="prompts or adapters that do not fit this model: MLP"):
        load_merged(MLP(), path)
    save_merged(net.merge(Structure(MIXED.layers)), path)
    assert "hybrids" not in read_metadata(path).values


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_is_a_model_of_its_own_as_workers_need_it(copied: Callable[[GLoRAModel], GLoRAModel]) -> None:
    net = filled()
    other = copied(net)
    with net.using(MIXED):
        wanted = net(X.double())
    assert not torch.allclose(other(X.double()), wanted)
    other.activate(MIXED)
    assert torch.equal(other(X.double()), wanted)
    assert net.active == Structure()
    with torch.no_grad():
        other.adapter_parameters()["blocks.0.enter.tokens"].zero_()
    assert not torch.allclose(other(X.double()), wanted)
    with net.using(MIXED):
        assert torch.equal(net(X.double()), wanted)

"""Adapter, supernet and merged files: complete, strict both ways, bound to the backbone, the same to the byte."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import glora
from glora import LayerStructure, SearchSpace, Structure
from glora.checkpoint import fingerprint, load_merged, load_supernet, read_metadata, save_merged, save_supernet
from glora.errors import CheckpointError
from helpers import MLP, randomise, some_structure

X = torch.linspace(-2, 2, 30).reshape(5, 6)
HERE = Path(__file__).parent


def trained(structure: Structure | None = None, bias: bool = True, seed: int = 3, **settings) -> glora.GLoRAModel:
    net = glora.adapt(MLP(bias), SearchSpace.paper(2), **settings)
    randomise(net)
    with torch.no_grad():
        for parameter in net.head_parameters().values():
            parameter.add_(0.25)
    net.activate(some_structure(net, seed) if structure is None else structure)
    return net


def parts(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        metadata = json.loads(file.read(length))["__metadata__"]
    return json.loads(metadata["glora"]), load_file(path)


def rewrite(path: Path, metadata: dict, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path, {"glora": json.dumps(metadata)})


def untouched(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = model.state_dict()
    plain = type(model.first) is type(model.second) is nn.Linear
    free = all(p.requires_grad for p in model.parameters()) and all(m.training for m in model.modules())
    return plain and free and list(now) == list(before) and all(now[key].equal(before[key]) for key in before)


def refused(path: Path, match: str, model: nn.Module | None = None) -> None:
    """Loading fails with a message, and the model is as it was before."""
    model = model or MLP()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match):
        glora.load(model, path)
    assert untouched(model, before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "adapter.safetensors"
    structure = Structure(
        {
            "first": LayerStructure(A="rank-2", B="vector", C="rank-2", D="scalar", E="vector"),
            "second": LayerStructure(A="scalar", B="rank-1"),
        }
    )
    trained(structure).save(path)
    return path


# What a file holds


@pytest.mark.parametrize("bias", [True, False])
def test_the_file_holds_the_subnet_and_the_head_and_nothing_else(tmp_path: Path, bias: bool) -> None:
    for seed in range(20):
        net = trained(bias=bias, seed=seed)
        net.save(tmp_path / "a.safetensors")
        metadata, tensors = parts(tmp_path / "a.safetensors")
        assert sum(t.numel() for t in tensors.values()) == net.size(net.active) + net.head_size
        assert metadata["parameters"] == net.size(net.active)
        assert metadata["structure"] == net.active.to_dict()
        assert metadata["head"] == ["out"]
        assert metadata["version"]
        assert os.path.getsize(tmp_path / "a.safetensors") < 4 * (net.size(net.active) + net.head_size) + 16_384


def test_save_and_load_give_the_same_outputs(tmp_path: Path) -> None:
    for bias in (True, False):
        for seed in range(20):
            net = trained(bias=bias, seed=seed)
            net.save(tmp_path / "a.safetensors")
            other = glora.load(MLP(bias), tmp_path / "a.safetensors")
            assert other.active == net.active
            assert torch.allclose(other(X), net(X), atol=1e-6)
            assert other.head_names == net.head_names
            assert other.head_parameters()["out.weight"].requires_grad


def test_a_structure_other_than_the_active_one(tmp_path: Path) -> None:
    net = trained(Structure())
    structure = some_structure(net, 9)
    net.save(tmp_path / "a.safetensors", structure)
    assert net.active == Structure()
    with net.using(structure):
        assert torch.allclose(glora.load(MLP(), tmp_path / "a.safetensors")(X), net(X), atol=1e-6)


def test_a_frozen_backbone_with_a_trained_head(tmp_path: Path) -> None:
    net = trained(Structure())
    net.save(tmp_path / "a.safetensors")
    assert len(load_file(tmp_path / "a.safetensors")) == 2
    assert glora.load(MLP(), tmp_path / "a.safetensors")(X).equal(net(X))


def test_without_a_head_only_the_subnet_is_stored(tmp_path: Path) -> None:
    net = trained(head=False)
    net.save(tmp_path / "a.safetensors")
    assert all(key.startswith("layers.") for key in load_file(tmp_path / "a.safetensors"))
    assert torch.allclose(glora.load(MLP(), tmp_path / "a.safetensors")(X), net(X), atol=1e-6)


def test_a_head_of_several_parts_with_buffers(tmp_path: Path) -> None:
    class Distilled(nn.Module):
        def __init__(self, seed: int = 0) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.body = nn.Linear(6, 6)
            self.head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
            self.head_dist = nn.Linear(6, 3)

        def get_classifier(self):
            return self.head, self.head_dist

        def forward(self, x):
            x = self.body(x)
            return self.head(x) + self.head_dist(x)

    net = glora.adapt(Distilled(), SearchSpace(2))
    net.activate(some_structure(net))
    net.train()(X)
    with torch.no_grad():
        net.model.head_dist.weight.add_(1)
    net.eval().save(tmp_path / "a.safetensors")
    other = glora.load(Distilled(), tmp_path / "a.safetensors").eval()
    assert other.head_names == ("head", "head_dist")
    assert int(other.model.head[0].num_batches_tracked) == 1
    assert torch.allclose(other(X), net(X), atol=1e-6)


def test_names_with_brackets_and_stars(tmp_path: Path) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential()
        for name in ("a[0]", "a0", "*", "b*", "A"):
            model.add_module(name, nn.Linear(6, 6))
        return model.append(nn.Linear(6, 2))

    net = glora.adapt(make(), SearchSpace(2))
    randomise(net)
    structure = Structure({"a[0]": LayerStructure(B="rank-2"), "*": LayerStructure(A="vector")})
    net.activate(structure)
    net.save(tmp_path / "a.safetensors")
    other = glora.load(make(), tmp_path / "a.safetensors")
    assert list(other.layers) == ["a[0]", "*"]
    assert other.active == structure
    assert torch.allclose(other(X), net(X), atol=1e-6)


def test_extra_values_travel_along(tmp_path: Path) -> None:
    net = trained()
    glora.checkpoint.save(net, tmp_path / "a.safetensors", extra={"classes": ["Ä", "b"], "backbone": "vit"})
    kind, values = read_metadata(tmp_path / "a.safetensors")
    assert kind == "adapter"
    assert values["classes"] == ["Ä", "b"]
    assert values["format"] == 1


def test_low_precision_backbones(tmp_path: Path) -> None:
    net = glora.adapt(MLP().bfloat16(), SearchSpace(2))
    randomise(net)
    net.activate(some_structure(net, 1))
    net.save(tmp_path / "a.safetensors")
    x = X.bfloat16()
    assert glora.load(MLP().bfloat16(), tmp_path / "a.safetensors")(x).equal(net(x))
    refused(tmp_path / "a.safetensors", "another backbone")


# New processes


TRAIN_SAVE = """
import sys, torch, random, glora
sys.path.insert(0, sys.argv[1])
from helpers import MLP
x = torch.linspace(-2, 2, 30).reshape(5, 6)
net = glora.adapt(MLP(), glora.SearchSpace.paper(2))
optimizer = torch.optim.AdamW([*net.adapter_parameters().values(), *net.head_parameters().values()], lr=1e-2)
generator = random.Random(0)
for _ in range(5):
    net.activate(net.sample(generator))
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()
net.save(sys.argv[2])
glora.checkpoint.save_supernet(net, sys.argv[3])
glora.checkpoint.save_merged(net.merge(), sys.argv[4], {"classes": ["a", "b"]})
torch.save(net(x).detach(), sys.argv[5])
"""


def test_another_process_writes_the_same_bytes_and_loads_the_same_logits(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    digests = []
    for seed in ("0", "1"):
        paths = [tmp_path / f"{kind}{seed}" for kind in ("adapter", "supernet", "merged", "logits")]
        subprocess.run(
            [sys.executable, "-c", TRAIN_SAVE, str(HERE), *map(str, paths)],
            env={**environment, "PYTHONHASHSEED": seed},
            check=True,
        )
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths[:3]])
    assert digests[0] == digests[1]
    logits = torch.load(tmp_path / "logits0")
    net = glora.load(MLP(), tmp_path / "adapter0")
    assert torch.allclose(net(X), logits, atol=1e-6)
    assert not torch.allclose(MLP()(X), logits, atol=1e-2)
    assert torch.allclose(load_merged(MLP(), tmp_path / "merged0")(X), logits, atol=1e-5)


def test_the_same_bytes_when_written_again(tmp_path: Path) -> None:
    net = trained()
    plain = net.merge()
    for write in (
        lambda path: net.save(path),
        lambda path: save_supernet(net, path),
        lambda path: save_merged(plain, path, {"x": 1}),
    ):
        written = set()
        for _ in range(12):
            write(tmp_path / "a.safetensors")
            written.add((tmp_path / "a.safetensors").read_bytes())
        assert len(written) == 1


def test_a_write_killed_midway_leaves_the_old_file(tmp_path: Path, environment: dict[str, str]) -> None:
    path = tmp_path / "a.safetensors"
    net = trained()
    net.save(path)
    code = """
    import os, signal, sys, glora, glora.checkpoint as c
    sys.path.insert(0, sys.argv[1])
    from helpers import MLP
    def half(tensors, path, metadata):
        open(path, "wb").write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    c.save_file = half
    glora.adapt(MLP(), glora.presets.bitfit()).save(sys.argv[2])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(HERE), str(path)], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert torch.allclose(glora.load(MLP(), path)(X), net(X), atol=1e-6)


# Strictness


Change = Callable[[dict, dict[str, torch.Tensor]], None]


def _set(key: str, value: object) -> Change:
    return lambda metadata, tensors: metadata.__setitem__(key, value)


def _pop(key: str) -> Change:
    return lambda metadata, tensors: tensors.pop(key)


def _drop(key: str) -> Change:
    return lambda metadata, tensors: metadata.pop(key)


def _put(key: str, value: Callable[[dict[str, torch.Tensor]], torch.Tensor]) -> Change:
    return lambda metadata, tensors: tensors.__setitem__(key, value(tensors))


def _rename(metadata: dict, tensors: dict[str, torch.Tensor]) -> None:
    tensors["layers.first.F"] = tensors.pop("layers.first.E")


CHANGES: dict[str, tuple[Change, str]] = {
    "missing": (_pop("layers.first.A_up"), r"lacks 1 tensors, the first is layers\.first\.A_up"),
    "missing-head": (_pop("head.out.bias"), r"lacks 1 tensors, the first is head\.out\.bias"),
    "extra": (_put("layers.first.X", lambda t: torch.zeros(2)), r"1 tensors that do not belong here.*layers\.first\.X"),
    "foreign": (_put("base.lora_A", lambda t: torch.zeros(2)), r"do not belong here, the first is base\.lora_A"),
    "renamed": (_rename, r"lacks 1 tensors, the first is layers\.first\.E"),
    "wider": (_put("layers.first.E", lambda t: torch.zeros(9)), r"layers\.first\.E is \[9\], expected \[8\]"),
    "transposed": (
        _put("layers.first.A", lambda t: t["layers.first.A"].t().contiguous()),
        r"layers\.first\.A is \[2, 8\]",
    ),
    "classes": (_put("head.out.bias", lambda t: torch.zeros(5)), r"head\.out\.bias is \[5\].*number of classes"),
    "integer": (
        _put("layers.first.E", lambda t: torch.zeros(8, dtype=torch.int32)),
        r"layers\.first\.E is torch\.int32",
    ),
    "nan": (_put("layers.first.E", lambda t: t["layers.first.E"] * torch.nan), r"layers\.first\.E is not finite"),
    "infinite-head": (_put("head.out.bias", lambda t: t["head.out.bias"] / 0), r"head\.out\.bias is not finite"),
    "format": (_set("format", 99), r"has format 99; this version of glora reads format 1"),
    "format-text": (_set("format", "1"), r"has format 1; this version"),
    "kind": (_set("kind", "merged"), r"is a file of kind 'merged', and one of kind 'adapter' is needed"),
    "no-fingerprint": (_drop("fingerprint"), r"has no fingerprint"),
    "no-structure": (_drop("structure"), r"is incomplete: its metadata lacks 'structure'"),
    "no-gains": (_drop("gains"), r"is incomplete: its metadata lacks 'gains'"),
    "no-head": (_drop("head"), r"is incomplete: its metadata lacks 'head'"),
    "structure-list": (_set("structure", [1]), r"does not fit this model"),
    "structure-form": (_set("structure", {"first": {"E": "rank-2"}}), r"does not fit this model: support tensor E"),
    "structure-layer": (_set("structure", {"third": {"E": "vector"}}), r"does not fit this model: .*'third'"),
    "structure-head": (_set("structure", {"out": {"E": "vector"}}), r"'out' cannot be adapted: the head"),
    "structure-smaller": (
        _set("structure", {"first": {"E": "vector"}}),
        r"gains are given for 'second'",
    ),
    "gains-text": (_set("gains", {"first": {"E.vector": "1"}}), r"does not fit this model: the gain of E\.vector"),
    "gains-list": (_set("gains", {"first": [1]}), r"does not fit this model"),
    "gains-empty": (_set("gains", {}), r"gains of another structure"),
    "head-unknown": (_set("head", ["nope"]), r"the model has no module 'nope'"),
    "head-none": (_set("head", []), r"differs in its frozen weights outside the adapted layers"),
    "bias": (_set("bias", "drop"), r"bias is 'create' or 'keep'"),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_whatever_does_not_fit_is_refused_by_name_and_leaves_the_model_untouched(file: Path, name: str) -> None:
    change, match = CHANGES[name]
    metadata, tensors = parts(file)
    change(metadata, tensors)
    rewrite(file, metadata, tensors)
    refused(file, match)


def test_the_unchanged_file_passes_the_same_rewriting(file: Path) -> None:
    rewrite(file, *parts(file))
    assert glora.load(MLP(), file).active


def test_d_of_a_layer_without_bias_is_refused_and_the_model_ejected(file: Path) -> None:
    model = MLP()
    model.first = nn.Linear(6, 8, bias=False)
    refused(file, "does not fit this model: .*D=scalar", model)


@pytest.mark.parametrize("key", ["first.weight", "first.bias", "second.weight"])
def test_a_changed_frozen_weight_names_its_layer(file: Path, key: str) -> None:
    model = MLP()
    with torch.no_grad():
        model.get_parameter(key).view(-1)[0] += 1e-3
    refused(file, f"was trained on another backbone, which differs in layer '{key.split('.')[0]}'", model)


def test_changes_outside_the_adapted_layers_are_noticed_too(tmp_path: Path) -> None:
    net = glora.adapt(MLP(), SearchSpace(2), "first")
    net.activate(some_structure(net))
    glora.checkpoint.save(net, tmp_path / "a.safetensors", extra={"backbone": "tiny"})
    model = MLP()
    with torch.no_grad():
        model.second.bias[1] += 1e-3
    refused(
        tmp_path / "a.safetensors", r"another backbone \(tiny\), which differs in its frozen weights outside", model
    )


def test_a_head_that_differs_is_no_other_backbone(file: Path) -> None:
    model = MLP()
    nn.init.zeros_(model.out.weight)
    assert glora.load(model, file).model.out.weight.any()


def test_another_number_of_classes_says_so(file: Path) -> None:
    refused(file, r"head\.out\.(weight|bias) is .*create the model with the number of classes", MLP(classes=7))


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, -1])
def test_truncated_files(file: Path, keep: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    refused(file, "is damaged or no safetensors file")


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}, {"glora": "no json"}, {"glora": "[]"}, {"glora": "{}"}):
        save_file({"a": torch.zeros(2)}, path, metadata)
        refused(path, "was not written by glora")
    path.write_bytes(b"\x80\x02}q\x00.")
    refused(path, "is damaged or no safetensors file")
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path, "no such file")


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    net = trained()
    path = tmp_path / "a.safetensors"
    net.save(path)
    before = path.read_bytes()
    with torch.no_grad():
        net.model.out.bias[0] = float("inf")
    for write in (net.save, lambda p: save_supernet(net, p), lambda p: save_merged(net.merge(), p)):
        with pytest.raises(CheckpointError, match=r"out\.bias is not finite: nothing was written"):
            write(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_loading_on_an_adapted_model_is_refused(file: Path) -> None:
    net = glora.adapt(MLP())
    with pytest.raises(CheckpointError, match="adapted already"):
        glora.load(net.model, file)
    assert net(X) is not None


# Supernets


def test_a_supernet_is_restored_in_full(tmp_path: Path) -> None:
    net = trained()
    save_supernet(net, tmp_path / "s.safetensors", {"step": 7})
    other = glora.adapt(MLP(), SearchSpace.paper(2), seed=5)
    assert load_supernet(other, tmp_path / "s.safetensors")["step"] == 7
    for name, parameter in net.adapter_parameters().items():
        assert other.adapter_parameters()[name].equal(parameter)
    for seed in range(5):
        structure = some_structure(net, seed)
        with net.using(structure), other.using(structure):
            assert other(X).equal(net(X))
    metadata, tensors = parts(tmp_path / "s.safetensors")
    assert len(tensors) == len(net.adapter_parameters()) + 2
    assert metadata["space"] == net.space.to_dict()


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda: glora.adapt(MLP(), SearchSpace(2)), "a supernet with another space"),
        (lambda: glora.adapt(MLP(), SearchSpace.paper(2), "first"), "a supernet with another layers"),
        (lambda: glora.adapt(MLP(), SearchSpace.paper(2), gains="paper"), "a supernet with another gains"),
        (lambda: glora.adapt(MLP(classes=5), SearchSpace.paper(2)), r"head\.out\.(weight|bias) is "),
        (lambda: glora.adapt(MLP(), SearchSpace.paper(2), head=False), "another layers"),
    ],
)
def test_a_supernet_of_other_settings_is_refused(tmp_path: Path, other: Callable, match: str) -> None:
    save_supernet(trained(), tmp_path / "s.safetensors")
    net = other()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with pytest.raises(CheckpointError, match=match):
        load_supernet(net, tmp_path / "s.safetensors")
    assert all(p.equal(before[name]) for name, p in net.named_parameters())


def test_a_supernet_of_another_backbone_is_refused(tmp_path: Path) -> None:
    save_supernet(trained(), tmp_path / "s.safetensors")
    model = MLP()
    with torch.no_grad():
        model.second.bias[0] += 1e-3
    with pytest.raises(CheckpointError, match="differs in layer 'second'"):
        load_supernet(glora.adapt(model, SearchSpace.paper(2)), tmp_path / "s.safetensors")


# Merged files


@pytest.mark.parametrize("bias", [True, False])
def test_merged_files_load_into_plain_models(tmp_path: Path, bias: bool) -> None:
    for seed in range(8):
        net = trained(bias=bias, seed=seed)
        plain = net.merge()
        save_merged(plain, tmp_path / "m.safetensors", {"classes": ["a"]})
        assert read_metadata(tmp_path / "m.safetensors").values["classes"] == ["a"]
        other = load_merged(MLP(bias, seed=1), tmp_path / "m.safetensors")
        assert other(X).equal(plain(X))
        # Without this package, too, where no bias was created.
        if bias:
            bare = MLP(seed=2)
            bare.load_state_dict(load_file(tmp_path / "m.safetensors"))
            assert bare(X).equal(plain(X))


def test_merged_files_are_strict_too(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_merged(MLP(), path)
    metadata, tensors = parts(path)
    for change, match in (
        (lambda t: t.pop("first.bias"), r"lacks 1 tensors, the first is first\.bias"),
        (lambda t: t.update({"third.bias": torch.zeros(2)}), r"do not belong here, the first is third\.bias"),
        (lambda t: t.update({"out.bias": torch.zeros(2)}), r"out\.bias is \[2\], expected \[4\]"),
        (lambda t: t.update({"out.bias": torch.full((4,), torch.nan)}), r"out\.bias is not finite"),
    ):
        changed = dict(tensors)
        change(changed)
        rewrite(path, metadata, changed)
        model = MLP(seed=1)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=match):
            load_merged(model, path)
        assert untouched(model, before)
    trained().save(path)
    with pytest.raises(CheckpointError, match="one of kind 'merged' is needed"):
        load_merged(MLP(), path)


def test_a_merged_model_with_one_module_under_two_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model.append(model[0])
    save_merged(model, tmp_path / "m.safetensors")
    other = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    other.append(other[0])
    assert load_merged(other, tmp_path / "m.safetensors")(X).equal(model(X))


# The fingerprint


def test_the_fingerprint_covers_everything_frozen_and_nothing_else() -> None:
    net = trained()
    before = fingerprint(net)
    assert list(before) == ["first", "second"]
    randomise(net, seed=9)
    with torch.no_grad():
        net.model.out.weight.add_(1)
    assert fingerprint(net) == before
    with torch.no_grad():
        net.layers["second"].weight[0, 0] += 1e-3
    assert {name for name in before if fingerprint(net)[name] != before[name]} == {"second"}


def test_the_fingerprint_tells_dtypes_and_shapes_apart() -> None:
    nets = [glora.adapt(model) for model in (MLP(), MLP().double(), MLP(bias=False))]
    assert len({fingerprint(net)["first"] for net in nets}) == 3

"""Adapter files: complete, strict both ways, bound to the backbone, the same to the byte."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import glora
from adapter_files import X, parts, refused, trained
from glora import LayerStructure, SearchSpace, Structure
from glora.checkpoint import fingerprint, load_merged, read_metadata, save_merged, save_supernet
from helpers import MLP, randomise, some_structure

HERE = Path(__file__).parent


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

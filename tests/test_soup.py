"""Soups: the mean of merged weights against its definition in float64, as weights, as a subnet, in files."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import glora
from glora import GLoRAModel, SearchSpace, Structure
from glora.blend import blended_structure, check_blendable, folded, pour
from glora.checkpoint import load, read_metadata
from glora.data import TensorSamples
from glora.errors import StructureError
from glora.evaluate import predict_logits
from glora.soup import Soup
from helpers import MLP, randomise, randomise_backbone
from oracles import dense
from oracles.brute_force import parameters

pytestmark = pytest.mark.usefixtures("single_threaded")

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
SIZES = {"first": (8, 6), "second": (5, 8)}
# Every form, two ranks that share factors, and C low-rank.
SPACE = SearchSpace(
    3,
    A=["rank-3", "rank-1", "vector", "scalar", "none"],
    B=["rank-3", "rank-2", "vector", "scalar", "none"],
    C=["rank-3", "vector", "none"],
)
MUL = SearchSpace(2, A=["mul-3", "mul-1", "none"], B=["vector", "none"])


def backbone(dtype: torch.dtype = torch.float64, bias: bool = True) -> nn.Module:
    model = MLP(bias).to(dtype)
    randomise_backbone(model)
    return model


def net_of(space: SearchSpace = SPACE, **options: object) -> GLoRAModel:
    dtype = options.pop("dtype", torch.float64)
    net = glora.adapt(backbone(dtype, bool(options.pop("biased", True))), space, **options)  # type: ignore[arg-type]
    randomise(net, 3, scale=0.5)
    with torch.no_grad():
        net.model.out.weight.add_(0.1)
    return net


def soup_of(net: GLoRAModel, count: int, seed: int) -> Soup:
    generator = random.Random(seed)
    structures = list(dict.fromkeys(net.sample(generator) for _ in range(count)))
    weights = [generator.random() + 0.1 for _ in structures]
    return Soup(tuple(structures), tuple(w / sum(weights) for w in weights))


def mean(net: GLoRAModel, soup: Soup, name: str) -> tuple[Tensor, Tensor]:
    """The definition: the weighted sum of W* and of b* of each subnet, densely in float64."""
    layer = net.layers[name]
    storage = {key: p.detach() for key, p in layer.support.named_parameters()}
    found = [
        dense.merged(layer.weight, layer.bias, structure[name].to_dict(), storage, dict(layer.support.gains))
        for structure in soup.structures
    ]
    weight = sum(w * share for (w, _), share in zip(found, soup.weights, strict=True))
    bias = sum(b * share for (_, b), share in zip(found, soup.weights, strict=True))
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    return weight, bias


def logits(net: GLoRAModel, soup: Soup) -> Tensor:
    x = X.double()
    for name in SIZES:
        weight, bias = mean(net, soup, name)
        x = (x @ weight.T + bias).clamp(min=0)
    return x @ net.model.out.weight.detach().double().T + net.model.out.bias.detach().double()


@pytest.mark.parametrize(
    "space", [SPACE, SearchSpace(2), SearchSpace.paper(3), MUL], ids=["all", "default", "paper", "mul"]
)
@pytest.mark.parametrize(("gains", "storage"), [("balanced", "separate"), ("paper", "shared")])
@given(count=st.integers(1, 5), seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_a_soup_is_the_mean_of_its_subnets_merged_weights(
    space: SearchSpace, gains: str, storage: str, count: int, seed: int
) -> None:
    net = net_of(space, gains=gains, storage=storage)
    soup = soup_of(net, count, seed)
    wanted = logits(net, soup)
    poured = pour(net, soup, backbone())
    plain = poured.merge()
    for name in SIZES:
        weight, bias = mean(net, soup, name)
        merged = plain.get_submodule(name)
        assert torch.allclose(merged.weight, weight, rtol=1e-9, atol=1e-11), name
        assert torch.allclose(merged.bias, bias, rtol=1e-9, atol=1e-11), name
    assert torch.allclose(poured(X.double()), wanted, rtol=1e-9, atol=1e-10)
    before = net.active
    with folded(net, soup):
        assert torch.allclose(net(X.double()), wanted, rtol=1e-9, atol=1e-10)
    assert net.active == before


@given(count=st.integers(1, 5), seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_its_parameters_are_the_numbers_of_its_file(count: int, seed: int) -> None:
    net = net_of()
    soup = soup_of(net, count, seed)
    poured = pour(net, soup, backbone())
    structure = blended_structure(soup)
    assert poured.active == structure
    stored = sum(p.numel() for p in poured.adapter_parameters().values())
    assert poured.size(structure) == stored
    # Not more than the union of all its forms, each on its own, and a row of ones for A and for B of a layer.
    union = sum(
        parameters(t, str(form), *SIZES[name]) for name in SIZES for t in "ABCDE" for form in soup.shares(name, t)
    )
    assert stored <= union + sum(2 * into for _, into in SIZES.values())


@pytest.mark.parametrize(
    ("forms", "wanted"),
    [
        (["rank-3", "none"], "rank-3"),
        (["rank-3", "rank-1"], "rank-3"),
        (["rank-1", "vector"], "rank-2"),
        (["rank-3", "vector", "scalar", "none"], "rank-4"),
        (["vector", "scalar"], "vector"),
        (["scalar", "none"], "scalar"),
        (["none"], "none"),
        (["mul-2", "mul-1", "none"], "mul-2"),
    ],
)
def test_the_form_of_a_mean(forms: list[str], wanted: str) -> None:
    structures = tuple(Structure({"first": {"A": form, "E": "scalar"}}) for form in forms)
    blended = blended_structure(Soup(structures, (1 / len(forms),) * len(forms)))
    assert str(blended["first"].A) == wanted
    assert str(blended["first"].E) == "scalar"


def test_a_mean_of_multiplied_and_added_is_refused() -> None:
    soup = Soup((Structure({"a": {"A": "mul-2"}}), Structure({"a": {"A": "vector"}})), (0.5, 0.5))
    with pytest.raises(StructureError, match=r"a: a mean of A=mul-<r> and other forms of A is no form of A"):
        blended_structure(soup)
    space = SearchSpace(2, A=["mul-2", "vector", "none"])
    with pytest.raises(StructureError, match=r"first: a mean of A=mul-<r> and other forms .* or select=best"):
        check_blendable(net_of(space).bound)
    check_blendable(net_of(MUL).bound)
    check_blendable(net_of().bound)


@pytest.mark.parametrize("policy", ["create", "keep"])
def test_layers_without_a_bias(policy: str) -> None:
    net = net_of(biased=False, bias=policy)
    for seed in range(6):
        soup = soup_of(net, 3, seed)
        poured = pour(net, soup, backbone(bias=False))
        assert torch.allclose(poured(X.double()), logits(net, soup), rtol=1e-9, atol=1e-10)
        with folded(net, soup):
            assert torch.allclose(net(X.double()), logits(net, soup), rtol=1e-9, atol=1e-10)
    if policy == "keep":
        assert poured.created_biases() == ()


def test_a_soup_of_one_is_that_subnet_and_nothing_else_changes() -> None:
    net = net_of(dtype=torch.float32)
    structure = net.sample(random.Random(0))
    before = copy.deepcopy(net.state_dict())
    with folded(net, structure):
        wanted = net(X)
    with folded(net, Soup((structure,), (1.0,))):
        assert torch.allclose(net(X), wanted, atol=1e-6)
    pour(net, Soup((structure,), (1.0,)), backbone(torch.float32))
    assert all(value.equal(before[key]) for key, value in net.state_dict().items())
    assert net.layers["first"]._folded is None


def test_a_soup_is_saved_as_an_adapter_file(tmp_path: Path) -> None:
    net = net_of(dtype=torch.float32)
    soup = soup_of(net, 4, 1)
    pour(net, soup, backbone(torch.float32)).save(tmp_path / "soup.safetensors", extra={"soup": soup.to_dict()})
    loaded = load(backbone(torch.float32), tmp_path / "soup.safetensors")
    samples = TensorSamples(X, torch.zeros(len(X), dtype=torch.long))
    assert torch.allclose(predict_logits(loaded, samples).double(), logits(net, soup), rtol=1e-4, atol=1e-4)
    values = read_metadata(tmp_path / "soup.safetensors").values
    assert Soup.from_dict(values["soup"]) == soup
    assert values["parameters"] == loaded.size(loaded.active)


# The value


def test_equal_subnets_weigh_together() -> None:
    a, b = Structure({"x": {"B": "vector"}}), Structure({"x": {"E": "vector"}})
    soup = Soup.of({a: 3, b: 1})
    assert soup == Soup((a, b), (0.75, 0.25))
    assert soup.shares("x", "B") == {glora.Form.VECTOR: 0.75}
    assert soup.shares("x", "A") == soup.shares("y", "B") == {}
    assert Soup.from_dict(soup.to_dict()) == soup


@pytest.mark.parametrize(
    ("count", "weights", "message"),
    [
        (0, (), "a soup has a weight for each subnet: 0 and 0"),
        (2, (1.0,), "a soup has a weight for each subnet: 2 and 1"),
        (2, (0.5, 0.4), r"positive and sum to 1, not \[0\.5, 0\.4\]"),
        (2, (1.5, -0.5), r"positive and sum to 1, not \[1\.5, -0\.5\]"),
        (1, (float("nan"),), r"positive and sum to 1, not \[nan\]"),
    ],
)
def test_weights_that_are_none_are_refused(count: int, weights: tuple[float, ...], message: str) -> None:
    structures = tuple(Structure({f"l{i}": {"B": "vector"}}) for i in range(count))
    with pytest.raises(StructureError, match=message):
        Soup(structures, weights)


def test_a_subnet_twice_is_refused() -> None:
    with pytest.raises(StructureError, match="holds each subnet once: add up the weights of equal ones"):
        Soup((Structure(), Structure()), (0.5, 0.5))

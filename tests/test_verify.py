"""A merge is compared with the adapted model before it is given out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import glora
from glora import GLoRAModel, LayerStructure, SearchSpace, Structure
from glora.errors import MergeError
from glora.verify import verified_merge
from helpers import MLP, randomise

INPUTS = torch.linspace(-2, 2, 30).reshape(5, 6)
LAYER = LayerStructure(A="rank-2", B="vector", C="vector", D="scalar", E="vector")


@pytest.fixture
def net() -> GLoRAModel:
    net = glora.adapt(MLP().eval(), SearchSpace(2))
    randomise(net)
    net.activate(Structure({"first": LAYER, "second": LAYER}))
    return net


def corrupting(change: Callable[[nn.Module], object]) -> Callable[..., nn.Module]:
    merge = GLoRAModel.merge

    def wrong(self: GLoRAModel, *args: Any, **kwargs: Any) -> nn.Module:
        plain = merge(self, *args, **kwargs)
        with torch.no_grad():
            change(plain)
        return plain

    return wrong


def test_a_plain_model_with_the_figures_of_the_comparison(net: GLoRAModel) -> None:
    wanted = net(INPUTS)
    plain, figures = verified_merge(net, INPUTS)
    assert type(plain) is MLP
    assert list(plain.state_dict()) == list(MLP().state_dict())
    got = plain(INPUTS)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    assert figures == {
        "max_difference": pytest.approx((got - wanted).abs().max().item(), abs=1e-7),
        "batch": 5,
        "same_predictions": True,
    }


def test_the_adapted_model_stays_as_it_was(net: GLoRAModel) -> None:
    before, active = net(INPUTS), net.active
    net.train()
    verified_merge(net, INPUTS)
    assert net.training
    assert net.active == active
    net.eval()
    assert torch.equal(net(INPUTS), before)


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.first.weight[0].add_(0.5),
        lambda plain: plain.second.bias[2].add_(0.05),
        lambda plain: plain.out.weight.neg_(),
        lambda plain: plain.second.weight.zero_(),
    ],
)
def test_one_wrong_weight_is_found(
    net: GLoRAModel, change: Callable[[nn.Module], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GLoRAModel, "merge", corrupting(change))
    with pytest.raises(MergeError, match=r"logits differ from the adapted model's by [0-9.]+: nothing was written"):
        verified_merge(net, INPUTS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_match(
    net: GLoRAModel, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GLoRAModel, "merge", corrupting(lambda plain: plain.out.bias.fill_(value)))
    with pytest.raises(MergeError, match=r"logits differ from the adapted model's by (nan|inf): nothing was written"):
        verified_merge(net, INPUTS)


def test_weights_that_are_not_finite_are_named(net: GLoRAModel) -> None:
    with torch.no_grad():
        for parameter in net.layers["second"].support.parameters():
            parameter.fill_(torch.inf)
    with pytest.raises(MergeError, match="second: the merged weight is not finite"):
        verified_merge(net, INPUTS)


def test_a_head_that_is_not_finite_is_no_match_either(net: GLoRAModel) -> None:
    with torch.no_grad():
        net.model.get_parameter("out.bias")[0] = torch.nan
    with pytest.raises(MergeError, match="by nan: nothing was written"):
        verified_merge(net, INPUTS)


def test_alpha_interpolates_between_pretrained_and_tuned_weights(net: GLoRAModel) -> None:
    frozen = {key: value.clone() for key, value in net.frozen_tensors().items()}
    tuned, _ = verified_merge(net, INPUTS)
    for alpha in (0.0, 0.25, 1.0):
        plain, figures = verified_merge(net, INPUTS, alpha)
        assert figures["max_difference"] < 1e-5  # of the full merge, whatever alpha is
        for key, value in frozen.items():
            wanted = value + alpha * (tuned.get_parameter(key) - value)
            torch.testing.assert_close(plain.get_parameter(key), wanted, rtol=1e-5, atol=1e-6)


def test_the_largest_logit_is_the_scale_of_what_is_rounding(net: GLoRAModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        net.model.get_parameter("out.weight").mul_(1e4)
    scale = net(INPUTS).abs().max().item()
    monkeypatch.setattr(GLoRAModel, "merge", corrupting(lambda plain: plain.out.bias.add_(0.0005 * scale)))
    _, figures = verified_merge(net, INPUTS)
    assert figures["max_difference"] > 1
    monkeypatch.undo()
    monkeypatch.setattr(GLoRAModel, "merge", corrupting(lambda plain: plain.out.bias.add_(0.002 * scale)))
    with pytest.raises(MergeError, match="logits differ"):
        verified_merge(net, INPUTS)

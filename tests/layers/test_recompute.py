from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

import glora
from glora import SearchSpace, presets
from helpers import randomise, randomise_backbone


def vit() -> nn.Module:
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", depth=3, img_size=32, num_classes=5)
    randomise_backbone(model)
    return model.eval()


def gradients(net: glora.GLoRAModel, x: Tensor, autocast: bool = False) -> dict[str, Tensor]:
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = net(x).float().square().sum()
    loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def saved(net: glora.GLoRAModel, x: Tensor) -> int:
    resident = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in resident:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        net(x).sum().backward()
    return sum(found.values())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("preset", [presets.lora(3), SearchSpace(2, A="rank-2", B="none"), presets.repadapter(2)])
def test_gradients_are_the_same_to_the_bit(preset: SearchSpace, autocast: bool, route: str) -> None:
    x = torch.randn(3, 3, 32, 32)
    plain, again = glora.adapt(vit(), preset), glora.adapt(vit(), preset, recompute=True)
    for net in (plain, again):
        randomise(net, scale=0.05)
    expected, found = gradients(plain, x, autocast), gradients(again, x, autocast)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradient, found[name]), name
        assert gradient.any(), name


def test_less_is_kept() -> None:
    x = torch.randn(8, 3, 32, 32)
    plain = saved(glora.adapt(vit(), presets.lora(2)), x)
    again = saved(glora.adapt(vit(), presets.lora(2), recompute=True), x)
    tokens, width, hidden, blocks = 8 * 5, 192, 768, 3
    # An output of a norm before qkv and before fc1, and of GELU before fc2; the first norm has a frozen input.
    assert plain - again == 4 * tokens * (width * (2 * blocks - 1) + hidden * blocks)


class ScaledNorm(nn.LayerNorm):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return super().forward(x) * scale


class Changed(nn.Module):
    """Changes the output of its norm before the layer sees it, in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.second = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)
        if how == "keyword":
            self.norm = ScaledNorm(6)
        if how == "hook":
            self.norm.register_forward_hook(lambda module, args, output: output * 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.norm(y, scale=3.0) if self.how == "keyword" else self.norm(y)
        if self.how == "in place":
            y += 1
        if self.how == "copied":
            y = y * 2
        if self.how == "view":
            y = y[:, :2]
        return self.head(self.second(y))


@pytest.mark.parametrize("how", ["no change", "in place", "copied", "view", "hook", "keyword"])
def test_what_happens_between_the_norm_and_the_layer_counts(how: str) -> None:
    torch.manual_seed(2)
    model = Changed(how).double()
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    plain = glora.adapt(copy.deepcopy(model), presets.lora(2))
    again = glora.adapt(model, presets.lora(2), recompute=True)
    for net in (plain, again):
        randomise(net)
    expected, found = gradients(plain, x), gradients(again, x)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_evaluation_leaves_no_notes() -> None:
    net = glora.adapt(vit(), presets.lora(2), recompute=True)
    outputs = []
    net.model.blocks[0].norm1.register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        net(torch.randn(1, 3, 32, 32))
    assert not any(vars(output) for output in outputs)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_merging_and_ejecting_leave_no_hook() -> None:
    net = glora.adapt(vit(), presets.lora(2), recompute=True)
    watched = hooks(net)
    assert watched > 0
    assert hooks(net.merge()) == 0
    assert hooks(net) == watched
    assert hooks(net.eject()) == 0
    net = glora.adapt(vit(), presets.lora(2), recompute=True)
    assert hooks(net.merge(inplace=True)) == 0


def test_a_copy_of_the_net_watches_its_own_modules() -> None:
    net = copy.deepcopy(glora.adapt(vit(), presets.lora(2), recompute=True))
    x = torch.randn(2, 3, 32, 32)
    found = gradients(net, x)
    expected = gradients(glora.adapt(vit(), presets.lora(2)), x)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert hooks(net.eject()) == 0

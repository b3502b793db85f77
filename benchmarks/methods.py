"""Ways of adapting one timm vision transformer, built alike: ours, PEFT's, the naive equation, and the extremes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import glora
from glora import Form, LayerStructure, SearchSpace, Structure

CLASSES = 10


def backbone(name: str, size: int) -> nn.Module:
    """A model with random weights whose norms and biases are not the identity."""
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=size, num_classes=CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def linear_names(model: nn.Module) -> list[str]:
    """The linear layers of the blocks."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "blocks" in name]


class Trainee:
    """A model and what happens before each of its training steps."""

    def __init__(self, model: nn.Module, before: Callable[[], None] | None = None) -> None:
        self.model = model
        self.before = before
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, fused=True)

    def loss(self, x: Tensor, y: Tensor, dtype: torch.dtype | None) -> Tensor:
        """Forward in training."""
        if self.before is not None:
            self.before()
        with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
            return F.cross_entropy(self.model(x).float(), y)

    def step(self, x: Tensor, y: Tensor, dtype: torch.dtype | None) -> None:
        """Forward, backward and update."""
        loss = self.loss(x, y, dtype)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def floor(model: nn.Module) -> Trainee:
    """Frozen, but for one bias in the first block: the backward that any adapter on all layers pays."""
    model.requires_grad_(False)
    model.get_parameter("blocks.0.attn.qkv.bias").requires_grad_(True)
    return Trainee(model.eval())


def linear_probe(model: nn.Module) -> Trainee:
    """The head alone."""
    model.requires_grad_(False)
    model.get_classifier().requires_grad_(True)
    return Trainee(model.eval())


def full(model: nn.Module) -> Trainee:
    """Full fine-tuning."""
    return Trainee(model.eval())


def supernet(model: nn.Module, rank: int = 4, paper: bool = True, recompute: bool = False) -> Trainee:
    """Ours: another random structure of the paper's space every step."""
    net = glora.adapt(model, SearchSpace.paper(rank) if paper else SearchSpace(rank), recompute=recompute)
    generator = random.Random(0)
    return Trainee(net, lambda: net.activate(net.sample(generator)))


def fixed(model: nn.Module, layer: LayerStructure) -> Trainee:
    """Ours: one layer structure everywhere."""
    return Trainee(glora.adapt(model, SearchSpace.point(layer)))


def peft(model: nn.Module, kind: str, rank: int = 4) -> Trainee:
    """A method of PEFT on the same layers, the head trained too."""
    import peft as library

    names = linear_names(model)
    configs: dict[str, Any] = {
        "LoRA": lambda: library.LoraConfig(r=rank, lora_alpha=rank, target_modules=names),
        "DoRA": lambda: library.LoraConfig(r=rank, lora_alpha=rank, target_modules=names, use_dora=True),
        "LoHa": lambda: library.LoHaConfig(r=rank, alpha=rank, target_modules=names),
        "GLoRA": lambda: library.GloraConfig(r=rank, target_modules=names),
    }
    adapted = library.get_peft_model(model, configs[kind]())
    adapted.base_model.model.get_classifier().requires_grad_(True)
    return Trainee(adapted.eval())


class NaiveLinear(nn.Module):
    """The equation as the authors' code writes it: dense W0 + W0*A + B, zeros where a tensor is absent."""

    def __init__(self, original: nn.Linear, rank: int) -> None:
        super().__init__()
        out, into = original.weight.shape
        self.weight, self.bias = original.weight, original.bias
        self.A_down, self.A_up = nn.Parameter(torch.zeros(out, rank)), nn.Parameter(torch.empty(rank, into))
        self.B_down, self.B_up = nn.Parameter(torch.zeros(out, rank)), nn.Parameter(torch.empty(rank, into))
        self.C_down, self.C_up = nn.Parameter(torch.zeros(into, rank)), nn.Parameter(torch.empty(rank, 1))
        self.D, self.E = nn.Parameter(torch.zeros(out)), nn.Parameter(torch.zeros(out))
        for up in (self.A_up, self.B_up, self.C_up):
            nn.init.xavier_uniform_(up)
        self.structure = LayerStructure()

    def _matrix(self, down: Tensor, up: Tensor, form: Form) -> Tensor:
        if form.kind == "rank":
            return down @ up
        if form.kind == "vector":
            return down[:, :1]
        return down[:1, :1] if form.kind == "scalar" else torch.zeros(1, 1, device=down.device)

    def _vector(self, vector: Tensor, form: Form) -> Tensor:
        if form.kind == "vector":
            return vector
        return vector[:1] if form.kind == "scalar" else torch.zeros(1, device=vector.device)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        s, w = self.structure, self.weight
        a, b = self._matrix(self.A_down, self.A_up, s.A), self._matrix(self.B_down, self.B_up, s.B)
        c = (
            torch.zeros(w.shape[1], 1, device=w.device)
            if s.C.kind == "none"
            else self._matrix(self.C_down, self.C_up, s.C)
        )
        d, e = self._vector(self.D, s.D), self._vector(self.E, s.E)
        return F.linear(x, w + w * a + b, self.bias + self.bias * d + e + (w @ c).squeeze(-1))


def naive(model: nn.Module, rank: int = 4) -> Trainee:
    """The naive equation under the same random structures as ours."""
    model.requires_grad_(False)
    model.get_classifier().requires_grad_(True)
    layers: dict[str, NaiveLinear] = {}
    for name in linear_names(model):
        original = model.get_submodule(name)
        assert isinstance(original, nn.Linear)
        layers[name] = NaiveLinear(original, rank)
        model.set_submodule(name, layers[name])
    space, generator = SearchSpace.paper(rank), random.Random(0)

    def draw() -> None:
        structure: Structure = space.sample(generator, layers)
        for name, layer in layers.items():
            layer.structure = structure[name]

    return Trainee(model.eval(), draw)


METHODS: dict[str, Callable[[nn.Module], Trainee]] = {
    "floor": floor,
    "linear probe": linear_probe,
    "glora, random structures": supernet,
    "glora, LoRA preset": lambda model: fixed(model, LayerStructure(B="rank-4")),
    "glora, BitFit preset": lambda model: fixed(model, LayerStructure(E="vector")),
    "glora, low-rank A everywhere": lambda model: fixed(model, LayerStructure(A="rank-4")),
    "naive equation": naive,
    "PEFT LoRA": lambda model: peft(model, "LoRA"),
    "PEFT GLoRA": lambda model: peft(model, "GLoRA"),
    "PEFT DoRA": lambda model: peft(model, "DoRA"),
    "PEFT LoHa": lambda model: peft(model, "LoHa"),
    "full fine-tuning": full,
}
"""Name to what makes a trainee of a fresh backbone, all at rank 4."""

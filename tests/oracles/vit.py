"""A vision transformer and the peers' formulas, written out in float64 from their publications.

Independent of the package and of timm's code: plain tensors by timm's state-dict keys. A method changes the
forward in named places; each function below gives the changes of one method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Changes = Mapping[str, Callable[..., Any]]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6) * weight + bias


def vit(state: Tensors, images: Tensor, heads: int, pool: str, changes: Changes | None = None) -> Tensor:
    """Logits (N, classes). ``changes`` may hold

    - ``linear(name, weight, bias) -> (weight, bias)`` and ``normed(name, y)``, for every layer of that kind;
    - ``tokens(block, x) -> x``, what enters a block;
    - ``attention(block, y)``, ``mlp(block, y)``: what a sublayer adds to the tokens;
    - ``parallel(block, x)``: what is added beside the MLP.
    """
    changes = changes or {}
    state = {key: value.detach().double() for key, value in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        if "linear" in changes:
            weight, bias = changes["linear"](name, weight, bias)
        return x @ weight.T + (0 if bias is None else bias)

    def layer_norm(name: str, x: Tensor) -> Tensor:
        y = norm(x, state[f"{name}.weight"], state[f"{name}.bias"])
        return changes["normed"](name, y) if "normed" in changes else y

    kernel, shift = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    side, width = kernel.shape[-1], len(kernel)
    grid = images.double().unfold(2, side, side).unfold(3, side, side)  # (N, 3, rows, columns, side, side)
    x = torch.einsum("nchwij,dcij->nhwd", grid, kernel).reshape(len(images), -1, width) + shift
    prefix = [state[key] for key in ("cls_token", "dist_token", "reg_token") if key in state]
    x = torch.cat([token.expand(len(images), -1, -1) for token in prefix] + [x], 1) + state["pos_embed"]
    before = sum(token.shape[1] for token in prefix)
    patches = x.shape[1] - before
    block = 0
    while f"blocks.{block}.norm1.weight" in state:
        at = f"blocks.{block}"
        x = changes["tokens"](block, x) if "tokens" in changes else x
        q, k, v = linear(f"{at}.attn.qkv", layer_norm(f"{at}.norm1", x)).chunk(3, -1)
        found = []
        for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
            found.append(torch.softmax(a @ b.transpose(1, 2) / math.sqrt(width // heads), -1) @ c)
        y = linear(f"{at}.attn.proj", torch.cat(found, -1)) * state.get(f"{at}.ls1.gamma", torch.ones(()))
        x = x + (changes["attention"](block, y) if "attention" in changes else y)
        hidden = gelu(linear(f"{at}.mlp.fc1", layer_norm(f"{at}.norm2", x)))
        y = linear(f"{at}.mlp.fc2", hidden) * state.get(f"{at}.ls2.gamma", torch.ones(()))
        y = changes["mlp"](block, y) if "mlp" in changes else y
        x = x + y + (changes["parallel"](block, x) if "parallel" in changes else 0)
        block += 1
    if pool == "avg":
        return linear("head", layer_norm("fc_norm", x[:, -patches:].mean(1)))
    x = layer_norm("norm", x)
    if "head_dist.weight" in state:
        return (linear("head", x[:, 0]) + linear("head_dist", x[:, 1])) / 2
    return linear("head", x[:, 0])


# The methods: ``own`` are their tensors by name in the package


def weights(change: Callable[[str, Tensor, Tensor | None], tuple[Tensor, Tensor | None]], names: tuple[str, ...]):
    """The change of the linear layers of the blocks whose last name is among ``names``."""

    def linear(name: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return change(name, weight, bias) if name.rpartition(".")[2] in names else (weight, bias)

    return {"linear": linear}


ALL = ("qkv", "proj", "fc1", "fc2")


def lora(own: Tensors) -> Changes:
    """W0 + B A."""
    at = "{}.support.B"
    return weights(lambda n, w, b: (w + own[at.format(n)] @ own[at.format(n) + "_up"], b), ("qkv",))


def bitfit(own: Tensors) -> Changes:
    """b0 + shift; the other biases are trained where they are, so that the state has them."""
    return weights(lambda n, w, b: (w, b + own[f"{n}.support.E"]), ALL)


def ssf(own: Tensors) -> Changes:
    """gamma * (W0 x + b0) + beta with A = D = gamma - 1; behind a norm the same is another weight and bias of it."""

    def change(name: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        a, d, e = (own[f"{name}.support.{t}"] for t in "ADE")
        return (1 + a)[:, None] * weight, (1 + d) * bias + e

    return weights(change, ALL)


def ia3(own: Tensors) -> Changes:
    """l * (W0 x + b0), A and D apart."""

    def change(name: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return (1 + own[f"{name}.support.A"])[:, None] * weight, (1 + own[f"{name}.support.D"]) * bias

    return weights(change, ("qkv", "fc1"))


def fixed_glora(own: Tensors) -> Changes:
    """W0 + W0 * (A_d A_u), b0 + b0 * D + W0 c."""

    def change(name: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        down, up, c, d = (own[f"{name}.support.{t}"] for t in ("A", "A_up", "C", "D"))
        return weight + weight * (down @ up), bias + bias * d + weight @ c

    return weights(change, ALL)


def repadapter(own: Tensors) -> Changes:
    """W0 (x + A_d A_u x + c) + b0."""

    def change(name: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        down, up, c = (own[f"{name}.support.{t}"] for t in ("A_mul_down", "A_mul_up", "C"))
        return weight + weight @ down @ up, bias + weight @ c

    return weights(change, ("qkv", "fc1"))


def prompt_shallow(own: Tensors, depth: int, before: int) -> Changes:
    """Tokens after the class token, once."""
    tokens = own["blocks.0.enter.tokens"]

    def change(block: int, x: Tensor) -> Tensor:
        if block:
            return x
        return torch.cat([x[:, :before], tokens.expand(len(x), -1, -1), x[:, before:]], 1)

    return {"tokens": change}


def prompt_deep(own: Tensors, depth: int, before: int) -> Changes:
    """Tokens after the class token, replaced by others between the blocks."""

    def change(block: int, x: Tensor) -> Tensor:
        tokens = own[f"blocks.{block}.enter.tokens"]
        rest = x[:, before:] if block == 0 else x[:, before + len(tokens) :]
        return torch.cat([x[:, :before], tokens.expand(len(x), -1, -1), rest], 1)

    return {"tokens": change}


def _bottleneck(own: Tensors, at: str, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    hidden = act(x @ own[f"{at}.down.weight"].T + own[f"{at}.down.bias"])
    return hidden @ own[f"{at}.up.weight"].T + own[f"{at}.up.bias"]


def adapter(own: Tensors, places: tuple[str, ...] = ("attention", "mlp")) -> Changes:
    """h + U gelu(D h), serial, before the sum."""
    return {
        place: lambda block, h, place=place: h + _bottleneck(own, f"blocks.{block}.after_{place}", h, gelu)
        for place in places
    }


def adaptformer(own: Tensors, scale: float) -> Changes:
    """x + mlp(norm(x)) + s U relu(D x)."""

    def relu(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, torch.zeros_like(x))

    return {"parallel": lambda block, x: scale * _bottleneck(own, f"blocks.{block}.parallel", x, relu)}


def fact(own: Tensors, scale: float, ratio: int, tucker: bool) -> Changes:
    """Each d x d matrix of a block, written by its place in the stack of all: 3 + 1 + ratio + ratio a block."""
    u, v = own["fact.u"], own["fact.v"]
    width = len(v)

    def matrix(index: int) -> Tensor:
        if not tucker:
            return scale * v @ own["fact.own"][index] @ u
        mixed = torch.zeros_like(own["fact.c"][:, :, 0])
        for k in range(len(own["fact.p"])):
            mixed = mixed + own["fact.p"][k, index] * own["fact.c"][:, :, k]
        return scale * v @ mixed.T @ u  # x @ u.T @ mixed @ v.T, as the authors write it

    def change(name: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        block, layer = int(name.split(".")[1]), name.rpartition(".")[2]
        first = block * (4 + 2 * ratio) + {"qkv": 0, "proj": 3, "fc1": 4, "fc2": 4 + ratio}[layer]
        weight = weight.clone()
        for i in range(weight.shape[0] // width):
            for j in range(weight.shape[1] // width):
                rows, columns = slice(i * width, (i + 1) * width), slice(j * width, (j + 1) * width)
                weight[rows, columns] += matrix(first + i + j)
        return weight, bias

    return weights(change, ALL)


def peft_lora(own: Tensors, scale: float, dora: bool = False) -> Changes:
    """W0 + s B A; DoRA: magnitude times that, each row divided by its length."""

    def change(name: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        weight = weight + scale * own[f"{name}.lora_B.default.weight"] @ own[f"{name}.lora_A.default.weight"]
        if dora:
            magnitude = own[f"{name}.lora_magnitude_vector.default.weight"]
            weight = magnitude[:, None] * weight / weight.square().sum(1, keepdim=True).sqrt()
        return weight, bias

    return weights(change, ("qkv",))


def peft_glora(own: Tensors) -> Changes:
    """The equation, with A, B and C low-rank and D and E vectors."""

    def change(name: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        def low(t: str) -> Tensor:
            return own[f"{name}.glora_{t}.default.Xd"] @ own[f"{name}.glora_{t}.default.Xu"]

        d, e = (own[f"{name}.glora_{t}.default.X"].flatten() for t in "DE")
        return weight + weight * low("A") + low("B"), bias + bias * d + e + weight @ low("C").flatten()

    return weights(change, ALL)


def hybrid(own: Tensors, blocks: Mapping[int, Mapping[str, str]], before: int) -> Changes:
    """A prompt and an adapter of its own for each block: the first tokens and hidden units of those stored."""

    def count(block: int, part: str, kind: str) -> int:
        found, _, units = blocks.get(block, {}).get(part, "none").partition("-")
        return int(units) if found == kind else 0

    def tokens(block: int, x: Tensor) -> Tensor:
        rest = x[:, before + count(block - 1, "prompt", "tokens") :]
        units = count(block, "prompt", "tokens")
        mine = own[f"blocks.{block}.enter.tokens"][:units].expand(len(x), -1, -1) if units else x[:, :0]
        return torch.cat([x[:, :before], mine, rest], 1)

    def first(block: int, place: str, units: int) -> dict[str, Tensor]:
        at = f"blocks.{block}.{place}"
        return {
            "a.down.weight": own[f"{at}.down.weight"][:units],
            "a.down.bias": own[f"{at}.down.bias"][:units],
            "a.up.weight": own[f"{at}.up.weight"][:, :units],
            "a.up.bias": own[f"{at}.up.bias"],
        }

    def behind(place: str) -> Callable[[int, Tensor], Tensor]:
        def change(block: int, h: Tensor) -> Tensor:
            units = count(block, "adapter", "serial")
            return h + _bottleneck(first(block, f"after_{place}", units), "a", h, gelu) if units else h

        return change

    def parallel(block: int, x: Tensor) -> Tensor:
        units = count(block, "adapter", "bottleneck")
        return 0.1 * _bottleneck(first(block, "parallel", units), "a", x, torch.relu) if units else torch.zeros_like(x)

    return {"tokens": tokens, "attention": behind("attention"), "mlp": behind("mlp"), "parallel": parallel}

"""GLoRA on a model of your own, with data in tensors and a training loop of your own: seconds on a CPU.

A small network learns scikit-learn's digits; then it is adapted to the same digits turned by 90 degrees, of which there
are only 200. Needs scikit-learn (pip install "glora[demo]").
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import glora


def network() -> nn.Module:
    """Any module with linear layers will do; the last one of the width of the classes is found to be the head."""
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10))


def train(model: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float, before=lambda: None) -> None:
    """Adam on random batches; ``before`` runs first in every step."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        before()
        batch = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()


def main() -> None:
    """Pretrain, adapt, search, merge, test."""
    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.target))  # the file goes by writer
    x = torch.tensor(digits.images, dtype=torch.float32)[order] / 16
    y = torch.tensor(digits.target)[order]
    turned = torch.rot90(x, 1, (1, 2)).flatten(1)
    x = x.flatten(1)

    model = network()
    train(model, x[:1000], y[:1000], 500, 1e-3)

    train_x, train_y = turned[1000:1200], y[1000:1200]
    val, test = (turned[1200:1400], y[1200:1400]), (turned[1400:], y[1400:])
    net = glora.adapt(model, glora.SearchSpace(rank=4))
    print(net)
    generator = random.Random(0)
    # The structure is drawn by the loop, once a step, and never by a layer.
    train(net, train_x, train_y, 1500, 3e-3, before=lambda: net.activate(net.sample(generator)))

    found = glora.search(net, val, budget=2_500, generations=5)
    plain = net.merge(found.best)
    accuracy = (plain(test[0]).argmax(1) == test[1]).float().mean()
    print(f"{found.winner.size:,} parameters, validation {found.winner.score.accuracy:.1%}, test {accuracy:.1%}")

    # On disk: the chosen tensors and the head alone. They go only onto the weights that they were trained on.
    net.save("turned.safetensors", found.best)
    pretrained = net.eject()
    again = glora.load(pretrained, "turned.safetensors").merge()
    assert torch.equal(again(test[0]), plain(test[0]))


if __name__ == "__main__":
    main()

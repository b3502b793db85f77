"""GLoRA on a vision transformer of transformers, whose merged model transformers alone reads: seconds on a CPU.

A small ViT, made from a config so that no hub is asked, learns scikit-learn's digits; then it is adapted to the same
digits turned by 90 degrees, of which there are only 200. A model that ``from_pretrained`` gives is used alike. Needs
transformers and scikit-learn (pip install "glora[demo,transformers]").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

import glora


def pretrained(x: Tensor, y: Tensor) -> ViTForImageClassification:
    """A ViT of four patches and two blocks, trained in full on images (N, 1, 8, 8) and their labels."""
    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = ViTConfig(**shape, image_size=8, patch_size=4, num_channels=1, num_labels=10)
    model = ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for batch in torch.randint(len(x), (400, 64)):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]).logits, y[batch]).backward()
        optimizer.step()
    return model.eval()


def main() -> None:
    """Pretrain, adapt, train, search, merge, and go on with transformers alone."""
    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.target))  # the file goes by writer
    x = torch.tensor(digits.images, dtype=torch.float32)[order].unsqueeze(1) / 16
    y = torch.tensor(digits.target)[order]
    turned = torch.rot90(x, 1, (2, 3))
    model = pretrained(x[:1000], y[:1000])

    train, val = (turned[1000:1200], y[1000:1200]), (turned[1200:1400], y[1200:1400])
    net = glora.adapt(model, glora.SearchSpace(rank=4))
    print(net)
    # This loop takes the logits out of what the model returns.
    glora.train_supernet(net, train, settings=glora.TrainSettings(epochs=120, batch_size=32, lr=1e-2))
    found = glora.search(net, val, budget=4_000, generations=5)
    plain = net.merge(found.best)  # a ViTForImageClassification as it was, with other numbers in it

    plain.save_pretrained("turned")
    again = ViTForImageClassification.from_pretrained("turned").eval()
    test_x, test_y = turned[1400:], y[1400:]
    with torch.no_grad():
        logits = again(test_x).logits
        assert torch.equal(logits, plain(test_x).logits)
    accuracy = (logits.argmax(1) == test_y).float().mean()
    print(f"{found.winner.size:,} parameters, validation {found.winner.score.accuracy:.1%}, test {accuracy:.1%}")


if __name__ == "__main__":
    main()

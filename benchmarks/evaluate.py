"""What the search and the merged model cost: merging, evaluating a structure, and the merged model's own forward.

All in interleaved rounds: a forward of the plain base model over the samples; the same by the merged model; folding a
structure into plain weights; and scoring a candidate as the search does, fold and forward together, with all layers
folded anew (random structures) or only those that a mutation has changed.
"""

from __future__ import annotations

import random
import sys

import torch
from common import interleaved, paired, parser, save, show
from methods import CLASSES, backbone

import glora
from glora.data import TensorSamples
from glora.evaluate import Evaluator, predict_logits
from glora.strategies import mutate


def main() -> None:
    arguments = parser(__doc__ or "", "evaluate")
    arguments.add_argument("--images", type=int, default=200)
    arguments.add_argument("--batch", type=int, default=50)
    given = arguments.parse_args()
    name, size, images = (
        ("vit_tiny_patch16_224", 32, 8) if given.quick else ("vit_small_patch16_224", 112, given.images)
    )
    samples = TensorSamples(torch.randn(images, 3, size, size), torch.randint(CLASSES, (images,))).to(given.device)
    base = backbone(name, size).to(given.device).eval()
    net = glora.adapt(backbone(name, size).to(given.device), glora.SearchSpace(4))
    with torch.no_grad():
        for parameter in net.adapter_parameters().values():
            parameter.normal_(std=0.01)
    generator = random.Random(0)
    structures = [net.sample(generator) for _ in range(given.rounds * 3 + 10)]
    largest = max(structures, key=net.size)
    merged = net.merge(largest).eval()
    evaluator = Evaluator(net, samples, given.batch)

    def fold() -> None:
        with net.folded(structures[generator.randrange(len(structures))]):
            pass

    batches, folds, space = torch.arange(images).split(given.batch), evaluator.folds(), net.bound
    parent = structures[0]

    def mutant() -> None:
        child = mutate(space, None, parent, 0.2 / 5, generator)  # about a fifth of the layers
        evaluator.score(child, batches, None, folds)

    works = {
        "base model, forward": lambda: predict_logits(base, samples, given.batch),
        "merged model, forward": lambda: predict_logits(merged, samples, given.batch),
        "a candidate of the search": lambda: evaluator(structures[generator.randrange(len(structures))]),
        "a mutant of few layers": mutant,
        "folding all layers": fold,
    }
    rows = paired(interleaved(works, given.rounds, given.device), "base model, forward")
    setting = f"{name}, {size} px, {images} images in batches of {given.batch}, fp32"
    table = [
        [n, f"{1000 * r['seconds']:.1f}", f"{r['ratio']:.4f}", f"{r['low']:.4f} to {r['high']:.4f}"]
        for n, r in rows.items()
    ]
    show(setting, ["work", "ms", "ratio to the base model", "quartiles"], table)
    same_class = type(merged) is type(base)
    same_keys = list(merged.state_dict()) == list(base.state_dict())
    same_modules = [(n, type(m)) for n, m in merged.named_modules()] == [(n, type(m)) for n, m in base.named_modules()]
    print(f"\nmerged model: same class {same_class}, same keys {same_keys}, same modules {same_modules}")
    results = {"setting": setting, "works": rows, "same class": same_class, "same keys": same_keys}
    save(given.out, " ".join(["python", *sys.argv]), given.device, results | {"same modules": same_modules})


if __name__ == "__main__":
    main()

"""Validation accuracy against training seconds: the supernet, LoRA by PEFT, full fine-tuning, on the same batches.

Backbone: the saliency-tuned DINOv2-small that needs no hub, at 56 px. Data: scikit-learn's digits cut to 800 training
and 200 validation images, or a folder in VTAB-1k's layout (--data). All use AdamW, the same warm-up and cosine, and
the same order of images; seconds are those of training steps alone. Of the supernet, the mean over fixed random
subnets is shown, and its all-LoRA subnet. The methods take turns, an epoch each, so that a slow spell of the machine
hits all alike.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import parser, save, seconds, show
from torch import nn

import glora
from glora import LayerStructure, SearchSpace, Structure, TrainSettings
from glora.backbones import load_backbone
from glora.data import LabelledData, Preprocessing, label_data, list_data
from glora.evaluate import evaluate
from glora.precision import Precision, autocast
from glora.train.paths import Paths
from glora.train.schedule import image_order, learning_rate

SUBNETS = 8


class Contestant:
    """A model in training: one epoch at a time, and its validation accuracies."""

    def __init__(
        self,
        model: nn.Module,
        settings: TrainSettings,
        before: Callable[[int], None] | None = None,
        subnets: dict[str, list[Structure]] | None = None,
    ) -> None:
        self.model, self.settings, self.before, self.subnets = model, settings, before, subnets
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict[str, float]] = []

    def epoch(self, number: int, data: LabelledData) -> None:
        """Train on all images once."""
        settings, device = self.settings, next(self.model.parameters()).device
        order = torch.tensor(image_order(len(data.train), settings.seed, number))
        batches = order[: len(order) // settings.batch_size * settings.batch_size].split(settings.batch_size)

        def work() -> None:
            for i, batch in enumerate(batches):
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(settings, number + i / len(batches))
                if self.before is not None:
                    self.before(self.step)
                with autocast(device, settings.precision):
                    logits = self.model(data.train.inputs(batch).to(device))
                    loss = F.cross_entropy(logits.float(), data.train.labels[batch].to(device))
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                self.step += 1

        self.seconds += seconds(work, device.type)

    def look(self, number: int, data: LabelledData, precision: Precision) -> None:
        """Evaluate, at no cost in training seconds."""
        row: dict[str, float] = {"epoch": number + 1, "seconds": round(self.seconds, 2)}
        if self.subnets is None:
            row["accuracy"] = evaluate(self.model, data.val, precision=precision).accuracy
        else:
            net = self.model
            assert isinstance(net, glora.GLoRAModel)
            for name, structures in self.subnets.items():
                scores = []
                for structure in structures:
                    with net.folded(structure):
                        scores.append(evaluate(net, data.val, precision=precision).accuracy)
                row[name] = statistics.mean(scores)
        self.curve.append(row)


def contestants(data: LabelledData, size: int, settings: TrainSettings, device: str) -> dict[str, Contestant]:
    """All of them, each on a fresh backbone."""
    import peft

    def fresh() -> nn.Module:
        return load_backbone("offline/dinov2-small", num_classes=len(data.classes), size=size).model.to(device)

    net = glora.adapt(fresh(), SearchSpace(4))
    generator = random.Random(0)
    subnets = {
        "accuracy": [net.sample(generator) for _ in range(SUBNETS)],
        "all LoRA": [Structure({name: LayerStructure(B="rank-4") for name in net.layers})],
    }
    model = fresh()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "head"]
    lora = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=4, target_modules=names))
    lora.base_model.model.head.requires_grad_(True)
    paths = Paths(net.bound, settings, 0)
    slow = TrainSettings(**{**vars_of(settings), "lr": settings.lr / 10})
    return {
        "glora supernet, random subnets": Contestant(net, settings, lambda step: net.activate(paths(step)), subnets),
        "PEFT LoRA, rank 4": Contestant(lora.eval(), settings),
        "full fine-tuning, a tenth of the rate": Contestant(fresh().eval(), slow),
    }


def vars_of(settings: TrainSettings) -> dict[str, object]:
    """The settings as keyword arguments."""
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def main() -> None:
    arguments = parser(__doc__ or "", "time_to_accuracy")
    arguments.add_argument("--data", default="digits")
    arguments.add_argument("--size", type=int, default=56)
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    given = arguments.parse_args()
    epochs = 1 if given.quick else given.epochs
    listing = list_data(given.data)
    probe = load_backbone("offline/dinov2-small", num_classes=2, size=given.size)
    data = label_data(listing, Preprocessing.from_dict(probe.preprocessing))
    settings = TrainSettings(epochs=epochs, batch_size=32, precision=given.precision)
    racing = contestants(data, given.size, settings, given.device)
    for epoch in range(epochs):
        for contestant in racing.values():
            contestant.epoch(epoch, data)
            contestant.look(epoch, data, given.precision)
        print(f"epoch {epoch + 1}/{epochs}", file=sys.stderr, flush=True)
    table = []
    for name, contestant in racing.items():
        for row in (contestant.curve[i] for i in range(len(contestant.curve)) if (i + 1) % max(1, epochs // 5) == 0):
            extra = f"{100 * row['all LoRA']:.1f}" if "all LoRA" in row else ""
            table.append([name, f"{row['epoch']:.0f}", f"{row['seconds']:.0f}", f"{100 * row['accuracy']:.1f}", extra])
    show(
        f"{given.data}, {given.size} px, {given.precision}, seed 0",
        ["method", "epoch", "training s", "validation %", "its all-LoRA subnet %"],
        table,
    )
    curves = {name: contestant.curve for name, contestant in racing.items()}
    save(given.out, " ".join(["python", *sys.argv]), given.device, curves)


if __name__ == "__main__":
    main()

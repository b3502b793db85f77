"""The settings of supernet training."""

from __future__ import annotations

from dataclasses import dataclass

from glora.errors import ConfigError
from glora.precision import Precision

__all__ = ["TrainSettings"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a supernet, or a single structure, is trained: the authors' recipe with our learning rate.

    Args:
        epochs: passes over the training set.
        lr: peak learning rate of AdamW; 1e-3 belongs to balanced gains, the authors' 1e-4 to gains="paper".
        weight_decay: of AdamW, on support tensors and head.
        warmup_epochs: epochs of linear warm-up; at most a tenth of all epochs is used.
        warmup_lr: learning rate that the warm-up starts from.
        min_lr: learning rate that the cosine ends at.
        batch_size: images a step, over all processes; a last incomplete batch is dropped.
        precision: fp32, or autocast to bf16 or fp16; support tensors stay float32.
        checkpoint_blocks: keep only the inputs of the model's blocks for backward and compute the rest again: a third
            more time for a fraction of the memory; for models of timm and transformers.
        seed: of the order of images, the structures drawn and drop path.
        probes: random structures that are evaluated along the way, beside the smallest and the largest.
        evaluations: how many times the probes are evaluated, spread evenly; 0 for never.
    """

    epochs: int = 100
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup_epochs: int = 10
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5
    batch_size: int = 64
    precision: Precision = "fp32"
    checkpoint_blocks: bool = False
    seed: int = 0
    probes: int = 2
    evaluations: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("lr", "weight_decay", "warmup_epochs", "warmup_lr", "min_lr", "probes", "evaluations"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ConfigError(f"precision must be fp32, bf16 or fp16, not {self.precision!r}")

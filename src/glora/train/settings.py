"""The settings of supernet training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from glora.data.augment import check_augment
from glora.errors import ConfigError, near_miss
from glora.precision import Precision

__all__ = ["PathRule", "TrainSettings"]

PathRule = Literal["uniform", "fair", "sandwich", "warmup"]
_PATHS = ("uniform", "fair", "sandwich", "warmup")
_NOT_NEGATIVE = ("lr", "weight_decay", "warmup_epochs", "warmup_lr", "min_lr")
_PRECISIONS = ("fp32", "bf16", "fp16")
_SCALED = ("rank", "vector", "scalar", "head")


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
        batch_size: most images a step, over all processes; an epoch has them all, in batches as equal as can be.
        precision: fp32, or autocast to bf16 or fp16; support tensors stay float32.
        checkpoint_blocks: keep only the inputs of the model's blocks for backward and compute the rest again: a third
            more time for a fraction of the memory; for models of timm and transformers.
        seed: of the order of images, the structures drawn and drop path.
        probes: random structures that are evaluated along the way, beside the smallest and the largest.
        evaluations: how many times the probes are evaluated, spread evenly; 0 for never.
        paths: how a step's structure is drawn, see :class:`glora.train.paths.Paths`.
        path_warmup: share of the training over which ``paths="warmup"`` moves from the largest structure to random
            ones.
        train_budget: most adapter parameters of a structure that is drawn, only with ``paths="uniform"``; None for any.
        none_rate: probability that a tensor is drawn as none where it may be; None for as often as any other form.
        shallow_rate: probability that a step leaves the first layers, up to a random one, as they were, so that its
            backward pass ends there; every layer up to the last is as likely as any other.
        ema: decay, by steps, of the moving average of support tensors and head that is evaluated and kept; 0 for no
            average.
        lr_scale: factors of the learning rate for a tensor that acts as rank, vector or scalar in a step, and for the
            head; 1 for what is not named.
        consistency: weight of a KL divergence that draws the step's logits to those of a second structure on the same
            batch; costs a second forward. 0 for none.
        augment: what changes training images at random, see :func:`glora.data.augment.training_transform`: none, flip,
            crop, randaugment, or timm's notation of another RandAugment.
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
    paths: PathRule = "uniform"
    path_warmup: float = 0.25
    train_budget: int | None = None
    none_rate: float | None = None
    shallow_rate: float = 0.0
    ema: float = 0.0
    lr_scale: Mapping[str, float] | None = None
    consistency: float = 0.0
    augment: str = "none"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "lr",
            "weight_decay",
            "warmup_epochs",
            "warmup_lr",
            "min_lr",
            "probes",
            "evaluations",
            "consistency",
        ):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, but is {getattr(self, name)}")
        for name, known in (("precision", _PRECISIONS), ("paths", _PATHS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, not {value!r}{near_miss(value, known)}")
        for name, most in (("path_warmup", 1), ("none_rate", 1), ("shallow_rate", 1), ("ema", 0.999999)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise ConfigError(f"{name} must be from 0 to {most}, but is {value}")
        if self.paths == "fair" and self.none_rate is not None:
            raise ConfigError("paths=fair draws every form equally often: leave none_rate out")
        if self.paths == "fair" and self.shallow_rate:
            raise ConfigError("paths=fair draws every form equally often: leave shallow_rate out")
        special = self.paths != "uniform" or self.none_rate is not None or self.shallow_rate
        if self.train_budget is not None and special:
            raise ConfigError("train_budget draws in a way of its own: leave paths, none_rate and shallow_rate out")
        check_augment(self.augment)
        for name, scale in (self.lr_scale or {}).items():
            if name not in _SCALED:
                near = near_miss(name, _SCALED)
                raise ConfigError(f"lr_scale has factors for {', '.join(_SCALED)}, not for {name!r}{near}")
            if not 0 <= scale < float("inf"):
                raise ConfigError(f"lr_scale of {name} must not be negative or infinite, but is {scale}")

"""The moving average of a training's parameters: what is evaluated and kept instead of the last values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

__all__ = ["Average"]


@final
class Average:
    """An exponential moving average over steps; with decay 0 the parameters themselves.

    Every tensor moves at every step, those too that the step did not train and which therefore count with the value
    that they kept: all tensors are averaged over the same steps, so that the average is one of whole supernets. After
    ``t`` steps the decay is at most (1 + t) / (10 + t), so that the start is soon forgotten.

    Args:
        parameters: what is trained, by name.
        decay: of the average, by steps.

    Attributes:
        tensors: the averages, by names that differ from those of the parameters.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self._decay = decay
        self._live = list(parameters.values()) if decay else []
        self.tensors = {f"average {name}": p.detach().clone() for name, p in parameters.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the values after ``step`` steps, counted from 1."""
        if self._live:
            decay = min(self._decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.tensors.values()), self._live, 1 - decay)

    @torch.no_grad()
    def settle(self) -> None:
        """Let the parameters be their averages from now on."""
        for live, average in zip(self._live, self.tensors.values(), strict=True):
            live.copy_(average)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the parameters be their averages for a block."""
        kept = [live.detach().clone() for live in self._live]
        self.settle()
        try:
            yield
        finally:
            with torch.no_grad():
                for live, value in zip(self._live, kept, strict=True):
                    live.copy_(value)

"""The parts that a transformer's block may be given: bottleneck adapters and prompt tokens.

Each stands for itself and knows nothing of the block it is put in, so that a block may have any of them. Of each, the
first units alone may act: so parts of several sizes share one storage.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Bottleneck", "Part", "Prompt", "Without"]


class Part(nn.Module, abc.ABC):
    """What stands in a place of a block (abstract).

    Args:
        units: tokens, or hidden units of a bottleneck.

    Attributes:
        units: as given.
        active: how many of them act, all at the start; the place of a part with 0 is as if empty.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = self.active = units

    def views(self, units: int) -> dict[str, Tensor]:
        """Its parameters as far as the first ``units`` read them, by name."""
        return {}


@final
class Bottleneck(Part):
    """A small network beside or behind a sublayer: ``scale * (U act(D x + d) + u)``, plus x if it is behind.

    The second matrix and both biases start at zero, so that a fresh one changes nothing.

    Args:
        width: of the tokens.
        hidden: units of the bottleneck.
        act: the non-linearity.
        scale: of the output.
        dropout: of the hidden units, in training.
        residual: add the input.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        act: Callable[[Tensor], Tensor],
        *,
        scale: float = 1.0,
        dropout: float = 0.0,
        residual: bool = False,
    ) -> None:
        super().__init__(hidden)
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)
        self.act, self.scale, self.residual = act, scale, residual
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def views(self, units: int) -> dict[str, Tensor]:
        """D (units, width), d (units,), U (width, units) and u (width,)."""
        down, up = self.down, self.up
        return {
            "down.weight": down.weight[:units],
            "down.bias": down.bias[:units],
            "up.weight": up.weight[:, :units],
            "up.bias": up.bias,
        }

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        down, shift, up, bias = (view.to(x.dtype) for view in self.views(self.active).values())
        y: Tensor = self.scale * F.linear(self.drop(self.act(F.linear(x, down, shift))), up, bias)
        return x + y if self.residual else y


@final
class Prompt(Part):
    """Learned tokens put between the first ones and the patches.

    Args:
        count: of the tokens.
        width: of the tokens.
        position: how many tokens stand before them: class and register tokens.
        patch: input values of a patch, colours times height times width, of which the initial range follows.
        dropout: of the tokens, in training.
    """

    def __init__(self, count: int, width: int, position: int, patch: int, dropout: float = 0.0) -> None:
        super().__init__(count)
        self.position = position
        self.drop = nn.Dropout(dropout)
        reach = math.sqrt(6 / (patch + width))
        self.tokens = nn.Parameter(torch.empty(count, width).uniform_(-reach, reach))

    def views(self, units: int) -> dict[str, Tensor]:
        """The first tokens, (units, width)."""
        return {"tokens": self.tokens[:units]}

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to (B, N + active, width)."""
        tokens = self.drop(self.tokens[: self.active]).to(x.dtype).expand(len(x), -1, -1)
        return torch.cat([x[:, : self.position], tokens, x[:, self.position :]], dim=1)


@final
class Without(Part):
    """Takes a :class:`Prompt`'s tokens away again."""

    def __init__(self, count: int, position: int) -> None:
        super().__init__(count)
        self.position = position

    def forward(self, x: Tensor) -> Tensor:
        """(B, N + active, width) to (B, N, width)."""
        return torch.cat([x[:, : self.position], x[:, self.position + self.active :]], dim=1)

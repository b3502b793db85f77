"""The parts that methods add to a transformer's block: bottleneck adapters and prompt tokens.

Each stands for itself and knows nothing of the block it is put in, so that a block may have any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["Bottleneck", "Prompt", "Without"]


class Bottleneck(nn.Module):
    """A small network beside or behind a sublayer: ``scale * U act(D x + d) + u``, plus x if it is behind (final).

    The second matrix and both biases start at zero, so that a fresh one changes nothing.

    Args:
        width: of the tokens.
        hidden: of the bottleneck.
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
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)
        self.act, self.scale, self.residual = act, scale, residual
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        y: Tensor = self.scale * self.up(self.drop(self.act(self.down(x))))
        return x + y if self.residual else y


class Prompt(nn.Module):
    """Learned tokens put between the first ones and the patches (final).

    Args:
        count: of the tokens.
        width: of the tokens.
        position: how many tokens stand before them: class and register tokens.
        patch: input values of a patch, colours times height times width, of which the initial range follows.
        dropout: of the tokens, in training.
    """

    def __init__(self, count: int, width: int, position: int, patch: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.position = position
        self.drop = nn.Dropout(dropout)
        reach = math.sqrt(6 / (patch + width))
        self.tokens = nn.Parameter(torch.empty(count, width).uniform_(-reach, reach))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to (B, N + count, width)."""
        tokens = self.drop(self.tokens).to(x.dtype).expand(len(x), -1, -1)
        return torch.cat([x[:, : self.position], tokens, x[:, self.position :]], dim=1)


class Without(nn.Module):
    """Takes a :class:`Prompt`'s tokens away again (final)."""

    def __init__(self, count: int, position: int) -> None:
        super().__init__()
        self.count, self.position = count, position

    def forward(self, x: Tensor) -> Tensor:
        """(B, N + count, width) to (B, N, width)."""
        return torch.cat([x[:, : self.position], x[:, self.position + self.count :]], dim=1)

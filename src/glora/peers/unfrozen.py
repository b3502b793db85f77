"""Peers that train what the model has already: all of it, its norms, or nothing but the head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from glora.errors import TargetError
from glora.peers.base import Peer
from glora.trainable import Flags

__all__ = ["UnfrozenPeer", "all_parameters", "biases", "no_parameters", "norms", "some_norms"]

Selection = Callable[[nn.Module], Iterator[str]]


def all_parameters(model: nn.Module) -> Iterator[str]:
    """Every parameter."""
    yield from (name for name, _ in model.named_parameters())


def no_parameters(model: nn.Module) -> Iterator[str]:
    """None at all."""
    yield from ()


def norms(model: nn.Module) -> Iterator[str]:
    """Weight and bias of every layer norm there is."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            yield from (f"{name}.{key}" for key, _ in module.named_parameters(recurse=False))


def some_norms(model: nn.Module) -> Iterator[str]:
    """The same.

    Raises:
        TargetError: if the model has none.
    """
    if not any(True for _ in norms(model)):
        raise TargetError(f"{type(model).__name__} has no LayerNorm to tune")
    return norms(model)


def biases(model: nn.Module) -> Iterator[str]:
    """The bias of every module that has one."""
    for name, module in model.named_modules():
        if module._parameters.get("bias") is not None:
            yield f"{name}.bias" if name else "bias"


class UnfrozenPeer(Peer):
    """A model of which some parameters are trained where they are (final).

    Args:
        name, settings, model, heads: see :class:`Peer`.
        select: gives the names of the parameters that are trained.
        whole: also follow ``train()`` and move statistics everywhere.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        model: nn.Module,
        heads: tuple[str, ...],
        select: Selection,
        whole: bool = False,
    ) -> None:
        flags, own = Flags.of(model), list(select(model))
        model.requires_grad_(False)
        self._whole = whole
        super().__init__(name, settings, model, heads, flags, own, [""] if whole else [])

    def trained_buffers(self) -> dict[str, Tensor]:
        """Buffers that training changes: all of them where the whole model is trained."""
        return dict(self.model.named_buffers()) if self._whole else super().trained_buffers()

    def merge(self) -> nn.Module:
        """A copy of the model."""
        return self._flags.restore(self._copy())

"""Peers that are points of our space: the preset on the layers that the method is published for, with gains of 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from glora.folds import Folds
from glora.model import GLoRAModel, adapt
from glora.peers.base import Peer
from glora.peers.unfrozen import Selection, no_parameters
from glora.space import BiasPolicy, SearchSpace
from glora.structure import Structure
from glora.targets import Layers
from glora.trainable import Flags

__all__ = ["PointPeer"]


class PointPeer(Peer):
    """A structure on some layers, and perhaps parameters of other layers that are trained where they are (final).

    Gains are 1, as the methods are published.

    Args:
        name, settings, model, heads: see :class:`Peer`.
        space: with one point.
        layers: to adapt, as in :func:`glora.adapt`.
        also: names of further parameters; those of adapted layers are left out.
        seed: of the initial low-rank factors.
        bias: as in :func:`glora.adapt`.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        model: nn.Module,
        heads: tuple[str, ...],
        space: SearchSpace,
        layers: Layers,
        *,
        also: Selection = no_parameters,
        seed: int = 0,
        bias: BiasPolicy = "create",
    ) -> None:
        flags, others = Flags.of(model), list(also(model))
        net = adapt(model, space, layers, head=heads or False, gains="paper", bias=bias, seed=seed)
        others = [key for key in others if key.rpartition(".")[0] not in net.layers]
        super().__init__(name, settings, model, heads, flags, [*net.adapter_parameters(), *others])
        # In a tuple, so that the model is no sub-module twice.
        self._net = (net,)
        self.bound, self.layers = net.bound, net.layers

    @property
    def net(self) -> GLoRAModel:
        """The adapted model."""
        return self._net[0]

    def activate(self, structure: Structure) -> None:
        """Let the point of the space act."""
        self.net.activate(structure)

    @contextmanager
    def folded(self, structure: Structure, folds: Folds | None = None) -> Iterator[None]:
        """Compute with merged weights for a block."""
        with self.net.folded(structure, folds):
            yield

    def uncalled(self) -> tuple[str, ...]:
        """Adapted layers that the model has never called."""
        return self.net.uncalled()

    def merge(self) -> nn.Module:
        """The plain model; see :meth:`glora.GLoRAModel.merge`."""
        return self.net.merge()

"""What all peers are: a model, changed in place, of which a method's own parameters and the head are trained."""

from __future__ import annotations

import abc
import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from glora import presets
from glora.folds import Folds
from glora.layers import AdaptedLayer
from glora.space import BoundSpace
from glora.structure import Structure
from glora.trainable import Flags, Trainable

__all__ = ["Peer"]


class Peer(Trainable, abc.ABC):
    """A method to compare with, on a model (abstract).

    Calling it calls the model. Frozen modules stay in evaluation mode while it is trained, so that no statistic of
    theirs moves; the head and the method's own modules, which may hold dropout, follow ``train()``.

    Args:
        name: of the method, a key of ``PEERS``.
        settings: of the method, complete; stored along with its tensors.
        model: the library model, already changed; everything in it is frozen but ``own`` and the heads.
        heads: qualified names of the head.
        flags: of the model before it was changed.
        own: qualified names of the method's parameters in ``model``.
        modules: qualified names of the method's modules in ``model``, ``""`` for the whole model.

    Attributes:
        name: of the method.
        settings: of the method.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        model: nn.Module,
        heads: tuple[str, ...],
        flags: Flags,
        own: Iterable[str],
        modules: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.name, self.settings = name, dict(settings)
        self.model = model
        self.head_names = heads
        self.bound = BoundSpace(presets.frozen(), {})
        self.layers: Mapping[str, AdaptedLayer] = {}
        self.recipe: Mapping[str, Any] = {"method": name, "settings of the method": self.settings}
        self._flags = flags
        inside = tuple(f"{head}." for head in heads)
        self._own = tuple(key for key in own if not key.startswith(inside))
        self._modules_of_its_own = tuple(modules)
        for parameter in (*self.adapter_parameters().values(), *self.head_parameters().values()):
            parameter.requires_grad_(True)
        self.train(model.training)

    @property
    def size(self) -> int:
        """Trained parameters beside the head."""
        return sum(parameter.numel() for parameter in self.adapter_parameters().values())

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """The method's own parameters, by qualified name in the model."""
        return {key: self.model.get_parameter(key) for key in self._own}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives."""
        return self.model(*args, **kwargs)

    def train(self, mode: bool = True) -> Peer:
        """Set training mode for the head and the method's own modules only."""
        super().train(False)
        self.training = mode
        for name in (*self.head_names, *self._modules_of_its_own):
            self.model.get_submodule(name).train(mode)
        return self

    @abc.abstractmethod
    def merge(self) -> nn.Module:
        """A copy that is the plain model, of the original class with the original keys.

        Raises:
            MergeError: if the method stays outside the weights.
        """

    def save(self, path: str | Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write the method's tensors and the head; see :func:`glora.peers.load_peer`."""
        from glora.peers.files import save_peer  # here, because reading a file makes a peer

        save_peer(self, path, extra)

    # One structure, the empty one, stands for a method with nothing to choose

    def activate(self, structure: Structure) -> None:
        """Nothing to choose: the method acts as it is."""
        self.bound.check_layers(structure)

    @contextmanager
    def folded(self, structure: Structure, folds: Folds | None = None) -> Iterator[None]:
        """Nothing to fold: the method acts as it is."""
        self.activate(structure)
        yield

    def uncalled(self) -> tuple[str, ...]:
        """None: only layers with support tensors are watched."""
        return ()

    def _copy(self) -> nn.Module:
        """A copy of the model."""
        return copy.deepcopy(self.model)

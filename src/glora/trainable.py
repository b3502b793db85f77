"""What the training loop and evaluation ask of a model: a frozen part, a part of its own that is trained, a head."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import Tensor, nn

from glora.folds import Folds
from glora.layers import AdaptedLayer, Place
from glora.space import BoundSpace
from glora.structure import Structure

__all__ = ["Flags", "Trainable"]


class Trainable(nn.Module, abc.ABC):
    """A model of which an adapter and the head are trained (abstract).

    Attributes:
        model: the library model inside, of its own class.
        bound: the structures to draw from; a space of one point where there is nothing to choose.
        layers: the layers with support tensors, by name; empty for a method that has none.
        head_names: qualified names of the head in ``model``, of its parts in distilled models; empty for none.
        recipe: plain values that tell this training from one of another method; must be equal to resume.
    """

    model: nn.Module
    bound: BoundSpace
    layers: Mapping[str, AdaptedLayer]
    head_names: tuple[str, ...]
    recipe: Mapping[str, Any]

    @property
    def places(self) -> Mapping[str, Place]:
        """Everything that genes act on, by name: the layers, and whatever a subclass has beside them."""
        return self.layers

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The task head, trained in full, by qualified name: mostly one module, two in distilled models, or none."""
        return {name: self.model.get_submodule(name) for name in self.head_names}

    @property
    def head_size(self) -> int:
        """Parameters of the head; never part of an adapter's size."""
        return sum(parameter.numel() for parameter in self.head_parameters().values())

    @abc.abstractmethod
    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Every trained parameter beside the head, by qualified name in the model."""

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """The head's parameters, by qualified name in the model."""
        return {
            f"{name}.{key}": parameter
            for name, head in self.heads.items()
            for key, parameter in head.named_parameters()
        }

    def trained_buffers(self) -> dict[str, Tensor]:
        """Buffers that training changes (statistics of the head's norms), by qualified name in the model."""
        return {f"{name}.{key}": b for name, head in self.heads.items() for key, b in head.named_buffers()}

    def frozen_tensors(self) -> dict[str, Tensor]:
        """The frozen backbone: its state dict without what is trained, under the original keys."""
        trained = {id(p) for p in (*self.adapter_parameters().values(), *self.head_parameters().values())}
        trained |= {id(buffer) for buffer in self.trained_buffers().values()}
        prefixes = tuple(f"{name}." for name in self.head_names)
        return {
            key: tensor
            for key, tensor in self.model.state_dict(keep_vars=True).items()
            if id(tensor) not in trained and not key.startswith(prefixes)
        }

    @abc.abstractmethod
    def activate(self, structure: Structure) -> None:
        """Let exactly this structure act."""

    @abc.abstractmethod
    def folded(self, structure: Structure, folds: Folds | None = None) -> AbstractContextManager[None]:
        """Compute as ``structure`` does for a block, as fast as can be while nothing is trained.

        Args:
            structure: what shall act.
            folds: keep merged weights for the next call; nothing may be trained in between.
        """

    @abc.abstractmethod
    def uncalled(self) -> tuple[str, ...]:
        """Adapted layers that the model has never called, so that they did not act."""


class Flags(NamedTuple):
    """Which parameters of a model required a gradient, and which modules were in training mode."""

    requires_grad: dict[str, bool]
    training: dict[str, bool]

    @classmethod
    def of(cls, model: nn.Module) -> Flags:
        """Those of ``model`` now."""
        return cls(
            {name: parameter.requires_grad for name, parameter in model.named_parameters()},
            {name: module.training for name, module in model.named_modules()},
        )

    def restore(self, model: nn.Module) -> nn.Module:
        """Set them again and give ``model`` back; a parameter that is new requires a gradient."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.requires_grad.get(name, True))
        for name, module in model.named_modules():
            module.training = self.training.get(name, model.training)
        return model

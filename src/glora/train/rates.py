"""Learning rates by what a tensor acts as, for the optimiser of a supernet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor, nn

from glora.structure import Structure
from glora.trainable import Trainable

__all__ = ["Rates"]

_KINDS = ("rank", "vector", "scalar")


@final
class Rates:
    """The optimiser's parameter groups (final).

    The forms of a support tensor share storage, so a rate belongs to the form that a step has drawn: each step, what
    acts is put into the group of its kind (``mul``, prompts and adapters count as ``rank``). Without factors there is a
    single group.

    Args:
        net: what is trained.
        scale: factors of the learning rate for rank, vector, scalar and head.
    """

    def __init__(self, net: Trainable, scale: Mapping[str, float] | None) -> None:
        self._parts: dict[tuple[str, str, Any], tuple[str, list[nn.Parameter]]] = {}
        if not scale:
            everything: list[Tensor] = [*net.adapter_parameters().values(), *net.head_parameters().values()]
            self.groups: list[dict[str, Any]] = [{"params": everything, "scale": 1.0}]
            return
        named = {kind: {"params": [], "scale": scale.get(kind, 1.0)} for kind in _KINDS}
        head = {"params": list(net.head_parameters().values()), "scale": scale.get("head", 1.0)}
        self.groups = [*named.values(), head]
        for layer, tensor in net.bound.genes:
            for form in net.bound.choices(layer, tensor):
                if form.kind != "none":
                    kind = "rank" if form.rank else form.kind
                    self._parts[layer, tensor, form] = kind, net.places[layer].parameters_of(tensor, form)

    def apply(self, groups: list[dict[str, Any]], structure: Structure, lr: float) -> None:
        """Set the rates of the optimiser's groups, and their members if ``structure`` decides them."""
        for group in groups:
            group["lr"] = lr * group["scale"]
        if self._parts:
            members: dict[str, list[nn.Parameter]] = {kind: [] for kind in _KINDS}
            for name, layer in structure.items():
                for tensor, form in layer.items():
                    if form.kind != "none":
                        kind, parts = self._parts[name, tensor, form]
                        members[kind] += parts
            for group, kind in zip(groups, _KINDS, strict=False):
                group["params"] = members[kind]

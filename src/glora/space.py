"""Search spaces: which forms each support tensor of each layer may take, and what each costs (no torch)."""

from __future__ import annotations

import fnmatch
import math
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from glora.errors import BudgetError, StructureError, near_miss
from glora.structure import TENSORS, Form, LayerStructure, Structure, check_form

__all__ = ["BoundSpace", "LayerShape", "SearchSpace"]

Forms = str | Form | Iterable[str | Form]
BiasPolicy = Literal["create", "keep"]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What a layer's support tensors are sized by: its weight seen as ``out`` x ``in`` and whether it has a bias."""

    out_features: int
    in_features: int
    has_bias: bool = True

    def size(self, tensor: str, form: Form) -> int:
        """Parameters of support tensor ``tensor`` in ``form`` (table in docs/method.md)."""
        if form.kind == "none":
            return 0
        if form.kind == "scalar":
            return 1
        if form.kind == "vector":
            return self.in_features if tensor == "C" else self.out_features
        if form.kind == "mul":
            return 2 * form.rank * self.in_features
        if tensor == "C":
            return form.rank * (self.in_features + 1)
        return form.rank * (self.out_features + self.in_features)


def _forms(tensor: str, given: Forms) -> tuple[Form, ...]:
    items = [given] if isinstance(given, str | Form) else list(given)
    forms = tuple(dict.fromkeys(Form.parse(item) for item in items))
    if not forms:
        raise StructureError(f"support tensor {tensor} needs at least one form in a search space: give ['none']")
    for form in forms:
        check_form(tensor, form)
    return forms


class SearchSpace:
    """The forms that each support tensor may take, the same for all layers or by layer pattern.

    Args:
        rank: the rank of the low-rank forms in the defaults of A and B.
        A, B, C, D, E: allowed forms of that tensor; defaults are A and B {rank-r, vector, scalar, none},
            C {vector, none}, D and E {vector, scalar, none}: 288 layer structures a layer.
        layers: for layers whose name matches a glob, the tensors whose forms differ from the above,
            ``{"*.fc1": {"B": ["rank-8", "none"]}}``; the first matching glob counts.

    Raises:
        StructureError: for a form that the tensor cannot have, or an empty set of forms.
    """

    __slots__ = ("forms", "layers", "rank")

    def __init__(
        self,
        rank: int = 4,
        *,
        A: Forms | None = None,
        B: Forms | None = None,
        C: Forms | None = None,
        D: Forms | None = None,
        E: Forms | None = None,
        layers: Mapping[str, Mapping[str, Forms]] | None = None,
    ) -> None:
        if rank < 1:
            raise StructureError(f"the rank of a search space is 1 or more, not {rank}")
        matrix = (Form.low_rank(rank), Form.VECTOR, Form.SCALAR, Form.NONE)
        bias = (Form.VECTOR, Form.SCALAR, Form.NONE)
        defaults = {"A": matrix, "B": matrix, "C": (Form.VECTOR, Form.NONE), "D": bias, "E": bias}
        given = {"A": A, "B": B, "C": C, "D": D, "E": E}
        self.rank = rank
        self.forms: dict[str, tuple[Form, ...]] = {
            name: defaults[name] if forms is None else _forms(name, forms) for name, forms in given.items()
        }
        self.layers: dict[str, dict[str, tuple[Form, ...]]] = {}
        for pattern, changed in (layers or {}).items():
            if unknown := sorted(set(changed) - set(TENSORS)):
                raise StructureError(f"pattern {pattern!r} names {unknown[0]!r}; support tensors are A, B, C, D and E")
            self.layers[pattern] = {name: _forms(name, forms) for name, forms in changed.items()}

    @classmethod
    def paper(cls, rank: int = 4) -> SearchSpace:
        """The space of the paper's released code: as the default, and C may be low-rank too (432 per layer)."""
        return cls(rank, C=(Form.low_rank(rank), Form.VECTOR, Form.NONE))

    @classmethod
    def point(cls, layer: LayerStructure) -> SearchSpace:
        """The space with one point, ``layer`` in every layer: what the presets are made of."""
        rank = max([form.rank for _, form in layer.items()] + [1])
        return cls(rank, A=layer.A, B=layer.B, C=layer.C, D=layer.D, E=layer.E)

    @classmethod
    def of(cls, structure: Structure) -> SearchSpace:
        """The space with one point, ``structure``: what an adapter file needs."""
        rank = max((form.rank for layer in structure.values() for _, form in layer.items()), default=0)
        escaped = {re.sub(r"([*?[])", r"[\1]", name): layer for name, layer in structure.items()}
        none = {name: Form.NONE for name in TENSORS}
        return cls(max(rank, 1), **none, layers={name: dict(layer.items()) for name, layer in escaped.items()})

    def choices(self, layer: str) -> dict[str, tuple[Form, ...]]:
        """Allowed forms of each support tensor of the layer called ``layer``."""
        for pattern, changed in self.layers.items():
            if fnmatch.fnmatchcase(layer, pattern):
                return {**self.forms, **changed}
        return self.forms

    def contains(self, structure: Structure) -> bool:
        """Whether every layer that ``structure`` names has allowed forms."""
        return all(form in self.choices(name)[t] for name, layer in structure.items() for t, form in layer.items())

    def cardinality(self, layers: Iterable[str]) -> int:
        """The number of structures over the named layers (exact, often beyond a float)."""
        return math.prod(len(forms) for name in layers for forms in self.choices(name).values())

    def sample(self, generator: random.Random, layers: Iterable[str]) -> Structure:
        """Draw every form of every named layer independently and uniformly (the supernet's draw)."""
        return Structure(
            {name: LayerStructure(**{t: generator.choice(f) for t, f in self.choices(name).items()}) for name in layers}
        )

    def bind(self, shapes: Mapping[str, LayerShape], bias: BiasPolicy = "create") -> BoundSpace:
        """This space on the layers of one model, with sizes. See :class:`BoundSpace`."""
        return BoundSpace(self, shapes, bias)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file; :meth:`from_dict` gives an equal space back."""
        value: dict[str, Any] = {"rank": self.rank, **{t: [str(f) for f in forms] for t, forms in self.forms.items()}}
        if self.layers:
            value["layers"] = {
                pattern: {t: [str(f) for f in forms] for t, forms in changed.items()}
                for pattern, changed in self.layers.items()
            }
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SearchSpace:
        """Read what :meth:`to_dict` gave.

        Raises:
            StructureError: for an unknown key or a wrong form.
        """
        if unknown := sorted(set(value) - {"rank", "layers", *TENSORS}):
            near = near_miss(unknown[0], ("rank", "layers"))
            raise StructureError(f"a search space has no entry {unknown[0]!r}: it has rank, A to E and layers{near}")
        return cls(**value)

    def _key(self) -> tuple[object, ...]:
        # The order of the patterns counts, as the first that matches does.
        layers = tuple((pattern, tuple(sorted(changed.items()))) for pattern, changed in self.layers.items())
        return (self.rank, tuple(self.forms.items()), layers)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, SearchSpace) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        parts = [f"{t}=[{', '.join(map(str, forms))}]" for t, forms in self.forms.items()]
        if self.layers:
            parts.append(f"layers={list(self.layers)}")
        return f"SearchSpace(rank={self.rank}, {', '.join(parts)})"


class BoundSpace:
    """A search space on the layers of one model: choices, sizes and legal draws.

    A layer without a bias is never offered D; with ``bias="keep"`` neither C nor E, which would create one.

    Args:
        space: the allowed forms.
        shapes: the adapted layers, in the model's order.
        bias: ``"create"`` or ``"keep"``, for layers without a bias.

    Raises:
        StructureError: for a pattern of the space that matches no layer.
    """

    __slots__ = ("_choices", "_costs", "bias", "shapes", "space")

    def __init__(self, space: SearchSpace, shapes: Mapping[str, LayerShape], bias: BiasPolicy = "create") -> None:
        self.space = space
        self.shapes = dict(shapes)
        self.bias = bias
        for pattern in space.layers:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in shapes):
                raise StructureError(f"pattern {pattern!r} of the search space matches none of the adapted layers")
        self._choices: dict[tuple[str, str], tuple[Form, ...]] = {}
        self._costs: dict[tuple[str, str], dict[Form, int]] = {}
        for name, shape in self.shapes.items():
            for tensor, forms in space.choices(name).items():
                if not shape.has_bias and (tensor == "D" or (bias == "keep" and tensor in "CE")):
                    forms = (Form.NONE,)
                self._choices[name, tensor] = forms
                self._costs[name, tensor] = {form: shape.size(tensor, form) for form in forms}

    @property
    def layers(self) -> tuple[str, ...]:
        """The adapted layers' names, in the model's order."""
        return tuple(self.shapes)

    @property
    def genes(self) -> tuple[tuple[str, str], ...]:
        """Every (layer, support tensor) pair, in order: the coordinates of a structure."""
        return tuple(self._choices)

    def choices(self, layer: str, tensor: str) -> tuple[Form, ...]:
        """Allowed forms of one support tensor of one layer."""
        return self._choices[layer, tensor]

    def cost(self, layer: str, tensor: str, form: Form) -> int:
        """Parameters that ``form`` costs there."""
        return self._costs[layer, tensor][form]

    @property
    def smallest(self) -> int:
        """Adapter parameters of the smallest structure."""
        return sum(min(costs.values()) for costs in self._costs.values())

    @property
    def largest(self) -> int:
        """Adapter parameters of the largest structure."""
        return sum(max(costs.values()) for costs in self._costs.values())

    @property
    def cardinality(self) -> int:
        """The number of structures (exact)."""
        return math.prod(len(forms) for forms in self._choices.values())

    def size(self, structure: Structure) -> int:
        """Adapter parameters of ``structure``, the head apart.

        Raises:
            StructureError: if it names a layer that is not adapted.
        """
        self.check_layers(structure)
        return sum(self.shapes[name].size(t, form) for name, layer in structure.items() for t, form in layer.items())

    def contains(self, structure: Structure) -> bool:
        """Whether every form of every layer is among the choices."""
        if any(name not in self.shapes for name in structure):
            return False
        return all(structure[name][tensor] in forms for (name, tensor), forms in self._choices.items())

    def check(self, structure: Structure) -> None:
        """Raise StructureError naming the first layer and tensor whose form is not among the choices."""
        self.check_layers(structure)
        for (name, tensor), forms in self._choices.items():
            if (form := structure[name][tensor]) not in forms:
                why = "the layer has no bias" if not self.shapes[name].has_bias and tensor in "CDE" else "allowed"
                allowed = ", ".join(map(str, forms))
                raise StructureError(f"{name}: {tensor}={form} is not in the search space ({why}: {allowed})")

    def check_budget(self, budget: int) -> None:
        """Raise BudgetError, with the feasible range, unless some structure has at most ``budget`` parameters."""
        if budget < self.smallest:
            raise BudgetError(
                f"no structure of this search space has {budget:,} adapter parameters or fewer: "
                f"feasible budgets are {self.smallest:,} to {self.largest:,}"
            )

    def sample(self, generator: random.Random) -> Structure:
        """Draw every form independently and uniformly; only the generator given is used."""
        return self.build({gene: generator.choice(forms) for gene, forms in self._choices.items()})

    def build(self, forms: Mapping[tuple[str, str], Form]) -> Structure:
        """The structure with the given form at each (layer, tensor); the others are none."""
        layers: dict[str, dict[str, Form]] = {}
        for (name, tensor), form in forms.items():
            layers.setdefault(name, {})[tensor] = form
        return Structure({name: LayerStructure(**chosen) for name, chosen in layers.items()})

    def check_layers(self, structure: Structure) -> None:
        """Raise StructureError for a layer that is not adapted."""
        for name in structure:
            if name not in self.shapes:
                raise StructureError(f"layer {name!r} is not adapted; the adapted layers are {_some(self.layers)}")


def _some(names: tuple[str, ...], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"

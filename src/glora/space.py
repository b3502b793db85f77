"""Search spaces: which forms each support tensor of each layer may take, and what each costs (no torch)."""

from __future__ import annotations

import fnmatch
import math
import random
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from glora.errors import BudgetError, StructureError, near_miss
from glora.shapes import BlockShape, LayerShape, Shape
from glora.structure import PARTS, TENSORS, Form, LayerStructure, Structure, check_form

__all__ = ["BoundSpace", "SearchSpace"]

Forms = str | Form | Iterable[str | Form]
BiasPolicy = Literal["create", "keep"]
_ENTRIES = ("rank", "layers", "prompts", "adapters", "blocks")


def _forms(tensor: str, given: Forms) -> tuple[Form, ...]:
    items = [given] if isinstance(given, str | Form) else list(given)
    forms = tuple(dict.fromkeys(Form.parse(item) for item in items))
    if not forms:
        what = f"support tensor {tensor}" if tensor in TENSORS else f"the {tensor} of a block"
        raise StructureError(f"{what} needs at least one form in a search space: give ['none']")
    for form in forms:
        check_form(tensor, form)
    return forms


def _patterns(
    given: Mapping[str, Mapping[str, Forms]] | None, genes: tuple[str, ...], known: str
) -> dict[str, dict[str, tuple[Form, ...]]]:
    """Forms by glob and gene, read and checked."""
    found = {}
    for pattern, changed in (given or {}).items():
        if unknown := sorted(set(changed) - set(genes)):
            raise StructureError(f"pattern {pattern!r} names {unknown[0]!r}; {known}")
        found[pattern] = {name: _forms(name, forms) for name, forms in changed.items()}
    return found


def _first_match(
    patterns: Mapping[str, dict[str, tuple[Form, ...]]], name: str, otherwise: dict[str, tuple[Form, ...]]
) -> dict[str, tuple[Form, ...]]:
    for pattern, changed in patterns.items():
        if fnmatch.fnmatchcase(name, pattern):
            return {**otherwise, **changed}
    return otherwise


def _texts(forms: Iterable[Form]) -> list[str]:
    return [str(form) for form in forms]


class SearchSpace:
    """The forms that each support tensor may take, the same for all layers or by layer pattern.

    And, if wished, the prompts and adapters that each block may have: hybrids, see docs/hybrids.md.

    Args:
        rank: the rank of the low-rank forms in the defaults of A and B.
        A, B, C, D, E: allowed forms of that tensor; defaults are A and B {rank-r, vector, scalar, none},
            C {vector, none}, D and E {vector, scalar, none}: 288 layer structures a layer.
        layers: for layers whose name matches a glob, the tensors whose forms differ from the above,
            ``{"*.fc1": {"B": ["rank-8", "none"]}}``; the first matching glob counts.
        prompts: of every block, ``["none", "tokens-5", "tokens-10"]``; none by default.
        adapters: of every block, ``["none", "bottleneck-4", "serial-8"]``; none by default.
        blocks: for blocks whose name matches a glob, what differs from the above,
            ``{"blocks.[0-5]": {"prompt": ["none"]}}``; the first matching glob counts.

    Raises:
        StructureError: for a form that the tensor or block cannot have, or an empty set of forms.
    """

    __slots__ = ("blocks", "forms", "layers", "parts", "rank")

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
        prompts: Forms = Form.NONE,
        adapters: Forms = Form.NONE,
        blocks: Mapping[str, Mapping[str, Forms]] | None = None,
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
        self.layers = _patterns(layers, TENSORS, "support tensors are A, B, C, D and E")
        self.parts = {"prompt": _forms("prompt", prompts), "adapter": _forms("adapter", adapters)}
        self.blocks = _patterns(blocks, PARTS, "blocks have a prompt and an adapter")

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
        rank = max((form.rank for layer in structure.layers.values() for _, form in layer.items()), default=0)
        none = {name: Form.NONE for name in TENSORS}
        layers, blocks = (
            {re.sub(r"([*?[])", r"[\1]", name): dict(place.items()) for name, place in places.items()}
            for places in (structure.layers, structure.blocks)
        )
        return cls(max(rank, 1), **none, layers=layers, blocks=blocks)

    def choices(self, layer: str) -> dict[str, tuple[Form, ...]]:
        """Allowed forms of each support tensor of the layer called ``layer``."""
        return _first_match(self.layers, layer, self.forms)

    def block_choices(self, block: str) -> dict[str, tuple[Form, ...]]:
        """Allowed forms of the prompt and the adapter of the block called ``block``."""
        return _first_match(self.blocks, block, self.parts)

    @property
    def is_hybrid(self) -> bool:
        """Whether any block may have a prompt or an adapter."""
        return any(forms != (Form.NONE,) for parts in (self.parts, *self.blocks.values()) for forms in parts.values())

    def contains(self, structure: Structure) -> bool:
        """Whether every layer and block that ``structure`` names has allowed forms."""
        layers = all(f in self.choices(name)[t] for name, own in structure.layers.items() for t, f in own.items())
        return layers and all(
            f in self.block_choices(name)[t] for name, own in structure.blocks.items() for t, f in own.items()
        )

    def cardinality(self, layers: Iterable[str]) -> int:
        """The number of structures over the named layers, blocks apart (exact, often beyond a float)."""
        return math.prod(len(forms) for name in layers for forms in self.choices(name).values())

    def sample(self, generator: random.Random, layers: Iterable[str]) -> Structure:
        """Draw every form of every named layer independently and uniformly; blocks need :meth:`bind`."""
        return Structure(
            {name: LayerStructure(**{t: generator.choice(f) for t, f in self.choices(name).items()}) for name in layers}
        )

    def bind(self, shapes: Mapping[str, Shape], bias: BiasPolicy = "create") -> BoundSpace:
        """This space on the layers and blocks of one model, with sizes. See :class:`BoundSpace`."""
        return BoundSpace(self, shapes, bias)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file; :meth:`from_dict` gives an equal space back."""
        value: dict[str, Any] = {"rank": self.rank, **{t: _texts(forms) for t, forms in self.forms.items()}}
        for part, forms in self.parts.items():
            if forms != (Form.NONE,):
                value[f"{part}s"] = _texts(forms)
        for key, patterns in (("layers", self.layers), ("blocks", self.blocks)):
            if patterns:
                value[key] = {
                    pattern: {t: _texts(forms) for t, forms in changed.items()} for pattern, changed in patterns.items()
                }
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SearchSpace:
        """Read what :meth:`to_dict` gave.

        Raises:
            StructureError: for an unknown key or a wrong form.
        """
        if unknown := sorted(set(value) - {*_ENTRIES, *TENSORS}):
            raise StructureError(
                f"a search space has no entry {unknown[0]!r}: it has rank, A to E and layers, and for hybrids prompts, "
                f"adapters and blocks{near_miss(unknown[0], _ENTRIES)}"
            )
        return cls(**value)

    def _key(self) -> tuple[object, ...]:
        # The order of the patterns counts, as the first that matches does.
        layers, blocks = (
            tuple((pattern, tuple(sorted(changed.items()))) for pattern, changed in patterns.items())
            for patterns in (self.layers, self.blocks)
        )
        return (self.rank, tuple(self.forms.items()), layers, tuple(self.parts.items()), blocks)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, SearchSpace) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        named = self.forms | {f"{part}s": forms for part, forms in self.parts.items() if forms != (Form.NONE,)}
        parts = [f"{t}=[{', '.join(map(str, forms))}]" for t, forms in named.items()]
        if self.layers:
            parts.append(f"layers={list(self.layers)}")
        if self.blocks:
            parts.append(f"blocks={list(self.blocks)}")
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

    def __init__(self, space: SearchSpace, shapes: Mapping[str, Shape], bias: BiasPolicy = "create") -> None:
        self.space = space
        self.shapes = dict(shapes)
        self.bias = bias
        for patterns, kind, what in (
            (space.layers, LayerShape, "adapted layers"),
            (space.blocks, BlockShape, "model's blocks"),
        ):
            names = [name for name, shape in shapes.items() if isinstance(shape, kind)]
            for pattern in patterns:
                if not fnmatch.filter(names, pattern):
                    raise StructureError(f"pattern {pattern!r} of the search space matches none of the {what}")
        self._choices: dict[tuple[str, str], tuple[Form, ...]] = {}
        self._costs: dict[tuple[str, str], dict[Form, int]] = {}
        for name, shape in self.shapes.items():
            for tensor, forms in _offered(space, name, shape, bias).items():
                self._choices[name, tensor] = forms
                self._costs[name, tensor] = {form: shape.size(tensor, form) for form in forms}

    @property
    def layers(self) -> tuple[str, ...]:
        """The adapted layers' names, in the model's order."""
        return tuple(name for name, shape in self.shapes.items() if isinstance(shape, LayerShape))

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names of the blocks that may have prompts or adapters, in the model's order."""
        return tuple(name for name, shape in self.shapes.items() if isinstance(shape, BlockShape))

    @property
    def genes(self) -> tuple[tuple[str, str], ...]:
        """Every (layer, support tensor) and (block, part) pair, in order: the coordinates of a structure."""
        return tuple(self._choices)

    def choices(self, layer: str, tensor: str) -> tuple[Form, ...]:
        """Allowed forms of one support tensor of one layer, or part of one block."""
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
        try:
            self.check_layers(structure)
        except StructureError:
            return False
        return all(structure[name][tensor] in forms for (name, tensor), forms in self._choices.items())

    def check(self, structure: Structure) -> None:
        """Raise StructureError naming the first layer and tensor whose form is not among the choices."""
        self.check_layers(structure)
        for (name, tensor), forms in self._choices.items():
            if (form := structure[name][tensor]) not in forms:
                shape = self.shapes[name]
                biased = isinstance(shape, BlockShape) or shape.has_bias or tensor in "AB"
                why = "allowed" if biased else "the layer has no bias"
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
        return Structure({name: self.shapes[name].structure(**chosen) for name, chosen in layers.items()})

    def check_layers(self, structure: Structure) -> None:
        """Raise StructureError for a layer or block that is not adapted."""
        for name, place in structure.items():
            shape = self.shapes.get(name)
            if shape is None or not isinstance(place, shape.structure):
                if isinstance(place, LayerStructure):
                    raise StructureError(f"layer {name!r} is not adapted; the adapted layers are {_some(self.layers)}")
                raise StructureError(
                    f"block {name!r} cannot have a prompt or an adapter here; those that can are "
                    f"{_some(self.blocks) or 'none'}"
                )


def _offered(space: SearchSpace, name: str, shape: Shape, bias: BiasPolicy) -> dict[str, tuple[Form, ...]]:
    """The forms that ``space`` allows in a place, but for those that need a bias where there is none."""
    if isinstance(shape, BlockShape):
        return space.block_choices(name)
    dropped = "" if shape.has_bias else "CDE" if bias == "keep" else "D"
    return {t: (Form.NONE,) if t in dropped else forms for t, forms in space.choices(name).items()}


def _some(names: tuple[str, ...], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"

"""Forms, layer structures and structures: what a subnet is, as values (no torch).

The words are those of the paper (arXiv 2306.07967) and its code, except that its *constant* is our
``scalar`` and its ``LoRA_<r>`` our ``rank-<r>``; both spellings are understood on input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from glora.errors import StructureError, near_miss

__all__ = ["TENSORS", "Form", "LayerStructure", "Structure"]

Kind = Literal["none", "scalar", "vector", "rank", "mul"]

TENSORS: tuple[str, ...] = ("A", "B", "C", "D", "E")

_KINDS: dict[str, frozenset[str]] = {
    "A": frozenset({"none", "scalar", "vector", "rank", "mul"}),
    "B": frozenset({"none", "scalar", "vector", "rank"}),
    "C": frozenset({"none", "vector", "rank"}),
    "D": frozenset({"none", "scalar", "vector"}),
    "E": frozenset({"none", "scalar", "vector"}),
}
_RANKED = re.compile(r"(rank|mul)-([1-9]\d*)")
_PAPER = re.compile(r"lora_([1-9]\d*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Form:
    """The shape of one support tensor: ``none``, ``scalar``, ``vector``, ``rank-<r>`` or, for A only, ``mul-<r>``.

    ``str(form)`` and :meth:`parse` are exact inverses.
    """

    kind: Kind
    rank: int = 0

    NONE: ClassVar[Form]
    SCALAR: ClassVar[Form]
    VECTOR: ClassVar[Form]

    def __post_init__(self) -> None:
        ranked = self.kind in ("rank", "mul")
        if self.kind not in _KINDS["A"] or ranked != (self.rank > 0) or self.rank < 0:
            raise StructureError(
                f"no form with kind {self.kind!r} and rank {self.rank}: only 'rank' and 'mul' have a rank, of 1 or more"
            )

    @classmethod
    def parse(cls, text: str | Form) -> Form:
        """Read a form from its text; the paper's ``constant`` and ``LoRA_<r>`` are understood too.

        Raises:
            StructureError: if ``text`` is not the text of a form.
        """
        if isinstance(text, Form):
            return text
        if text in ("none", "scalar", "vector"):
            return cls(text)  # type: ignore[arg-type]
        if text == "constant":
            return cls.SCALAR
        if found := _RANKED.fullmatch(str(text)):
            return cls(found[1], int(found[2]))  # type: ignore[arg-type]
        if found := _PAPER.fullmatch(str(text)):
            return cls("rank", int(found[1]))
        raise StructureError(
            f"unknown form {text!r}: write none, scalar, vector, rank-<r> or mul-<r>, e.g. rank-4"
            + near_miss(text, ("none", "scalar", "vector", "rank-<r>", "mul-<r>"))
        )

    @classmethod
    def low_rank(cls, rank: int) -> Form:
        """The form ``rank-<rank>``."""
        return cls("rank", rank)

    def __str__(self) -> str:
        return f"{self.kind}-{self.rank}" if self.rank else self.kind


Form.NONE, Form.SCALAR, Form.VECTOR = Form("none"), Form("scalar"), Form("vector")


def check_form(tensor: str, form: Form) -> None:
    """Raise StructureError unless support tensor ``tensor`` can have ``form``."""
    if form.kind not in _KINDS[tensor]:
        allowed = ", ".join(f"{k}-<r>" if k in ("rank", "mul") else k for k in sorted(_KINDS[tensor]))
        raise StructureError(f"support tensor {tensor} cannot have the form {form}: choose from {allowed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStructure:
    """The forms of the five support tensors of one layer; strings are parsed, unnamed tensors are ``none``."""

    A: Form = Form.NONE
    B: Form = Form.NONE
    C: Form = Form.NONE
    D: Form = Form.NONE
    E: Form = Form.NONE

    def __post_init__(self) -> None:
        for name in TENSORS:
            form = Form.parse(getattr(self, name))
            check_form(name, form)
            object.__setattr__(self, name, form)

    def __getitem__(self, tensor: str) -> Form:
        if tensor not in TENSORS:
            raise StructureError(f"no support tensor {tensor!r}: they are A, B, C, D and E")
        form: Form = getattr(self, tensor)
        return form

    def items(self) -> Iterator[tuple[str, Form]]:
        """Pairs of support tensor and form, in the order A to E."""
        return ((f.name, getattr(self, f.name)) for f in fields(self))

    @property
    def is_none(self) -> bool:
        """Whether every support tensor is absent."""
        return all(form.kind == "none" for _, form in self.items())

    def to_dict(self) -> dict[str, str]:
        """The forms that are not none, as text."""
        return {name: str(form) for name, form in self.items() if form.kind != "none"}

    @classmethod
    def from_dict(cls, forms: Mapping[str, str]) -> LayerStructure:
        """The inverse of :meth:`to_dict`.

        Raises:
            StructureError: for an unknown support tensor or form.
        """
        if unknown := sorted(set(forms) - set(TENSORS)):
            raise StructureError(f"no support tensor {unknown[0]!r}: they are A, B, C, D and E")
        return cls(**{name: Form.parse(text) for name, text in forms.items()})

    def __str__(self) -> str:
        return " ".join(f"{name}={form}" for name, form in self.to_dict().items()) or "none"


class Structure(Mapping[str, LayerStructure]):
    """A layer structure for every adapted layer: one subnet. Immutable, hashable, comparable.

    Layers that are not named have no support tensor, so an all-``none`` entry is the same as no entry and is
    not kept; ``structure[name]`` answers for any name.
    """

    __slots__ = ("_hash", "_layers")

    def __init__(self, layers: Mapping[str, LayerStructure | Mapping[str, str]] | None = None) -> None:
        kept: dict[str, LayerStructure] = {}
        for name, value in (layers or {}).items():
            layer = value if isinstance(value, LayerStructure) else LayerStructure.from_dict(value)
            if not layer.is_none:
                kept[name] = layer
        self._layers = kept
        self._hash = hash(frozenset(kept.items()))

    def __getitem__(self, name: str) -> LayerStructure:
        return self._layers.get(name, _FROZEN)

    def __contains__(self, name: object) -> bool:
        return name in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self._layers == other._layers if isinstance(other, Structure) else NotImplemented

    def __repr__(self) -> str:
        return f"Structure({{{', '.join(f'{name!r}: {layer}' for name, layer in self._layers.items())}}})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Structure, (dict(self._layers),))

    def to_dict(self) -> dict[str, dict[str, str]]:
        """Layer name to its forms, both in order, as plain text: what the files hold."""
        return {name: layer.to_dict() for name, layer in self._layers.items()}

    def to_json(self) -> str:
        """One line of JSON; :meth:`from_json` gives an equal structure back."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Structure:
        """Read what :meth:`to_json` wrote.

        Raises:
            StructureError: if ``text`` is not a JSON object of layers and forms.
        """
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise StructureError(f"a structure is a JSON object of layers; this is no JSON: {error}") from error
        if not isinstance(value, dict) or not all(isinstance(layer, dict) for layer in value.values()):
            raise StructureError('a structure is a JSON object such as {"blocks.0.attn.qkv": {"B": "rank-4"}}')
        return cls(value)


_FROZEN = LayerStructure()

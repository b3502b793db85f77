"""Forms, what each layer and block has of them, and structures: what a subnet is, as values (no torch).

The words are those of the paper (arXiv 2306.07967) and its code, except that its *constant* is our
``scalar`` and its ``LoRA_<r>`` our ``rank-<r>``; both spellings are understood on input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

from glora.errors import StructureError, near_miss

__all__ = ["PARTS", "TENSORS", "BlockStructure", "Form", "LayerStructure", "PlaceStructure", "Structure"]

Kind = Literal["none", "scalar", "vector", "rank", "mul", "tokens", "bottleneck", "serial"]

TENSORS: tuple[str, ...] = ("A", "B", "C", "D", "E")
PARTS: tuple[str, ...] = ("prompt", "adapter")
_WRITTEN = ("none", "scalar", "vector", "rank-<r>", "mul-<r>", "tokens-<n>", "bottleneck-<h>", "serial-<h>")

_KINDS: dict[str, frozenset[str]] = {
    "A": frozenset({"none", "scalar", "vector", "rank", "mul"}),
    "B": frozenset({"none", "scalar", "vector", "rank"}),
    "C": frozenset({"none", "vector", "rank"}),
    "D": frozenset({"none", "scalar", "vector"}),
    "E": frozenset({"none", "scalar", "vector"}),
    "prompt": frozenset({"none", "tokens"}),
    "adapter": frozenset({"none", "bottleneck", "serial"}),
}
_COUNTED = ("rank", "mul", "tokens", "bottleneck", "serial")
_RANKED = re.compile(rf"({'|'.join(_COUNTED)})-([1-9]\d*)")
_PAPER = re.compile(r"lora_([1-9]\d*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Form:
    """The shape of one support tensor: ``none``, ``scalar``, ``vector``, ``rank-<r>`` or, for A only, ``mul-<r>``.

    Or what a block has beside its layers: ``tokens-<n>`` of a prompt, ``bottleneck-<h>`` or ``serial-<h>`` of an
    adapter; ``rank`` is then the number of tokens or hidden units. ``str(form)`` and :meth:`parse` are exact inverses.
    """

    kind: Kind
    rank: int = 0

    NONE: ClassVar[Form]
    SCALAR: ClassVar[Form]
    VECTOR: ClassVar[Form]

    def __post_init__(self) -> None:
        counted = self.kind in _COUNTED
        known = counted or self.kind in ("none", "scalar", "vector")
        if not known or counted != (self.rank > 0) or self.rank < 0:
            raise StructureError(
                f"no form with kind {self.kind!r} and rank {self.rank}: only 'rank' and 'mul' have a rank, of 1 or "
                "more, and so have 'tokens', 'bottleneck' and 'serial' of blocks"
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
            f"unknown form {text!r}: write none, scalar, vector, rank-<r> or mul-<r>, e.g. rank-4; or tokens-<n> for "
            f"the prompt of a block, bottleneck-<h> or serial-<h> for its adapter{near_miss(text, _WRITTEN)}"
        )

    @classmethod
    def low_rank(cls, rank: int) -> Form:
        """The form ``rank-<rank>``."""
        return cls("rank", rank)

    def __str__(self) -> str:
        return f"{self.kind}-{self.rank}" if self.rank else self.kind


Form.NONE, Form.SCALAR, Form.VECTOR = Form("none"), Form("scalar"), Form("vector")


def check_form(tensor: str, form: Form) -> None:
    """Raise StructureError unless support tensor ``tensor``, or a block's ``prompt`` or ``adapter``, can have it."""
    if form.kind not in _KINDS[tensor]:
        allowed = ", ".join(f"{k}-<r>" if k in _COUNTED else k for k in sorted(_KINDS[tensor]))
        what = f"support tensor {tensor}" if tensor in TENSORS else f"the {tensor} of a block"
        raise StructureError(f"{what} cannot have the form {form}: choose from {allowed}")


class PlaceStructure:
    """The forms of what one place of a model, a layer or a block, has of its own (abstract)."""

    __slots__ = ()
    genes: ClassVar[tuple[str, ...]] = ()
    """What has a form in such a place, in order."""

    def __getitem__(self, gene: str) -> Form:
        if gene not in _KINDS:
            raise StructureError(
                f"no support tensor {gene!r}: they are A, B, C, D and E, and prompt and adapter in a block"
            )
        # A layer has no prompt, and a block no support tensor of its own.
        form: Form = getattr(self, gene, Form.NONE)
        return form

    def items(self) -> Iterator[tuple[str, Form]]:
        """Pairs of gene (a support tensor, a block's prompt or adapter) and form, in order."""
        return ((gene, getattr(self, gene)) for gene in self.genes)

    @property
    def is_none(self) -> bool:
        """Whether there is none of anything."""
        return all(form.kind == "none" for _, form in self.items())

    def to_dict(self) -> dict[str, str]:
        """The forms that are not none, as text."""
        return {gene: str(form) for gene, form in self.items() if form.kind != "none"}

    def _parse(self) -> None:
        for gene in self.genes:
            form = Form.parse(getattr(self, gene))
            check_form(gene, form)
            object.__setattr__(self, gene, form)

    def __str__(self) -> str:
        return " ".join(f"{gene}={form}" for gene, form in self.to_dict().items()) or "none"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStructure(PlaceStructure):
    """The forms of the five support tensors of one layer; strings are parsed, unnamed tensors are ``none``."""

    A: Form = Form.NONE
    B: Form = Form.NONE
    C: Form = Form.NONE
    D: Form = Form.NONE
    E: Form = Form.NONE

    genes = TENSORS

    def __post_init__(self) -> None:
        self._parse()

    @classmethod
    def from_dict(cls, forms: Mapping[str, str]) -> LayerStructure:
        """The inverse of :meth:`to_dict`.

        Raises:
            StructureError: for an unknown support tensor or form.
        """
        if unknown := sorted(set(forms) - set(TENSORS)):
            raise StructureError(f"no support tensor {unknown[0]!r}: they are A, B, C, D and E")
        return cls(**{name: Form.parse(text) for name, text in forms.items()})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStructure(PlaceStructure):
    """What one block has beside its layers, which no merging folds away; strings are parsed.

    ``prompt`` is ``tokens-<n>`` (VPT-deep), ``adapter`` a ``bottleneck-<h>`` parallel to the MLP (AdaptFormer) or
    ``serial-<h>``, one behind attention and one behind the MLP (Houlsby et al.).
    """

    prompt: Form = Form.NONE
    adapter: Form = Form.NONE

    genes = PARTS

    def __post_init__(self) -> None:
        self._parse()


def _place(value: PlaceStructure | Mapping[str, str]) -> PlaceStructure:
    if isinstance(value, PlaceStructure):
        return value
    if value and set(value) <= set(PARTS):
        return BlockStructure(**{gene: Form.parse(text) for gene, text in value.items()})
    return LayerStructure.from_dict(value)


class Structure(Mapping[str, PlaceStructure]):
    """The forms of every adapted layer, and of blocks with prompts or adapters: one subnet. Immutable, hashable.

    Layers that are not named have no support tensor, so an all-``none`` entry is the same as no entry and is
    not kept; ``structure[name]`` answers for any name.
    """

    __slots__ = ("_hash", "_layers")

    def __init__(self, layers: Mapping[str, PlaceStructure | Mapping[str, str]] | None = None) -> None:
        kept: dict[str, PlaceStructure] = {}
        for name, value in (layers or {}).items():
            place = _place(value)
            if not place.is_none:
                kept[name] = place
        self._layers = kept
        self._hash = hash(frozenset(kept.items()))

    def __getitem__(self, name: str) -> PlaceStructure:
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

    @property
    def layers(self) -> dict[str, LayerStructure]:
        """The layers that have support tensors."""
        return {name: place for name, place in self._layers.items() if isinstance(place, LayerStructure)}

    @property
    def blocks(self) -> dict[str, BlockStructure]:
        """The blocks with prompts or adapters, which no merging folds away."""
        return {name: place for name, place in self._layers.items() if isinstance(place, BlockStructure)}

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

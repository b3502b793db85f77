"""Blocks of a vision transformer with parts in them, and which of them a block's structure stands for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glora.errors import StructureError, TargetError
from glora.layers.base import HOOKS, Place
from glora.layers.parts import Bottleneck, Part, Prompt, Without
from glora.shapes import BlockShape
from glora.structure import PARTS, BlockStructure, Form, PlaceStructure
from glora.support import Gains

__all__ = [
    "BLOCK_GAINS",
    "AdaptedBlock",
    "ExtendedBlock",
    "Parts",
    "Tokens",
    "adapt_blocks",
    "bottlenecks",
    "check_vit",
    "described",
    "find_blocks",
    "prompt",
    "restore",
]

# Where a block takes parts, in the order in which they act.
_PLACES = ("enter", "after_attention", "after_mlp", "parallel", "leave")
# Where each kind of form has its parts.
_PLACES_OF = {
    "tokens": ("enter", "leave"),
    "bottleneck": ("parallel",),
    "serial": ("after_attention", "after_mlp"),
}
_GENE_OF = {"tokens": "prompt", "bottleneck": "adapter", "serial": "adapter"}
Parts = Mapping[str, Part]

BLOCK_GAINS: Gains = {"adapter.bottleneck": 0.1}
"""The scale of AdaptFormer (arXiv 2205.13535, section 4.1); all others are 1."""


def check_vit(model: nn.Module) -> Any:
    """Give the model back if it is one of timm's plain vision transformers.

    Raises:
        TargetError: if it is not.
    """
    timm: Any = sys.modules.get("timm.models.vision_transformer")  # not imported: then the model is none of it
    plain = timm is not None and isinstance(model, timm.VisionTransformer)
    if not plain or any(type(b) is not timm.Block or "forward" in vars(b) for b in cast(Any, model).blocks):
        raise TargetError(
            f"{type(model).__name__} is not supported by this method: it needs timm's VisionTransformer with plain "
            "blocks, as ViT, DeiT and DINOv2 are"
        )
    return model


class Tokens(NamedTuple):
    """What parts need to know of the tokens of a model.

    Attributes:
        width: of a token.
        before: class and register tokens, which stand before the patches.
        patch: input values of a patch.
    """

    width: int
    before: int
    patch: int

    @classmethod
    def of(cls, model: nn.Module) -> Tokens:
        """Those of one of timm's vision transformers."""
        vit = check_vit(model)
        return cls(int(vit.embed_dim), int(vit.num_prefix_tokens), int(vit.patch_embed.proj.weight[0].numel()))


def prompt(tokens: Tokens, count: int, dropout: float = 0.0) -> tuple[Prompt, Without]:
    """VPT (arXiv 2203.12119): tokens that enter, and what takes them away again."""
    width, before, patch = tokens
    return Prompt(count, width, before, patch, dropout), Without(count, before)


def bottlenecks(
    kind: str, tokens: Tokens, hidden: int, scale: float = 1.0, dropout: float = 0.0
) -> dict[str, Bottleneck]:
    """Adapters by place: AdaptFormer's for "bottleneck" (arXiv 2205.13535), Houlsby's for "serial" (arXiv 1902.00751).

    The first is a ReLU bottleneck parallel to norm and MLP; the others are GELU bottlenecks behind attention and MLP,
    before the residual sum.
    """
    behind = kind == "serial"
    act = F.gelu if behind else F.relu
    return {
        place: Bottleneck(tokens.width, hidden, act, scale=scale, dropout=dropout, residual=behind)
        for place in _PLACES_OF[kind]
    }


@final
class ExtendedBlock(nn.Module):
    """A block of timm's vision transformer with parts in some of its places.

        x <- enter(x)
        x <- x + drop_path(after_attention(ls(attn(norm(x)))))
        x <- x + drop_path(after_mlp(ls(mlp(norm(x))))) + parallel(x)
        x <- leave(x)

    A place without a part, or whose part is not active, is left out. The block's own modules keep their names. A part
    behind a sublayer sees what the sublayer would have added to the tokens, after its LayerScale where it has one.

    Args:
        block: whose modules and hooks are taken over; it is kept as it is.
        parts: by place.
    """

    norm1: nn.Module
    attn: nn.Module
    ls1: nn.Module
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    ls2: nn.Module
    drop_path2: nn.Module
    enter: Part | None
    after_attention: Part | None
    after_mlp: Part | None
    parallel: Part | None
    leave: Part | None

    def __init__(self, block: nn.Module, parts: Parts) -> None:
        super().__init__()
        for name, module in block.named_children():
            self.add_module(name, module)
        for place in _PLACES:
            self.add_module(place, parts.get(place))
        self.__dict__.update({key: vars(block)[key] for key in HOOKS})
        self.called = False
        self.train(block.training)

    @property
    def parts(self) -> dict[str, Part]:
        """Those that there are, by place."""
        return {place: part for place in _PLACES if (part := getattr(self, place)) is not None}

    def forward(self, x: Tensor, **masks: Any) -> Tensor:
        """Tokens (B, N, width) to tokens."""
        self.called = True
        x = _through(self.enter, x)
        x = x + self.drop_path1(_through(self.after_attention, self.ls1(self.attn(self.norm1(x), **masks))))
        y: Tensor = self.drop_path2(_through(self.after_mlp, self.ls2(self.mlp(self.norm2(x)))))
        if self.parallel is not None and self.parallel.active:
            y = y + self.parallel(x)
        return _through(self.leave, x + y)


def _through(part: Part | None, x: Tensor) -> Tensor:
    if part is None or not part.active:
        return x
    y: Tensor = part(x)
    return y


@final
class AdaptedBlock(Place):
    """A block whose prompt and adapter are genes, as a layer's support tensors are.

    All forms of one kind share one part, of which ``tokens-<n>`` reads the first n tokens and an adapter of h units
    the first h hidden units; the bias of its output belongs to all. Tokens start at random, as VPT's do, so that a
    prompt changes what the model computes from the start; an adapter starts at zero.

    Args:
        block: of timm's vision transformer.
        forms: the allowed forms of prompt and adapter.
        gains: of the forms, see :data:`glora.support.Gains`.
        tokens: of the model.

    Attributes:
        module: what stands in the model for the block.
    """

    def __init__(
        self,
        block: nn.Module,
        forms: Mapping[str, Iterable[Form]],
        gains: Gains,
        tokens: Tokens,
    ) -> None:
        self._tokens, self._gains = tokens, dict(gains)
        # In a tuple, so that it is kept as it is.
        self._original = (block,)
        largest = {form.kind: (gene, form) for gene in PARTS for form in sorted(forms.get(gene, ()))}
        self.module = _extended(block, largest.values(), self._gains, tokens)
        self.activate(BlockStructure())

    @property
    def original(self) -> nn.Module:
        """The block that ``module`` stands for, with the same modules."""
        return self._original[0]

    @property
    def shape(self) -> BlockShape:
        """The sizes of its parts."""
        return BlockShape(self._tokens.width)

    @property
    def gains(self) -> dict[str, float]:
        """The gains it was made with, see :data:`glora.support.Gains`."""
        return dict(self._gains)

    @property
    def called(self) -> bool:
        """Whether the model has ever called it."""
        return self.module.called

    def activate(self, structure: PlaceStructure) -> None:
        """Let exactly these parts act.

        Raises:
            StructureError: if a form has no storage.
        """
        units = {place: structure[gene].rank for gene in PARTS for place, _ in self._read(gene, structure[gene])}
        for place, part in self.module.parts.items():
            part.active = units.get(place, 0)
        self.structure = structure

    def stored(self) -> dict[str, nn.Parameter]:
        """Every parameter of the parts, by name in ``module``."""
        parts = self.module.parts.items()
        return {f"{place}.{key}": parameter for place, part in parts for key, parameter in part.named_parameters()}

    def parameters_of(self, gene: str, form: Form) -> list[nn.Parameter]:
        """The parameters that ``form`` reads."""
        return [parameter for _, part in self._read(gene, form) for parameter in part.parameters()]

    def views(self, gene: str, form: Form) -> dict[str, Tensor]:
        """What ``form`` reads of them, by name in ``module``."""
        return {
            f"{place}.{key}": view
            for place, part in self._read(gene, form)
            for key, view in part.views(form.rank).items()
        }

    def cut(self, structure: PlaceStructure) -> nn.Module:
        """The block with the parts of ``structure`` alone, as large as it needs them; the original if it needs none."""
        if structure.is_none:
            return self.original
        block = _extended(self.original, structure.items(), self._gains, self._tokens)
        own = dict(block.named_parameters())
        for gene, form in structure.items():
            for key, view in self.views(gene, form).items():
                own[key].data = view.detach().clone()
        return block

    def _read(self, gene: str, form: Form) -> list[tuple[str, Part]]:
        """The places of ``form`` and the parts in them."""
        found = [(place, self.module.parts.get(place)) for place in _PLACES_OF.get(form.kind, ())]
        known = [(place, part) for place, part in found if part is not None and part.units >= form.rank]
        if len(known) < len(found):
            raise StructureError(f"{gene}={form} has no storage here: the search space does not contain it")
        return known


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of one of timm's plain vision transformers, by name, in the model's order.

    Raises:
        TargetError: if it is none.
    """
    blocks = set(check_vit(model).blocks)
    return {name: module for name, module in model.named_modules() if module in blocks}


def adapt_blocks(
    model: nn.Module,
    choices: Mapping[str, Mapping[str, Iterable[Form]]],
    gains: Mapping[str, Gains],
    seed: int,
) -> dict[str, AdaptedBlock]:
    """Make adapted blocks, which do not stand in the model yet.

    Args:
        model: one of timm's plain vision transformers.
        choices: the forms of prompt and adapter, by name of the block.
        gains: likewise; a missing one is 1.
        seed: of tokens and first matrices; the global generators are left as they are.
    """
    found = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, forms in choices.items():
            block, own = model.get_submodule(name), gains.get(name, {})
            found[name] = AdaptedBlock(block, forms, own, Tokens.of(model))
    return found


def described(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Forms and gains of the blocks with parts, by name, as plain values for :func:`restore`."""
    found = {}
    for name, block in model.named_modules():
        if isinstance(block, ExtendedBlock):
            kinds = {kind: block.parts[places[0]] for kind, places in _PLACES_OF.items() if places[0] in block.parts}
            forms = {_GENE_OF[kind]: f"{kind}-{part.units}" for kind, part in kinds.items()}
            scales = {f"adapter.{kind}": part.scale for kind, part in kinds.items() if isinstance(part, Bottleneck)}
            found[name] = {"forms": forms, "gains": scales}
    return found


def restore(model: nn.Module, description: Mapping[str, Mapping[str, Any]]) -> None:
    """Put fresh parts into the blocks of a plain model, as :func:`described` says.

    Raises:
        TargetError: if the model has no such blocks.
    """
    blocks, tokens = find_blocks(model), Tokens.of(model)
    if missing := sorted(set(description) - set(blocks)):
        raise TargetError(f"the model has no block {missing[0]!r}")
    for name, own in description.items():
        parent, _, child = name.rpartition(".")
        block = _extended(blocks[name], BlockStructure(**own["forms"]).items(), own["gains"], tokens)
        model.get_submodule(parent).add_module(child, block)


def _extended(block: nn.Module, forms: Iterable[tuple[str, Form]], gains: Gains, tokens: Tokens) -> ExtendedBlock:
    """A block with fresh parts for pairs of gene and form, in the dtype of support tensors."""
    parts: dict[str, Part] = {}
    for gene, form in forms:
        parts |= _parts_of(gene, form, gains, tokens)
    like = next(block.parameters())
    for part in parts.values():
        part.to(device=like.device, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32)
    return ExtendedBlock(block, parts)


def _parts_of(gene: str, form: Form, gains: Gains, tokens: Tokens) -> dict[str, Part]:
    """Parts of a form by place."""
    if form.kind == "none":
        return {}
    if form.kind == "tokens":
        return dict(zip(_PLACES_OF["tokens"], prompt(tokens, form.rank), strict=True))
    return dict(bottlenecks(form.kind, tokens, form.rank, gains.get(f"{gene}.{form.kind}", 1.0)))

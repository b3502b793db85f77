"""``adapt`` and the model it returns: activate, measure, merge, eject."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from glora.errors import ConfigError, MergeError, StructureError, TargetError
from glora.folds import Folds
from glora.gains import GainPolicy, check_gains, layer_gains
from glora.layers import KINDS, AdaptedBlock, AdaptedLayer, Place, Scratch
from glora.layers.block import BLOCK_GAINS, Tokens, adapt_blocks, find_blocks
from glora.layers.recompute import watch
from glora.shapes import BlockShape
from glora.space import BiasPolicy, BoundSpace, SearchSpace
from glora.structure import Structure
from glora.support import Storage
from glora.targets import Layers, find_targets, resolve_heads
from glora.trainable import Flags, Trainable

__all__ = ["GLoRAModel", "adapt"]


def adapt(
    model: nn.Module,
    space: SearchSpace | None = None,
    layers: Layers = None,
    *,
    head: str | Sequence[str] | Literal[False] | None = None,
    num_classes: int | None = None,
    bias: BiasPolicy = "create",
    gains: GainPolicy | Mapping[str, Mapping[str, float]] = "balanced",
    storage: Storage = "shared",
    recompute: bool = False,
    seed: int = 0,
) -> GLoRAModel:
    """Put support tensors on the layers of a pretrained model, in place, and freeze the rest.

    Everything but the support tensors and the head is frozen; the model computes what it did before, to the bit,
    until something is trained or a prompt acts. ``print(net)`` says what was adapted, what was skipped and why.

    Args:
        model: any module with linear layers; the backbone is never copied.
        space: the allowed forms, ``SearchSpace()`` if None; a preset has a single one for each support tensor.
        layers: None for every supported layer but the head, or a glob, compiled regular expression, list of names
            or predicate of (name, module).
        head: qualified name of the task head, or names of its parts, trained in full; None looks for it, False
            means none.
        num_classes: width of the head, to tell it from other layers in an unknown model.
        bias: for layers without a bias, ``"create"`` one when C or E act, or ``"keep"`` them without.
        gains: ``"balanced"``, ``"paper"`` (the released code's, all 1), or the gains of each layer; what a layer's
            mapping does not name is 1.
        storage: ``"shared"`` parameters for low-rank forms, vector and scalar of a support tensor (the paper's weight
            entanglement), or ``"separate"`` ones.
        recompute: keep less for backward: outputs of norms and activations (``torch.nn``'s) that an adapted layer
            needs again are computed once more from what those modules keep anyway; the gradients are the same.
        seed: of the initial low-rank factors, prompts and adapters.

    Raises:
        TargetError: if nothing can be adapted, a pattern matches nothing, or no head is found; if the space has prompts
            or adapters and the model is none of timm's plain vision transformers.
        StructureError: if the space does not fit the layers.
        ConfigError: for an unknown policy, or gains of layers that are not adapted.
    """
    if bias not in ("create", "keep"):
        raise ConfigError(f"bias is 'create' or 'keep', not {bias!r}")
    if storage not in ("separate", "shared"):
        raise ConfigError(f"storage is 'shared' or 'separate', not {storage!r}")
    space = SearchSpace() if space is None else space
    heads = resolve_heads(model, head, num_classes)
    targets = find_targets(model, layers, heads)
    blocks = find_blocks(model) if space.is_hybrid else {}
    shapes = {name: KINDS[type(module)].shape_of(module) for name, module in targets.modules.items()}
    bound = space.bind({**shapes, **{name: BlockShape(Tokens.of(model).width) for name in blocks}}, bias)
    if isinstance(gains, Mapping):
        check_gains(gains, bound.shapes)
    before = Flags.of(model)
    # An in-place activation would overwrite an output that a layer keeps for backward.
    in_place = any(getattr(module, "inplace", False) is True for module in model.modules())
    generator = torch.Generator().manual_seed(seed)
    scratch = Scratch()
    adapted: dict[str, AdaptedLayer] = {}
    for name, module in targets.modules.items():
        forms = {tensor: bound.choices(name, tensor) for tensor in "ABCDE"}
        rank = max((form.rank for choice in forms.values() for form in choice), default=1)
        if isinstance(gains, Mapping):
            own = dict(gains.get(name, {}))
        else:
            weight, bias_ = module.get_parameter("weight"), module._parameters.get("bias")
            own = layer_gains(weight.flatten(1), bias_, shapes[name], max(rank, 1), gains)
        layer = KINDS[type(module)](module, forms, own, scratch, not in_place, generator, storage)
        layer.training = module.training
        adapted[name] = layer
    own_gains = gains if isinstance(gains, Mapping) else dict.fromkeys(blocks, BLOCK_GAINS)
    extended = adapt_blocks(model, {name: space.block_choices(name) for name in blocks}, own_gains, seed)
    model.requires_grad_(False)
    for place in (*adapted.values(), *extended.values()):
        for parameter in place.stored().values():
            parameter.requires_grad_(True)
    _replace(model, {targets.modules[name]: layer for name, layer in adapted.items()})
    _replace(model, {block.original: block.module for block in extended.values()})
    hooks = watch(model) if recompute else []
    net = GLoRAModel(model, bound, adapted, heads, targets.skipped, before, hooks, extended, storage)
    if bound.cardinality == 1:
        net.activate(bound.sample(random.Random(0)))
    return net


class GLoRAModel(Trainable):
    """A model with support tensors: made by :func:`adapt` or :func:`glora.load` (final).

    Calling it calls the model, whose class, methods and attributes stay as they were, at ``net.model``. With a
    search space of more than one point nothing is active until :meth:`activate`.
    """

    def __init__(
        self,
        model: nn.Module,
        bound: BoundSpace,
        layers: dict[str, AdaptedLayer],
        heads: tuple[str, ...],
        skipped: tuple[tuple[str, str], ...],
        flags: Flags,
        watching: Sequence[RemovableHandle] = (),
        blocks: Mapping[str, AdaptedBlock] | None = None,
        storage: Storage = "shared",
    ) -> None:
        super().__init__()
        self.model = model
        self.bound = bound
        self.layers: Mapping[str, AdaptedLayer] = layers
        self.blocks: Mapping[str, AdaptedBlock] = dict(blocks or {})
        self._places: dict[str, Place] = {**self.layers, **self.blocks}
        self.head_names = heads
        self.storage = storage
        self.recipe: Mapping[str, Any] = {}  # space and gains say it all
        self.skipped = skipped
        self._active = Structure()
        self._flags = flags
        self._watching = list(watching)
        self._heads_before = {name: copy.deepcopy(head.state_dict()) for name, head in self.heads.items()}
        for head in self.heads.values():
            head.requires_grad_(True)
        self._live = True
        self.train(model.training)

    # What there is

    @property
    def space(self) -> SearchSpace:
        """The allowed forms."""
        return self.bound.space

    @property
    def places(self) -> Mapping[str, Place]:
        """The adapted layers, and the blocks that may have prompts and adapters."""
        return self._places

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Every stored parameter of support tensors, prompts and adapters, by qualified name in the model."""
        return {
            f"{name}.{key}": parameter
            for name, place in self.places.items()
            for key, parameter in place.stored().items()
        }

    # Structures

    @property
    def active(self) -> Structure:
        """The structure that acts now."""
        return self._active

    def activate(self, structure: Structure) -> None:
        """Let exactly this subnet act; layers that it does not name are frozen ones.

        Raises:
            StructureError: naming the layer, if the structure does not fit it; then nothing has changed.
        """
        self._check_live()
        self.bound.check_layers(structure)
        before = self._active
        try:
            for name, place in self.places.items():
                if place.structure != structure[name]:
                    try:
                        place.activate(structure[name])
                    except StructureError as error:
                        raise StructureError(f"{name}: {error}") from None
        except StructureError:
            for name, place in self.places.items():
                place.activate(before[name])
            raise
        self._active = structure

    @contextmanager
    def using(self, structure: Structure) -> Iterator[None]:
        """Activate ``structure`` for a block; backward belongs into it too where activations are checkpointed."""
        before = self._active
        self.activate(structure)
        try:
            yield
        finally:
            self.activate(before)

    @contextmanager
    def folded(self, structure: Structure, folds: Folds | None = None) -> Iterator[None]:
        """Compute with the merged weights of ``structure`` for a block: evaluation at a plain model's speed.

        The support tensors must not change as long as ``folds``, which keep merged weights for later, are used.
        """
        with self.using(structure):
            folds = folds or Folds()
            try:
                for name, layer in self.layers.items():
                    layer.fold(folds.of(name, layer))
                yield
            finally:
                for layer in self.layers.values():
                    layer.fold(None)

    def sample(self, generator: random.Random) -> Structure:
        """Draw a structure: every form of every layer independently and uniformly."""
        return self.bound.sample(generator)

    def size(self, structure: Structure) -> int:
        """Adapter parameters of ``structure``, equal to the numbers that its adapter file holds, head apart."""
        return self.bound.size(structure)

    # Running

    def uncalled(self) -> tuple[str, ...]:
        """Adapted layers and blocks that the model has never called since ``adapt``: their support tensors did not act.

        Worth asking after a first forward: a model may use a layer's weight without calling the layer.
        """
        layers = [name for name, layer in self.layers.items() if not layer.called]
        return (*layers, *(name for name, block in self.blocks.items() if not block.called))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives, with the active support tensors."""
        self._check_live()
        return self.model(*args, **kwargs)

    def train(self, mode: bool = True) -> GLoRAModel:
        """Set training mode for the head only: frozen modules stay in eval mode, so that no statistic moves."""
        super().train(False)
        self.training = mode
        for head in self.heads.values():
            head.train(mode)
        return self

    # Leaving

    def merge(
        self,
        structure: Structure | None = None,
        alpha: float = 1.0,
        inplace: bool = False,
        keep_hybrids: bool = False,
    ) -> nn.Module:
        """Fold a subnet into the weights: the plain model, of the original class with the original keys.

        Args:
            structure: the subnet; the active one if None.
            alpha: interpolates in weight space between the pretrained (0) and the tuned backbone (1), which helps
                under distribution shift; the head is the trained one throughout.
            inplace: reuse this model, which is no longer a ``GLoRAModel`` afterwards, instead of a copy.
            keep_hybrids: where blocks have prompts or adapters, which are no change of a weight, merge all else and
                leave these in; what comes out is then no plain model.

        Returns:
            The plain model, on the same device and in the training mode that the model had before ``adapt``.
            A layer without a bias whose C or E acts gets one; :meth:`created_biases` lists them.

        Raises:
            MergeError: naming the layer, if a merged weight is not finite; naming the blocks, if they have prompts or
                adapters and ``keep_hybrids`` is not set, or alpha is not 1; then nothing has changed.
        """
        self._check_live()
        structure = self._active if structure is None else structure
        self.bound.check_layers(structure)
        _check_hybrids(structure, alpha, keep_hybrids)
        plain = {name: block.cut(structure[name]) for name, block in self.blocks.items()}
        for name, layer in self.layers.items():
            if structure[name].is_none:
                plain[name] = layer.original
                continue
            weight, bias = layer.merged(structure[name], alpha)
            if not all(bool(torch.isfinite(t).all()) for t in (weight, bias) if t is not None):
                raise MergeError(f"{name}: the merged weight is not finite; was the training stable?")
            if not inplace:
                # A weight or bias that nothing changed is the frozen one itself.
                weight = weight.clone() if _is_same(weight, layer.weight) else weight
                bias = bias.clone() if bias is not None and _is_same(bias, layer.bias) else bias
            plain[name] = layer.plain(weight, bias)
        if inplace:
            return self._release(plain)
        memo: dict[int, Any] = {id(layer): plain[name] for name, layer in self.layers.items() if name in structure}
        memo |= {id(layer): copy.deepcopy(plain[name]) for name, layer in self.layers.items() if name not in structure}
        for name, block in self.blocks.items():
            memo[id(block.module)] = copy.deepcopy(plain[name], memo)
        with self._unwatched():
            return self._flags.restore(copy.deepcopy(self.model, memo))

    def created_biases(self, structure: Structure | None = None) -> tuple[str, ...]:
        """Layers without a bias that would get one by merging ``structure`` (the active one if None)."""
        structure = self._active if structure is None else structure
        return tuple(
            name
            for name, layer in structure.layers.items()
            if not self.layers[name].shape.has_bias and (layer.C.kind != "none" or layer.E.kind != "none")
        )

    def save(
        self, path: str | Path, structure: Structure | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        """Write the adapter file of one subnet, the active one if None; see :func:`glora.checkpoint.save`."""
        from glora.checkpoint import save  # here, because what checkpoints hold is a GLoRAModel

        save(self, path, structure, extra)

    def eject(self) -> nn.Module:
        """Give the untouched pretrained model back, head included, bit for bit; this object is spent then."""
        self._check_live()
        for name, head in self.heads.items():
            head.load_state_dict(self._heads_before[name])
        return self._release({name: place.original for name, place in self.places.items()})

    def _release(self, modules: Mapping[str, nn.Module]) -> nn.Module:
        for handle in self._watching:
            handle.remove()
        _replace(self.model, {layer: modules[name] for name, layer in self.layers.items()})
        _replace(self.model, {block.module: modules[name] for name, block in self.blocks.items()})
        self._live = False
        return self._flags.restore(self.model)

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        """Take the hooks of ``recompute`` off the model for a block."""
        watched = bool(self._watching)
        for handle in self._watching:
            handle.remove()
        try:
            yield
        finally:
            self._watching = watch(self.model) if watched else []

    def _check_live(self) -> None:
        if not self._live:
            raise TargetError("this model was merged in place or ejected: adapt it again")

    def __repr__(self) -> str:
        from glora.summary import summary  # here, because the summary is made of a GLoRAModel

        return summary(self)


def _check_hybrids(structure: Structure, alpha: float, keep_hybrids: bool) -> None:
    """Raise MergeError if blocks have what cannot be merged, unless they may keep it."""
    if not structure.blocks:
        return
    what = f"{', '.join(structure.blocks)}: prompts and adapters cannot be merged into weights"
    if not keep_hybrids:
        raise MergeError(f"{what}; with keep_hybrids all else is merged and they are left in")
    if alpha != 1.0:
        raise MergeError(f"{what}, so that there is nothing between pretrained and tuned ones: leave alpha at 1")


def _replace(model: nn.Module, modules: Mapping[nn.Module, nn.Module]) -> None:
    """Put the values in the place of the keys, wherever they stand."""
    for parent in list(model.modules()):
        # Not named_children(), which gives a module that stands here twice only once.
        for name, child in parent._modules.items():
            if child is not None and child in modules:
                parent._modules[name] = modules[child]


def _is_same(tensor: Tensor, frozen: Tensor | None) -> bool:
    return frozen is not None and tensor.data_ptr() == frozen.data_ptr()

"""What every adapted place of a model, and every kind of adapted layer, is to the rest of the library."""

from __future__ import annotations

import abc
import copy
import threading
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from glora.errors import StructureError
from glora.functional import effective_bias, effective_weight
from glora.layers.plan import Plan
from glora.shapes import LayerShape, Shape
from glora.structure import Form, LayerStructure, PlaceStructure
from glora.support import Gains, Storage, SupportTensors, slice_down

__all__ = ["HOOKS", "AdaptedLayer", "Place", "Scratch"]


HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


class Scratch(threading.local):
    """Buffers shared by the layers of one model for weights that live only inside one operation.

    Each thread has its own, and in a thread each device and each of its streams: only what is computed one after the
    other may write to one buffer. Never saved for backward and never copied or pickled along with a model.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.Size, torch.dtype, torch.device, int], Tensor] = {}

    def get(self, use: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """An uninitialised buffer of the shape and device of ``like``, one for each ``use`` on the current stream."""
        device = like.device
        key = (use, like.shape, dtype, device, 0 if device.type == "cpu" else _stream(device))
        found = self._buffers.get(key)
        if found is None:
            # A buffer born in inference mode could not be written to during training.
            with torch.inference_mode(False):
                found = torch.empty(like.shape, dtype=dtype, device=device)
            if type(found) is torch.Tensor:  # and no stand-in of an export, which would outlive it
                self._buffers[key] = found
        return found

    def __deepcopy__(self, memo: object) -> Scratch:
        return Scratch()

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return (Scratch, ())


def _stream(device: torch.device) -> int:
    """The stream that work on ``device`` is queued on now; 0 for a kind of device that has no streams."""
    current = getattr(getattr(torch, device.type, None), "current_stream", None)
    return 0 if current is None else int(current(device).stream_id)


class Place(abc.ABC):
    """Where genes act in a model: a layer by its support tensors, a block by its prompt and adapter (abstract).

    Attributes:
        structure: the forms that act now.
    """

    structure: PlaceStructure

    @property
    @abc.abstractmethod
    def original(self) -> nn.Module:
        """The module that stood there before."""

    @property
    @abc.abstractmethod
    def shape(self) -> Shape:
        """What the sizes of the forms follow from."""

    @property
    @abc.abstractmethod
    def gains(self) -> dict[str, float]:
        """See :data:`glora.support.Gains`; a copy, as they are fixed."""

    @abc.abstractmethod
    def activate(self, structure: PlaceStructure) -> None:
        """Let exactly these forms act.

        Raises:
            StructureError: if that cannot be.
        """

    @abc.abstractmethod
    def stored(self) -> dict[str, nn.Parameter]:
        """Every trained parameter, by name in the module that stands there now."""

    @abc.abstractmethod
    def parameters_of(self, gene: str, form: Form) -> list[nn.Parameter]:
        """The parameters that one form reads."""

    @abc.abstractmethod
    def views(self, gene: str, form: Form) -> dict[str, Tensor]:
        """What one form reads of them, by name in an adapter file."""

    def gain(self, gene: str, form: Form) -> float:
        """The constant that multiplies the form."""
        return self.gains.get(f"{gene}.{form.kind}", 1.0)


class AdaptedLayer(nn.Module, Place):
    """A frozen layer with support tensors (abstract).

    Keeps the frozen ``weight`` and ``bias`` under their old names, the support tensors in ``support``, and the
    untouched original module for :meth:`original`. Which forms act is set by :meth:`activate`; nothing in a
    layer draws random numbers. ``called`` says whether :meth:`forward` has ever run: a model may read a layer's
    weight without calling it, and then the support tensors would not act.

    Args:
        original: the module it stands for; its parameters are shared, not copied.
        forms: the allowed forms of each support tensor.
        gains: of the forms, see :data:`glora.support.Gains`.
        scratch: buffers shared with the other layers of the model.
        save_output: whether a layer may keep its output for backward; not if the model changes it in place.
        generator: draws the initial low-rank factors.
        storage: of the forms, see :data:`glora.support.Storage`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        original: nn.Module,
        forms: Mapping[str, Iterable[Form]],
        gains: Gains,
        scratch: Scratch,
        save_output: bool = True,
        generator: torch.Generator | None = None,
        storage: Storage = "shared",
    ) -> None:
        super().__init__()
        weight = original.weight
        assert isinstance(weight, nn.Parameter)
        self.weight = weight
        self.bias = original.bias  # type: ignore[assignment]
        # In a tuple, so that it is no sub-module and its parameters appear once.
        self._original = (original,)
        self._scratch = scratch
        self.save_output = save_output
        self.support = SupportTensors(
            self.shape_of(original),
            forms,
            gains,
            storage,
            generator=generator,
            dtype=self.support_dtype,
            device=self.weight.device,
        )
        self._plans: dict[PlaceStructure, Plan] = {}
        self.structure = LayerStructure()
        self._plan = Plan((), ())
        self.called = False
        # The same dictionaries, so that hooks keep running here and stay on the original.
        self.__dict__.update({key: vars(original)[key] for key in HOOKS})
        self._folded: tuple[Tensor, Tensor | None] | None = None

    @staticmethod
    @abc.abstractmethod
    def shape_of(original: nn.Module) -> LayerShape:
        """The sizes that the support tensors of ``original`` would have."""

    @abc.abstractmethod
    def matrix(self) -> Tensor:
        """The frozen weight seen as (out, in)."""

    def plain(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """The original with the given weight and bias in place of its own: same class, attributes and hooks."""
        module = copy.copy(self.original)
        # A shallow copy shares the dictionaries of parameters and hooks with the original.
        vars(module).update({key: copy.copy(value) for key, value in vars(module).items() if isinstance(value, dict)})
        module.register_parameter("weight", nn.Parameter(weight))
        module.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        return module

    @property
    def original(self) -> nn.Module:
        """The module that this layer replaced, with the same frozen parameters."""
        module = self._original[0]
        # They may have been replaced here, by load_state_dict(assign=True) or on the way from the meta device.
        for name in ("weight", "bias"):
            if vars(module)["_parameters"].get(name) is not (own := getattr(self, name)):
                vars(module)["_parameters"][name] = own
        return module

    @property
    def shape(self) -> LayerShape:
        """The sizes of the support tensors."""
        return self.support.shape

    @property
    def gains(self) -> dict[str, float]:
        """The gains of the support tensors, see :data:`glora.support.Gains`."""
        return self.support.gains

    def stored(self) -> dict[str, nn.Parameter]:
        """Every support parameter, by name in this layer."""
        return {f"support.{key}": parameter for key, parameter in self.support.named_parameters()}

    def parameters_of(self, gene: str, form: Form) -> list[nn.Parameter]:
        """The parameters that hold support tensor ``gene`` in ``form``."""
        return [part for part in self.support.parts(gene, form) if part is not None]

    def views(self, gene: str, form: Form) -> dict[str, Tensor]:
        """What ``form`` reads of them: ``B`` and, if it is low-rank, ``B_up``."""
        down, up = self.support.parts(gene, form)
        views = {gene: slice_down(down, form)}
        return views if up is None else views | {f"{gene}_up": up[: form.rank]}

    def activate(self, structure: PlaceStructure) -> None:
        """Let exactly the support tensors of ``structure`` act.

        Raises:
            StructureError: if a form has no storage, or D is asked of a layer without a bias.
        """
        plan = self._plans.get(structure)
        if plan is None:
            if structure["D"].kind != "none" and self.bias is None:
                raise StructureError(f"D={structure['D']} scales the bias, and this layer has none: use D=none")
            plan = self._plans[structure] = Plan.of(structure, self.support)
        self.structure, self._plan, self._folded = structure, plan, None

    @torch.no_grad()
    def merged(
        self, structure: PlaceStructure | None = None, alpha: float = 1.0, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """W* and b* of the layer, computed in float32 or better.

        Args:
            structure: the layer structure to merge; the active one if None.
            alpha: 0 gives the frozen weights, 1 the tuned ones, between is linear.
            out: where to write W*, of the frozen weight's shape and contiguous; both come in its dtype.

        Returns:
            The weight in the frozen weight's shape and dtype, and the bias (None if there is none); where nothing
            acts, these are the frozen ones and no copies.
        """
        matrix, dtype = self.matrix(), self.weight.dtype if out is None else out.dtype
        wide = torch.promote_types(matrix.dtype, self.support_dtype)
        values = self.support.values(self.structure if structure is None else structure, wide)
        frozen = None if self.bias is None else self.bias.to(wide)
        room = None
        if out is not None:
            room = out.view(matrix.shape) if dtype == wide else self._scratch.get("w", matrix, wide)
        weight = effective_weight(matrix.to(wide), values, room)
        bias = effective_bias(matrix.to(wide), frozen, values)
        if alpha != 1.0:
            weight = torch.lerp(matrix.to(wide), weight, alpha)
            if bias is not None:
                bias = torch.lerp(torch.zeros_like(bias) if frozen is None else frozen, bias, alpha)
        if weight.dtype != dtype and out is not None:
            weight = out.view(matrix.shape).copy_(weight)
        if dtype == self.weight.dtype and self.bias is not None:
            dtype = self.bias.dtype
        return (
            weight.to(self.weight.dtype if out is None else out.dtype).reshape(self.weight.shape),
            None if bias is None else bias.to(dtype),
        )

    def fold(self, folded: tuple[Tensor, Tensor | None] | None) -> None:
        """Compute with these plain weights until the next :meth:`activate` (evaluation), or no longer if None."""
        self._folded = folded

    @property
    def support_dtype(self) -> torch.dtype:
        """The dtype of the support tensors."""
        return torch.float64 if self.weight.dtype == torch.float64 else torch.float32

    def extra_repr(self) -> str:
        """Sizes and active forms."""
        sizes = f"{self.shape.in_features} -> {self.shape.out_features}, bias={self.shape.has_bias}"
        return f"{sizes}, active: {self.structure}"

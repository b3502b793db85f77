"""Giving up what a norm or an activation can give back: its output is computed again in backward.

A layer with a low-rank A or B keeps its input for backward. Where that input came straight out of a norm or an
activation, whose own backward keeps *its* input anyway, keeping that and running the module once more costs little
time and no memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Source", "source_of", "watch"]

# Those that keep their input for their own backward; ReLU and its like keep their output, which is then free.
_WATCHED = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)
_ATTRIBUTE = "_glora_source"


class Source(NamedTuple):
    """What a tensor came out of: the module, and the autocast it ran under."""

    module: nn.Module
    autocast: tuple[bool, torch.dtype]

    @torch.no_grad()
    def rerun(self, saved: Tensor) -> Tensor:
        """The module's output once more, from its input."""
        enabled, dtype = self.autocast
        with torch.autocast(saved.device.type, dtype, enabled=enabled):
            output: Tensor = self.module.forward(saved)
        return output


class _Note(NamedTuple):
    """What is left on a tensor: its source, that module's input, and the tensor's version then."""

    source: Source
    input: Tensor
    version: int


def watch(model: nn.Module) -> list[RemovableHandle]:
    """Let the norms and activations of a model leave a note on what they give; the handles end that."""
    watched = [m for m in model.modules() if isinstance(m, _WATCHED)]
    # Before other hooks, which may give something else in place of the output.
    return [module.register_forward_hook(_leave_note, prepend=True, with_kwargs=True) for module in watched]


def source_of(tensor: Tensor) -> tuple[Source, Tensor] | None:
    """What a tensor came out of and from what input, if that was watched and the tensor is still as it was."""
    note: _Note | None = getattr(tensor, _ATTRIBUTE, None)
    return None if note is None or note.version != tensor._version else (note.source, note.input)


def _leave_note(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
    if named or len(inputs) != 1 or not (isinstance(output, Tensor) and output.requires_grad):
        return
    if output is inputs[0]:  # in place: there is no input left
        return
    device = output.device.type
    source = Source(module, (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)))
    setattr(output, _ATTRIBUTE, _Note(source, inputs[0], output._version))

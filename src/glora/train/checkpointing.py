"""Activation checkpointing of a model's blocks, by the model's own means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

from glora.errors import ConfigError

__all__ = ["checkpointed_blocks", "checkpointed_modules"]


@contextmanager
def checkpointed_blocks(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Let a model keep only the inputs of its blocks for backward, for a block of code, if that is wanted.

    Raises:
        ConfigError: if the model can do so neither as timm's nor as transformers' models do.
    """
    own = cast(Any, model)
    if not wanted:
        yield
    elif hasattr(model, "set_grad_checkpointing"):
        own.set_grad_checkpointing(True)
        try:
            yield
        finally:
            own.set_grad_checkpointing(False)
    elif getattr(model, "supports_gradient_checkpointing", False):
        kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # its older name
        # The reentrant kind gives no gradients where a block's input needs none, as behind a frozen embedding.
        getattr(own, f"{kind}_checkpointing_enable")({"use_reentrant": False})
        try:
            yield
        finally:
            getattr(own, f"{kind}_checkpointing_disable")()
    else:
        raise ConfigError(
            f"{type(model).__name__} has no activation checkpointing of its own (timm's set_grad_checkpointing or "
            "transformers' gradient_checkpointing_enable): leave checkpoint_blocks off"
        )


def checkpointed_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Modules of transformers that checkpoint their forward, which they do in training mode only."""
    return (module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True)

"""Peers trained through the library PEFT itself: its LoRA, its DoRA and its GLoRA."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from glora.errors import ConfigError
from glora.peers.base import Peer
from glora.targets import find_targets
from glora.trainable import Flags

__all__ = ["PeftPeer"]


class PeftPeer(Peer):
    """A model that ``peft.get_peft_model`` has put its layers into (final).

    Args:
        name, settings, model, heads: see :class:`Peer`; ``layers`` among the settings is as in :func:`glora.adapt`.
        config: of PEFT, "LoraConfig" or "GloraConfig".
        arguments: of that class, but the layers.

    Raises:
        ConfigError: if PEFT is not installed or too old, or refuses a setting.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        model: nn.Module,
        heads: tuple[str, ...],
        config: str,
        arguments: Mapping[str, Any],
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of libraries that are not used here
            try:
                import peft

                kind = getattr(peft, config)
            except (ImportError, AttributeError):
                raise ConfigError(f'{name} needs PEFT 0.21 or newer: pip install "glora[peers]"') from None
            flags, layers = Flags.of(model), find_targets(model, settings["layers"], heads).modules
            try:
                net = peft.get_peft_model(model, kind(target_modules=list(layers), **arguments))
            except (ValueError, TypeError) as error:
                raise ConfigError(f"PEFT refuses {name}: {' '.join(str(error).split())}") from error
        own = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
        # In a tuple, so that the model is no sub-module twice.
        self._net = (net,)
        super().__init__(name, settings, model, heads, flags, own, list(layers))

    def merge(self) -> nn.Module:
        """The plain model, by PEFT's ``merge_and_unload`` on a copy."""
        plain: nn.Module = copy.deepcopy(self._net[0]).merge_and_unload()
        return self._flags.restore(plain)

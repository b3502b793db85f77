"""What every source of backbones shares: the result, the neutral head and strict filling."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor, nn

from glora.errors import BackboneError

__all__ = ["Backbone", "NoStochasticDepth", "fill", "hub", "names", "neutral_head", "one_line", "unavailable"]


class NoStochasticDepth(BackboneError):
    """A model that has no stochastic depth was asked for some."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has no stochastic depth: leave drop_path at 0")


@dataclass(frozen=True, eq=False)
class Backbone:
    """A model ready to be adapted, and where it came from.

    Attributes:
        model: The untouched library model in evaluation mode, its classifier new and zero.
        name: The name it was asked for; with the same size and checkpoint it gives the same model again.
        preprocessing: `size` (int), `mean` and `std` (three floats each), `interpolation` and `resize`.
        source: Where the weights came from, one line; starts with "random" when there are none.
        head: Qualified name of the classifier module, None where it is unknown or there are several.
    """

    model: nn.Module
    name: str
    preprocessing: dict[str, Any]
    source: str
    head: str | None


def names(items: Iterable[str], limit: int = 3) -> str:
    """The first few names in order, with a count of the rest."""
    ordered = list(items)
    rest = len(ordered) - limit
    return ", ".join(ordered[:limit]) + (f" and {rest} more" if rest > 0 else "")


def one_line(error: BaseException, limit: int = 240) -> str:
    """The error's type and message on a single line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:limit]}{'…' if len(text) > limit else ''}"


def neutral_head(model: nn.Module, heads: Iterable[str]) -> None:
    """Set the classifier modules to zero: no class is preferred and no random number is drawn.

    Args:
        model: The model that owns the classifiers.
        heads: Their qualified names.
    """
    for head in heads:
        for parameter in model.get_submodule(head).parameters():
            nn.init.zeros_(parameter)


def fill(model: nn.Module, state: Mapping[str, Tensor], heads: Collection[str], origin: str) -> None:
    """Copy a state dict into the model; all of it but the classifiers must fit exactly.

    Args:
        model: Receives the tensors.
        state: The tensors by the model's own keys; the classifiers' are ignored.
        heads: Qualified names of the classifier modules, which keep what they have.
        origin: Where the tensors come from, for the message.

    Raises:
        BackboneError: A key is missing, unexpected or has another shape.
    """

    def backbone(key: str) -> bool:
        return not any(key.startswith(f"{head}.") for head in heads)

    own = {key: value for key, value in model.state_dict().items() if backbone(key)}
    given = {key: value for key, value in state.items() if backbone(key)}
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in given and given[key].shape != value.shape
    ]
    # torch itself knows which buffers old checkpoints may lack
    result = model.load_state_dict({} if shapes else given, strict=False)
    missing = [key for key in result.missing_keys if backbone(key) and key not in given]
    unexpected = [key for key in given if key not in own]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": shapes}
    found = "; ".join(f"{kind} {names(keys)}" for kind, keys in problems.items() if keys)
    if found:
        raise BackboneError(f"{origin} does not fit {type(model).__name__}: {found}")


@contextmanager
def hub() -> Iterator[str]:
    """Use the model hub; without a connection only what it has cached, at once instead of after a minute of retries.

    Yields:
        Why the hub cannot be reached, empty where it can.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    state = "offline, HF_HUB_OFFLINE is set" if before else _unreachable(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = bool(state)
    try:
        yield state
    finally:
        constants.HF_HUB_OFFLINE = before


def unavailable(name: str, tried: str, state: str, error: BaseException) -> BackboneError:
    """The error for weights that cannot be had.

    Args:
        name: The backbone asked for.
        tried: Where its weights were looked for.
        state: What `hub` said.
        error: What came of it.

    Returns:
        An error of one line.
    """
    # without a connection the client's own message only repeats that at length
    reason = f"{state}, and not in the cache" if state and isinstance(error, OSError) else one_line(error)
    return BackboneError(
        f"no weights for {name}: tried {tried} ({reason});"
        " give a local file with --checkpoint FILE, or use offline/dinov2-small"
    )


def _unreachable(endpoint: str, timeout: float = 5.0) -> str:
    url = urlsplit(endpoint)
    if {"http", "https", "all"} & urllib.request.getproxies().keys():  # then it is the proxy that finds the host
        return ""
    try:
        socket.create_connection((url.hostname or "", url.port or 443), timeout=timeout).close()
    except OSError as error:
        return f"no connection to {endpoint}: {error.strerror or error}"
    return ""

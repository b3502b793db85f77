"""A peer on file: the method's own tensors and the head, with all that loading must check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from glora.checkpoint import check_fingerprint, fill, fingerprint, head_tensors, read_file, write_file
from glora.errors import CheckpointError, GloraError
from glora.peers.base import Peer
from glora.peers.registry import peer

__all__ = ["load_peer", "save_peer"]


def save_peer(net: Peer, path: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write a peer for :func:`load_peer`.

    Args:
        net: the trained peer.
        path: of the ``.safetensors`` file; appears whole or not at all.
        extra: JSON values to travel along (backbone, classes, preprocessing).
    """
    values = {
        "method": net.name,
        "settings": net.settings,
        "parameters": net.size,
        "head": list(net.head_names),
        "fingerprint": fingerprint(net),
        **(extra or {}),
    }
    write_file(path, "peer", head_tensors(net) | _own_tensors(net), values)


def load_peer(model: nn.Module, path: str | Path) -> Peer:
    """Put a peer's file on the pretrained model that it was trained on, in place.

    Every stored tensor is used and every expected one is filled, or an error names it; then the model is of no more
    use, for it has been changed.

    Raises:
        CheckpointError: if the file is no peer, incomplete, damaged, or was trained on other frozen weights.
    """
    metadata, tensors = read_file(path, "peer")
    values = metadata.values
    try:
        net = peer(values["method"], model, head=values["head"] or False, **values["settings"])
    except KeyError as error:
        raise CheckpointError(f"{path} is incomplete: its metadata lacks {error}") from error
    except (GloraError, TypeError) as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    check_fingerprint(net, values, path)
    fill(net, _own_tensors(net), tensors, path)
    return net


def _own_tensors(net: Peer) -> dict[str, Tensor]:
    """Trained parameters and buffers beside the head, by their names in a file."""
    inside = tuple(f"{name}." for name in net.head_names)
    buffers = {key: b for key, b in net.trained_buffers().items() if not key.startswith(inside)}
    return {f"own.{key}": value for key, value in {**net.adapter_parameters(), **buffers}.items()}

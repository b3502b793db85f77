"""What a training needs to go on after it was killed, in one file that is replaced whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from glora.errors import CheckpointError
from glora.files import replacing

__all__ = ["load_state", "save_state"]


def save_state(
    path: Path, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, progress: Mapping[str, Any]
) -> None:
    """Write parameters (and buffers), optimiser state and ``progress`` (JSON values)."""
    tensors = {f"parameter {name}": p.detach().cpu().contiguous() for name, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key} {name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"progress": json.dumps(dict(progress))})


def load_state(
    path: Path, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Restore what :func:`save_state` wrote and give ``progress`` back; None if there is no such file.

    Args:
        path: of the file.
        parameters: the same names and shapes as were saved.
        optimizer: over the parameters among these.
        settings: must equal ``progress["settings"]``.

    Raises:
        CheckpointError: if the file is damaged or belongs to a training with other settings.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress: dict[str, Any] = json.loads(file.metadata()["progress"])
            there = dict(progress["settings"])
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): delete it to train from the start") from error
    for key, value in settings.items():
        if (was := there.get(key)) != value:
            values = "others" if isinstance(value, dict) else f"{was}, now it is {value}"
            raise CheckpointError(f"{path} was trained with {key}={values}: use another folder, or delete the file")
    stored = {key.removeprefix("parameter "): t.shape for key, t in tensors.items() if key.startswith("parameter ")}
    if stored != {name: parameter.shape for name, parameter in parameters.items()}:
        raise CheckpointError(f"{path} holds other parameters than this model has: use another folder")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter {name}"])
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"{key} {name}" in tensors:
                    value = tensors[f"{key} {name}"]
                    optimizer.state[parameter][key] = value.to(parameter.device)
    return progress

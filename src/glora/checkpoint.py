"""Adapter, supernet and merged files: safetensors with everything that loading must check in one metadata entry."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from glora.errors import CheckpointError, GloraError
from glora.files import replacing
from glora.layers.block import described, restore
from glora.model import GLoRAModel, adapt
from glora.space import SearchSpace
from glora.structure import Structure
from glora.trainable import Trainable

__all__ = [
    "Metadata",
    "check_fingerprint",
    "fill",
    "fingerprint",
    "head_tensors",
    "load",
    "load_merged",
    "load_supernet",
    "read_file",
    "read_metadata",
    "save",
    "save_merged",
    "save_supernet",
    "tensors_digest",
    "write_file",
]

_FORMAT = 1
# One entry, because safetensors does not keep the order of several and a file must be the same to the byte.
_KEY = "glora"


class Metadata(NamedTuple):
    """What a file says of itself: its kind and the JSON object that its writer stored."""

    kind: str
    values: dict[str, Any]


def fingerprint(net: Trainable, layers: Iterable[str] | None = None) -> dict[str, str]:
    """Short SHA-256 digests of the frozen weights: one per layer, and ``"*"`` for everything frozen else.

    Args:
        net: the adapted model.
        layers: names to tell apart; the adapted layers if None.
    """
    tensors = net.frozen_tensors()
    own = {f"{name}.{part}": name for name in (net.layers if layers is None else layers) for part in ("weight", "bias")}
    hashes: dict[str, Any] = {}
    for key, tensor in sorted(tensors.items()):
        digest = hashes.setdefault(own.get(key, "*"), hashlib.sha256())
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return {name: digest.hexdigest()[:16] for name, digest in sorted(hashes.items())}


def tensors_digest(tensors: Iterable[Tensor]) -> str:
    """Short SHA-256 digest of the values of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def save(
    net: GLoRAModel, path: str | Path, structure: Structure | None = None, extra: Mapping[str, Any] | None = None
) -> None:
    """Write the adapter file of one subnet: its own tensors and the head, and nothing else.

    Args:
        net: the adapted model.
        path: of the ``.safetensors`` file; appears whole or not at all.
        structure: the subnet; the active one if None.
        extra: JSON values to travel along (backbone, classes, preprocessing).
    """
    structure = net.active if structure is None else structure
    net.bound.check_layers(structure)
    tensors = head_tensors(net) | _subnet_tensors(net, structure)
    values = {
        "structure": structure.to_dict(),
        "gains": _subnet_gains(net, structure),
        "bias": net.bound.bias,
        "parameters": net.size(structure),
        "head": list(net.head_names),
        "fingerprint": fingerprint(net),
        **(extra or {}),
    }
    write_file(path, "adapter", tensors, values)


def save_supernet(net: GLoRAModel, path: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write every support tensor and the head, for :func:`load_supernet`."""
    tensors = head_tensors(net) | _supernet_tensors(net)
    values = {
        "space": net.space.to_dict(),
        "layers": list(net.layers),
        "gains": {name: place.gains for name, place in net.places.items()},
        "storage": net.storage,
        "bias": net.bound.bias,
        "head": list(net.head_names),
        "fingerprint": fingerprint(net),
        **(extra or {}),
    }
    write_file(path, "supernet", tensors, values)


def save_merged(model: nn.Module, path: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write the state dict of a merged model under its original keys.

    Where blocks kept prompts or adapters, their tensors are in it too, and the metadata says so in ``hybrids``.
    """
    hybrids = described(model)
    values = dict(extra or {}) | ({"hybrids": hybrids} if hybrids else {})
    write_file(path, "merged", model.state_dict(), values)


def load(model: nn.Module, path: str | Path) -> GLoRAModel:
    """Put an adapter file on the backbone that it was trained on.

    Every stored tensor is used and every expected one is filled, or an error names it.

    Args:
        model: the pretrained model with a head of the stored width, in the state it had before ``adapt``.
        path: of the adapter file.

    Raises:
        CheckpointError: if the file is no adapter, incomplete, damaged, or was trained on other frozen weights.
    """
    metadata, tensors = read_file(path, "adapter")
    values = metadata.values
    try:
        structure = Structure(values["structure"])
        space = SearchSpace.of(structure)
        net = adapt(
            model,
            space,
            list(structure.layers) or None,
            head=values["head"] or False,
            bias=values["bias"],
            gains=values["gains"],
        )
    except KeyError as error:
        raise CheckpointError(f"{path} is incomplete: its metadata lacks {error}") from error
    except (GloraError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    try:
        net.activate(structure)
        check_fingerprint(net, values, path)
        if _subnet_gains(net, structure) != values["gains"]:
            raise CheckpointError(f"{path} has the gains of another structure than its own")
        fill(net, _subnet_tensors(net, structure), tensors, path)
    except GloraError as error:
        net.eject()
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    return net


def load_supernet(net: GLoRAModel, path: str | Path) -> dict[str, Any]:
    """Fill an adapted model from a supernet file and give its metadata back.

    Raises:
        CheckpointError: if the file is damaged, of another space, other layers, gains or frozen weights.
    """
    metadata, tensors = read_file(path, "supernet")
    values = metadata.values
    _check_setting("space", net.space.to_dict(), values, path)
    _check_setting("layers", list(net.layers), values, path)
    _check_setting("storage", net.storage, {"storage": "shared"} | values, path)  # the only one when none was named
    check_fingerprint(net, values, path)  # before the gains, which follow from the weights
    _check_setting("gains", {name: place.gains for name, place in net.places.items()}, values, path)
    fill(net, _supernet_tensors(net), tensors, path)
    return values


def read_metadata(path: str | Path) -> Metadata:
    """The kind of a file of ours ("adapter", "supernet", "merged") and what it says of itself.

    Raises:
        CheckpointError: if it is missing, damaged or not ours.
    """
    return _open(path)[0]


def load_merged(model: nn.Module, path: str | Path) -> nn.Module:
    """Fill a plain model from a merged file, strictly.

    A bias that merging created is created again, and so are prompts and adapters that it left in: the model is then
    no plain one.
    """
    metadata, tensors = read_file(path, "merged")
    if hybrids := metadata.values.get("hybrids"):
        try:
            restore(model, hybrids)
        except (GloraError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} has prompts or adapters that do not fit this model: {error}") from error
    own = model.state_dict()
    for key in sorted(set(tensors) - set(own)):
        parent, _, leaf = key.rpartition(".")
        module = dict(model.named_modules()).get(parent)
        if leaf == "bias" and isinstance(module, nn.Linear) and module.bias is None:
            module.bias = nn.Parameter(torch.zeros_like(tensors[key]))
    _check_tensors(model.state_dict(), tensors, path)
    model.load_state_dict(tensors)
    return model


def head_tensors(net: Trainable) -> dict[str, Tensor]:
    """Parameters and buffers of the head by their names in a file, not detached."""
    return {
        f"head.{name}.{key}": value
        for name, head in net.heads.items()
        for key, value in head.state_dict(keep_vars=True).items()
    }


def _subnet_gains(net: GLoRAModel, structure: Structure) -> dict[str, dict[str, float]]:
    return {
        name: {
            f"{gene}.{form.kind}": net.places[name].gain(gene, form)
            for gene, form in place.items()
            if form.kind != "none"
        }
        for name, place in structure.items()
    }


def _supernet_tensors(net: GLoRAModel) -> dict[str, Tensor]:
    """Every stored parameter of the genes, by its name in a supernet file."""
    return {
        f"layers.{name}.{key.removeprefix('support.')}": parameter
        for name, place in net.places.items()
        for key, parameter in place.stored().items()
    }


def _subnet_tensors(net: GLoRAModel, structure: Structure) -> dict[str, Tensor]:
    """Views of what the forms of ``structure`` read, by their names in an adapter file."""
    return {
        f"layers.{name}.{key}": view
        for name, place in structure.items()
        for gene, form in place.items()
        if form.kind != "none"
        for key, view in net.places[name].views(gene, form).items()
    }


def write_file(path: str | Path, kind: str, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
    """Write a file of a kind: tensors, and ``values`` with the format and version in its metadata.

    Raises:
        CheckpointError: for a tensor that is not finite; then nothing is written.
    """
    text = json.dumps({"format": _FORMAT, "kind": kind, "version": version("glora"), **values}, ensure_ascii=False)
    # Copies, because the format refuses tensors that share memory (a module under two names).
    plain = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    for key, value in plain.items():
        if not _is_finite(value):
            raise CheckpointError(f"{key} is not finite: nothing was written to {path}")
    with replacing(Path(path)) as temporary:
        # transformers reads no file without this "format".
        save_file(plain, temporary, {_KEY: text, **({"format": "pt"} if kind == "merged" else {})})
        _order_metadata(temporary)


def _order_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file, which its library writes in any order, in place."""
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > length:
            raise CheckpointError(f"the header of {path} cannot be rewritten in its {length} bytes")
        file.seek(8)
        file.write(text.ljust(length))


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _open(path: str | Path) -> tuple[Metadata, dict[str, Tensor]]:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
    try:
        values = json.loads(text or "")
        found, kind = values["format"], values["kind"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} was not written by glora: its metadata has no {_KEY!r} entry") from error
    if found != _FORMAT:
        raise CheckpointError(f"{path} has format {found}; this version of glora reads format {_FORMAT}")
    return Metadata(kind, values), tensors


def read_file(path: str | Path, kind: str) -> tuple[Metadata, dict[str, Tensor]]:
    """What a file of the given kind says of itself, and its tensors.

    Raises:
        CheckpointError: if it is missing, damaged, not ours, of another kind, or not finite.
    """
    metadata, tensors = _open(path)
    if metadata.kind != kind:
        raise CheckpointError(f"{path} is a file of kind {metadata.kind!r}, and one of kind {kind!r} is needed")
    for key, tensor in tensors.items():
        if not _is_finite(tensor):
            raise CheckpointError(f"{path}: {key} is not finite")
    return metadata, tensors


def _check_setting(key: str, own: Any, values: Mapping[str, Any], path: str | Path) -> None:
    if values.get(key) != own:
        raise CheckpointError(f"{path} is a supernet with another {key}: adapt the model with the same settings")


def check_fingerprint(net: Trainable, values: Mapping[str, Any], path: str | Path) -> None:
    """Raise CheckpointError, naming a layer, unless the frozen weights are those that the file was trained on."""
    stored = values.get("fingerprint")
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path} has no fingerprint of its backbone")
    own = fingerprint(net, [name for name in stored if name != "*"])
    if stored == own:
        return
    other = next((name for name in stored if name != "*" and stored[name] != own.get(name)), None)
    where = f"layer {other!r}" if other else "its frozen weights outside the adapted layers"
    raise CheckpointError(
        f"{path} was trained on another backbone{_named(values)}, which differs in {where}; "
        "load the pretrained weights it was trained on"
    )


def _named(values: Mapping[str, Any]) -> str:
    return f" ({values['backbone']})" if isinstance(values.get("backbone"), str) else ""


def fill(net: Trainable, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy the tensors of a file into ``expected`` and the head.

    Raises:
        CheckpointError: naming a tensor that is missing, left over or misshapen; then nothing has changed.
    """
    wanted = {**expected, **head_tensors(net)}
    _check_tensors(wanted, tensors, path)
    with torch.no_grad():
        for key, target in wanted.items():
            target.copy_(tensors[key])


def _check_tensors(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path) -> None:
    if missing := sorted(set(wanted) - set(tensors)):
        raise CheckpointError(f"{path} lacks {len(missing)} tensors, the first is {missing[0]}")
    if extra := sorted(set(tensors) - set(wanted)):
        raise CheckpointError(f"{path} has {len(extra)} tensors that do not belong here, the first is {extra[0]}")
    for key, target in wanted.items():
        if target.shape != tensors[key].shape:
            hint = "; create the model with the number of classes it was trained on" if key.startswith("head.") else ""
            raise CheckpointError(f"{path}: {key} is {list(tensors[key].shape)}, expected {list(target.shape)}{hint}")
        if target.is_floating_point() != tensors[key].is_floating_point():
            raise CheckpointError(f"{path}: {key} is {tensors[key].dtype}, expected {target.dtype}")

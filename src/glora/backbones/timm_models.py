"""Any model of timm, with weights from its hub or from a local file."""

from __future__ import annotations

import difflib
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glora.backbones.common import Backbone, NoStochasticDepth, fill, hub, names, neutral_head, one_line, unavailable
from glora.backbones.offline import DINOV2_SMALL
from glora.errors import BackboneError

__all__ = ["load_timm"]

_HUB = ("hf-hub:", "hf_hub:")
_PREFIXES = (*_HUB, "local-dir:")
_STATE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def load_timm(
    name: str, *, num_classes: int, size: int | None, checkpoint: Path | None, drop_path: float, pretrained: bool
) -> Backbone:
    """A timm model with a new, neutral classifier.

    Args:
        name: A timm name, with or without a tag, or one with the prefix `hf-hub:` or `local-dir:`.
        num_classes: Width of the new classifier.
        size: Side of the square images in pixels; None for the model's own.
        checkpoint: A local file of weights (.safetensors, .npz, .pth, .pt, .bin), which goes before the hub's.
        drop_path: Rate of stochastic depth.
        pretrained: False leaves the model random where there is no checkpoint.

    Returns:
        The model; its position embeddings resampled to the size by timm.

    Raises:
        BackboneError: The name is unknown, the weights cannot be had or do not fit, or the model refuses a setting.
    """
    _check_file(checkpoint)
    _check_name(name, weights=pretrained and checkpoint is None)
    model, source, report = _create(name, num_classes, size, drop_path, pretrained and checkpoint is None)
    heads = _classifiers(model, num_classes)
    source += _check_report(name, report, heads)
    _check_settings(name, model, size, drop_path)
    if checkpoint is not None:
        _fill_from_file(model, checkpoint, heads)
        source = f"{checkpoint.resolve()} into timm {model.pretrained_cfg['architecture']}"
    neutral_head(model, heads)
    head = heads[0] if len(heads) == 1 else None
    return Backbone(model.eval(), name, _preprocessing(name, model, size), source, head)


def _check_file(checkpoint: Path | None) -> None:
    """Refuse a checkpoint that is absent or of an unknown kind before anything is built.

    Raises:
        BackboneError: It is.
    """
    if checkpoint is None:
        return
    if not checkpoint.is_file():
        raise BackboneError(f"no such checkpoint file: {checkpoint}")
    if checkpoint.suffix not in (*_STATE_SUFFIXES, ".npz"):
        kinds = ", ".join((*_STATE_SUFFIXES, ".npz"))
        raise BackboneError(f"{checkpoint} is of an unknown kind: known are {kinds}")


def _check_name(name: str, weights: bool) -> None:
    """Refuse a name that timm does not know, and one without weights where weights are wanted.

    Raises:
        BackboneError: With near misses.
    """
    import timm

    if name.startswith(_PREFIXES):
        return
    if "/" in name:
        raise BackboneError(f"unknown backbone {name!r}: for a hub repository say hf-hub:{name} (timm) or hf:{name}")
    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        near = difflib.get_close_matches(architecture, [*known, DINOV2_SMALL], n=3)
        hint = f"did you mean {names(near)}?" if near else 'timm.list_models("*vit*") lists names'
        raise BackboneError(f"unknown backbone {name!r}: {hint}")
    tagged = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and name not in tagged:
        near = difflib.get_close_matches(name, tagged, n=3, cutoff=0.0)
        hint = f"it has {names(near)}" if near else "it has none"
        raise BackboneError(f"unknown weights {tag!r} of timm's {architecture}: {hint}")
    if weights and not tagged:
        raise BackboneError(
            f"timm has no pretrained weights for {name}: give a file with --checkpoint FILE,"
            " or ask for random weights with pretrained=False"
        )


def _create(
    name: str, num_classes: int, size: int | None, drop_path: float, weights: bool
) -> tuple[Any, str, list[str]]:
    """Build the model, with the hub's weights if wanted; where they came from and what timm said about them."""
    settings: dict[str, Any] = {"num_classes": num_classes}
    if drop_path:
        settings["drop_path_rate"] = drop_path
    if size is not None:
        settings["img_size"] = size
    with hub() if weights or name.startswith(_HUB) else nullcontext("") as state, _listening() as report:
        try:
            model = _create_at_size(name, weights, settings)
        except Exception as error:  # hub, file and model errors have no common ancestor
            if "'drop_path_rate'" in str(error):
                raise NoStochasticDepth(name) from error
            if weights or name.startswith(_PREFIXES):
                local = name.startswith("local-dir:")
                raise unavailable(name, _tried(name), "" if local else state, error) from error
            raise BackboneError(f"timm cannot build {name} with {settings}: {one_line(error)}") from error
    return model, _source(model) if weights else "random", report


def _create_at_size(name: str, weights: bool, settings: dict[str, Any]) -> Any:
    """Convolutional networks know no `img_size`, and timm says which ones do only once they are built."""
    import timm

    try:
        return timm.create_model(name, pretrained=weights, **settings)
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise
    return timm.create_model(name, pretrained=weights, **{k: v for k, v in settings.items() if k != "img_size"})


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What timm logs while it loads: only there does it say which tensors of a hub file did not match."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("timm.models._builder")
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield messages
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


def _check_report(name: str, report: list[str], heads: list[str]) -> str:
    """Refuse weights that leave the backbone unfilled; says which tensors are new or had no use."""
    keys: dict[str, list[str]] = {"Missing": [], "Unexpected": []}
    for kind, listed in re.findall(r"(Missing|Unexpected) keys \((.*?)\)", "\n".join(report)):
        keys[kind] += [key for key in listed.split(", ") if not key.startswith(tuple(f"{head}." for head in heads))]
    # weights pretrained without labels have no norm in front of the classifier either: it starts as the identity
    beside = ("fc_norm.", *(f"{head.rpartition('.')[0]}." for head in heads if "." in head))
    missing = [key for key in keys["Missing"] if not key.startswith(beside)]
    if missing:
        raise BackboneError(f"the pretrained weights of {name} are incomplete: missing {names(missing)}")
    new = f"; new: {names(keys['Missing'])}" if keys["Missing"] else ""
    return new + (f"; unused: {names(keys['Unexpected'])}" if keys["Unexpected"] else "")


def _tried(name: str) -> str:
    """Where timm looks for the weights of a name."""
    import timm

    if name.startswith(_PREFIXES):
        kind, _, place = name.partition(":")
        return f"the folder {place}" if kind == "local-dir" else f"the hub repository {place}"
    cfg = timm.get_pretrained_cfg(name)
    return f"the hub repository {cfg.hf_hub_id}" if cfg.hf_hub_id else str(cfg.url)


def _source(model: Any) -> str:
    cfg = model.pretrained_cfg
    tag = f".{cfg['tag']}" if cfg.get("tag") else ""
    place = cfg.get("file") or cfg.get("hf_hub_id") or cfg.get("url")
    return f"timm {cfg['architecture']}{tag} from {place}"


def _classifiers(model: Any, num_classes: int) -> list[str]:
    """Qualified names of the classifiers: those timm declares, else those of the right width it hands out."""
    declared = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    declared = [declared] if isinstance(declared, str) else list(declared)
    modules = dict(model.named_modules())

    def fits(module: nn.Module | None) -> bool:
        return getattr(module, "out_features", getattr(module, "out_channels", None)) == num_classes

    found = [head for head in declared if fits(modules.get(head))]
    if not found and hasattr(model, "get_classifier"):
        handed = model.get_classifier()
        found = [name for name, module in modules.items() if module is handed and name and fits(module)]
    if not found:
        raise BackboneError(f"{type(model).__name__} has no classifier of width {num_classes} that timm declares")
    return found


def _check_settings(name: str, model: Any, size: int | None, drop_path: float) -> None:
    """Refuse what the model took without obeying."""
    if drop_path and not any(getattr(module, "drop_prob", 0) for module in model.modules()):
        raise NoStochasticDepth(name)
    if size is None or not model.pretrained_cfg.get("fixed_input_size"):
        return
    stem = getattr(model, "patch_embed", None)
    patch = getattr(stem, "patch_size", None)
    side = patch[0] if isinstance(patch, tuple) else patch
    if isinstance(side, int) and size % side and not getattr(stem, "dynamic_img_pad", False):
        below = max(side, size - size % side)
        raise BackboneError(f"{name} takes sizes divisible by {side}, not {size}: use {below} or {below + side}")


def _preprocessing(name: str, model: Any, size: int | None) -> dict[str, Any]:
    from timm.data import resolve_model_data_config

    data = resolve_model_data_config(model)
    channels, height, width = data["input_size"]
    if size is None and height != width:
        raise BackboneError(f"{name} takes {height} by {width} images: give a size")
    if channels != 3:
        raise BackboneError(f"{name} takes images of {channels} channels, not of 3")
    return {
        "size": height if size is None else size,
        "mean": tuple(float(value) for value in data["mean"]),
        "std": tuple(float(value) for value in data["std"]),
        "interpolation": data["interpolation"],
        "resize": "squash",
    }


def _fill_from_file(model: Any, path: Path, heads: list[str]) -> None:
    if path.suffix == ".npz":
        _fill_from_npz(model, path, heads)
        return
    from timm.models import load_state_dict, model_entrypoint

    try:
        state: Any = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # every format has its own errors
        raise BackboneError(f"{path} cannot be read as weights: {one_line(error)}") from error
    # the module that registers an architecture also holds what turns old and foreign files into its own keys
    module = sys.modules[model_entrypoint(model.pretrained_cfg["architecture"]).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    try:
        state = convert(state, model) if convert else state
        tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # a foreign layout fails anywhere inside the conversion
        raise BackboneError(f"{path} does not fit {type(model).__name__}: {one_line(error)}") from error
    fill(model, tensors, heads, str(path))


def _fill_from_npz(model: Any, path: Path, heads: list[str]) -> None:
    """Let timm read a JAX archive; what it leaves alone is found by marking everything beforehand."""
    import numpy as np

    if not hasattr(model, "load_pretrained"):
        raise BackboneError(f"{type(model).__name__} cannot read .npz files: give .safetensors or .pth")
    own = dict(_weights(model, heads))
    with torch.no_grad():
        for value in own.values():
            value.fill_(torch.nan)
    try:
        model.load_pretrained(str(path))
        with np.load(path, allow_pickle=False) as archive:
            sizes = {key: archive[key].size for key in archive.files}
    except Exception as error:  # a foreign layout fails anywhere inside the conversion
        raise BackboneError(f"{path} does not fit {type(model).__name__}: {one_line(error)}") from error
    missing = [key for key, value in own.items() if not torch.isfinite(value).all()]
    if missing:
        raise BackboneError(f"{path} does not fit {type(model).__name__}: missing or not finite {names(missing)}")
    room = sum(value.numel() for key, value in own.items() if "pos_embed" not in key)
    given = _archived(sizes)
    if given > room:
        raise BackboneError(f"{path} does not fit {type(model).__name__}: {given - room} values have no place in it")


def _weights(model: Any, heads: list[str]) -> Iterator[tuple[str, Tensor]]:
    for key, value in model.state_dict(keep_vars=True).items():
        if value.is_floating_point() and not key.startswith(tuple(f"{head}." for head in heads)):
            yield key, value


def _archived(sizes: dict[str, int]) -> int:
    """How many values of the image tower an archive holds beside classifier and positions."""
    anchor = next((key for key in sizes if key.endswith("embedding/kernel")), "")
    tower = anchor.removesuffix("embedding/kernel")
    skipped = tuple(f"{tower}{part}" for part in ("head/", "pre_logits/"))
    return sum(
        size
        for key, size in sizes.items()
        if key.startswith(tower) and not key.startswith(skipped) and "pos_embedding" not in key
    )

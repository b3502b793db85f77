"""Image classifiers of transformers, from the hub or from a folder written by `save_pretrained`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from glora.backbones.common import Backbone, NoStochasticDepth, hub, names, neutral_head, one_line, unavailable
from glora.errors import BackboneError

__all__ = ["PREFIX", "load_transformers"]

PREFIX = "hf:"

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def load_transformers(name: str, *, num_classes: int, size: int | None, drop_path: float, pretrained: bool) -> Backbone:
    """An untouched transformers model for image classification; its output holds `.logits`.

    Preprocessing comes from the model's `preprocessor_config.json`. Without that file the mean and deviation are 0.5
    for the model type `vit` and ImageNet's for all others, and images are resized bicubically.

    Args:
        name: `hf:` and a repository of the hub or a local folder.
        num_classes: Width of the new classifier.
        size: Side of the square images in pixels; None for the model's own.
        drop_path: Rate of stochastic depth.
        pretrained: False takes the configuration only and leaves the model random.

    Returns:
        The model in float32; the source also names tensors of the checkpoint that its class has no use for.

    Raises:
        BackboneError: transformers is missing, the weights cannot be had or do not fit, or the model refuses a setting.
    """
    try:
        import transformers
    except ImportError:
        raise BackboneError(f'{name} needs transformers: pip install "glora[transformers]"') from None
    place = name.removeprefix(PREFIX)
    if not Path(place).is_dir() and (place.startswith((".", "/", "~")) or place.count("/") != 1):
        raise BackboneError(f"{name} is neither a local folder nor a hub repository OWNER/NAME")
    with hub() as state, _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(place, num_labels=num_classes, trust_remote_code=False)
            processor = _processor(place)
            _set_drop_path(name, config, drop_path)
            model, source = _build(transformers.AutoModelForImageClassification, place, config, pretrained)
        except BackboneError:
            raise
        except Exception as error:  # hub, file and model errors have no common ancestor
            tried = "the folder" if Path(place).is_dir() else f"the hub repository {place}"
            raise unavailable(name, tried, "" if Path(place).is_dir() else state, error) from error
    preprocessing = _preprocessing(config, processor, size)
    model = model.float().eval()
    head = _head(name, model, num_classes)
    neutral_head(model, [head])
    _check_size(name, model, config, preprocessing["size"])
    return Backbone(model, name, preprocessing, source, head)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep its tables and bars off the terminal: what they say is checked here and becomes an error."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _processor(place: str) -> dict[str, Any]:
    """The model's `preprocessor_config.json`, empty where there is none."""
    from transformers.utils import cached_file

    file = cached_file(
        place,
        "preprocessor_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return {} if file is None else dict(json.loads(Path(file).read_text(encoding="utf-8")))


def _set_drop_path(name: str, config: Any, drop_path: float) -> None:
    if not drop_path:
        return
    if not hasattr(config, "drop_path_rate"):
        raise NoStochasticDepth(name)
    config.drop_path_rate = drop_path


def _build(auto: Any, place: str, config: Any, pretrained: bool) -> tuple[nn.Module, str]:
    """The model and where its weights came from; only the classifier may be absent or of another size."""
    if not pretrained:
        return auto.from_config(config, trust_remote_code=False), "random"
    model, info = auto.from_pretrained(
        place, config=config, ignore_mismatched_sizes=True, output_loading_info=True, trust_remote_code=False
    )
    prefix = f"{model.base_model_prefix}."
    problems = {
        "missing": _below(prefix, info["missing_keys"]),
        "misshapen": _below(prefix, (key for key, *_ in info["mismatched_keys"])),
    }
    found = "; ".join(f"{kind} {names(keys)}" for kind, keys in problems.items() if keys)
    if found:
        raise BackboneError(f"{place} does not fill {type(model).__name__}: {found}")
    unused = sorted(info["unexpected_keys"])
    where = str(Path(place).resolve()) if Path(place).is_dir() else f"hub repository {place}"
    return model, f"transformers {type(model).__name__} from {where}" + (f"; unused: {names(unused)}" if unused else "")


def _below(prefix: str, keys: Iterable[str]) -> list[str]:
    return sorted(key for key in keys if key.startswith(prefix))


def _head(name: str, model: nn.Module, num_classes: int) -> str:
    """The last layer beside the backbone that is as wide as there are classes."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    heads = [
        key
        for key, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == num_classes and not key.startswith(prefix)
    ]
    if not heads:
        raise BackboneError(f"{name}: {type(model).__name__} has no classifier of width {num_classes}")
    return str(heads[-1])


def _preprocessing(config: Any, processor: dict[str, Any], size: int | None) -> dict[str, Any]:
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean, std = _HALF if config.model_type == "vit" else _IMAGENET
    if processor.get("do_normalize", True) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    elif "image_mean" in processor and "image_std" in processor:
        mean, std = tuple(map(float, processor["image_mean"])), tuple(map(float, processor["image_std"]))
    cropped = processor.get("crop_size") if processor.get("do_center_crop", False) else None
    own = _side(cropped) or _side(processor.get("size")) or _side(getattr(config, "image_size", None)) or 224
    return {
        "size": own if size is None else size,
        "mean": mean,
        "std": std,
        "interpolation": _RESAMPLE.get(processor.get("resample", 3), "bicubic"),
        "resize": "squash",
    }


def _side(value: Any) -> int | None:
    """One side in pixels out of the ways transformers writes a size."""
    if isinstance(value, dict):
        value = value.get("height") or value.get("shortest_edge")
    if isinstance(value, (list, tuple)):
        value = value[0]
    return value if isinstance(value, int) else None


def _check_size(name: str, model: nn.Module, config: Any, size: int) -> None:
    """Try one image: some models have a table of positions for a single size, others take any."""
    own = _side(getattr(config, "image_size", None))
    if size == own:
        return
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size))
    except Exception as error:  # every model refuses in its own way
        advice = f"use {own}" if own else "try another size"
        raise BackboneError(f"{name} does not take images of {size} pixels: {one_line(error)}; {advice}") from error

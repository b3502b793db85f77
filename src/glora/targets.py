"""Which layers of a model are adapted, which module is its head, and why the rest is left alone."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import nn

from glora.errors import TargetError
from glora.layers import KINDS, AdaptedLayer

__all__ = ["Layers", "Targets", "find_head", "find_targets"]

Layers = str | re.Pattern[str] | Iterable[str] | Callable[[str, nn.Module], bool] | None

# Where transformers keeps the classifier of its vision, text and audio models.
_HEAD_NAMES = ("classifier", "score", "classification_head", "lm_head", "head", "fc")
# These read the weights of their linear layers without calling them, so that support tensors would not act.
_BYPASSING = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class Targets(NamedTuple):
    """The modules to adapt by name, in the model's order, and (name, why) of those with weights left alone."""

    modules: dict[str, nn.Module]
    skipped: tuple[tuple[str, str], ...]


def find_head(model: nn.Module, num_classes: int | None = None) -> str:
    """The qualified name of the task head.

    Looks at timm's ``get_classifier``, then at the names that transformers uses, then for the last ``nn.Linear``
    (of width ``num_classes`` when that is given).

    Raises:
        TargetError: if there is none; the message says how to name it.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if callable(get_classifier):
        found = get_classifier()
        names = [name for name, module in model.named_modules() if module is found]
        if names and any(True for _ in found.parameters()):
            return str(names[0])
        if isinstance(found, nn.Module):
            raise TargetError(
                "the model has no head (its get_classifier() has no parameters): "
                "create it with num_classes=<number of classes>, or pass head=False to adapt features only"
            )
    for name in _HEAD_NAMES:
        module = getattr(model, name, None)
        if isinstance(module, nn.Module) and any(True for _ in module.parameters()):
            return name
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if num_classes is not None:
        linear = [name for name in linear if getattr(model.get_submodule(name), "out_features", 0) == num_classes]
    if not linear:
        wide = f" with {num_classes} outputs" if num_classes is not None else ""
        raise TargetError(f"no head found: the model has no nn.Linear{wide}; name it, head='...', or pass head=False")
    return str(linear[-1])


def find_targets(model: nn.Module, layers: Layers, head: str | None) -> Targets:
    """Resolve ``layers`` to modules, once.

    Args:
        model: the backbone with its head.
        layers: None for every supported layer outside the head, a glob over qualified names, a compiled regular
            expression (full match), names, or a predicate of (name, module).
        head: qualified name of the head, which is trained in full and never adapted.

    Raises:
        TargetError: if a name or pattern matches nothing (near misses are listed), or names a layer that cannot
            be adapted, or nothing is left.
    """
    if any(isinstance(module, AdaptedLayer) for module in model.modules()):
        raise TargetError("this model is adapted already: merge or eject it first")
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    reasons = {name: _reason(model, name, module, head, uses) for name, module in model.named_modules() if name}
    candidates = {name: why for name, why in reasons.items() if why != _IRRELEVANT}
    supported = [name for name, why in candidates.items() if why is None]
    chosen = supported if layers is None else _match(model, layers, candidates, supported)
    if not chosen:
        kinds = ", ".join(kind.__name__ for kind in KINDS)
        raise TargetError(f"nothing to adapt: the model has no supported layer ({kinds}) outside its head")
    left = tuple((name, why or "not named in layers=") for name, why in candidates.items() if name not in set(chosen))
    return Targets({name: model.get_submodule(name) for name in chosen}, left)


_IRRELEVANT = "no weight matrix"


def _reason(model: nn.Module, name: str, module: nn.Module, head: str | None, uses: Counter[int]) -> str | None:
    """Why the module cannot be adapted; None if it can."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim < 2:
        return _IRRELEVANT
    if head is not None and (name == head or name.startswith(f"{head}.")):
        return "the head, trained in full"
    if type(module) not in KINDS:
        return f"{type(module).__name__} is not supported"
    if not weight.is_floating_point() or type(weight) is not nn.Parameter:
        return f"its weight is quantised or wrapped ({type(weight).__name__}, {weight.dtype})"
    parents = [model.get_submodule(name[: m.start()]) for m in re.finditer(r"\.", name)]
    for parent in [model, *parents]:
        if isinstance(parent, _BYPASSING):
            return f"{type(parent).__name__} uses its weight without calling it"
    if uses[id(weight)] > 1:
        return "its weight is shared with another module"
    return None


def _match(model: nn.Module, layers: Layers, candidates: dict[str, str | None], supported: list[str]) -> list[str]:
    if callable(layers) and not isinstance(layers, re.Pattern):
        return [name for name in supported if layers(name, model.get_submodule(name))]
    if isinstance(layers, re.Pattern):
        found = [name for name in supported if layers.fullmatch(name)]
        if not found:
            raise TargetError(_nothing(layers.pattern, supported))
        return found
    patterns = [layers] if isinstance(layers, str) else list(layers or ())
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in supported if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not found and (why := candidates.get(pattern)):
            raise TargetError(f"layer {pattern!r} cannot be adapted: {why}")
        if not found:
            raise TargetError(_nothing(pattern, supported))
        chosen.update(found)
    return [name for name in supported if name in chosen]


def _nothing(pattern: str, supported: list[str]) -> str:
    near = difflib.get_close_matches(pattern, supported, n=3, cutoff=0.4) or supported[:3]
    return f"layers={pattern!r} matches no layer that can be adapted; near misses: {', '.join(near) or 'none'}"

"""Which layers of a model are adapted, which module is its head, and why the rest is left alone."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from glora.bypass import bypassed
from glora.errors import TargetError
from glora.layers import KINDS, AdaptedLayer
from glora.layers.block import ExtendedBlock

__all__ = ["Layers", "Targets", "find_heads", "find_targets", "resolve_heads"]

Layers = str | re.Pattern[str] | Iterable[str] | Callable[[str, nn.Module], bool] | None

# Where transformers keeps the classifier of its vision, text and audio models.
_HEAD_NAMES = ("classifier", "score", "classification_head", "lm_head", "head", "fc")
# These read the weights of their linear layers without calling them, so that support tensors would not act.
_BYPASSING = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class Targets(NamedTuple):
    """The modules to adapt by name, in the model's order, and (name, why) of those with weights left alone."""

    modules: dict[str, nn.Module]
    skipped: tuple[tuple[str, str], ...]


def find_heads(model: nn.Module, num_classes: int | None = None) -> tuple[str, ...]:
    """The qualified names of the task head: one, or several where a distilled model has two.

    Looks at timm's ``get_classifier``, then at the names that transformers uses, then for the last ``nn.Linear``
    (of width ``num_classes`` when that is given).

    Raises:
        TargetError: if there is none; the message says how to name it.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if callable(get_classifier):
        found = get_classifier()
        modules = [m for m in (found if isinstance(found, tuple | list) else [found]) if isinstance(m, nn.Module)]
        names = [name for name, module in model.named_modules() if any(module is m for m in modules)]
        if names and all(any(True for _ in module.parameters()) for module in modules):
            return tuple(names)
        if modules:
            raise TargetError(
                "the model has no head (its get_classifier() has no parameters): "
                "create it with num_classes=<number of classes>, or pass head=False to adapt features only"
            )
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in _HEAD_NAMES:
        module = getattr(model, name, None)
        if isinstance(module, nn.Module) and any(True for _ in module.parameters()):
            inside = [other for other in linear if other == name or other.startswith(f"{name}.")]
            fits = num_classes is None or not inside or _width(model, inside[-1]) == num_classes
            # "fc" may as well be a hidden layer of a hand-written model.
            if fits and (name != "fc" or not inside or inside[-1] == linear[-1]):
                return (name,)
    if num_classes is not None:
        linear = [name for name in linear if _width(model, name) == num_classes]
    if not linear:
        wide = f" with {num_classes} outputs" if num_classes is not None else ""
        raise TargetError(f"no head found: the model has no nn.Linear{wide}; name it, head='...', or pass head=False")
    return (str(linear[-1]),)


def _width(model: nn.Module, name: str) -> int:
    return int(getattr(model.get_submodule(name), "out_features", 0))


def resolve_heads(
    model: nn.Module, head: str | Sequence[str] | Literal[False] | None, num_classes: int | None = None
) -> tuple[str, ...]:
    """The qualified names of the head that ``head`` names; None looks for it, False means none.

    Raises:
        TargetError: if there is no such module, or none is found.
    """
    if head is False:
        return ()
    if head is None:
        return find_heads(model, num_classes)
    heads = (head,) if isinstance(head, str) else tuple(head)
    names = dict(model.named_modules())
    for name in heads:
        if name not in names or not name:
            raise TargetError(f"the model has no module {name!r} to be its head")
    return heads


def find_targets(model: nn.Module, layers: Layers, heads: Collection[str] = ()) -> Targets:
    """Resolve ``layers`` to modules, once.

    Args:
        model: the backbone with its head.
        layers: None for every supported layer outside the head, a glob over qualified names, a compiled regular
            expression (full match), names, or a predicate of (name, module).
        heads: qualified names of the head, which is trained in full and never adapted.

    Raises:
        TargetError: if a name or pattern matches nothing (near misses are listed), or names a layer that cannot
            be adapted, or nothing is left.
    """
    if any(isinstance(module, AdaptedLayer | ExtendedBlock) for module in model.modules()):
        raise TargetError("this model is adapted already: merge or eject it first")
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    modules = dict(model.named_modules())
    reasons = {name: _reason(modules, name, heads, uses) for name in modules if name}
    candidates = {name: why for name, why in reasons.items() if why != _IRRELEVANT}
    supported = [name for name, why in candidates.items() if why is None]
    chosen = supported if layers is None else _match(model, layers, candidates, supported)
    if not chosen:
        kinds = ", ".join(kind.__name__ for kind in KINDS)
        raise TargetError(f"nothing to adapt: the model has no supported layer ({kinds}) outside its head")
    left = tuple((name, why or "not named in layers=") for name, why in candidates.items() if name not in set(chosen))
    return Targets({name: model.get_submodule(name) for name in chosen}, left)


_IRRELEVANT = "no weight matrix"


def _reason(modules: dict[str, nn.Module], name: str, heads: Collection[str], uses: Counter[int]) -> str | None:
    """Why the module cannot be adapted; None if it can."""
    module = modules[name]
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2:
        return _IRRELEVANT
    if any(name == head or name.startswith(f"{head}.") for head in heads):
        return "the head, trained in full"
    if not isinstance(weight, nn.Parameter):
        return "its weight is no parameter of its own (parametrised, weight-normed, pruned or a buffer)"
    if type(module) not in KINDS:
        return f"{type(module).__name__} is not supported"
    if not weight.is_floating_point() or type(weight) is not nn.Parameter:
        return f"its weight is quantised or wrapped ({type(weight).__name__}, {weight.dtype})"
    if set(module._parameters) - {"weight", "bias"} or module._buffers or module._modules:
        return "it holds more than a weight and a bias"
    if "forward" in vars(module):
        return "its forward was replaced by another function"
    parents = [modules[name[: max(end, 0)]] for end in [-1, *(m.start() for m in re.finditer(r"\.", name))]]
    for parent in parents:
        if isinstance(parent, _BYPASSING):
            return f"{type(parent).__name__} uses its weight without calling it"
    if uses[id(weight)] > 1:
        return "its weight is shared with another module"
    if bypassed(parents[-1], name.rpartition(".")[2]):
        return f"{type(parents[-1]).__name__} uses its weight without calling it"
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
        # A name counts before a pattern: it may hold brackets or a star itself.
        found = [pattern] if pattern in supported else fnmatch.filter(supported, pattern)
        if not found and (why := candidates.get(pattern)):
            raise TargetError(f"layer {pattern!r} cannot be adapted: {why}")
        if not found:
            raise TargetError(_nothing(pattern, supported))
        chosen.update(found)
    return [name for name in supported if name in chosen]


def _nothing(pattern: str, supported: list[str]) -> str:
    near = difflib.get_close_matches(pattern, supported, n=3, cutoff=0.4) or supported[:3]
    return f"layers={pattern!r} matches no layer that can be adapted; near misses: {', '.join(near) or 'none'}"

"""Which layers a model reads the weight of without calling them, so that support tensors on them would not act.

Some attention blocks pass ``self.qkv.weight`` to a function, together with a bias of their own. The source of the
parent's ``forward`` shows it; where it does both, depending on a setting, the parent is asked by a tiny forward.
What neither finds is left to :meth:`glora.GLoRAModel.uncalled`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import warnings
from typing import Any, cast

import torch
from torch import nn

__all__ = ["bypassed"]

# Functions that look at a weight and do not compute with it.
_LOOKING = frozenset({"isinstance", "hasattr", "getattr", "id", "type", "len"})


def bypassed(parent: nn.Module, child: str) -> bool:
    """Whether ``parent`` computes with the weight of its sub-module ``child`` instead of calling it."""
    passed, called = _uses(cast(Any, type(parent)))
    if child not in passed:
        return False
    return child not in called or not _calls(parent, child)


@functools.cache
def _uses(kind: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Sub-modules whose weight ``forward``, or what it calls on self, passes on, and those that it calls."""
    passed: set[str] = set()
    called: set[str] = set()
    seen, todo = set(), ["forward"]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in ast.walk(_source(kind, name)):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
                passed |= _weights(node.left) | _weights(node.right)
            if isinstance(node, ast.Call):
                if own := _attribute_of_self(node.func):
                    called.add(own)
                    todo.append(own)
                if not (isinstance(node.func, ast.Name) and node.func.id in _LOOKING):
                    for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
                        passed |= _weights(argument)
    return frozenset(passed), frozenset(called)


def _source(kind: Any, method: str) -> ast.AST:
    function = getattr(kind, method, None)
    function = None if function is None else inspect.unwrap(function)
    if not inspect.isfunction(function) or str(function.__module__).startswith("torch.nn.modules.module"):
        return ast.Module([], [])
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):  # typed at a prompt, or compiled
        return ast.Module([], [])


def _weights(node: ast.expr) -> set[str]:
    """Names of sub-modules in ``self.<name>.weight``, also if transposed or cast; not ``self.<name>.weight.dtype``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _weights(node.func.value)
    if isinstance(node, ast.List | ast.Tuple):
        return {name for element in node.elts for name in _weights(element)}
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return _weights(node.value)
    if isinstance(node, ast.Attribute) and node.attr == "weight" and (name := _attribute_of_self(node.value)):
        return {name}
    return set()


def _attribute_of_self(node: ast.expr) -> str | None:
    owned = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if owned and isinstance(node, ast.Attribute) else None


def _calls(parent: nn.Module, child: str) -> bool:
    """Whether ``parent`` calls its sub-module when given four tokens of zeros; it is stopped there."""
    module = parent.get_submodule(child)
    weight = module.get_parameter("weight")
    reached = False

    def stop(*_: object) -> None:
        nonlocal reached
        reached = True
        raise RuntimeError("reached")

    handle = module.register_forward_pre_hook(stop)
    training = {m: m.training for m in parent.modules()}
    try:
        parent.eval()
        with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            parent(weight.new_zeros(1, 4, weight.shape[1]))
    except Exception:  # of ours, or of a forward that wants more than tokens
        pass
    finally:
        handle.remove()
        for m, mode in training.items():
            m.training = mode
    return reached

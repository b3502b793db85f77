"""What was adapted, as text and as rows: the printed form of a ``GLoRAModel`` and the table of ``glora info``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from glora.structure import PARTS

if TYPE_CHECKING:
    from glora.model import GLoRAModel

__all__ = ["block_rows", "layer_rows", "summary"]


def layer_rows(net: GLoRAModel) -> list[dict[str, Any]]:
    """One row per adapted layer, in the model's order: name, kind, out, in, bias, parameters of the largest forms."""
    return [
        {
            "name": name,
            "kind": type(layer.original).__name__,
            "out": layer.shape.out_features,
            "in": layer.shape.in_features,
            "bias": layer.shape.has_bias,
            "choices": {t: [str(form) for form in net.bound.choices(name, t)] for t in "ABCDE"},
            "largest": sum(max(layer.shape.size(t, f) for f in net.bound.choices(name, t)) for t in "ABCDE"),
        }
        for name, layer in net.layers.items()
    ]


def block_rows(net: GLoRAModel) -> list[dict[str, Any]]:
    """One row per block that may have a prompt or an adapter: name, width, choices, parameters of the largest."""
    return [
        {
            "name": name,
            "width": block.shape.width,
            "choices": {part: [str(form) for form in net.bound.choices(name, part)] for part in PARTS},
            "largest": sum(max(block.shape.size(part, f) for f in net.bound.choices(name, part)) for part in PARTS),
        }
        for name, block in net.blocks.items()
    ]


def summary(net: GLoRAModel) -> str:
    """A few lines: layers by kind, sizes, the head, what acts, and what was skipped and why."""
    kinds = Counter(type(layer.original).__name__ for layer in net.layers.values())
    adapted = f"{len(net.layers)} layers ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})"
    adapted += f" and {len(net.blocks)} blocks" if net.blocks else ""
    active = f"{len(net.active.layers)} layers" + (f" and {len(net.active.blocks)} blocks" if net.blocks else "")
    frozen = sum(t.numel() for t in net.frozen_tensors().values())
    lines = [
        f"GLoRAModel of {type(net.model).__name__}, {frozen:,} frozen numbers",
        f"  adapted   {adapted}, {net.bound.smallest:,} to {net.bound.largest:,} parameters",
        f"  head      {', '.join(net.head_names) or 'none'}, {net.head_size:,} parameters, trained in full",
        f"  space     {net.space}",
        f"  active    {net.size(net.active):,} parameters in {active}",
    ]
    without = [name for name, layer in net.layers.items() if not layer.shape.has_bias]
    if without:
        what = "C and E create one" if net.bound.bias == "create" else "C and E are left out"
        lines.append(f"  no bias   {len(without)} layers: D is not offered, {what}")
    if net.blocks:
        lines.append("  hybrid    prompts and adapters of blocks cannot be merged: see keep_hybrids of merge")
    reasons = Counter(why for _, why in net.skipped)
    for why, count in reasons.items():
        first = next(name for name, reason in net.skipped if reason == why)
        lines.append(f"  skipped   {first}{f' and {count - 1} more' if count > 1 else ''}: {why}")
    return "\n".join(lines)

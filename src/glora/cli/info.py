"""What ``glora info`` prints: a model's layers, forms and costs, or what a file says of itself."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from glora import presets
from glora.backbones import load_backbone
from glora.backbones.offline import ARCHITECTURE, DINOV2_SMALL
from glora.checkpoint import read_metadata
from glora.cli.console import print_json, stdout
from glora.config import RunConfig
from glora.model import GLoRAModel, adapt
from glora.space import SearchSpace
from glora.structure import PARTS, TENSORS, Structure
from glora.summary import block_rows, layer_rows

__all__ = ["print_file", "print_model"]


def print_model(config: RunConfig, classes: int, as_json: bool) -> None:
    """Adapt a model with random weights, and print what there is to know before training."""
    backbone = load_backbone(config.model, num_classes=classes, size=config.size, pretrained=False)
    net = adapt(
        backbone.model,
        config.search_space(),
        config.layers,
        head=backbone.head,
        num_classes=classes,
        bias=config.bias,
    )
    uniform = _preset_sizes(net)
    if as_json:
        print_json(
            {
                "model": config.model,
                "input": backbone.preprocessing["size"],
                "smallest": net.bound.smallest,
                "largest": net.bound.largest,
                "structures": net.bound.cardinality,
                "head": {"names": list(net.head_names), "parameters": net.head_size},
                "frozen": sum(tensor.numel() for tensor in net.frozen_tensors().values()),
                "presets": uniform,
                "layers": layer_rows(net),
                **({"blocks": block_rows(net)} if net.blocks else {}),
                "skipped": [{"name": name, "reason": reason} for name, reason in net.skipped],
            }
        )
        return
    console = stdout()
    console.print(f"{config.model}, {backbone.preprocessing['size']} px: {type(net.model).__name__}\n")
    console.print(_layers_table(net))
    if net.blocks:
        console.print(_blocks_table(net))
    exponent = len(str(net.bound.cardinality)) - 1
    console.print(
        f"\nfeasible budgets  {net.bound.smallest:,} to {net.bound.largest:,} adapter parameters, "
        f"about 10^{exponent} structures\n"
        f"head              {', '.join(net.head_names)}: {net.head_size:,} parameters for {classes} classes, apart\n"
        f"fixed structures  {', '.join(f'{name} {size:,}' for name, size in uniform.items())}"
    )
    for why, count in Counter(why for _, why in net.skipped).items():
        first = next(name for name, reason in net.skipped if reason == why)
        console.print(f"left alone        {first}{f' and {count - 1} more' if count > 1 else ''}: {why}", markup=False)


def _layers_table(net: GLoRAModel) -> Table:
    """Layers that differ in numbers only share a row; a cell lists the forms of a tensor with their parameters."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, layer in net.layers.items():
        costs = tuple(_costs(net, name, tensor) for tensor in TENSORS)
        size = f"{layer.shape.in_features} -> {layer.shape.out_features}"
        key = (_pattern(name), size, "yes" if layer.shape.has_bias else "no", costs)
        groups.setdefault(key, []).append(name)
    table = Table(box=None, pad_edge=False, header_style="bold", show_lines=False, padding=(0, 2, 1, 0))
    table.add_column("layers", no_wrap=True)
    for name in ("number", "in -> out", "bias", *TENSORS):
        table.add_column(name, justify="left" if name in TENSORS else "right", no_wrap=True)
    for (pattern, size, bias, costs), names in groups.items():
        table.add_row(pattern, str(len(names)), size, bias, *costs)
    return table


def _blocks_table(net: GLoRAModel) -> Table:
    """Likewise for the blocks that may have prompts and adapters, which no merging folds away."""
    groups = Counter((_pattern(name), *(_costs(net, name, part) for part in PARTS)) for name in net.blocks)
    table = Table(box=None, pad_edge=False, header_style="bold", show_lines=False, padding=(0, 2, 1, 0))
    for name in ("blocks", "number", *PARTS):
        table.add_column(name, justify="right" if name == "number" else "left", no_wrap=True)
    for (pattern, *costs), count in groups.items():
        table.add_row(pattern, str(count), *costs)
    return table


def _pattern(name: str) -> str:
    """The name with stars for its numbers."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def _costs(net: GLoRAModel, layer: str, tensor: str) -> str:
    costs = {form: net.bound.cost(layer, tensor, form) for form in net.bound.choices(layer, tensor)}
    return "\n".join(f"{form} {cost:,}" if cost else str(form) for form, cost in costs.items())


def _preset_sizes(net: GLoRAModel) -> dict[str, int]:
    """Adapter parameters of the known methods on the same layers."""
    spaces: dict[str, SearchSpace] = {
        "BitFit": presets.bitfit(),
        "(IA)^3": presets.ia3(),
        "SSF": presets.ssf(),
        **{f"LoRA {rank}": presets.lora(rank) for rank in (1, 2, 4, 8)},
    }
    shapes = net.bound.shapes
    return {name: space.bind(shapes, net.bound.bias).largest for name, space in spaces.items()}


def _merged_lines(path: Path, values: dict[str, Any]) -> list[tuple[str, str]]:
    """How a merged file came about, and how to load it without this package."""
    found = values["verification"]["max_difference"]
    lines = [
        ("alpha", f"{values['alpha']:g}{'' if values['alpha'] == 1 else ' of the way from the pretrained weights'}"),
        ("verified", f"logits of merged and adapted model differ by at most {found:.1e}"),
    ]
    if "hybrids" in values:
        return [*lines, ("load by", f"glora.inference.open_classifier({str(path)!r})")]
    name, size = values["backbone"], values["backbone_arguments"].get("size")
    name = ARCHITECTURE if name == DINOV2_SMALL else name
    if not name.startswith("hf:"):
        given = (
            f"num_classes={len(values['classes'])}, {f'img_size={size}, ' if size else ''}checkpoint_path={str(path)!r}"
        )
        lines.append(("load by", f"timm.create_model({name!r}, {given})"))
    return lines


def print_file(path: Path, as_json: bool) -> None:
    """What an adapter, supernet or merged file says of itself."""
    kind, values = read_metadata(path)
    if as_json:
        print_json({"kind": kind, **values})
        return
    console = stdout()
    lines = [("kind", f"{kind}, written by glora {values.get('version', '?')}")]
    if "backbone" in values:
        arguments = ", ".join(f"{key} {value}" for key, value in values["backbone_arguments"].items() if value)
        lines.append(("backbone", f"{values['backbone']}{f' ({arguments})' if arguments else ''}"))
    if "classes" in values:
        lines.append(("classes", f"{len(values['classes'])}: {', '.join(values['classes'][:8])}"))
    if "preprocessing" in values:
        lines.append(("images", ", ".join(f"{key} {value}" for key, value in values["preprocessing"].items())))
    if "parameters" in values:
        lines.append(("parameters", f"{values['parameters']:,}"))
    if kind == "merged":
        lines += _merged_lines(path, values)
    if "hybrids" in values:
        lines.append(("hybrid", f"no plain model: prompts or adapters stay in {', '.join(values['hybrids'])}"))
    if "soup" in values:
        lines.append(("soup", f"the mean of {len(values['soup']['weights'])} subnets' weights, in one"))
    for name, text in lines:
        console.print(f"{name:<12}{text}", markup=False, soft_wrap=True)
    if "structure" in values:
        for name, layer in Structure(values["structure"]).items():
            console.print(f"  {name:<32}{layer}", markup=False)

"""How a supernet step grows with depth, width, tokens, rank and the number of adapted layers, beside the floor.

Also what adapting costs: seconds and memory for ViT-L, and for a model of a billion parameters on the meta device.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from common import interleaved, paired, parser, save, show
from methods import CLASSES, Trainee, floor
from torch import nn

import glora
from glora import SearchSpace


def vit(depth: int = 6, width: int = 384, size: int = 112) -> nn.Module:
    torch.manual_seed(0)
    return timm.models.VisionTransformer(
        img_size=size, embed_dim=width, depth=depth, num_heads=max(1, width // 64), num_classes=CLASSES
    )


def supernet(model: nn.Module, rank: int = 4, layers: str | None = None) -> Trainee:
    net = glora.adapt(model, SearchSpace.paper(rank), layers)
    generator = random.Random(0)
    return Trainee(net, lambda: net.activate(net.sample(generator)))


def sweep(
    axis: str, values: list[Any], make: Callable[[Any], tuple[nn.Module, nn.Module, int, dict[str, Any]]], given: Any
):
    rows = []
    for value in values:
        ours, plain, batch, settings = make(value)
        size = ours.patch_embed.img_size[0]
        x = torch.randn(batch, 3, size, size, device=given.device)
        y = torch.randint(CLASSES, (batch,), device=given.device)
        a, b = supernet(ours.to(given.device), **settings), floor(plain.to(given.device))
        works = {"floor": partial(b.step, x, y, None), "supernet": partial(a.step, x, y, None)}
        times = interleaved(works, given.rounds, given.device)
        row = paired(times, "floor")
        rows.append({axis: value, "floor": row["floor"]["seconds"], **row["supernet"]})
    table = [
        [str(r[axis]), f"{1000 * r['floor']:.0f}", f"{1000 * r['seconds']:.0f}", f"{r['ratio']:.2f}"] for r in rows
    ]
    show(
        f"by {axis} (6 blocks, 384 wide, 112 px, batch 32, rank 4 unless said)",
        [axis, "floor, ms", "supernet, ms", "ratio"],
        table,
    )
    return rows


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def adapting() -> dict[str, Any]:
    """Seconds and growth of the process's memory for adapting large models."""
    large = timm.create_model("vit_large_patch16_224", num_classes=CLASSES)
    before = resident()
    began = time.perf_counter()
    net = glora.adapt(large, SearchSpace(4))
    seconds = time.perf_counter() - began
    grown = (resident() - before) / 2**20
    weights = sum(t.nbytes for t in net.frozen_tensors().values()) / 2**20
    with torch.device("meta"):
        huge = timm.create_model("vit_gigantic_patch14_224", num_classes=CLASSES)
    began = time.perf_counter()
    meta = glora.adapt(huge, SearchSpace(4))
    text = repr(meta)
    meta_seconds = time.perf_counter() - began
    billions = sum(t.numel() for t in meta.frozen_tensors().values()) / 1e9
    print(f"\nadapt on ViT-L ({weights:.0f} MiB of weights): {seconds:.2f} s, {grown:.0f} MiB more")
    print(f"adapt, count and report on {billions:.1f} billion parameters on the meta device: {meta_seconds:.2f} s")
    print(text)
    return {
        "ViT-L": {"seconds": seconds, "MiB more": grown, "MiB of weights": weights},
        "meta": {"billions": billions, "seconds": meta_seconds},
    }


def main() -> None:
    given = parser(__doc__ or "", "scaling").parse_args()
    if given.quick:
        results: dict[str, Any] = {
            "depth": sweep("depth", [1, 2], lambda v: (vit(v, 64, 32), vit(v, 64, 32), 2, {}), given)
        }
    else:
        results = {
            "depth": sweep("depth", [3, 6, 12, 24], lambda v: (vit(v), vit(v), 32, {}), given),
            "width": sweep("width", [192, 384, 768, 1024], lambda v: (vit(width=v), vit(width=v), 32, {}), given),
            "batch": sweep("batch", [2, 8, 32, 128], lambda v: (vit(), vit(), v, {}), given),
            "size": sweep(
                "size", [56, 112, 224], lambda v: (vit(size=v - v % 16), vit(size=v - v % 16), 32, {}), given
            ),
            "rank": sweep("rank", [1, 4, 16, 64], lambda v: (vit(), vit(), 32, {"rank": v}), given),
            "layers": sweep(
                "layers",
                ["*.5.*", "*.[345].*", "*attn*", "*mlp*", "*"],
                lambda v: (vit(), vit(), 32, {"layers": v}),
                given,
            ),
        }
    results["adapt"] = adapting()
    save(given.out, " ".join(["python", *sys.argv]), given.device, results)


if __name__ == "__main__":
    main()

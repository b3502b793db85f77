"""Time of one training step of every method, as a ratio to the floor, in interleaved rounds of one process.

The floor is the frozen backbone with one trainable bias in its first block: the forward, and the backward through
activations, that any adapter on all layers pays.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import interleaved, paired, parser, save, show
from methods import CLASSES, METHODS, backbone


class Setting(NamedTuple):
    """One point of the table."""

    model: str
    size: int
    batch: int
    dtype: torch.dtype | None
    methods: tuple[str, ...] = tuple(METHODS)

    @property
    def name(self) -> str:
        """The setting in words."""
        precision = "fp32" if self.dtype is None else "bf16"
        tokens = ((self.size // 16) ** 2 + 1) * self.batch
        return f"{self.model}, {self.size} px, batch {self.batch}, {precision}, N = {tokens}"


SMALL, BASE, BF16 = "vit_small_patch16_224", "vit_base_patch16_224", torch.bfloat16
FEW = ("floor", "glora, random structures", "naive equation", "PEFT LoRA", "PEFT GLoRA", "full fine-tuning")
SETTINGS = [
    Setting(SMALL, 112, 4, None),
    Setting(SMALL, 112, 32, None),
    Setting(SMALL, 112, 32, BF16),
    Setting(SMALL, 112, 64, None, FEW),
    Setting(SMALL, 112, 64, BF16, FEW),
    Setting(SMALL, 224, 4, None, FEW),
    Setting(SMALL, 224, 16, BF16, FEW),
    Setting(BASE, 112, 8, None, FEW),
]


def main() -> None:
    arguments = parser(__doc__ or "", "step")
    arguments.add_argument("--only", help="settings whose name contains this; the others stay as the file has them")
    given = arguments.parse_args()
    settings = [Setting("vit_tiny_patch16_224", 32, 2, None)] if given.quick else SETTINGS
    results = measured(given.out)
    for setting in settings:
        if given.only and given.only not in setting.name:
            continue
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(setting.batch, 3, setting.size, setting.size, generator=generator).to(given.device)
        y = torch.randint(CLASSES, (setting.batch,), generator=generator).to(given.device)
        trainees = {n: METHODS[n](backbone(setting.model, setting.size).to(given.device)) for n in setting.methods}
        works = {n: partial(t.step, x, y, setting.dtype) for n, t in trainees.items()}
        rows = paired(interleaved(works, given.rounds, given.device), "floor")
        results[setting.name] = {"setting": setting.name, "rounds": given.rounds, "methods": rows}
        table = [
            [n, f"{1000 * r['seconds']:.0f}", f"{r['ratio']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}"]
            for n, r in rows.items()
        ]
        show(setting.name, ["method", "ms", "ratio to floor", "quartiles"], table)
        kept = [results[s.name] for s in SETTINGS if s.name in results] or list(results.values())
        save(given.out, " ".join(["python", *sys.argv]), given.device, kept)


def measured(path: Path) -> dict[str, dict[str, Any]]:
    """What an earlier call has left, so that the table may be measured in parts."""
    if not path.is_file():
        return {}
    return {row["setting"]: row for row in json.loads(path.read_text(encoding="utf-8"))["results"]}


if __name__ == "__main__":
    main()

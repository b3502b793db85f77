"""What each method keeps from forward to backward, beside parameters, as a ratio to the floor.

Counted through autograd's saved-tensor hooks: every distinct storage that is saved, once, unless it belongs to a
parameter or a buffer of the model, which are there anyway. The median over structures, where they are drawn. On a GPU
also the peak that the allocator saw during a step.
"""

from __future__ import annotations

import statistics
import sys

import torch
from common import parser, save, show
from methods import CLASSES, METHODS, Trainee, backbone, supernet

METHODS_HERE = dict(METHODS) | {"glora, random structures, recompute": lambda model: supernet(model, recompute=True)}


def saved_bytes(trainee: Trainee, x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype | None) -> int:
    """Bytes of activations that one forward leaves for its backward."""
    resident = {t.untyped_storage().data_ptr() for t in (*trainee.model.parameters(), *trainee.model.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in resident:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = trainee.loss(x, y, dtype)
    loss.backward()
    trainee.optimizer.zero_grad(set_to_none=True)
    return sum(found.values())


def peak_bytes(trainee: Trainee, x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype | None) -> int:
    """The most that the allocator held during a step, beyond what it held before."""
    trainee.step(x, y, dtype)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    trainee.step(x, y, dtype)
    return torch.cuda.max_memory_allocated() - before


def main() -> None:
    given = parser(__doc__ or "", "memory").parse_args()
    model, size, batch = ("vit_tiny_patch16_224", 32, 2) if given.quick else ("vit_small_patch16_224", 112, 32)
    x = torch.randn(batch, 3, size, size, device=given.device)
    y = torch.randint(CLASSES, (batch,), device=given.device)
    results = []
    for dtype in (None, torch.bfloat16):
        rows: dict[str, dict[str, float]] = {}
        for name, make in METHODS_HERE.items():
            trainee = make(backbone(model, size).to(given.device))
            counts = [saved_bytes(trainee, x, y, dtype) for _ in range(given.rounds if trainee.before else 1)]
            rows[name] = {"saved MiB": statistics.median(counts) / 2**20, "most": max(counts) / 2**20}
            if given.device.startswith("cuda"):
                rows[name]["peak MiB"] = peak_bytes(trainee, x, y, dtype) / 2**20
        floor = rows["floor"]["saved MiB"]
        setting = f"{model}, {size} px, batch {batch}, {'fp32' if dtype is None else 'bf16'}"
        results.append({"setting": setting, "methods": rows})
        table = [[n, f"{r['saved MiB']:.0f}", f"{r['saved MiB'] / floor:.2f}"] for n, r in rows.items()]
        show(setting, ["method", "saved, MiB", "ratio to floor"], table)
    save(given.out, " ".join(["python", *sys.argv]), given.device, results)


if __name__ == "__main__":
    main()

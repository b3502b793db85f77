"""The most memory that a stretch of work has taken."""

from __future__ import annotations

import re
from pathlib import Path

import torch

__all__ = ["PeakMemory"]

_PROCESS = Path("/proc/self")


class PeakMemory:
    """A block whose peak is measured (final): of the GPU if there is one, of this whole process otherwise.

    Attributes:
        peak: bytes, after the block; None where the system does not tell (a CPU without Linux' ``/proc``).
    """

    peak: int | None = None

    def __enter__(self) -> PeakMemory:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        elif (_PROCESS / "clear_refs").exists():
            # 5 resets the high-water mark, which is that of the whole life of the process otherwise.
            (_PROCESS / "clear_refs").write_text("5")
        return self

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            self.peak = torch.cuda.max_memory_allocated()
        elif (_PROCESS / "clear_refs").exists():
            found = re.search(r"VmHWM:\s*(\d+) kB", (_PROCESS / "status").read_text())
            self.peak = int(found[1]) * 1024 if found else None

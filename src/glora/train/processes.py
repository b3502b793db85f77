"""The processes of one training, on one machine or several, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["Processes"]


class Processes:
    """One process or those of ``accelerate launch`` or ``torchrun``, each with a device of its own (final).

    Attributes:
        index: of this process, 0 for the main one.
        count: how many there are.
        device: of this process.
    """

    def __init__(self) -> None:
        from accelerate import PartialState  # here, because importing it changes the filters of warnings

        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        # Without being told so, accelerate makes no group of processes where there is no GPU.
        self._state = PartialState(cpu=several and not torch.accelerator.is_available())
        self.index: int = self._state.process_index
        self.count: int = self._state.num_processes
        self.device: torch.device = self._state.device

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the main process's values, in place."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; all of one dtype, in one message."""
        if self.count > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            torch.distributed.all_reduce(flat)
            for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def decide(self, value: int) -> int:
        """The main process's value, in all of them."""
        decided = torch.tensor([value], device=self.device)
        self.share([decided])
        return int(decided)

    def wait(self) -> None:
        """Go on when all have come here."""
        self._state.wait_for_everyone()

    def leave(self) -> None:
        """End the group of processes when all have come here, as the last thing: one that exits in it may abort."""
        if self.count > 1:
            self.wait()
            torch.distributed.destroy_process_group()

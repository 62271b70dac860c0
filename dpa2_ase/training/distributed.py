"""Several processes that train one model, started by ``torchrun``: they see different batches and share gradients.

The loss is the one over the batches of all processes together: its denominators are summed before gradients are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"  # of what the processes tell each other

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and messages."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, element by element."""
        if self.count > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def any(self, value: bool) -> bool:
        """Whether something is true of any process."""
        return bool(self.total(torch.tensor(float(value), device=self.device))) if self.count > 1 else value

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes, in one message per precision."""
        if self.count == 1:
            return
        groups: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                groups.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in groups.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            distributed.all_reduce(flat)
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()


def join_processes(device: torch.device) -> Processes:
    """Join the processes ``torchrun`` started; alone if it did not."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(distributed.get_rank(), distributed.get_world_size(), str(device))


def leave_processes() -> None:
    """Undo `join_processes`."""
    if distributed.is_initialized():
        distributed.destroy_process_group()

"""Large blocks of memory that are used again.

The C library gives what is larger than 32 MiB back to the system, which hands it out again page by page, filled with
zeros: an eighth of the time of an evaluation of ten thousand atoms went into that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from math import prod
from weakref import finalize

import torch
from torch import Tensor

FROM_BYTES = 32 * 1024**2  # smaller blocks stay with the process anyway
MOST_HELD = 2 * 1024**3  # bytes that wait to be used again; what is larger goes back to the system
SPARE = 1 / 16  # of a new block: the next evaluation may have a few more edges; what is not written takes no memory
LOOSEST = 2  # how many times larger than asked for a block may be


class Blocks:
    """Blocks that nobody uses at present, the oldest first."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the garbage collector may give back what it finds while one is taken
        self._free: list[Tensor] = []

    @property
    def held(self) -> int:
        """Bytes that wait to be used again."""
        return sum(block.nbytes for block in self._free)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As `torch.empty` on the CPU, for tensors that stay within this package: views must not outlive them."""
        n_bytes = prod(shape) * dtype.itemsize
        if n_bytes < FROM_BYTES:
            return torch.empty(*shape, dtype=dtype, device="cpu")
        block = self._taken(n_bytes)
        tensor = block[:n_bytes].view(dtype).view(*shape)
        finalize(tensor, self._give_back, block).atexit = False
        return tensor

    def _taken(self, n_bytes: int) -> Tensor:
        with self._lock:
            fitting = [block for block in self._free if n_bytes <= block.nbytes <= LOOSEST * n_bytes]
            if fitting:
                best = min(fitting, key=lambda block: block.nbytes)
                self._free = [block for block in self._free if block is not best]
                return best
            del self._free[:1]  # of structures of another size, which may not come again
        n_pages = -(-int(n_bytes * (1 + SPARE)) // 4096)
        return torch.empty(4096 * n_pages, dtype=torch.uint8, device="cpu")

    def _give_back(self, block: Tensor) -> None:
        with self._lock:
            self._free.append(block)
            while self.held > MOST_HELD:
                del self._free[0]


blocks = Blocks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=blocks.__init__)  # type: ignore[misc]  # a thread of the parent may hold the lock

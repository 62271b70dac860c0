"""Passes through kernels that lay out memory of their own."""

from __future__ import annotations

from ctypes import byref
from typing import Any

import torch
from torch import Tensor

from ...graph import AtomicGraph
from .blocks import blocks
from .library import Kernel, Library
from .structures import Arena, Edges, fill


class Pass:
    """A kernel and its way back, with what the first keeps for the second.

    Parameters
    ----------
    library, name, dtype
        Of the kernel; that of the way back is called ``<name>_backward``.
    first
        Arguments of both, in front of the memory.
    """

    def __init__(self, library: Library, name: str, dtype: torch.dtype, *first: Any) -> None:
        self._there, self._back = library[name, dtype], library[f"{name}_backward", dtype]
        self._first = first
        self._kept, self._work = Arena(), Arena()
        self._memory: Tensor | None = None

    def there(self, *arguments: Any) -> None:
        """Run the kernel with what follows the memory."""
        self._memory, _ = self._run(self._there, [self._kept, self._work], arguments)

    def back(self, *arguments: Any) -> None:
        """Run the way back; as often as wanted."""
        self._run(self._back, [self._work], arguments)

    def _run(self, kernel: Kernel, arenas: list[Arena], arguments: tuple[Any, ...]) -> list[Tensor]:
        """Run it twice: without memory it tells how much it needs. Returns the memory of the `arenas`."""
        everything = (*self._first, byref(self._kept), byref(self._work), *arguments)
        for arena in arenas:
            arena.data = None
        kernel(*everything)
        memory = [_allocate(arena) for arena in arenas]
        kernel(*everything)
        return memory


def _allocate(arena: Arena) -> Tensor:
    memory = blocks.empty((arena.used + 1,), torch.uint8)  # has an address even if nothing is needed
    arena.data = memory.data_ptr()
    return memory


def edges_view(graph: AtomicGraph, vectors: Tensor, index: Tensor | None = None) -> Edges:
    """The C view of a graph with `vectors` (E, 3), whose edges have an `index` (E,) in another list.

    Whoever uses it keeps the tensors.
    """
    if vectors.dtype != torch.float64 or not vectors.is_contiguous():
        raise TypeError("edge vectors should be contiguous float64")
    return fill(
        Edges(), [], n_atoms=graph.n_atoms, offsets=graph.offsets, neighbor=graph.neighbor, types=graph.types,
        vectors=vectors, index=index,
    )  # fmt: skip

"""The graph of the atoms where they are now, compiled: what every step of a simulation begins with."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ...graph import AtomicGraph
from ...neighbors import NeighborList
from ...topology import Topology
from .library import require
from .structures import Listed, Near, fill


@dataclass(frozen=True, eq=False)
class CompiledTopology(Topology):
    """Twin of `Topology` on the CPU, which also finds the shorter list that most blocks of a model ask for."""

    inner: float = -1.0  # Å, cutoff of that list; negative for none

    @classmethod
    def for_blocks_of(
        cls, limits: Sequence[tuple[str, float, int]], lists: Sequence[NeighborList], device: torch.device | str = "cpu"
    ) -> Self:
        """Join neighbor lists as `of` does, for a model with `neighbor_limits`."""
        shorter = [cutoff for _, cutoff, _ in limits if cutoff < lists[0].cutoff]
        return replace(cls.of(lists, device), inner=max(shorter, default=-1.0))

    def near(self, types: Tensor, positions: Tensor, cells: Tensor) -> AtomicGraph:
        """See `Topology.near`."""
        n_atoms, n_pairs = len(types), len(self.center)
        listed = fill(
            Listed(), [], n_images=len(self.shift), offsets=self.offsets, neighbor=self.neighbor, image=self.image,
            owner=self.shift_structure, shift=self.shift, positions=positions, cells=cells,
        )  # fmt: skip
        found, inside = _Pairs(n_atoms, n_pairs), _Pairs(n_atoms, n_pairs if self.inner >= 0 else 0)
        kinds = torch.empty(n_pairs, dtype=torch.uint8, device="cpu")
        require()["find_near", None](
            n_atoms, byref(listed), self.cutoff, self.inner, kinds.data_ptr(), byref(found.view), byref(inside.view)
        )
        graph, _ = found.graph(self, types, self.cutoff)
        if self.inner >= 0:
            close, index = inside.graph(self, types, self.inner)
            vars(graph)["_shells"] = {self.inner: (index, close)}
        return graph


class _Pairs:
    """Room for some of the pairs of a list."""

    def __init__(self, n_atoms: int, n_pairs: int) -> None:
        self.offsets = torch.empty(n_atoms + 1, dtype=torch.int64, device="cpu")
        self.center, self.neighbor, self.index = torch.empty(3, n_pairs, dtype=torch.int64, device="cpu").unbind()
        self.vectors = torch.empty(n_pairs, 3, dtype=torch.float64, device="cpu")
        self.view: Near = fill(Near(), [], **vars(self))

    def graph(self, topology: Topology, types: Tensor, cutoff: float) -> tuple[AtomicGraph, Tensor]:
        """The pairs that were written here, and their places in the longer list, if there is one."""
        n = self.view.count
        center, neighbor, vectors, index = (x[:n] for x in (self.center, self.neighbor, self.vectors, self.index))
        graph = AtomicGraph(types, center, neighbor, vectors, topology.structure, None, topology.n_structures, cutoff)
        vars(graph).update(offsets=self.offsets, max_degree=self.view.most, shortest=self.view.shortest)
        return graph, index

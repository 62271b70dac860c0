"""Neighborhoods of one or many structures as one unpadded edge list: the model's only input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from .neighbors import NeighborList


@dataclass(frozen=True)
class AtomicGraph:
    """Neighborhoods of one or many structures, edges sorted by center and then by distance.

    Letters: N atoms, E edges, S structures. `vectors` is the only differentiable geometry.
    """

    types: Tensor  # (N,) int64, index into the type map
    center: Tensor  # (E,) int64, ascending
    neighbor: Tensor  # (E,) int64
    vectors: Tensor  # (E, 3) Å, neighbor image minus center
    structure: Tensor  # (N,) int64, structure of the batch that owns the atom, ascending
    slot: Tensor  # (E,) int64, rank by distance among the neighbors of the center before any exclusion
    n_structures: int
    cutoff: float  # Å

    @property
    def n_atoms(self) -> int:
        """Number of atoms N."""
        return len(self.types)

    @property
    def n_edges(self) -> int:
        """Number of edges E."""
        return len(self.center)

    @cached_property
    def distances(self) -> Tensor:
        """Lengths of `vectors`, (E,) Å."""
        return torch.linalg.vector_norm(self.vectors, dim=-1)

    @cached_property
    def degree(self) -> Tensor:
        """Number of edges of every center, (N,)."""
        return torch.bincount(self.center, minlength=self.n_atoms)

    @cached_property
    def first_type(self) -> Tensor:
        """Type of the first atom of the structure an atom belongs to, (N,)."""
        counts = torch.bincount(self.structure, minlength=self.n_structures)
        first = (counts.cumsum(0) - counts)[self.structure]
        return self.types[first]

    @cached_property
    def edges_by_degree(self) -> list[tuple[Tensor, Tensor]]:
        """Centers grouped by their number n of neighbors: pairs of centers (B,) and their edges (B, n), n > 0.

        Attention and three-body terms couple all pairs of neighbors of one center; within a group they are dense
        (B, n, n) arrays without padding.
        """
        start = self.degree.cumsum(0) - self.degree
        groups = []
        for n in torch.unique(self.degree).tolist():
            if n:
                centers = torch.nonzero(self.degree == n).squeeze(-1)
                groups.append((centers, start[centers, None] + torch.arange(n, device=start.device)))
        return groups

    def join_degrees(self, parts: list[Tensor]) -> Tensor:
        """Bring values (B, n, ...) of the groups of `edges_by_degree`, in their order, back to edges (E, ...)."""
        rows = torch.cat([edges.flatten() for _, edges in self.edges_by_degree])
        values = torch.cat([part.flatten(0, 1) for part in parts])
        return torch.empty_like(values).index_copy(0, rows, values)

    def select(self, keep: Tensor) -> AtomicGraph:
        """The same atoms with the edges for which `keep` (E,) is true."""
        return replace(
            self,
            center=self.center[keep],
            neighbor=self.neighbor[keep],
            vectors=self.vectors[keep],
            slot=self.slot[keep],
        )

    def within(self, cutoff: float, nsel: int) -> AtomicGraph:
        """The edges not longer than `cutoff` (Å) among the nearest `nsel` of every center."""
        keep = (self.slot < nsel) & (self.distances.detach() <= cutoff)
        return replace(self.select(keep), cutoff=cutoff)

    def without_type_pairs(self, excluded: Tensor) -> AtomicGraph:
        """The edges whose two types are not marked in the table `excluded` (T, T)."""
        return self.select(~excluded[self.types[self.center], self.types[self.neighbor]])


def sorted_graph(  # noqa: PLR0913  # the fields of the noun it makes
    types: Tensor,
    center: Tensor,
    neighbor: Tensor,
    vectors: Tensor,
    structure: Tensor,
    n_structures: int,
    cutoff: float,
) -> AtomicGraph:
    """Bring edges in any order into the order of `AtomicGraph` and number the slots; fields as there."""
    distances = torch.linalg.vector_norm(vectors.detach(), dim=-1)
    # the training code's list is open at the cutoff, and nearest-first; equal distances are told apart by the order
    # of the edges and not by rounding, so that a truncated list does not change when the structure is moved
    near = torch.nonzero(distances < cutoff).squeeze(-1)
    by_distance = near[distances[near].round(decimals=9).argsort(stable=True)]
    order = by_distance[center[by_distance].argsort(stable=True)]
    center = center[order]
    degree = torch.bincount(center, minlength=len(types))
    first = degree.cumsum(0) - degree
    slot = torch.arange(len(center), device=center.device) - first[center]
    return AtomicGraph(types, center, neighbor[order], vectors[order], structure, slot, n_structures, cutoff)


@dataclass(frozen=True)
class Neighborhood:
    """The edges one block of the model works on, and what the padded training code had beside them.

    A trained weight remembers the list length `nsel`; the slots without a neighbor enter some formulas as numbers.
    """

    graph: AtomicGraph
    nsel: int
    n_empty: Tensor  # (N,) slots that held no neighbor
    n_dead: Tensor  # (N,) slots that held no neighbor or one of an excluded type pair


def neighborhood(graph: AtomicGraph, cutoff: float, nsel: int, excluded: Tensor) -> Neighborhood:
    """Cut the list of one block out of the model's: radius (Å), list length and excluded type pairs (T, T)."""
    listed = graph.within(cutoff, nsel)
    active = listed.without_type_pairs(excluded) if bool(excluded.any()) else listed
    return Neighborhood(active, nsel, nsel - listed.degree, nsel - active.degree)


TOO_CLOSE = 1e-5  # Å; below, directions are noise and forces infinite


def graph_of_structures(
    structures: Sequence[Atoms],
    lists: Sequence[NeighborList],
    types: Sequence[np.ndarray],
    device: torch.device | str = "cpu",
    first_number: int | None = None,
) -> AtomicGraph:
    """One graph of many structures.

    Parameters
    ----------
    structures
        Any mixture of sizes, compositions and periodicities.
    lists
        A neighbor list of one common cutoff, valid for each structure.
    types
        Type indices of the atoms of each structure.
    first_number
        What a message calls the first structure; ``None`` if there is only one.

    Raises
    ------
    ValueError
        When two atoms sit on top of each other.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    first = 0
    for index, (atoms, neighbors) in enumerate(zip(structures, lists, strict=True)):
        pairs = neighbors.pairs(atoms)
        _refuse_coincident(*pairs[:3], None if first_number is None else first_number + index)
        parts.append((pairs[0] + first, pairs[1] + first, pairs[2], np.full(len(atoms), index)))
        first += len(atoms)
    columns = zip(*parts, strict=True)
    center, neighbor, vectors, structure = (torch.from_numpy(np.concatenate(column)).to(device) for column in columns)
    all_types = torch.from_numpy(np.concatenate(list(types))).to(device)
    return sorted_graph(all_types, center, neighbor, vectors, structure, len(structures), lists[0].cutoff)


def _refuse_coincident(center: np.ndarray, neighbor: np.ndarray, vectors: np.ndarray, index: int | None) -> None:
    squared = np.einsum("ea,ea->e", vectors, vectors)
    if len(squared) and squared.min() < TOO_CLOSE**2:
        edge = int(squared.argmin())
        where = "" if index is None else f" of structure {index}"
        raise ValueError(
            f"atoms {center[edge]} and {neighbor[edge]}{where} are {np.sqrt(squared[edge]):.1e} Å apart; remove one of "
            "them (duplicates at a cell boundary are a common cause) or move them apart"
        )

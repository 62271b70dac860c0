"""Neighborhoods of one or many structures as one unpadded edge list: the model's only input."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .ops import has_nonzero, segment_sum

_WITHOUT_DERIVATIVES = (
    "n_atoms",
    "n_edges",
    "lengths",
    "shortest",
    "offsets",
    "degree",
    "max_degree",
    "first_type",
    "edges_by_degree",
    "_shells",
    "_cuts",
)


@dataclass(frozen=True, eq=False)
class _Stack:
    """Centers whose edges are laid side by side in one dense array, zero where a center has fewer than others."""

    centers: Tensor | None  # (B,); None for all
    edges: Tensor | None  # those of the centers; None for all
    places: Tensor  # row of every edge in (B·width, ...)
    shape: tuple[int, int]  # B, width

    def dense(self, values: Tensor) -> Tensor:
        """Values (E, C) of edges as (B, width, C)."""
        chosen = values if self.edges is None else values.index_select(0, self.edges)
        rows = values.new_zeros(self.shape[0] * self.shape[1], values.shape[1])
        return rows.index_copy(0, self.places, chosen).unflatten(0, self.shape)


@dataclass(frozen=True, eq=False)
class AtomicGraph:
    """Neighborhoods of one or many structures, edges sorted by center.

    Letters: N atoms, E edges, S structures. `vectors` is the only differentiable geometry.
    """

    types: Tensor  # (N,) int64, index into the type map
    center: Tensor  # (E,) int64, ascending
    neighbor: Tensor  # (E,) int64
    vectors: Tensor  # (E, 3) Å, neighbor image minus center
    structure: Tensor  # (N,) int64, structure of the batch that owns the atom, ascending
    slot: Tensor | None  # (E,) int64, rank by distance among the neighbors of the center; None: not asked for yet
    n_structures: int
    cutoff: float  # Å

    @cached_property
    def n_atoms(self) -> int:
        """Number of atoms N."""
        return len(self.types)

    @cached_property
    def n_edges(self) -> int:
        """Number of edges E."""
        return len(self.center)

    @cached_property
    def distances(self) -> Tensor:
        """Lengths of `vectors`, (E,) Å."""
        return torch.linalg.vector_norm(self.vectors, dim=-1)

    @cached_property
    def lengths(self) -> Tensor:
        """The distances without their derivatives, (E,) Å: what decides which edges are kept."""
        return norms(self.vectors.detach())

    @cached_property
    def shortest(self) -> float:
        """The smallest of the distances, Å; infinite without edges."""
        return float(self.lengths.min()) if self.n_edges else math.inf

    @cached_property
    def offsets(self) -> Tensor:
        """Where the edges of every center start, and where the last end: (N + 1,) int64."""
        return row_starts(self.center, self.n_atoms)

    @cached_property
    def degree(self) -> Tensor:
        """Number of edges of every center, (N,)."""
        return self.offsets.diff()

    @cached_property
    def max_degree(self) -> int:
        """The largest number of edges of a center."""
        return int(self.degree.max()) if self.n_atoms else 0

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
        start = self.offsets[:-1]
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

    def sum_outer(self, rows: Tensor, features: Tensor) -> Tensor:
        r"""Sum over neighbors of outer products, :math:`\sum_j R_{ij}^T g_{ij}`.

        As matrix products, which never hold the outer products of single edges: they and their derivatives were most of
        the time of a training.

        Parameters
        ----------
        rows, features
            (E, K) and (E, C).

        Returns
        -------
        Tensor
            (N, K, C).
        """
        if not self.n_edges:  # nothing to add up, but a result that belongs to the autograd graph
            return segment_sum(rows[:, :, None] * features[:, None, :], self.center, self.n_atoms)
        total = features.new_zeros(self.n_atoms, rows.shape[1], features.shape[1])
        for stack in self._stacks:
            product = stack.dense(rows).mT @ stack.dense(features)
            if stack.centers is None:
                return product
            total = total.index_copy(0, stack.centers, product)
        return total

    @cached_property
    def _stacks(self) -> list[_Stack]:
        """Centers with neighbors, in groups within which the most neighbors are at most twice the fewest."""
        if 0 < self.n_atoms * self.max_degree <= 2 * self.n_edges:
            rank = torch.arange(self.n_edges, device=self.center.device) - self.offsets[self.center]
            return [_Stack(None, None, self.center * self.max_degree + rank, (self.n_atoms, self.max_degree))]
        stacks = []
        size = torch.log2(self.degree.double()).ceil()  # minus infinity without neighbors
        for n in torch.unique(size).tolist():
            if n >= 0:
                centers = torch.nonzero(size == n).squeeze(-1)
                edges = torch.nonzero((size == n)[self.center]).squeeze(-1)
                width = int(self.degree[centers].max())
                number = torch.empty_like(self.degree).index_copy(0, centers, torch.arange(len(centers)).to(centers))
                rank = edges - self.offsets[self.center[edges]]
                stacks.append(_Stack(centers, edges, number[self.center[edges]] * width + rank, (len(centers), width)))
        return stacks

    def with_vectors(self, vectors: Tensor) -> AtomicGraph:
        """The same edges with equal vectors (E, 3) that another autograd graph belongs to."""
        graph = AtomicGraph(
            self.types, self.center, self.neighbor, vectors, self.structure, self.slot, self.n_structures, self.cutoff
        )
        known = vars(self)
        vars(graph).update({name: known[name] for name in _WITHOUT_DERIVATIVES if name in known})
        return graph

    def select(self, keep: Tensor) -> AtomicGraph:
        """The same atoms with the edges for which `keep` (E,) is true."""
        return self._take(torch.nonzero(keep).squeeze(-1), self.cutoff)

    def _take(self, index: Tensor, cutoff: float) -> AtomicGraph:
        center, neighbor, vectors, lengths = (
            column.index_select(0, index) for column in (self.center, self.neighbor, self.vectors, self.lengths)
        )
        slot = None if self.slot is None else self.slot.index_select(0, index)
        taken = AtomicGraph(self.types, center, neighbor, vectors, self.structure, slot, self.n_structures, cutoff)
        vars(taken)["lengths"] = lengths
        return taken

    def ranked(self) -> AtomicGraph:
        """The same edges with their slots.

        The training code's list is nearest-first. Equal distances are told apart by the order of the edges and not by
        rounding, so that a truncated list does not change when the structure is moved.
        """
        if self.slot is not None:
            return self
        by_distance = self.lengths.round(decimals=9).argsort(stable=True)
        order = by_distance[self.center[by_distance].argsort(stable=True)]
        place = torch.arange(self.n_edges, device=order.device) - self.offsets[self.center]
        ranked = replace(self, slot=torch.empty_like(place).index_copy(0, order, place))
        vars(ranked)["lengths"] = self.lengths
        return ranked

    def within(self, cutoff: float, nsel: int) -> AtomicGraph:
        """The edges not longer than `cutoff` (Å) among the nearest `nsel` of every center."""
        index, cut = self.cut(cutoff, nsel)
        if index is None:  # a graph of its own: one backward pass uses up what `distances` saved for it
            return self.with_vectors(self.vectors)
        return cut.with_vectors(self.vectors.index_select(0, index)) if self.vectors.requires_grad else cut

    def cut(self, cutoff: float, nsel: int) -> tuple[Tensor | None, AtomicGraph]:
        """`within` without derivatives, and which of the edges it chose; ``None`` for all, which are these."""
        key = (cutoff, nsel)
        if key not in self._cuts:
            self._cuts[key] = self._cut(cutoff, nsel)
        return self._cuts[key] or (None, self)

    @cached_property
    def _cuts(self) -> dict[tuple[float, int], tuple[Tensor, AtomicGraph] | None]:
        """Edges that `within` chose and the graph of them without derivatives: blocks often ask for the same."""
        return {}

    @cached_property
    def _shells(self) -> dict[float, tuple[Tensor, AtomicGraph]]:
        """Edges up to some cutoffs and the graphs of them without derivatives."""
        return {}

    def _cut(self, cutoff: float, nsel: int) -> tuple[Tensor, AtomicGraph] | None:
        """See `_cuts`; ``None`` for all edges."""
        graph = self.with_vectors(self.vectors.detach())
        if self.slot is None:
            if cutoff == self.cutoff and self.max_degree <= nsel:
                return None
            if cutoff not in self._shells:
                index = torch.nonzero(self.lengths <= cutoff).squeeze(-1)
                self._shells[cutoff] = index, graph._take(index, cutoff)
            if self._shells[cutoff][1].max_degree <= nsel:
                return self._shells[cutoff]
            graph = graph.ranked()
        assert graph.slot is not None  # ranked
        index = torch.nonzero((graph.slot < nsel) & (graph.lengths <= cutoff)).squeeze(-1)
        return index, graph._take(index, cutoff)

    def without_type_pairs(self, excluded: Tensor) -> AtomicGraph:
        """The edges whose two types are not marked in the table `excluded` (T, T); their places stay empty."""
        ranked = self.ranked()
        return ranked.select(ranked.allowed(excluded))

    def allowed(self, excluded: Tensor) -> Tensor:
        """Tell of every edge (E,) whether its two types are not marked in the table `excluded` (T, T)."""
        return ~excluded[self.types[self.center], self.types[self.neighbor]]


def row_starts(center: Tensor, n_atoms: int) -> Tensor:
    """Where the edges of every atom start in `center` (E,), ascending, and where the last end: (N + 1,)."""
    return torch.searchsorted(center, torch.arange(n_atoms + 1, device=center.device))


def norms(vectors: Tensor) -> Tensor:
    """Lengths (E,) of `vectors` (E, 3); a sum of columns, which is quicker than a reduction over three numbers."""
    x, y, z = vectors.unbind(-1)
    return (x * x + y * y + z * z).sqrt()


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
    # nothing is cut out of a block's own list any more, so its places need no numbers
    active = listed.select(listed.allowed(excluded)) if has_nonzero(excluded) else listed
    n_empty = nsel - listed.degree
    return Neighborhood(active, nsel, n_empty, n_empty if active is listed else nsel - active.degree)

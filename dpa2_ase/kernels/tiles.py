"""Atoms of similar degree side by side, so that their neighborhoods are dense arrays with hardly any padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..graph import AtomicGraph

MAX_WASTE = 0.15  # padded pairs of neighbors over real ones at which a tile is cut short
MIN_SAVED = 2  # a cut pays where it saves the work of at least this many atoms; the overhead of one more tile


TILE_BYTES = 3 << 18  # of one array of all pairs in a tile: several of them stay in the cache of a core
ACCELERATOR_BYTES = 1 << 26  # accelerators want long arrays


def pairs_per_tile(like: Tensor, n_heads: int) -> int:
    """How many pairs of neighbors to take at a time."""
    limit = TILE_BYTES if like.device.type == "cpu" else ACCELERATOR_BYTES
    return limit // (n_heads * like.element_size())


@dataclass(frozen=True)
class Tile:
    """Some atoms with `width` slots each; a view of contiguous rows in every array of a `Tiling`."""

    atoms: slice
    slots: slice
    width: int

    @property
    def n_atoms(self) -> int:
        """Number of atoms B."""
        return self.atoms.stop - self.atoms.start


@dataclass(frozen=True)
class Tiling:
    """Where every atom and every edge of a graph goes.

    Letters: N atoms, E edges, Z slots (edges and the padding of their tiles). A slot without an edge belongs to no
    neighbor: its switch and its direction are zero, and its entry in `neighbor` is harmless.
    """

    tiles: tuple[Tile, ...]
    order: Tensor  # (N,) int64, the atom at every place: ascending degree
    slot: Tensor  # (E,) int64, slot of every edge
    neighbor: Tensor  # (Z,) int64, place of the neighbor

    @property
    def n_slots(self) -> int:
        """Number of slots Z."""
        return len(self.neighbor)

    def spread(self, values: Tensor) -> Tensor:
        """Bring values of edges (E, ...) into slots (Z, ...); zero where there is no edge."""
        return values.new_zeros(self.n_slots, *values.shape[1:]).index_copy_(0, self.slot, values)

    def sort(self, values: Tensor) -> Tensor:
        """Bring values of atoms (N, ...) into the order of the tiles."""
        return values.index_select(0, self.order)

    def unsort(self, values: Tensor) -> Tensor:
        """Undo `sort`."""
        return torch.empty_like(values).index_copy_(0, self.order, values)


def make_tiling(graph: AtomicGraph, max_pairs: int) -> Tiling:
    """Tiles of at most about `max_pairs` pairs of neighbors (at least one atom)."""
    degree, order = graph.degree.sort(stable=True)
    widths = np.empty(graph.n_atoms, dtype=np.int64)
    tiles = []
    n_slots = 0
    for start, stop, n in _cuts(degree.cpu().numpy(), max_pairs):
        widths[start:stop] = n
        end = n_slots + (stop - start) * n
        tiles.append(Tile(slice(start, stop), slice(n_slots, end), n))
        n_slots = end
    width = torch.from_numpy(widths).to(order)
    place = torch.empty_like(order)
    place[order] = torch.arange(graph.n_atoms, device=order.device)
    first_slot = width.cumsum(0) - width
    first_edge = graph.degree.cumsum(0) - graph.degree
    rank = torch.arange(graph.n_edges, device=order.device) - first_edge[graph.center]
    slot = first_slot[place[graph.center]] + rank
    neighbor = torch.repeat_interleave(torch.arange(graph.n_atoms, device=order.device), width, output_size=n_slots)
    neighbor[slot] = place[graph.neighbor]
    return Tiling(tuple(tiles), order, slot, neighbor)


def _cuts(degree: np.ndarray, max_pairs: int) -> list[tuple[int, int, int]]:
    """First atom, end and width of every tile for ascending degrees; a width is at least one."""
    width = np.maximum(degree, 1)
    if len(width) and len(width) * int(width[-1]) ** 2 <= max_pairs:  # molecules: calls cost more than padding
        return [(0, len(width), int(width[-1]))]
    cuts = []
    start = 0
    while start < len(width):
        count = max(1, max_pairs // int(width[start]) ** 2)
        square = width[start : start + count].astype(np.float64) ** 2
        padded = square * np.arange(1, len(square) + 1)  # pairs of a tile that ends with each atom
        waste = padded - square.cumsum()
        allowed = np.maximum(MAX_WASTE * square.cumsum(), MIN_SAVED * square)
        fits = (waste <= allowed) & ((padded <= max_pairs) | (np.arange(len(square)) == 0))
        stop = start + int(np.flatnonzero(fits)[-1]) + 1
        cuts.append((start, stop, int(width[stop - 1])))
        start = stop
    return cuts


def of_tile(values: Tensor, tile: Tile) -> Tensor:
    """Slots (Z, ...) of one tile as (B, n, ...)."""
    return values[tile.slots].view(tile.n_atoms, tile.width, *values.shape[1:])

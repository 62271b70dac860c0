"""Find all pairs of atoms within a radius: in a table of all distances while it is small, in bins beyond."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matscipy.neighbours import neighbour_list

from .search_box import Box, Edges, norms

if TYPE_CHECKING:
    import torch

MAX_EDGES = 5e8  # candidates of one search; each costs about 100 bytes, and any model far more
MAX_BINS = 4e6  # bins of one search, the memory of empty space; larger systems may use more, see `_bin_width`
ROUNDING = 1e-12  # of an edge vector, relative to the coordinates it is made of; some dozens of roundings
MAX_TABLE = 2e6  # distances of one table; bins are quicker for more


def edge_vectors(positions: np.ndarray, cell: np.ndarray, edges: Edges) -> np.ndarray:
    """Neighbor image minus center (E, 3); the edge j -> i is the exact negative of i -> j."""
    center, neighbor, shift = edges
    vectors = positions.take(neighbor, axis=0)
    vectors -= positions.take(center, axis=0)
    for axis in range(3):
        crossing = np.flatnonzero(shift[:, axis])
        vectors[crossing] += shift[crossing, axis, None] * cell[axis]
    return vectors


def rounding_error(positions: np.ndarray, cell: np.ndarray) -> float:
    """Bound of the rounding error of an edge vector, in Å."""
    return ROUNDING * (np.abs(positions).max() + np.abs(cell).max())


def find_pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, radius: float, device: torch.device | None = None
) -> Edges:
    """All pairs at most `radius` apart, images of periodic directions included, in the order of `NeighborList`.

    Bins are searched on a `device` if one is given.

    Raises
    ------
    ValueError
        If they would be too many to be meant.
    """
    if len(positions) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
    # the searches leave out or misjudge pairs by their own rounding, and that of wrapping and cutting
    reach = radius * (1.0 + 1e-6) + 1e3 * rounding_error(positions, cell)
    box = Box.around(positions, cell, pbc, reach)
    images = _images(box, reach)
    if images is None and device is not None:
        from .device_search import find_pairs_on

        return find_pairs_on(device, box, _bin_width(box, reach), positions, cell, radius)
    edges = _pairs_in_bins(box, reach) if images is None else _pairs_in_table(box, images, reach)
    near = np.flatnonzero(norms(edge_vectors(positions, cell, edges)) <= radius)
    edges = edges[0].take(near), edges[1].take(near), edges[2].take(near, axis=0)
    return _ordered(edges, len(positions)) if images is None else edges


# ---- in a table -----------------------------------------------------------------------------------------------------


def _images(box: Box, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Images that may be near an atom of the box: atoms (M,), shifts (M, 3) and whether one is the atom itself (M,).

    In the order that neighbors of one atom have in a list; ``None`` where a table of all distances would be too large.
    """
    n_atoms, margin = box.fractions.shape[1], reach * box.lengths / box.heights
    low, high = box.fractions.min(axis=1) - margin, box.fractions.max(axis=1) + margin
    most = np.where(box.pbc, np.floor((high - box.fractions.min(axis=1)) / box.lengths), 0.0)
    if n_atoms * np.prod(2 * most + 1) > MAX_TABLE:
        return None
    shifts = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1).reshape(-1, 3)
    places = box.fractions.T[:, None, :] + shifts * box.lengths  # (N, K, 3)
    atom, row = np.nonzero(((places >= low) & (places <= high)).all(axis=2))
    if n_atoms * len(atom) > MAX_TABLE:
        return None
    shift = shifts[row].astype(np.int64)
    # a center adds the same to all of its shifts, which leaves their order
    order = np.lexsort((*box.given_shifts(shift - box.wraps.T[atom].astype(np.int64)).T[::-1], atom))
    return atom[order], shift[order], (shift[order] == 0).all(axis=1)


def _pairs_in_table(box: Box, images: tuple[np.ndarray, np.ndarray, np.ndarray], reach: float) -> Edges:
    """All pairs within the reach, and some beyond it."""
    atom, shift, is_own = images
    axes = box.axes
    places = box.fractions.T - box.fractions.mean(axis=1)  # so that squares are small, and their differences exact
    near, far = places @ axes, (places[atom] + shift * box.lengths) @ axes
    squares = near @ (-2.0 * far.T)
    squares += np.einsum("ia,ia->i", near, near)[:, None]
    squares += np.einsum("ia,ia->i", far, far)
    squares[atom[is_own], np.flatnonzero(is_own)] = np.inf
    center, column = np.divmod(np.flatnonzero(squares <= reach**2), len(atom))
    wraps = box.wraps.T.astype(np.int64)
    given = box.given_shifts(shift - wraps[atom])
    return center, atom[column], given[column] + box.given_shifts(wraps)[center]


# ---- in bins --------------------------------------------------------------------------------------------------------


def _pairs_in_bins(box: Box, reach: float) -> Edges:
    """All pairs within the reach, and some beyond it, in no particular order."""
    width = _bin_width(box, reach)
    center, neighbor, shift = neighbour_list(
        "ijS",
        positions=np.ascontiguousarray(box.fractions.T @ box.axes),
        cell=box.lengths[:, None] * box.axes,
        pbc=box.pbc,
        cutoff=width,
        cell_origin=np.zeros(3),
    )
    wraps = box.wraps.T.astype(np.int64)
    shift = box.given_shifts(shift + wraps[center] - wraps[neighbor])
    return center.astype(np.int64), neighbor.astype(np.int64), shift


def _bin_width(box: Box, radius: float) -> float:
    """Return the search radius, or a larger one where bins of that width would be too many for the memory.

    Raises ValueError where the pairs would be too many.
    """
    heights, n_atoms = box.heights, box.fractions.shape[1]
    while np.prod(np.maximum(np.floor(heights / radius), 1.0)) > max(MAX_BINS, 8 * n_atoms):
        radius *= 1.25
    _check_size(box.fractions / box.lengths[:, None], heights, box.pbc, radius)
    return radius


def _check_size(fractions: np.ndarray, heights: np.ndarray, pbc: np.ndarray, radius: float) -> None:
    r"""Raise a ValueError where the search would find far more pairs than any model can use.

    With :math:`n_b` atoms in bins of widths :math:`w_k \approx r`, and :math:`\pi/6` the part of a box that its sphere
    fills, :math:`E \approx \frac{\pi}{6} \prod_k \frac{2r}{w_k} \sum_b n_b^2`; an open axis of one bin has factor one.
    """
    bins = np.maximum(np.floor(heights / radius), 1.0)
    reach = np.where(~pbc & (bins == 1), 1.0, 2.0 * radius * bins / heights)
    cells = np.clip(np.floor(fractions * bins[:, None]), 0, bins[:, None] - 1).astype(np.int64)  # (3, N)
    counts = np.bincount(np.ravel_multi_index(tuple(cells), tuple(bins.astype(np.int64)))).astype(np.float64)
    n_edges = np.pi / 6.0 * np.prod(reach) * (counts @ counts)
    if n_edges > MAX_EDGES:
        raise ValueError(
            f"{fractions.shape[1]} atoms would have about {n_edges:.1g} pairs within {radius:.3g} Å "
            f"(at most {MAX_EDGES:g}); check that positions and cell are in Å, and the cutoff"
        )


def _ordered(edges: Edges, n_atoms: int) -> Edges:
    """Sorted by center, then neighbor, then the three shifts."""
    center, neighbor, shift = edges
    if not len(center):
        return edges
    low = shift.min(axis=0)
    sizes = shift.max(axis=0) - low + 1
    if n_atoms**2 * np.prod(sizes.astype(float)) < 2**62:  # one number tells the place: several times quicker
        digits = (center, neighbor, *(shift - low).T)
        order = np.argsort(np.ravel_multi_index(digits, (n_atoms, n_atoms, *sizes)))
    else:
        order = np.lexsort((*shift.T[::-1], neighbor, center))
    return center[order], neighbor[order], shift[order]

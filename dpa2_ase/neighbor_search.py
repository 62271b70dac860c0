"""Find all pairs of atoms within a radius: in a table of all distances while it is small, in bins beyond."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.geometry import minkowski_reduce
from matscipy.neighbours import neighbour_list

MAX_EDGES = 5e8  # candidates of one search; each costs about 100 bytes, and any model far more
MAX_BINS = 4e6  # bins of one search, the memory of empty space; larger systems may use more, see `_bin_width`
MAX_TABLE = 2e6  # distances of one table; bins are quicker for more

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]  # center (E,), neighbor (E,), shift (E, 3)


def norms(vectors: np.ndarray) -> np.ndarray:
    """Lengths (E,) of `vectors` (E, 3)."""
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))


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
    return 1e-12 * (np.abs(positions).max() + np.abs(cell).max())


def lattice_normals(lattice: np.ndarray) -> np.ndarray:
    """Orthonormal vectors (3 - k, 3) perpendicular to the k rows of `lattice` (k, 3)."""
    return np.linalg.svd(lattice)[2][len(lattice) :]


def find_pairs(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, radius: float) -> Edges:
    """All pairs at most `radius` apart, images of periodic directions included, in the order of `NeighborList`.

    Raises
    ------
    ValueError
        If they would be too many to be meant.
    """
    if len(positions) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
    # the searches leave out or misjudge pairs by their own rounding, and that of wrapping and cutting
    reach = radius * (1.0 + 1e-6) + 1e3 * rounding_error(positions, cell)
    box = _Box.around(positions, cell, pbc, reach)
    images = _images(box, reach)
    edges = _pairs_in_bins(box, reach) if images is None else _pairs_in_table(box, images, reach)
    near = np.flatnonzero(norms(edge_vectors(positions, cell, edges)) <= radius)
    edges = edges[0].take(near), edges[1].take(near), edges[2].take(near, axis=0)
    return _ordered(edges, len(positions)) if images is None else edges


@dataclass(frozen=True, eq=False)
class _Box:
    """Atoms in a box of their own, in which all pairs within a reach have the vectors they had.

    Lattice vectors are as short as possible, unit normals stand along open directions, atoms are wrapped, and empty
    layers wider than the reach are cut down to the reach: no pair within it goes across such a layer.
    """

    fractions: np.ndarray  # (3, N), from zero to `lengths`
    lengths: np.ndarray  # (3,) of the axes after cutting, in units of those before
    axes: np.ndarray  # (3, 3) before cutting
    wraps: np.ndarray  # (3, N) whole cells that wrapping took off
    reduction: np.ndarray  # (3, 3) whole numbers, from the axes to the cell given
    pbc: np.ndarray

    @classmethod
    def around(cls, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, reach: float) -> _Box:
        """The box of a structure."""
        _, reduction = minkowski_reduce(cell, pbc)  # identity along open directions
        axes = reduction @ cell
        axes[~pbc] = lattice_normals(cell[pbc])
        fractions = np.linalg.solve(axes.T, positions.T)
        wraps = np.where(pbc[:, None], np.floor(fractions), 0.0)
        fractions -= wraps
        limits = reach * norms(np.linalg.inv(axes).T)
        lengths = np.array([_cut_gaps(fractions[k], limits[k], pbc[k]) for k in range(3)])
        return cls(fractions, lengths, axes, wraps, reduction, pbc)

    @property
    def heights(self) -> np.ndarray:
        """Distances of opposite faces (3,), Å."""
        return self.lengths / norms(np.linalg.inv(self.axes).T)

    def given_shifts(self, shift: np.ndarray) -> np.ndarray:
        """Whole cells of the box (E, 3) as cells of the structure."""
        return shift @ self.reduction


def _cut_gaps(fractions: np.ndarray, limit: float, periodic: bool) -> float:
    """Shorten gaps between `fractions` (N,) along one axis to `limit`, in place, and return the length of the axis.

    An open axis has a gap of `limit` around the atoms; half of the outer gap comes first, so no atom is outside.
    """
    order = np.argsort(fractions, kind="stable")
    ordered = fractions[order] - fractions[order[0]]
    outer = min(1.0 - ordered[-1], limit) if periodic else limit
    excess = np.maximum(np.diff(ordered, prepend=0.0) - limit, 0.0)
    ordered -= np.cumsum(excess)
    fractions[order] = ordered + 0.5 * outer
    return ordered[-1] + outer


# ---- in a table -----------------------------------------------------------------------------------------------------


def _images(box: _Box, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
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


def _pairs_in_table(box: _Box, images: tuple[np.ndarray, np.ndarray, np.ndarray], reach: float) -> Edges:
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


def _pairs_in_bins(box: _Box, reach: float) -> Edges:
    """All pairs within the reach, and some beyond it, in no particular order."""
    heights = box.heights
    width = _bin_width(heights, reach, box.fractions.shape[1])
    _check_size(box.fractions / box.lengths[:, None], heights, box.pbc, width)
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


def _bin_width(heights: np.ndarray, radius: float, n_atoms: int) -> float:
    """Return the search radius, or a larger one where bins of that width would be too many for the memory."""
    while np.prod(np.maximum(np.floor(heights / radius), 1.0)) > max(MAX_BINS, 8 * n_atoms):
        radius *= 1.25
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

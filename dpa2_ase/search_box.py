"""Where pairs of atoms are searched: a box as small as the structure allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.geometry import minkowski_reduce

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]  # center (E,), neighbor (E,), shift (E, 3)


def norms(vectors: np.ndarray) -> np.ndarray:
    """Lengths (E,) of `vectors` (E, 3)."""
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))


def lattice_normals(lattice: np.ndarray) -> np.ndarray:
    """Orthonormal vectors (3 - k, 3) perpendicular to the k rows of `lattice` (k, 3)."""
    return np.linalg.svd(lattice)[2][len(lattice) :]


@dataclass(frozen=True, eq=False)
class Box:
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
    def around(cls, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, reach: float) -> Box:
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

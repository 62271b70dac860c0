"""Who is near whom: a complete neighbor list with a skin, for any mixture of periodic and open directions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms

from .neighbor_search import edge_vectors, find_pairs, lattice_normals, norms, rounding_error

MAX_LENGTH = 1e9  # Å; float64 resolves 1e-7 Å there
MIN_LENGTH = 1e-3  # Å; a lattice thinner than this is taken for a missing vector


@dataclass(frozen=True, eq=False)
class NeighborList:
    """All pairs of atoms within ``cutoff + skin`` of one structure, and the structure they were found in.

    Edge e points from atom ``center[e]`` to the image of atom ``neighbor[e]`` that lies ``shift[e]`` whole cells away.
    Edges come sorted by center, then neighbor, then the three shifts. Every pair is listed in both directions,
    and an atom is a neighbor of its own images but not of itself. The arrays are read-only.

    Attributes
    ----------
    center, neighbor
        Atom indices, int64, shape (E,).
    shift
        Whole cells, int64, shape (E, 3); zero along open directions. They refer to the positions as given,
        which may lie outside the cell.
    cutoff, skin
        Radius of interest and what the search added to it, in Å.
    positions, cell, pbc
        Of the structure searched: shapes (N, 3) in Å, (3, 3) in Å with lattice vectors as rows, (3,) bool.
    """

    center: np.ndarray
    neighbor: np.ndarray
    shift: np.ndarray
    cutoff: float
    skin: float
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray

    def valid_for(self, atoms: Atoms) -> bool:
        r"""Tell whether no pair of `atoms` within the cutoff can be missing from this list.

        .. math:: 2 \max_i |u_i| + (r_c + s)\,\max(0, 1 - \sigma_{\min}(F)) \le s, \quad u_i = x_i - x^0_i F

        Here :math:`s` is the skin and :math:`F` deforms the old cell into the new one, :math:`H = H^0 F`, carrying
        normals of the periodic directions rigidly along; it is the identity for a molecule. The mean of :math:`u`
        is removed first, so rigid translations, and rotations of a slab or bulk with its cell, cost nothing.

        Proof. An edge vector is :math:`d = x_j - x_i + S H = d^0 F + u_j - u_i`, as :math:`S` is zero along open
        directions. An unlisted pair has :math:`|d^0| > r_c + s`, so
        :math:`|d| \ge \sigma_{\min}|d^0| - 2\max|u| > r_c` while the inequality holds.

        Parameters
        ----------
        atoms
            The structure now. Another number of atoms or other periodic directions give False;
            that the order of the atoms is kept is up to the caller.

        Raises
        ------
        ValueError
            If positions or cell are not finite, or the cell is singular; see `build_neighbor_list`.
        """
        known_lattice = np.array_equal(atoms.cell.array, self.cell) and np.array_equal(atoms.pbc, self.pbc)
        positions, cell, pbc = _read_geometry(atoms, check_lattice=not known_lattice)
        if len(positions) != len(self.positions) or not np.array_equal(pbc, self.pbc):
            return False
        same_cell = known_lattice or np.array_equal(cell[pbc], self.cell[pbc])
        if len(positions) == 0 or (same_cell and np.array_equal(positions, self.positions)):
            return True
        before, shrinkage = self.positions, 0.0
        if not same_cell:
            deformation = _deformation(self.cell[pbc], cell[pbc])
            before = before @ deformation
            shrinkage = max(0.0, 1.0 - np.linalg.svd(deformation, compute_uv=False)[-1])
        moves = positions - before  # (N, 3)
        moves -= moves.mean(axis=0)
        loss = 2.0 * norms(moves).max() + (self.cutoff + self.skin) * shrinkage
        return bool(loss + rounding_error(positions, cell) + self._rounding <= self.skin)

    @cached_property
    def _rounding(self) -> float:
        return rounding_error(self.positions, self.cell)

    def pairs(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs of `atoms` within the cutoff, the cutoff itself included.

        Parameters
        ----------
        atoms
            The structure now; the list must be `valid_for` it.

        Returns
        -------
        center, neighbor
            Atom indices, shape (E,), in the order of the list.
        vectors
            Neighbor image minus center, shape (E, 3), in Å. Atoms on top of each other give a vector of zeros.
        shift
            Whole cells, shape (E, 3).

        Raises
        ------
        ValueError
            If the list is not valid for `atoms`, or for the reasons of `build_neighbor_list`.
        """
        if not self.valid_for(atoms):
            raise ValueError(
                f"the neighbor list (cutoff {self.cutoff:g} Å, skin {self.skin:g} Å) is out of date: atoms, cell or "
                "periodic directions changed by more than the skin allows; build a new one with build_neighbor_list"
            )
        positions, cell, _ = _read_geometry(atoms)
        vectors = edge_vectors(positions, cell, (self.center, self.neighbor, self.shift))
        near = np.flatnonzero(norms(vectors) <= self.cutoff)
        return self.center[near], self.neighbor[near], vectors.take(near, axis=0), self.shift.take(near, axis=0)


def build_neighbor_list(atoms: Atoms, cutoff: float, skin: float = 0.0) -> NeighborList:
    """Find all pairs of atoms at most ``cutoff + skin`` apart, images of periodic directions included.

    Parameters
    ----------
    atoms
        Any structure: empty, molecule, wire, slab or bulk. Cell vectors along open directions are ignored.
    cutoff
        Radius of interest in Å.
    skin
        What to search beyond the cutoff, in Å, so that the list outlives small moves.

    Returns
    -------
    NeighborList
        With copies of the positions, cell and pbc of `atoms`.

    Raises
    ------
    ValueError
        If the cutoff is not positive or the skin negative, positions or cell are not finite or larger than 1e9 Å,
        the periodic cell vectors are linearly dependent, or the list would be too large to be meant.
    """
    cutoff, skin = float(cutoff), float(skin)
    if not 0.0 < cutoff < np.inf:
        raise ValueError(f"cutoff must be a positive finite number of Å, got {cutoff}")
    if not 0.0 <= skin < np.inf:
        raise ValueError(f"skin must be a finite number of Å, zero or larger, got {skin}")
    positions, cell, pbc = _read_geometry(atoms)
    center, neighbor, shift = find_pairs(positions, cell, pbc, cutoff + skin)
    for array in (center, neighbor, shift, positions, cell, pbc):
        array.setflags(write=False)
    return NeighborList(center, neighbor, shift, cutoff, skin, positions, cell, pbc)


def _read_geometry(atoms: Atoms, *, check_lattice: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Copy positions (N, 3), cell (3, 3) and pbc (3,) of `atoms`, or raise a ValueError that says what is wrong."""
    positions = np.array(atoms.positions, dtype=np.float64, order="C")
    cell = np.array(atoms.cell, dtype=np.float64, order="C")
    pbc = np.array(atoms.pbc, dtype=bool)
    bad = np.flatnonzero(~(np.abs(positions) < MAX_LENGTH).all(axis=1))
    if len(bad):
        more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise ValueError(
            f"positions of atoms {bad[:10].tolist()}{more} are not finite numbers below {MAX_LENGTH:g} Å; "
            "check where the structure comes from, or whether the simulation has exploded"
        )
    if not (np.abs(cell) < MAX_LENGTH).all():
        raise ValueError(f"cell {cell.tolist()} has entries that are not finite numbers below {MAX_LENGTH:g} Å")
    if check_lattice and pbc.any():
        _check_lattice(cell, pbc)
    return positions, cell, pbc


def _check_lattice(cell: np.ndarray, pbc: np.ndarray) -> None:
    sizes = np.linalg.svd(cell[pbc], compute_uv=False)
    if sizes[-1] < max(MIN_LENGTH, 1e-7 * sizes[0]):
        missing = np.flatnonzero(pbc & (norms(cell) < MIN_LENGTH)).tolist()
        where = missing or np.flatnonzero(pbc).tolist()
        reason = "no lattice vector" if missing else "linearly dependent lattice vectors"
        raise ValueError(
            f"cell is singular: {cell.tolist()} has {reason} along the periodic direction(s) {where}; "
            "set pbc=False along them or give a cell"
        )


def _deformation(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return F (3, 3) with ``new == old @ F`` for lattices (k, 3), rotating the normals no more than needed.

    The new normals are those nearest to the old ones (Kabsch) that keep the handedness of the whole.
    """
    old_normals, normals = lattice_normals(old), lattice_normals(new)
    old_frame = np.vstack([old, old_normals])
    if len(normals):
        u, _, vt = np.linalg.svd(old_normals @ normals.T)
        if np.linalg.det(old_frame) * np.linalg.det(np.vstack([new, u @ vt @ normals])) < 0.0:
            u[:, -1] *= -1.0
        normals = u @ vt @ normals
    return np.linalg.solve(old_frame, np.vstack([new, normals]))

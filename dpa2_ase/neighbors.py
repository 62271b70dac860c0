"""Who is near whom: a complete neighbor list with a skin, for any mixture of periodic and open directions."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from .neighbor_search import ROUNDING, edge_vectors, find_pairs, rounding_error
from .search_box import lattice_normals, norms

if TYPE_CHECKING:
    import torch

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
        known_lattice = bool((atoms.cell.array == self.cell).all() and (atoms.pbc == self.pbc).all())
        if known_lattice and len(atoms) == len(self.positions) and self._covers(atoms.positions - self.positions):
            return True  # what is not finite is not covered
        positions, cell, pbc = _read_geometry(atoms, check_lattice=not known_lattice)
        if known_lattice or len(positions) != len(self.positions) or not np.array_equal(pbc, self.pbc):
            return False
        if not len(positions) or np.array_equal(cell[pbc], self.cell[pbc]):
            return self._covers(positions - self.positions)
        deformation = _deformation(self.cell[pbc], cell[pbc])
        shrinkage = max(0.0, 1.0 - np.linalg.svd(deformation, compute_uv=False)[-1])
        lost = (self.cutoff + self.skin) * shrinkage + rounding_error(positions, cell)
        return self._covers(positions - self.positions @ deformation, lost)

    def _covers(self, moves: np.ndarray, lost: float = 0.0) -> bool:
        """Whether the skin, less what a deformation took of it (Å), is enough for `moves` (N, 3), which are changed."""
        largest = np.abs(moves).max(initial=0.0)
        if not largest and not lost:
            return True
        if not largest < MAX_LENGTH:
            return False
        moves -= moves.sum(axis=0) / len(moves)
        loss = 2.0 * math.sqrt(np.einsum("ij,ij->i", moves, moves).max())
        return bool(loss + lost + 2.0 * self._rounding + ROUNDING * largest <= self.skin)

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


class Pairs:
    """Numbers of pairs of one structure, or of `copies` of it side by side."""

    def __init__(self, neighbors: NeighborList) -> None:
        vectors = neighbors.positions[neighbors.neighbor] - neighbors.positions[neighbors.center]
        vectors = vectors + neighbors.shift @ neighbors.cell
        self._squared = np.einsum("ea,ea->e", vectors, vectors)
        self._neighbors, self.copies = neighbors, 1
        self._known: dict[tuple[float, int], tuple[float, float, float]] = {}

    def times(self, copies: int) -> Pairs:
        """The numbers of so many structures like this one."""
        other = copy.copy(self)
        other.copies = copies
        return other

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.copies * len(self._neighbors.positions)

    @property
    def n_listed(self) -> int:
        """Number of pairs in the neighbor list."""
        return self.copies * len(self._neighbors.center)

    def edges(self, cutoff: float, nsel: int) -> float:
        """Number of edges of a block."""
        return self.copies * self._sums(cutoff, nsel)[0]

    def squares(self, cutoff: float, nsel: int) -> float:
        """Sum of the squared numbers of neighbors: pairs of edges of a block."""
        return self.copies * self._sums(cutoff, nsel)[1]

    def padded(self, cutoff: float, nsel: int) -> float:
        """Number of places of the dense arrays in which `AtomicGraph.sum_outer` lays the edges of a block."""
        return self.copies * self._sums(cutoff, nsel)[2]

    def _sums(self, cutoff: float, nsel: int) -> tuple[float, float, float]:
        if (cutoff, nsel) not in self._known:
            near = self._neighbors.center[self._squared <= cutoff**2]
            degrees = np.minimum(np.bincount(near, minlength=len(self._neighbors.positions)), nsel).astype(float)
            self._known[cutoff, nsel] = degrees.sum(), (degrees**2).sum(), _padded(degrees)
        return self._known[cutoff, nsel]


def _padded(degrees: np.ndarray) -> float:
    """All as wide as the widest or, where that would be more than twice the edges, in groups of similar degree."""
    whole = float(len(degrees) * degrees.max(initial=0))
    if whole <= 2 * degrees.sum():
        return whole
    groups = np.ceil(np.log2(degrees[degrees > 0]))
    return float(sum((groups == n).sum() * degrees[degrees > 0][groups == n].max() for n in np.unique(groups)))


def build_neighbor_list(
    atoms: Atoms, cutoff: float, skin: float = 0.0, device: torch.device | None = None
) -> NeighborList:
    """Find all pairs of atoms at most ``cutoff + skin`` apart, images of periodic directions included.

    Parameters
    ----------
    atoms
        Any structure: empty, molecule, wire, slab or bulk. Cell vectors along open directions are ignored.
    cutoff
        Radius of interest in Å.
    skin
        What to search beyond the cutoff, in Å, so that the list outlives small moves.
    device
        Where to search large structures, see `dpa2_ase.device_search`; ``None`` for the CPU.

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
    center, neighbor, shift = find_pairs(positions, cell, pbc, cutoff + skin, device)
    for array in (center, neighbor, shift, positions, cell, pbc):
        array.setflags(write=False)
    return NeighborList(center, neighbor, shift, cutoff, skin, positions, cell, pbc)


def _read_geometry(atoms: Atoms, *, check_lattice: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Copy positions (N, 3), cell (3, 3) and pbc (3,) of `atoms`, or raise a ValueError that says what is wrong."""
    positions = np.array(atoms.positions, dtype=np.float64, order="C")
    cell = np.array(atoms.cell, dtype=np.float64, order="C")
    pbc = np.array(atoms.pbc, dtype=bool)
    if not np.abs(positions).max(initial=0.0) < MAX_LENGTH:
        raise ValueError(_unusable(positions))
    if not (np.abs(cell) < MAX_LENGTH).all():
        raise ValueError(f"cell {cell.tolist()} has entries that are not finite numbers below {MAX_LENGTH:g} Å")
    if check_lattice and pbc.any():
        _check_lattice(cell, pbc)
    return positions, cell, pbc


def _unusable(positions: np.ndarray) -> str:
    bad = np.flatnonzero(~(np.abs(positions) < MAX_LENGTH).all(axis=1))
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    return (
        f"positions of atoms {bad[:10].tolist()}{more} are not finite numbers below {MAX_LENGTH:g} Å; "
        "check where the structure comes from, or whether the simulation has exploded"
    )


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

"""From structures to graphs: what stays while atoms move a little, and what is new in every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from .graph import AtomicGraph, norms, row_starts
from .neighbors import NeighborList

TOO_CLOSE = 1e-5  # Å; below, directions are noise and forces infinite


@dataclass(frozen=True, eq=False)
class Topology:
    """Pairs of atoms that may be neighbors, on the device: all of a graph but types and geometry.

    Letters: N atoms, E pairs, M images, S structures. Pairs come in the order of `NeighborList`.
    """

    center: Tensor  # (E,) int64, ascending
    neighbor: Tensor  # (E,) int64
    image: Tensor  # (E,) int64, row of `shift`
    shift: Tensor  # (M, 3) float64, whole cells between the neighbor and its image
    shift_structure: Tensor  # (M,) int64, structure whose cells they are
    structure: Tensor  # (N,) int64, structure of the batch that owns the atom, ascending
    n_structures: int
    cutoff: float  # Å

    @classmethod
    def of(cls, lists: Sequence[NeighborList], device: torch.device | str = "cpu") -> Self:
        """Join neighbor lists of one common cutoff."""
        parts = []
        first_atom = first_image = 0
        for index, neighbors in enumerate(lists):
            rows, row = _images(neighbors.shift)
            n_atoms = len(neighbors.positions)
            parts.append(
                (
                    neighbors.center + first_atom,
                    neighbors.neighbor + first_atom,
                    row + first_image,
                    rows.astype(np.float64),
                    np.full(len(rows), index),
                    np.full(n_atoms, index),
                )
            )
            first_atom, first_image = first_atom + n_atoms, first_image + len(rows)
        center, neighbor, image, shift, shift_structure, structure = (
            torch.from_numpy(np.concatenate(column)).to(device) for column in zip(*parts, strict=True)
        )
        return cls(center, neighbor, image, shift, shift_structure, structure, len(lists), lists[0].cutoff)

    @cached_property
    def offsets(self) -> Tensor:
        """Where the pairs of every center start, and where the last end: (N + 1,) int64."""
        return row_starts(self.center, len(self.structure))

    def graph(self, structures: Sequence[Atoms], types: Tensor, first_number: int | None = None) -> AtomicGraph:
        """The pairs that are within the cutoff now.

        Parameters
        ----------
        structures
            Those of the lists, which must be valid for them.
        types
            Type indices of all atoms, (N,), on the device.
        first_number
            What a message calls the first structure; ``None`` if there is only one.

        Raises
        ------
        ValueError
            When two atoms sit on top of each other.
        """
        positions, cells = (
            torch.from_numpy(np.concatenate(rows, dtype=np.float64)).to(self.center.device)
            for rows in ([atoms.positions for atoms in structures], [atoms.cell.array for atoms in structures])
        )
        graph = self.near(types, positions, cells)
        _refuse_coincident(graph, first_number)
        return graph

    def near(self, types: Tensor, positions: Tensor, cells: Tensor) -> AtomicGraph:
        """The pairs within the cutoff for `positions` (N, 3) and `cells` (3S, 3), both in Å."""
        cells = cells.view(-1, 3, 3)[self.shift_structure]
        images = (self.shift[:, :, None] * cells).sum(1)  # (M, 3) Å
        vectors = positions.index_select(0, self.neighbor)
        vectors -= positions.index_select(0, self.center)
        vectors += images.index_select(0, self.image)  # last, so that j -> i is the exact negative of i -> j
        lengths = norms(vectors)
        # the training code's list is open at the cutoff; the shorter lists of the blocks are closed
        near = torch.nonzero(lengths < self.cutoff).squeeze(-1)
        center, neighbor, vectors, lengths = (
            column.index_select(0, near) for column in (self.center, self.neighbor, vectors, lengths)
        )
        graph = AtomicGraph(types, center, neighbor, vectors, self.structure, None, self.n_structures, self.cutoff)
        vars(graph)["lengths"] = lengths
        return graph


def _images(shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of `shift` (E, 3), some that do not occur among them perhaps, and which one every edge has."""
    if not len(shift):
        return shift, np.zeros(0, np.int64)
    low, high = shift.min(axis=0), shift.max(axis=0)
    sizes = high - low + 1
    if np.prod(sizes.astype(float)) > len(shift):  # atoms far outside of their cell
        rows, image = np.unique(shift, axis=0, return_inverse=True)
        return rows, image.reshape(-1)
    rows = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1) + low
    return rows, np.ravel_multi_index(tuple((shift - low).T), tuple(sizes))


def _refuse_coincident(graph: AtomicGraph, first_number: int | None) -> None:
    if graph.shortest >= TOO_CLOSE:
        return
    edge = int(graph.lengths.argmin())
    center, neighbor = int(graph.center[edge]), int(graph.neighbor[edge])
    index = int(graph.structure[center])
    first = int((graph.structure < index).sum())
    where = "" if first_number is None else f" of structure {first_number + index}"
    raise ValueError(
        f"atoms {center - first} and {neighbor - first}{where} are {float(graph.lengths[edge]):.1e} Å apart; remove "
        "one of them (duplicates at a cell boundary are a common cause) or move them apart"
    )


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
    all_types = torch.from_numpy(np.concatenate(list(types))).to(device)
    return Topology.of(lists, device).graph(structures, all_types, first_number)

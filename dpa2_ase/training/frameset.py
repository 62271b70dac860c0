"""Frames as batches of graphs: neighbor lists are made once, batches hold unequal structures without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ..graph import AtomicGraph
from ..model import Prediction
from ..neighbors import NeighborList, build_neighbor_list
from ..topology import graph_of_structures
from .data.frames import Frame

LIST_MEMORY = 2 * 1024**3  # bytes of neighbor lists that are kept


@dataclass(frozen=True)
class Batch:
    """Structures with their labels; a label that is not known is NaN, one that no frame has is ``None``."""

    graph: AtomicGraph
    labels: Prediction
    n_atoms: Tensor  # (S,) float64, atoms that count
    force_weights: Tensor | None  # (N,)
    fparam: Tensor | None  # (S, numb_fparam)
    aparam: Tensor | None  # (N, numb_aparam)
    weights: Tensor | None = None  # (S,) factors of the structures in a loss, of one with none 1


class FrameSet:
    """Frames of one head.

    Parameters
    ----------
    frames
        All of elements of `type_map`.
    type_map, cutoff
        Of the model; Å.
    excluded
        Types whose atoms contribute nothing in this model (``atom_exclude_types``): as in DeePMD-kit they count neither
        as atoms nor in errors of atoms.
    memory
        Bytes of neighbor lists to keep; others are made anew each time.

    Raises
    ------
    ValueError
        For a frame with elements outside the type map.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        type_map: Sequence[str],
        cutoff: float,
        *,
        excluded: Sequence[int] = (),
        memory: float = LIST_MEMORY,
    ) -> None:
        index = {name: number for number, name in enumerate(type_map)}
        self.elements = sorted({s for frame in frames for s in frame.symbols})  # that occur
        unknown = [s for s in self.elements if s not in index]
        if unknown:
            raise ValueError(f"elements {unknown} of the data are not in the type map {list(type_map)}; add them to it")
        self.frames = list(frames)
        self.cutoff, self.n_types, self.excluded = cutoff, len(type_map), np.array(excluded, dtype=np.int64)
        self.types = [np.array([index[s] for s in frame.symbols], dtype=np.int64) for frame in frames]
        self.n_atoms = np.array([len(frame) for frame in frames], dtype=np.int64)
        self._atoms: dict[int, Atoms] = {}
        self._lists: dict[int, NeighborList] = {}
        self._left = memory

    def __len__(self) -> int:
        return len(self.frames)

    def counts(self, indices: Sequence[int]) -> np.ndarray:
        """Atoms of each type in some frames, (len(indices), T)."""
        return np.array([np.bincount(self.types[i], minlength=self.n_types) for i in indices], dtype=float)

    def neighbor_list(self, index: int) -> NeighborList:
        """The list of one frame, kept while there is memory."""
        found = self._lists.get(index)
        if found is None:
            found = build_neighbor_list(self._structure(index), self.cutoff)
            size = found.center.nbytes + found.neighbor.nbytes + found.shift.nbytes
            if size <= self._left:
                self._left -= size
                self._lists[index] = found
        return found

    def distances(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Centers (E,) and lengths (E,), Å, of the edges of one frame."""
        center, _, vectors, _ = self.neighbor_list(index).pairs(self._structure(index))
        return center, np.linalg.norm(vectors, axis=1)

    def _structure(self, index: int) -> Atoms:
        if index not in self._atoms:  # names of types need not be elements; the neighbor search does not look at them
            frame = self.frames[index]
            self._atoms[index] = Atoms(positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
        return self._atoms[index]

    def batch(self, indices: Sequence[int], device: torch.device | str = "cpu") -> Batch:
        """The graph and the labels of some frames."""
        frames = [self.frames[i] for i in indices]
        graph = graph_of_structures(
            [self._structure(i) for i in indices],
            [self.neighbor_list(i) for i in indices],
            [self.types[i] for i in indices],
            device,
            first_number=0,
        )
        sizes = [len(frame) for frame in frames]

        counted = [~np.isin(self.types[i], self.excluded) for i in indices]

        def of_structures(name: str, shape: tuple[int, ...]) -> Tensor | None:
            return _stacked([getattr(f, name) for f in frames], [(1, *shape)] * len(frames), device)

        def of_atoms(name: str, shape: tuple[int, ...] = ()) -> Tensor | None:
            return _stacked([getattr(f, name) for f in frames], [(n, *shape) for n in sizes], device)

        def labels_of_atoms(name: str, shape: tuple[int, ...] = ()) -> Tensor | None:
            found = of_atoms(name, shape)
            if found is not None and len(self.excluded):
                found[torch.from_numpy(~np.concatenate(counted))] = torch.nan
            return found

        labels = Prediction(
            energy=of_structures("energy", ()),
            forces=labels_of_atoms("forces", (3,)),
            virial=of_structures("virial", (3, 3)),
            atomic_energies=labels_of_atoms("atomic_energies"),
        )
        weights = of_structures("weight", ())
        n_fparam = next((len(f.fparam) for f in frames if f.fparam is not None), 0)
        n_aparam = next((f.aparam.shape[1] for f in frames if f.aparam is not None), 0)
        return Batch(
            graph=graph,
            labels=labels,
            n_atoms=torch.tensor([max(c.sum(), 1) for c in counted], dtype=torch.float64, device=device),
            force_weights=of_atoms("force_weights"),
            fparam=of_structures("fparam", (n_fparam,)),
            aparam=of_atoms("aparam", (n_aparam,)),
            weights=None if weights is None else weights.nan_to_num(1.0),
        )


def _stacked(values: Sequence[object], shapes: Sequence[tuple[int, ...]], device: torch.device | str) -> Tensor | None:
    """Join values of frames along the first axis; NaN where a frame has none, ``None`` where no frame has one."""
    if all(value is None for value in values):
        return None
    rows = [
        np.full(shape, np.nan) if value is None else np.asarray(value, dtype=float).reshape(shape)
        for value, shape in zip(values, shapes, strict=True)
    ]
    return torch.from_numpy(np.concatenate(rows)).to(device)

"""`Environments`: the representations of all atoms of a data set, on disk in chunks.

A chunk is a ``.npy`` file named by the hash of what it holds: structures, the descriptor's weights, the layer. So
interrupted work goes on where it stopped, a data set that grew is described anew only at its end, and memory does not
grow with the number of structures: chunks are mapped while they are read.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.writing import replacing
from .elements import groups_of, symbols_of
from .sources import DATA_SET, FRAME

INDEX = "environments.npz"


@dataclass(frozen=True, eq=False)
class Environments:
    """N atomic environments of S structures with their representations (N, C) and labels.

    Structures are numbered in the order they were described in, environments structure by structure.
    """

    folder: Path
    chunks: tuple[str, ...]  # names of files in `folder`, in order
    starts: np.ndarray  # (chunks + 1,) first environment of each chunk
    width: int  # C
    numbers: np.ndarray  # (N,) uint8, atomic numbers
    sizes: np.ndarray  # (S,) number of atoms of every structure
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)  # of atoms, name -> (N,), numbers or strings
    structure_labels: Mapping[str, np.ndarray] = field(default_factory=dict)  # of structures, name -> (S,)
    layer: str = "final"
    model: str = ""  # fingerprint of the descriptor
    _owned: Any = field(default=None, repr=False)  # a temporary folder that lives as long as this

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def n_structures(self) -> int:
        """Number of structures, those without atoms included."""
        return len(self.sizes)

    @cached_property
    def structure(self) -> np.ndarray:
        """Structure of every environment (N,)."""
        return np.repeat(np.arange(self.n_structures, dtype=np.int32), self.sizes)

    @property
    def first(self) -> np.ndarray:
        """First environment of every structure (S,)."""
        return np.cumsum(self.sizes) - self.sizes

    @property
    def atom(self) -> np.ndarray:
        """Number of the atom in its structure (N,)."""
        return np.arange(len(self)) - self.first[self.structure]

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Every chunk: which environments, and their representations (n, C), mapped while they are looked at."""
        for name, (start, stop) in zip(self.chunks, pairwise(self.starts.tolist()), strict=True):
            yield slice(start, stop), self._open(name, stop - start)

    def vectors(self, chosen: np.ndarray | None = None) -> np.ndarray:
        """Representations (K, C) of the environments `chosen` (their numbers, or a mask), in that order; or of all."""
        wanted = np.arange(len(self)) if chosen is None else _indices(chosen, len(self))
        found = np.empty((len(wanted), self.width), np.float32)
        order = np.argsort(wanted, kind="stable")
        edges = np.searchsorted(wanted[order], self.starts)
        for name, (start, stop), (a, b) in zip(
            self.chunks, pairwise(self.starts.tolist()), pairwise(edges), strict=True
        ):
            if b > a:
                rows = order[a:b]
                found[rows] = self._open(name, stop - start)[wanted[rows] - start]
        return found

    def pooled(self) -> np.ndarray:
        """Mean representation (S, C) of the atoms of every structure; zeros where there are none."""
        total = np.zeros((self.n_structures, self.width))
        for rows, block in self.blocks():
            np.add.at(total, self.structure[rows], block)
        return (total / self.sizes.clip(1)[:, None]).astype(np.float32)

    @property
    def about(self) -> dict[str, str]:
        """What representations must have in common to be compared."""
        return {"descriptor": self.model[:16], "layer": self.layer}

    def name(self, structure: int) -> str:
        """What to call a structure: data set and number in it, where these are known."""
        if {DATA_SET, FRAME} <= self.structure_labels.keys():
            return f"{self.structure_labels[DATA_SET][structure]}@{self.structure_labels[FRAME][structure]}"
        return f"structure {structure}"

    @property
    def elements(self) -> np.ndarray:
        """Symbol of every atom (N,)."""
        return symbols_of(self.numbers)

    def label(self, name: str) -> np.ndarray:
        """One value per environment (N,): ``"element"``, ``"group"``, ``"structure"``, or one of the labels.

        Raises
        ------
        ValueError
            For a label that was not asked for when the structures were described.
        """
        if name in self.labels:
            return self.labels[name]
        if name in self.structure_labels:
            return self.structure_labels[name][self.structure]
        if name == "element":
            return self.elements
        if name == "group":
            return groups_of(self.numbers)
        if name == "structure":
            return self.structure
        known = ["element", "group", "structure", *self.labels, *self.structure_labels]
        raise ValueError(f"no label {name!r}; there are {', '.join(known)}")

    def label_of_structures(self, name: str) -> np.ndarray:
        """One value per structure (S,): its own, the mean of its atoms' numbers, or the text they all have."""
        if name in self.structure_labels:
            return self.structure_labels[name]
        if name == "structure":
            return np.arange(self.n_structures)
        values = self.label(name)
        if values.dtype.kind in "fiu":
            seen = np.isfinite(values)
            count = np.bincount(self.structure[seen], minlength=self.n_structures)
            total = np.bincount(self.structure[seen], values[seen], minlength=self.n_structures)
            return np.where(count, total / count.clip(1), np.nan)
        return np.array(["-".join(dict.fromkeys(v)) for v in np.split(values, self.first[1:])])

    def with_labels(self, **labels: np.ndarray) -> Environments:
        """The same environments with more labels of atoms (N,)."""
        for name, values in labels.items():
            if len(values) != len(self):
                raise ValueError(f"label {name!r} has {len(values)} values for {len(self)} environments")
        return replace(self, labels={**self.labels, **{name: np.asarray(v) for name, v in labels.items()}})

    def save(self) -> Path:
        """Write what is needed to `load` this folder again."""
        path = self.folder / INDEX
        content: dict[str, Any] = {
            "chunks": np.array(self.chunks, dtype=np.str_),
            "starts": self.starts,
            "width": self.width,
            "numbers": self.numbers,
            "sizes": self.sizes,
            "layer": self.layer,
            "model": self.model,
            **{f"atoms:{name}": values for name, values in self.labels.items()},
            **{f"structures:{name}": values for name, values in self.structure_labels.items()},
        }
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **content)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Environments:
        """What `describe` left in a folder.

        Raises
        ------
        FileNotFoundError
            If it holds no finished description.
        """
        path = Path(folder) / INDEX
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no finished descriptors ({INDEX} is missing); run describe again")
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                folder=Path(folder),
                chunks=tuple(str(name) for name in stored["chunks"]),
                starts=stored["starts"],
                width=int(stored["width"]),
                numbers=stored["numbers"],
                sizes=stored["sizes"],
                layer=str(stored["layer"]),
                model=str(stored["model"]),
                labels=_starting(stored, "atoms:"),
                structure_labels=_starting(stored, "structures:"),
            )

    def _open(self, name: str, rows: int) -> np.ndarray:
        return open_chunk(self.folder / name, rows, self.width)


def open_chunk(path: Path, rows: int, width: int | None = None) -> np.ndarray:
    """A mapped chunk; raises ValueError for one that is not what it should be."""
    try:
        chunk = np.load(path, mmap_mode="r" if rows else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it and describe the structures again") from error
    if len(chunk) != rows or (width is not None and chunk.shape[1] != width):
        raise ValueError(f"{path} has shape {chunk.shape}, {rows} rows were expected; remove it and describe again")
    return chunk


def write_chunk(path: Path, values: np.ndarray) -> None:
    """Write a chunk whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)


class TemporaryFolder:
    """A folder that is removed with the object, silently."""

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="dpa2-maps-")
        weakref.finalize(self, shutil.rmtree, self.name, ignore_errors=True)


def _indices(chosen: np.ndarray, size: int) -> np.ndarray:
    chosen = np.asarray(chosen)
    indices = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
    if len(indices) and (indices.min() < 0 or indices.max() >= size):
        raise ValueError(f"environments are numbered 0 to {size - 1}, found {indices.min()} to {indices.max()}")
    return indices


def _starting(stored: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}

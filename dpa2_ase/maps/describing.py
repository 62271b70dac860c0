"""`describe`: from a stream of structures to `Environments`."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from .elements import symbols_of
from .labels import Column, merged, settled
from .layers import Layer, fingerprint, represent
from .sources import DATA_SET, FRAME
from .store import Environments, TemporaryFolder, open_chunk, write_chunk

if TYPE_CHECKING:
    from ..interfaces.ase import DPA2Calculator
    from ..neighbors import NeighborList

ATOMS_PER_CHUNK = 8192
GIB = 1024.0**3
PASS_MEMORY = 0.25  # GiB; larger passes are no faster


def describe(  # noqa: PLR0913  # each is a choice of the user's
    structures: Iterable[Atoms],
    calc: DPA2Calculator,
    *,
    layer: Layer | None = None,
    store: str | Path | None = None,
    columns: Sequence[Column] = (),
    on_progress: Callable[[int], None] | None = None,
) -> Environments:
    """Represent every atom of a stream of structures.

    Structures are taken one after the other and forgotten; memory depends on ``calc.batch_memory`` and on the largest
    structure, not on their number, but for a few bytes per atom (element, structure, labels).

    Parameters
    ----------
    structures
        A list, `DataSets`, or any iterable.
    calc
        The model; heads that share a descriptor give the same.
    layer
        By default what the fitting nets read, without the type embedding.
    store
        Folder that keeps the representations; finished chunks in it are used again. By default a temporary folder
        that lives as long as the result.
    columns
        Labels to collect on the way; see `labels`.
    on_progress
        Called with the number of structures of every finished chunk.

    Raises
    ------
    ValueError
        For structures that the model cannot evaluate, and if there are none.
    """
    layer = layer or Layer()
    owned = TemporaryFolder() if store is None else None
    folder = Path(owned.name if owned is not None else store or "")
    folder.mkdir(parents=True, exist_ok=True)
    work = _Work(_Worker(calc, layer, folder), columns)
    for part in _chunked(structures):
        work.add(part)
        if on_progress is not None:
            on_progress(len(part))
        del part  # before the next ones are read
    found = work.finish(owned)
    _warn_of_unseen(calc, np.unique(found.numbers))
    if store is not None:
        found.save()
    return found


def represent_structures(structures: Sequence[Atoms], calc: DPA2Calculator, layer: Layer, first: int = 0) -> np.ndarray:
    """Representations (N, C), float32, of the atoms of a few structures, in passes as large as memory allows."""
    from ..memory import split_by_memory

    evaluator = calc.evaluator
    lists: list[NeighborList | None] = []

    def costs() -> Iterator[float]:
        for atoms in structures:
            neighbors = evaluator.reader.neighbor_list(atoms, 0.0)
            lists.append(neighbors)
            yield evaluator.memory.check(neighbors)

    found = []
    with evaluator.computing(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="head .* was not trained on")  # of all heads, see _warn_of_unseen
        for chosen in split_by_memory(costs(), min(calc.batch_memory, PASS_MEMORY) * GIB):
            part = [n for n in lists[chosen.start : chosen.stop] if n is not None]
            lists[chosen.start : chosen.stop] = [None] * len(chosen)
            graph = evaluator.reader.graph(structures[chosen.start : chosen.stop], part, first + chosen.start)
            potential = evaluator.potential if graph.n_atoms else evaluator.reference  # no elements, no tables
            found.append(represent(potential, graph, layer).float().cpu().numpy())
    return np.concatenate(found)


@contextmanager
def _naming(part: Sequence[Atoms], first: int) -> Iterator[None]:
    """Name the data set in a ValueError that is about ``structure N``."""
    try:
        yield
    except ValueError as error:
        number = re.match(r"structure (\d+)", str(error))
        info = part[int(number[1]) - first].info if number else {}
        if number is None or DATA_SET not in info:
            raise
        raise ValueError(str(error).replace(number[0], f"{info[DATA_SET]}@{info[FRAME]}", 1)) from error


def _warn_of_unseen(calc: DPA2Calculator, numbers: np.ndarray) -> None:
    """Warn of elements that none of the heads, which share the descriptor, was trained on."""
    observed = [info.observed for info in calc.evaluator.reader.heads.values()]
    known = {symbol for symbols in observed for symbol in symbols or ()}
    unseen = sorted({*symbols_of(numbers).tolist()} - known)
    if unseen and observed and None not in observed:
        message = f"{unseen} were in no training data of this model; its representations of them have no meaning"
        warnings.warn(message, UserWarning, stacklevel=3)


class _Worker:
    """Makes chunks, or finds them where they were made before."""

    def __init__(self, calc: DPA2Calculator, layer: Layer, folder: Path) -> None:
        self.calc, self.layer, self.folder = calc, layer, folder
        self.width = 0
        self.model = fingerprint(calc.evaluator.reference)
        self._key = f"{self.model} {layer} {calc.evaluator.dtype}"

    def chunk(self, part: Sequence[Atoms], first: int) -> str:
        """Name of the file with the representations of `part`, whose structures are numbered from `first`."""
        path = self.folder / f"{_content(part, self._key)}.npy"
        rows = sum(len(atoms) for atoms in part)
        if not path.exists():
            with _naming(part, first):
                write_chunk(path, represent_structures(part, self.calc, self.layer, first))
        self.width = open_chunk(path, rows).shape[1]
        return path.name

    def column(self, part: Sequence[Atoms], column: Column) -> np.ndarray:
        """Labels of `part`; what took the model to compute is kept beside the representations."""
        if not column.key:
            return _small(column.values(part)) if column.of_atoms else column.values(part)
        rows = sum(len(atoms) for atoms in part) if column.of_atoms else len(part)
        path = self.folder / f"{_content(part, column.key, with_forces=True)}.npy"
        if not path.exists():
            write_chunk(path, _small(column.values(part)))
        return np.array(open_chunk(path, rows))


class _Work:
    """What is known of all chunks so far: their names, and a few bytes per atom."""

    def __init__(self, worker: _Worker, columns: Sequence[Column]) -> None:
        self.worker, self.columns = worker, list(columns)
        self.names: list[str] = []
        self.numbers: list[np.ndarray] = []
        self.sizes: list[int] = []
        self.labels: dict[str, list[np.ndarray]] = {column.name: [] for column in columns}

    def add(self, part: Sequence[Atoms]) -> None:
        """Describe a chunk."""
        if not self.names:
            self.columns = [settled(column, part) for column in self.columns]
        self.names.append(self.worker.chunk(part, len(self.sizes)))
        self.numbers.append(np.concatenate([atoms.numbers for atoms in part]).astype(np.uint8))
        for column in self.columns:
            self.labels[column.name].append(self.worker.column(part, column))
        self.sizes += [len(atoms) for atoms in part]

    def finish(self, owned: TemporaryFolder | None) -> Environments:
        """All chunks together; `owned` lives as long as they do."""
        if sum(self.sizes) == 0:
            raise ValueError("no atoms to describe: there are no structures, or none with atoms")
        labels = {name: merged(values) for name, values in self.labels.items()}
        return Environments(
            folder=self.worker.folder,
            chunks=tuple(self.names),
            starts=np.cumsum([0, *(len(part) for part in self.numbers)]),
            width=self.worker.width,
            numbers=np.concatenate(self.numbers),
            sizes=np.array(self.sizes, dtype=np.int32),
            labels={column.name: labels[column.name] for column in self.columns if column.of_atoms},
            structure_labels={column.name: labels[column.name] for column in self.columns if not column.of_atoms},
            layer=str(self.worker.layer),
            model=self.worker.model,
            _owned=owned,
        )


def _small(values: np.ndarray) -> np.ndarray:
    """Labels of atoms, which are many, in few bytes."""
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _chunked(structures: Iterable[Atoms]) -> Iterator[list[Atoms]]:
    """Runs of structures with `ATOMS_PER_CHUNK` atoms or a little more."""
    part: list[Atoms] = []
    count = 0
    for atoms in structures:
        part.append(atoms)
        count += len(atoms)
        if count >= ATOMS_PER_CHUNK:
            yield part
            part, count = [], 0
    if part:
        yield part


def _content(part: Sequence[Atoms], key: str, *, with_forces: bool = False) -> str:
    content = hashlib.sha256(key.encode())
    for atoms in part:
        content.update(np.int64(len(atoms)).tobytes() + atoms.numbers.astype(np.int64).tobytes())
        content.update(np.ascontiguousarray(atoms.positions).tobytes())
        content.update(atoms.cell.array.tobytes() + atoms.pbc.tobytes())
        if with_forces:
            content.update(np.ascontiguousarray(getattr(atoms.calc, "results", {}).get("forces", [])).tobytes())
    return content.hexdigest()[:32]

"""What a model was asked and what it said, on disk, so that a run goes on where it was interrupted.

Workflows are deterministic: run again, they ask the same questions until the point of the interruption. The answers
come from the journal, so that this takes no time and leads to the same point, whatever the workflow.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes

from ..interfaces.ase import DPA2Calculator

HEAD = struct.Struct("<32sII")  # key, bytes of the answer, their CRC-32
ATOMS_AT_ONCE = 2048  # atoms evaluated between two entries; one structure at least
ROWS_AT_ONCE = 16  # products with the Hessian between two entries

Answer = dict[str, Any]
Watcher = Callable[[int, int], None]


class Journal:
    """A file of answers by the hash of their question; it only grows.

    Parameters
    ----------
    path
        Made if it is not there. What was half-written when a run was killed is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, tuple[int, int]] = {}
        self._file: IO[bytes] = path.open("a+b")
        self._end = self._index()
        self._file.truncate(self._end)

    def _index(self) -> int:
        """Learn where every answer is; returns the end of the last whole one."""
        end = 0
        self._file.seek(0)
        while len(head := self._file.read(HEAD.size)) == HEAD.size:
            key, size, check = HEAD.unpack(head)
            content = self._file.read(size)
            if len(content) < size or zlib.crc32(content) != check:
                break
            self._places[key] = (end + HEAD.size, size)
            end += HEAD.size + size
        return end

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def get(self, key: bytes) -> Answer | None:
        """The answer to a question, if it was asked before."""
        place = self._places.get(key)
        if place is None:
            return None
        self._file.seek(place[0])
        with np.load(io.BytesIO(self._file.read(place[1])), allow_pickle=False) as stored:
            return {name: float(stored[name]) if not stored[name].ndim else stored[name] for name in stored.files}

    def add(self, key: bytes, answer: Answer) -> None:
        """Store an answer; it is on disk when this returns."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: np.asarray(value) for name, value in answer.items()})  # type: ignore[arg-type]  # no answer is called allow_pickle
        content = buffer.getvalue()
        self._file.write(HEAD.pack(key, len(content), zlib.crc32(content)) + content)
        self._file.flush()
        self._places[key] = (self._end + HEAD.size, len(content))
        self._end += HEAD.size + len(content)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class JournaledCalculator(DPA2Calculator):
    """A `DPA2Calculator` that keeps a journal and tells how far it is.

    Attributes
    ----------
    journal
        ``None`` for no journal.
    watch
        Called with the number of structures (or rows) done and the total of what was asked at once.
    asked
        Structures evaluated so far, those from the journal not counted.
    dispersion
        Functional whose dispersion is to be added; see `dpa2_ase.cli.models.dressed`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.journal: Journal | None = None
        self.watch: Watcher | None = None
        self.asked = 0
        self.dispersion: str | None = None
        super().__init__(*args, **kwargs)
        self._who = f"{self.source.get('sha256')} {self.source.get('head')}"

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Iterable[str] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        """As the base class."""
        structure = atoms if atoms is not None else self.atoms
        wanted = sorted({*properties})
        key = None if structure is None or self.journal is None else self._key("calculate", structure, *wanted)
        stored = self._remembered(key)
        if stored is not None:
            if system_changes:
                self.results, self._pending = {}, None
            self.atoms = structure.copy() if structure is not None else None
            self.results.update(stored)
        else:
            super().calculate(atoms, wanted, system_changes)
            self.asked += bool(system_changes)
            self._remember(key, self.results)
        if self.watch is not None:
            self.watch(1, 1)

    def evaluate(self, structures: Iterable[Atoms], properties: Iterable[str] | None = None) -> list[Answer]:
        """As the base class, some at once."""
        frames = list(structures)
        names = None if properties is None else sorted({*properties})
        if self.journal is None and self.watch is None:
            return super().evaluate(frames, names)
        keys = [self._key("evaluate", atoms, *(names or ["everything"])) for atoms in frames]
        found = [self._remembered(key) for key in keys]
        done = len(frames) - found.count(None)
        for part in _portions(frames, [index for index, answer in enumerate(found) if answer is None]):
            with _numbered(part):
                answers = super().evaluate([frames[index] for index in part], names)
            self.asked += len(part)
            for index, answer in zip(part, answers, strict=True):
                found[index] = answer
                self._remember(keys[index], answer)
            done += len(part)
            if self.watch is not None:
                self.watch(done, len(frames))
        return [answer for answer in found if answer is not None]

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        """As the base class."""
        structure = self._given(atoms)
        key = self._key("hessian", structure)
        stored = self._remembered(key) or {"hessian": super().get_hessian(structure)}
        self._remember(key, stored)
        return stored["hessian"]

    def get_strain_derivatives(self, atoms: Atoms | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As the base class."""
        structure = self._given(atoms)
        key = self._key("strain derivatives", structure)
        stored = self._remembered(key)
        if stored is None:
            stress, forces = super().get_strain_derivatives(structure)
            stored = {"stress": stress, "forces": forces}
        self._remember(key, stored)
        return stored["stress"], stored["forces"]

    def get_hessian_products(self, vectors: np.ndarray, atoms: Atoms | None = None) -> np.ndarray:
        """As the base class, some rows at once."""
        structure, rows = self._given(atoms), []
        for start in range(0, len(vectors), ROWS_AT_ONCE):
            part = np.ascontiguousarray(vectors[start : start + ROWS_AT_ONCE], dtype=float)
            key = self._key("products", structure, hashlib.sha256(part.tobytes()).hexdigest())
            stored = self._remembered(key) or {"rows": super().get_hessian_products(part, structure)}
            self._remember(key, stored)
            rows.append(stored["rows"])
            if self.watch is not None:
                self.watch(start + len(part), len(vectors))
        return np.concatenate(rows) if rows else np.zeros((0, len(structure), 3))

    def _key(self, question: str, atoms: Atoms, *words: str) -> bytes:
        return hashlib.sha256("\n".join((question, structure_hash(atoms), self._who, *words)).encode()).digest()

    def _remembered(self, key: bytes | None) -> Answer | None:
        return None if self.journal is None or key is None else self.journal.get(key)

    def _remember(self, key: bytes | None, answer: Answer) -> None:
        if self.journal is not None and key is not None and key not in self.journal:
            self.journal.add(key, {name: value for name, value in answer.items() if name != "thresholds"})  # no number


def structure_hash(atoms: Atoms) -> str:
    """Hash of all that the energy of a structure depends on."""
    content = hashlib.sha256()
    for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
        content.update(np.ascontiguousarray(array).tobytes())
    for name in ("fparam", "aparam"):
        value = atoms.arrays.get(name, atoms.info.get(name))
        content.update(name.encode() if value is None else np.asarray(value, dtype=float).tobytes())
    return content.hexdigest()


@contextmanager
def _numbered(indices: Sequence[int]) -> Iterator[None]:
    """Errors within a portion name a structure by its place in it; say where it is among all."""
    try:
        yield
    except ValueError as error:
        text = re.sub(r"structure (\d+)", lambda found: f"structure {indices[int(found[1])]}", str(error), count=1)
        raise type(error)(text) from error


def _portions(frames: Sequence[Atoms], chosen: Sequence[int]) -> list[list[int]]:
    """Split the indices `chosen` so that no portion has more atoms than are evaluated at once."""
    portions: list[list[int]] = []
    size = ATOMS_AT_ONCE
    for index in chosen:
        if not portions or size + len(frames[index]) > ATOMS_AT_ONCE:
            portions.append([])
            size = 0
        portions[-1].append(index)
        size += len(frames[index])
    return portions

"""Files of a simulation: they grow with it, and fall back to the last checkpoint when it continues."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.io import iread, write

from .files import write_bytes

TRAJECTORY, THERMO, RESTART, LAST_GOOD = (
    "md-trajectory.extxyz",
    "md-thermo.csv",
    "md-restart.npz",
    "md-last-good.extxyz",
)
COLUMNS = {
    "step": "",
    "time": "fs",
    "temperature": "K",
    "potential_energy": "eV",
    "kinetic_energy": "eV",
    "total_energy": "eV",
    "conserved_energy": "eV",
    "pressure": "GPa",
    "volume": "A3",
    "density": "g_per_cm3",
    "a": "A",
    "b": "A",
    "c": "A",
    "alpha": "degree",
    "beta": "degree",
    "gamma": "degree",
}
HEADER = [f"{name}_{unit}".rstrip("_") for name, unit in COLUMNS.items()]

Row = dict[str, float]


@dataclass(frozen=True)
class Checkpoint:
    """A point from which the future is determined."""

    step: int
    sizes: dict[str, int]  # bytes of the growing files at that time
    identity: dict[str, Any]  # what must be the same to continue
    arrays: dict[str, np.ndarray]  # see `Engine.snapshot`


class Record:
    """Thermodynamic rows and frames of one simulation, in a folder or in memory.

    Parameters
    ----------
    folder
        Made if needed; ``None`` keeps everything in memory.
    resume
        Continue after the checkpoint in the folder, if there is one: what was written later is cut off.

    Raises
    ------
    FileExistsError
        If the folder holds a simulation that should not be continued.
    """

    def __init__(self, folder: str | Path | None, *, resume: bool = False) -> None:
        self.folder = None if folder is None else Path(folder)
        self.rows: list[Row] = []
        self.frames: list[Atoms] = []
        self.checkpoint: Checkpoint | None = None
        self._files: dict[str, IO[bytes]] = {}
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume and (self.folder / RESTART).exists():
            self.checkpoint = read_checkpoint(self.folder / RESTART)
        elif not resume and any((self.folder / name).exists() for name in (TRAJECTORY, THERMO, RESTART)):
            raise FileExistsError(
                f"{self.folder} holds a simulation already; continue it with resume=True or choose another folder"
            )

    def open(self) -> None:
        """Open the growing files, cut to the checkpoint; a new table gets its header."""
        if self.folder is None:
            return
        for name in (TRAJECTORY, THERMO):
            path, size = self.folder / name, 0 if self.checkpoint is None else self.checkpoint.sizes[name]
            if size > (path.stat().st_size if path.exists() else 0):
                raise ValueError(f"{path} is shorter than at the last checkpoint; begin in a new folder")
            file = self._files[name] = path.open("ab")
            file.truncate(size)
            file.seek(0, os.SEEK_END)
        if self.checkpoint is not None:
            self.rows = read_thermo(self.folder / THERMO)
        elif not self._files[THERMO].tell():
            self._append(THERMO, ",".join(HEADER) + "\n")

    def add_row(self, row: Row) -> None:
        """Append a row of the table; what is not a number is left empty."""
        self.rows.append(row)
        cells = ("" if row[name] != row[name] else repr(row[name]) for name in COLUMNS)
        self._append(THERMO, ",".join(cells) + "\n")

    def add_frame(self, atoms: Atoms) -> None:
        """Append a frame to the trajectory, with velocities and results."""
        if self.folder is None:
            self.frames.append(atoms)
            return
        self._append(TRAJECTORY, as_extxyz(atoms))

    def sizes(self) -> dict[str, int]:
        """Bytes written to every growing file."""
        return {name: file.tell() for name, file in self._files.items()}

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint, after all that belongs before it."""
        if self.folder is not None:
            for file in self._files.values():
                file.flush()
            buffer = io.BytesIO()
            head = {"step": checkpoint.step, "sizes": checkpoint.sizes, "identity": checkpoint.identity}
            np.savez(buffer, head=np.array(json.dumps(head)), **checkpoint.arrays)  # type: ignore[arg-type]  # names
            write_bytes(self.folder / RESTART, buffer.getvalue())

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()

    def _append(self, name: str, text: str) -> None:
        if name in self._files:
            self._files[name].write(text.encode())


def as_extxyz(atoms: Atoms) -> str:
    """One frame of extended XYZ."""
    buffer = io.StringIO()
    write(buffer, atoms, format="extxyz")
    return buffer.getvalue()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what `Record.write_checkpoint` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    head = json.loads(str(arrays.pop("head")))
    return Checkpoint(head["step"], head["sizes"], head["identity"], arrays)


def read_thermo(path: str | Path) -> list[Row]:
    """Rows of a table of a simulation, exactly as they were; empty cells are not numbers."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    rows = [dict(zip(COLUMNS, (float(cell or "nan") for cell in line), strict=True)) for line in lines]
    return [row | {"step": int(row["step"])} for row in rows]


def read_frames(folder: str | Path) -> list[Atoms]:
    """All frames of the trajectory in a folder."""
    path = Path(folder) / TRAJECTORY
    return list(iread(path)) if path.stat().st_size else []

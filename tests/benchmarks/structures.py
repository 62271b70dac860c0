"""What is evaluated: water molecules alone, in clusters and as a liquid. Needs ASE only, so that any program can."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read

FRAME = Path(__file__).with_name("water192.xyz")
RATTLE = 0.02  # Å; the images of a repeated box should not be equal


@cache
def liquid() -> Atoms:
    """The box of 64 water molecules; its source is in the README beside it."""
    atoms = read(FRAME)
    assert isinstance(atoms, Atoms)
    return atoms


def cluster(first: int, n_molecules: int) -> Atoms:
    """The molecule of oxygen atom number `first` and its nearest ones, without periodicity."""
    atoms = liquid()
    oxygen, hydrogen = np.flatnonzero(atoms.numbers == 8), np.flatnonzero(atoms.numbers == 1)
    nearest = oxygen[np.argsort(atoms.get_distances(oxygen[first], oxygen, mic=True))[:n_molecules]]
    parts = Atoms()
    for center in nearest:
        bonded = hydrogen[np.argsort(atoms.get_distances(center, hydrogen, mic=True))[:2]]
        origin = atoms.get_distance(oxygen[first], center, mic=True, vector=True) if center != oxygen[first] else 0.0
        vectors = atoms.get_distances(center, bonded, mic=True, vector=True)
        parts += Atoms("OHH", positions=np.vstack([np.zeros(3), vectors]) + origin)
    return parts


def structure(n_atoms: int) -> Atoms:
    """A cluster of up to 30 atoms, or the liquid repeated to 192, 1536, 5184, 12288, ... atoms; slightly rattled."""
    repeats = round((n_atoms / len(liquid())) ** (1 / 3))
    atoms = cluster(0, n_atoms // 3) if n_atoms <= 30 else liquid().repeat(repeats)
    if len(atoms) != n_atoms:
        raise ValueError(f"{n_atoms} atoms cannot be made; choose 3, 6, ..., 30 or 192 times a cube")
    atoms.positions += np.random.default_rng(n_atoms).normal(0, RATTLE, atoms.positions.shape)
    return atoms


def clusters(count: int) -> list[Atoms]:
    """`count` clusters of three to ten molecules, 9 to 30 atoms."""
    rng = np.random.default_rng(count)
    found = [cluster(int(rng.integers(64)), int(rng.integers(3, 11))) for _ in range(count)]
    for atoms in found:
        atoms.positions += rng.normal(0, RATTLE, atoms.positions.shape)
    return found

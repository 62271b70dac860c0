"""What of a structure is not as it was when it was last calculated."""

from __future__ import annotations

import copy

import numpy as np
from ase import Atoms

PARAMETERS = ("fparam", "aparam")


def changes(old: Atoms, new: Atoms) -> list[str]:
    """What differs at all, as ASE names it; ASE's own comparison is a part of a small structure's step."""
    pairs = {
        "positions": (old.positions, new.positions),
        "numbers": (old.numbers, new.numbers),
        "cell": (old.cell.array, new.cell.array),
        "pbc": (old.pbc, new.pbc),
    }
    return [name for name, (a, b) in pairs.items() if a.shape != b.shape or not (a == b).all()]


def changed_parameters(old: Atoms, new: Atoms) -> list[str]:
    """Which of the frame and atomic parameters differ."""
    pairs = {name: (_parameter(old, name), _parameter(new, name)) for name in PARAMETERS}
    return [name for name, (a, b) in pairs.items() if not (a is None is b or np.array_equal(_array(a), _array(b)))]


def snapshot(atoms: Atoms) -> Atoms:
    """A copy that no later change reaches: ASE copies the dictionary of `atoms.info`, not its values."""
    copied = atoms.copy()
    for name in PARAMETERS:
        if name in copied.info:
            copied.info[name] = copy.deepcopy(copied.info[name])
    return copied


def _parameter(atoms: Atoms, name: str) -> object:
    return atoms.arrays.get(name, atoms.info.get(name))


def _array(value: object) -> np.ndarray:
    return np.asarray([] if value is None else value)

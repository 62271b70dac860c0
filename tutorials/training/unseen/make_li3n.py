"""Make li3n.extxyz.gz of all frames of the data set of alpha-Li3N: make_li3n.py TRAIN VALID [FILE]."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

DIGITS = {"energy": 6, "forces": 5, "stress": 7}


def shortened(atoms: Atoms) -> Atoms:
    """With as many digits as mean something."""
    found = Atoms(atoms.numbers, atoms.positions.round(5), cell=atoms.cell.array.round(6), pbc=atoms.pbc)
    labels = {name: np.round(atoms.calc.results[name], digits) for name, digits in DIGITS.items()}
    found.calc = SinglePointCalculator(found, **labels)
    return found


if __name__ == "__main__":
    target = sys.argv[3] if len(sys.argv) > 3 else Path(__file__).with_name("li3n.extxyz.gz")
    write(target, [shortened(a) for path in sys.argv[1:3] for a in read(path, ":")], format="extxyz")

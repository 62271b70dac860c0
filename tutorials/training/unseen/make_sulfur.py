"""Make sulfur.extxyz.gz: make_sulfur.py [FILE]

A hundred frames of each of five molecules with sulfur, from Langevin dynamics at 600 K with GFN2-xTB, every 50 fs.
Needs `pip install tblite`; takes a few minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from tblite.ase import TBLite

MOLECULES = ("C4H4S", "C2H6SO", "CH3CH2SH", "CH3SCH3", "CH2SCH2")  # names of ASE's G2 set
FRAMES, STEPS, TEMPERATURE = 100, 50, 600.0  # of each molecule; of 1 fs between two frames; K


def frames(name: str, seed: int) -> list[Atoms]:
    """Snapshots of one molecule with energies (eV) and forces (eV/Å), the first ones of the heating left out."""
    rng = np.random.default_rng(seed)
    atoms = molecule(name)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=rng)
    Stationary(atoms)
    dynamics = Langevin(atoms, units.fs, temperature_K=TEMPERATURE, friction=0.01 / units.fs, rng=rng)
    dynamics.run(10 * STEPS)
    found = []
    for _ in range(FRAMES):
        dynamics.run(STEPS)
        frame = Atoms(atoms.symbols, np.round(atoms.positions, 4), info={"molecule": name}, calculator=atoms.calc)
        labels = {"energy": round(frame.get_potential_energy(), 6), "forces": np.round(frame.get_forces(), 4)}
        frame.calc = SinglePointCalculator(frame, **labels)
        found.append(frame)
    return found


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("sulfur.extxyz.gz")
    write(target, [frame for seed, name in enumerate(MOLECULES) for frame in frames(name, seed)], format="extxyz")

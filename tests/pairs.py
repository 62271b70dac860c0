"""Morse crystals: a pair potential without cutoff, cheap enough for thousands of steps, with all derivatives known."""

from __future__ import annotations

from itertools import product

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

DEPTH, STEEPNESS, LENGTH = 0.35, 1.8, 2.7  # eV, 1/Å, Å


def morse(r: np.ndarray, derivative: int = 0) -> np.ndarray:
    """Energy of a pair at distance r (Å), or its first or second derivative."""
    e = np.exp(-STEEPNESS * (r - LENGTH))
    if derivative == 0:
        return DEPTH * (e * e - 2 * e)
    if derivative == 1:
        return -2 * DEPTH * STEEPNESS * (e * e - e)
    return 2 * DEPTH * STEEPNESS**2 * (2 * e * e - e)


class Morse(Calculator):
    """All pairs of atoms and of their images up to `images` cells away along periodic directions.

    A fixed set of images, so that energies are smooth functions of positions and cell.
    """

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, images: int = 2):
        super().__init__(images=images)
        self.images = images

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        reach = [range(-self.images, self.images + 1) if periodic else (0,) for periodic in self.atoms.pbc]
        shifts = np.array(list(product(*reach))) @ self.atoms.cell.array
        x = self.atoms.positions
        d = x[None, None] - x[None, :, None] + shifts[:, None, None]  # (M, N, N, 3)
        d = d.reshape(len(shifts), -1, 3)
        r = np.sqrt((d * d).sum(-1))
        r[(shifts == 0).all(1)] += np.where(np.eye(len(x), dtype=bool).ravel(), np.inf, 0.0)  # an atom and itself
        slope = morse(r, 1) / r
        self.results["energy"] = self.results["free_energy"] = morse(r).sum() / 2
        self.results["forces"] = np.einsum("mp,mpx->px", slope, d).reshape(len(x), -1, 3).sum(1)
        if self.atoms.pbc.all():
            stress = np.einsum("mp,mpx,mpy->xy", slope, d, d) / 2 / self.atoms.get_volume()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)


def crystal(a: float = 3.65, *, images: int = 2, calc: Calculator | None = None) -> Atoms:
    """Four copper atoms of an fcc crystal; the equilibrium is near 3.65 Å."""
    atoms = bulk("Cu", a=a, cubic=True)
    atoms.calc = calc or Morse(images)
    return atoms


def dimer(distance: float = LENGTH) -> Atoms:
    """Two atoms in open space."""
    atoms = Atoms("Cu2", [[0, 0, 0], [0.6 * distance, 0.8 * distance, 0]])
    atoms.calc = Morse()
    return atoms

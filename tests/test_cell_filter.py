"""`dpa2_ase.workflows.cell_filter`: the coordinates and forces of ASE's filter, and logarithms."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.units import GPa
from scipy.linalg import expm, logm

from dpa2_ase.workflows.cell_filter import CellFilter, logarithm

CHOICES = [
    {},
    {"mask": [1, 1, 0, 0, 0, 1]},
    {"hydrostatic_strain": True},
    {"constant_volume": True},
    {"scalar_pressure": 5 * GPa},
]


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=2)
    atoms.calc = EMT()
    return atoms


def strain(size: float) -> np.ndarray:
    return size * np.random.default_rng(5).normal(size=(3, 3))


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize("size", [0.03, 0.3])
def test_coordinates_and_forces_are_those_of_ase(options, size):
    """To rounding, for deformations within the series and beyond; the origin of the cell's coordinates is another."""
    ours, theirs = CellFilter(crystal(), **options), FrechetCellFilter(crystal(), **options)
    first = theirs.get_positions() - ours.get_positions()
    for own in (ours, theirs):
        own.atoms.set_cell(own.atoms.cell.array @ expm(strain(size)), scale_atoms=True)
        own.atoms.rattle(0.02, seed=3)
    np.testing.assert_allclose(theirs.get_positions() - ours.get_positions(), first, atol=1e-11)
    np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-11)
    np.testing.assert_allclose(ours.stress, theirs.stress, atol=1e-13)
    step = 0.05 * np.random.default_rng(1).normal(size=(7, 3))
    for own in (ours, theirs):
        own.set_positions(own.get_positions() + step)
    np.testing.assert_allclose(ours.atoms.positions, theirs.atoms.positions, atol=1e-11)
    np.testing.assert_allclose(ours.atoms.cell, theirs.atoms.cell, atol=1e-11)
    np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-9)


def test_forces_are_derivatives_by_the_coordinates():
    """Central differences of 1e-4 leave 1e-8 of the third derivative; EMT's cutoff some noise."""
    atoms = crystal()
    moving = CellFilter(atoms)
    atoms.set_cell(atoms.cell.array @ expm(strain(0.03)), scale_atoms=True)
    start, forces = moving.get_positions(), moving.get_forces()
    for row, axis in ((0, 0), (4, 1), (5, 2), (6, 0)):
        energies = []
        for sign in (1, -1):
            shifted = start.copy()
            shifted[row, axis] += sign * 1e-4
            moving.set_positions(shifted)
            energies.append(atoms.get_potential_energy())
        assert forces[row, axis] == pytest.approx(-(energies[0] - energies[1]) / 2e-4, abs=1e-5)


def test_what_is_asked_twice_is_answered_once():
    class Counting(EMT):
        asked = 0

        def get_stress(self, *arguments):
            self.asked += 1
            return super().get_stress(*arguments)

    atoms = crystal()
    atoms.calc = Counting()
    moving = CellFilter(atoms)
    first = moving.get_forces()
    first[:] = 0.0  # the memory is nobody's to write
    assert moving.get_forces().any()
    assert atoms.calc.asked == 1
    moving.set_positions(moving.get_positions() + 0.01)
    moving.get_forces()
    assert atoms.calc.asked == 2


@pytest.mark.parametrize("size", [0.0, 1e-9, 0.01, 0.05, 0.2, 0.7])
def test_logarithms(size):
    matrix = expm(strain(size))
    np.testing.assert_allclose(logarithm(matrix), logm(matrix), atol=2e-14)
    shear = np.eye(3) + size * np.eye(3, k=1)  # no basis of eigenvectors
    np.testing.assert_allclose(expm(logarithm(shear)), shear, atol=2e-14)

"""Structures in lockstep: one call for all that moved, whoever asks first."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from batching import BatchEMT

from dpa2_ase.workflows.lockstep import in_lockstep


def test_whoever_moved_is_evaluated_once():
    structures, calc = [bulk("Cu"), bulk("Al", cubic=True), bulk("Au")], BatchEMT()
    in_lockstep(structures, calc)
    energies = [atoms.get_potential_energy() for atoms in structures]
    for atoms, energy in zip(structures, energies, strict=True):
        alone = atoms.copy()
        alone.calc = EMT()
        assert alone.get_potential_energy() == energy
        np.testing.assert_allclose(alone.get_stress(), atoms.get_stress(), atol=1e-14)
    assert calc.sizes == [3]
    structures[1].rattle(0.1, seed=1)
    structures[2].set_cell(structures[2].cell * 1.01, scale_atoms=True)
    for atoms in structures:
        atoms.get_forces()
    assert calc.sizes == [3, 2]
    assert structures[0].get_potential_energy() == energies[0]


def test_who_leaves_is_on_its_own():
    structures, calc = [bulk("Cu"), bulk("Al"), bulk("Au")], BatchEMT()
    in_lockstep(structures, calc)
    structures[1].calc.leave()
    structures[0].get_potential_energy()
    structures[1].get_potential_energy()
    assert calc.sizes == [2, 1]


def test_another_structure_is_evaluated_alone():
    structures, calc = [bulk("Cu"), bulk("Al")], BatchEMT()
    in_lockstep(structures, calc)
    stranger = bulk("Pt")
    stranger.calc = structures[0].calc
    alone = bulk("Pt")
    alone.calc = EMT()
    assert stranger.get_potential_energy() == alone.get_potential_energy()
    assert calc.sizes == [1]
    structures[0].get_potential_energy()  # the calculator has gone on to the stranger, so both are evaluated
    assert calc.sizes == [1, 2]


def test_molecules_have_no_stress_and_keep_crystals_from_none():
    structures = [bulk("Cu"), molecule("CO")]
    in_lockstep(structures, BatchEMT())
    assert structures[0].get_stress().shape == (6,)
    assert structures[1].get_forces().shape == (2, 3)
    with pytest.raises(PropertyNotImplementedError, match="stress"):
        structures[1].get_stress()

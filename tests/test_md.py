"""Molecular dynamics with the bundled model: nothing leaks."""

from __future__ import annotations

import bundled
import numpy as np
import pytest
import zoo
from ase import units
from ase.md.verlet import VelocityVerlet


@pytest.mark.slow
def test_nve_conserves_energy_and_momentum():
    """2 ps of copper in steps of 1 fs, started with the velocities of 600 K that settle at 300 K.

    Velocity Verlet lets the energy of a step fluctuate by a few 1e-6 eV per atom at this temperature and step;
    gradients that are not those of the energy, or a neighbor list that misses a pair, would make it drift.
    """
    atoms = zoo.rattled("Cu", 2)
    rng = np.random.default_rng(0)
    masses = atoms.get_masses()[:, None]
    momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(masses * 600 * units.kB)
    atoms.set_momenta(momenta - masses * momenta.sum(0) / masses.sum())
    atoms.calc = bundled.calculator("Cu")
    dynamics = VelocityVerlet(atoms, timestep=1 * units.fs)
    energies, temperatures = [], []
    for _ in dynamics.irun(2000):
        energies.append(atoms.get_total_energy() / len(atoms))
        temperatures.append(atoms.get_temperature())
    energy = np.array(energies)
    drift = np.polyfit(np.linspace(0, 1, len(energy)), energy, 1)[0]
    print(f"drift {drift:.1e}, largest deviation {np.abs(energy - energy.mean()).max():.1e} eV/atom in 2 ps")
    assert len(energy) == 2001
    assert 200 < np.mean(temperatures[500:]) < 500
    assert abs(drift) < 2e-6
    assert np.abs(energy - energy.mean()).max() < 1e-5
    assert np.abs(atoms.get_momenta().sum(0)).max() < 1e-9  # rounding, of single momenta of about 1

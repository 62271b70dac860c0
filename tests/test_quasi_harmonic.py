"""Grüneisen parameters and thermal expansion of Lennard-Jones argon, whose static part is a lattice sum."""

from __future__ import annotations

import json

import argon
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.units import GPa, kB
from batching import BatchEMT

from dpa2_ase.workflows.gruneisen import Gruneisen, gruneisen
from dpa2_ase.workflows.quasi_harmonic import QuasiHarmonic, quasi_harmonic

SETTINGS = {"supercell": (4, 4, 4), "distance": 1e-3, "fmax": 1e-5}


@pytest.fixture(scope="module")
def modes() -> Gruneisen:
    return gruneisen(argon.crystal(), **SETTINGS, strain=0.004, mesh=25, points=11)


@pytest.fixture(scope="module")
def expansion() -> QuasiHarmonic:
    return quasi_harmonic(
        argon.crystal(), **SETTINGS, volumes=np.linspace(0.96, 1.12, 7), temperatures=np.arange(0, 45, 4), mesh=30
    )


def analytic_parameters(q: np.ndarray, volume: float) -> np.ndarray:
    """Of argon's dynamical matrix, by a difference of 1e-4 of the volume; three branches ascending."""
    lower, upper = ((4 * volume * (1 + sign * 1e-4)) ** (1 / 3) for sign in (-1, 1))
    return -np.log(argon.frequencies(q, upper) / argon.frequencies(q, lower)) / 2e-4


def test_modes_of_argon_have_their_gruneisen_parameters(modes):
    """At points that fit into the supercell; the square of the strain leaves 1e-3."""
    fours = 4 * modes.bands.qpoints
    exact = (np.abs(fours - np.rint(fours)).max(axis=1) < 1e-8) & (np.abs(fours).max(axis=1) > 0.5)
    assert exact.sum() >= 6
    for q, values in zip(modes.bands.qpoints[exact], modes.band_parameters[exact], strict=True):
        np.testing.assert_allclose(np.sort(values), np.sort(analytic_parameters(q, modes.volumes[1])), rtol=2e-3)
    assert 2 < np.nanmin(modes.parameters) < np.nanmax(modes.parameters) < 4


def test_translations_have_no_parameter(modes):
    at_gamma = np.abs(modes.bands.qpoints).max(axis=1) < 1e-9
    assert at_gamma.any()
    assert np.isnan(modes.band_parameters[at_gamma]).all()
    assert np.isfinite(modes.band_parameters[~at_gamma]).all()


def test_average_is_that_of_all_modes_when_hot(modes):
    hot = modes.average([1e4])[0]
    finite = np.isfinite(modes.parameters)
    weights = np.broadcast_to(modes.weights[:, None], finite.shape)[finite]
    assert hot == pytest.approx(np.average(modes.parameters[finite], weights=weights), rel=1e-4)
    assert np.isfinite(modes.average([0.0, 1.0])).all()


def test_static_part_is_the_lattice_sum(expansion):
    """Vinet's form through seven volumes leaves some tenths of a percent of the bulk modulus."""
    a = (4 * expansion.scan_volumes) ** (1 / 3)
    np.testing.assert_allclose(expansion.static_energies, [argon.energy(x) for x in a], atol=1e-9)
    at_rest = (4 * expansion.static_volume) ** (1 / 3)
    step = 1e-3
    pressures = [-argon.stress(bulk("Ar", a=at_rest * (1 + s)).cell.array)[0, 0] for s in (-step, step)]
    modulus = -(pressures[1] - pressures[0]) / (2 * step) / 3
    assert expansion.static_bulk_modulus == pytest.approx(modulus, rel=0.02)
    assert -argon.stress(bulk("Ar", a=at_rest).cell.array)[0, 0] == pytest.approx(0.0, abs=0.01)


def test_argon_expands(expansion):
    assert expansion.volumes[0] > 1.01 * expansion.static_volume  # zero-point motion
    assert (np.diff(expansion.volumes) > 0).all()
    assert (np.diff(expansion.bulk_moduli) < 0).all()
    assert expansion.bulk_moduli[0] < expansion.static_bulk_modulus
    assert expansion.thermal_expansion[0] == expansion.heat_capacities[0] == 0
    assert (np.diff(expansion.gibbs) < 0).all()
    assert (expansion.lowest_frequencies > -0.01).all()


def test_thermodynamic_and_mode_parameters_agree(expansion, modes):
    """Mode parameters are those of the volume at rest, without zero-point motion: argon's rise with volume."""
    warm = expansion.gruneisen[5:-1]
    np.testing.assert_allclose(warm, modes.average(expansion.temperatures[5:-1]), rtol=0.1)
    assert np.isnan(expansion.gruneisen[0])


def test_gibbs_energy_has_its_derivatives(expansion):
    r""":math:`C_p = -T\,\partial^2 G/\partial T^2`, from differences over four kelvin."""
    curvature = np.diff(expansion.gibbs, 2) / 4.0**2
    from_gibbs = -expansion.temperatures[1:-1] * curvature
    np.testing.assert_allclose(expansion.heat_capacities[5:-1], from_gibbs[4:], rtol=0.03)
    assert expansion.heat_capacities[-1] > 2.5 * kB


def test_pressure_compresses():
    free, pressed = (
        quasi_harmonic(argon.crystal(), supercell=(2, 2, 2), pressure=pressure, volumes=np.linspace(0.9, 1.1, 6),
                       temperatures=[0.0, 10.0, 20.0], mesh=15)
        for pressure in (0.0, 0.1)
    )  # fmt: skip
    assert (pressed.volumes < free.volumes).all()
    work = 0.1 * GPa * free.volumes
    assert ((pressed.gibbs - free.gibbs < work) & (pressed.gibbs > free.gibbs)).all()
    np.testing.assert_allclose(pressed.helmholtz, free.helmholtz, atol=1e-9)


def test_all_volumes_are_one_batch():
    atoms = bulk("Cu")
    atoms.calc = BatchEMT()
    result = quasi_harmonic(
        atoms, supercell=(2, 2, 2), relax_first="none", temperatures=[0, 100, 200], mesh=15, source="displacements"
    )
    assert atoms.calc.sizes == [14, 7]  # two displacements at each of seven volumes, and these themselves
    assert result.scan_volumes[2] == pytest.approx(0.99 * atoms.get_volume())


def test_is_written_and_drawn(expansion, modes, tmp_path):
    names = {path.name for path in [*expansion.write(tmp_path), *modes.write(tmp_path)]}
    assert {"quasi-harmonic.json", "quasi-harmonic.png", "quasi-harmonic.csv", "free-energies.svg"} <= names
    assert {"gruneisen.json", "gruneisen.png"} <= names
    stored = json.loads((tmp_path / "quasi-harmonic.json").read_text())
    assert stored["gruneisen"][0] is None
    assert stored["volumes"] == expansion.volumes.tolist()


def test_a_scan_has_to_reach():
    atoms = argon.crystal()
    settings = {"supercell": (2, 2, 2), "mesh": 15}
    with pytest.raises(ValueError, match="at 40 K the crystal has no minimum between .* widen the scan"):
        quasi_harmonic(atoms, **settings, volumes=np.linspace(0.97, 1.05, 5), temperatures=[0, 20, 40])
    with pytest.raises(ValueError, match="at least five multiples"):
        quasi_harmonic(atoms, volumes=[0.9, 1, 1.1])
    with pytest.raises(ValueError, match="at least three, ascending"):
        quasi_harmonic(atoms, temperatures=[300, 200, 100])
    with pytest.raises(ValueError, match="strain should be between"):
        gruneisen(atoms, strain=0)
    copper = bulk("Cu")
    copper.calc = EMT()
    with pytest.raises(ValueError, match="EMT has no get_hessian"):
        gruneisen(copper, source="derivatives", relax_first="none")

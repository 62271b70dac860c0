"""`dpa2_ase.workflows.vibrations` and `thermochemistry`: analytic frequencies, tabulated entropies."""

from __future__ import annotations

from pathlib import Path

import bundled
import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLength
from ase.thermochemistry import IdealGasThermo
from ase.units import J, invcm, mol
from ase.vibrations import VibrationsData
from pairs import DEPTH, LENGTH, STEEPNESS, Morse, crystal, dimer

from dpa2_ase.workflows.thermochemistry import geometry_of, harmonic, ideal_gas, symmetry_number
from dpa2_ase.workflows.vibrations import moving_atoms, vibrations

PER_CM = 16.021766  # N/m of one eV/Å²


def trimer() -> Atoms:
    atoms = Atoms("Cu3", [[0, 0, 0], [2.7, 0, 0], [1.3, 2.4, 0.2]])
    atoms.calc = Morse()
    return atoms


def test_a_dimer_has_the_frequency_of_its_spring():
    r"""Morse's curvature is 2 D a²; ν = sqrt(2k/m)/2πc."""
    found = vibrations(dimer(2.9), fmax=1e-7)
    stiffness = 2 * DEPTH * STEEPNESS**2 * PER_CM
    mass = Atoms("Cu").get_masses()[0] / 2 * 1.66053907e-27
    expected = np.sqrt(stiffness / mass) / (2 * np.pi * 2.99792458e10)
    assert found.wavenumbers == pytest.approx([expected], rel=1e-3)  # (a δ)²·7/6, the fourth derivative
    closer = vibrations(dimer(LENGTH), delta=1e-3, relax_first=False)
    assert closer.wavenumbers == pytest.approx([expected], rel=1e-5)
    assert closer.zero_point_energy == pytest.approx(expected * invcm / 2, rel=1e-5)
    assert closer.rigid < 0.2  # a straight displacement stretches the bond by δ²
    np.testing.assert_allclose(closer.modes[0, 0], -closer.modes[0, 1], atol=1e-8)
    np.testing.assert_allclose(np.abs(closer.modes[0, 0] @ [0.6, 0.8, 0]), 1 / np.sqrt(2 * 63.546), rtol=1e-6)
    assert found.method == "displacements"


def test_an_equilateral_triangle_has_its_two_frequencies():
    """Breathing ω² = 3k/m and a degenerate pair of half of that."""
    found = vibrations(trimer(), fmax=1e-6, delta=2e-3)
    squares = found.wavenumbers**2
    assert squares / squares[2] == pytest.approx([0.5, 0.5, 1.0], rel=1e-4)
    ratio = found.wavenumbers[2] / vibrations(dimer(), relax_first=False, delta=2e-3).wavenumbers[0]
    assert ratio == pytest.approx(np.sqrt(1.5), rel=1e-4)
    roots = np.sqrt(found.atoms.get_masses())[:, None]
    weighted = (found.modes * roots).reshape(3, 9)
    np.testing.assert_allclose(weighted @ weighted.T, np.eye(3), atol=1e-10)
    assert symmetry_number(found.atoms) == 6


def test_ase_finds_the_same_modes():
    """Without its rigid motions, ASE's list is ours."""
    found = vibrations(trimer(), fmax=1e-6)
    energies = VibrationsData.from_2d(found.atoms, found.hessian).get_energies()
    np.testing.assert_allclose(np.sort(energies.real)[-3:] / invcm, found.wavenumbers, rtol=1e-6)


def test_second_derivatives_of_the_calculator_are_used(monkeypatch, tmp_path):
    """Automatic differentiation and displacements of 0.01 Å agree to the fourth derivatives; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    atoms = Atoms("Cu4", [[0, 0, 0], [2.4, 0, 0], [1.2, 2.1, 0], [1.2, 0.7, 2.0]])
    atoms.calc = bundled.calculator("Cu")
    exact = vibrations(atoms)
    moved = vibrations(exact.atoms, method="displacements", relax_first=False, delta=3e-3)
    assert (exact.method, moved.method) == ("hessian", "displacements")
    scale = np.abs(exact.hessian).max()
    np.testing.assert_allclose(moved.hessian, exact.hessian, atol=1e-3 * scale)
    np.testing.assert_allclose(moved.wavenumbers, exact.wavenumbers, atol=1.0)
    assert list(Path().iterdir()) == []


def test_a_saddle_shows_its_imaginary_mode():
    """Three atoms in line, a stationary point of the Morse trimer, would rather bend: two imaginary modes."""
    atoms = Atoms("Cu3", [[-LENGTH, 0, 0], [0, 0, 0], [LENGTH, 0, 0]])
    atoms.calc = Morse()
    found = vibrations(atoms, fmax=1e-6)
    assert geometry_of(found.atoms) == "linear"
    assert found.wavenumbers.shape == (4,)
    assert len(found.imaginary) == 2
    assert found.imaginary[0] == pytest.approx(found.imaginary[1], rel=1e-6)
    assert found.thermochemistry == ()
    with_others = vibrations(atoms, fmax=1e-6, leave_out_imaginary=True)
    assert np.isfinite(with_others.thermochemistry[0].free_energy)


def test_an_adsorbate_vibrates_on_a_fixed_slab():
    slab = fcc111("Cu", (1, 1, 2), vacuum=5)
    add_adsorbate(slab, "O", 1.2, "fcc")
    slab.set_constraint(FixAtoms([0, 1]))
    slab.calc = EMT()
    before = slab.copy()
    seen = []
    found = vibrations(slab, temperatures=(300.0, 600.0), on_result=lambda *count: seen.append(count))
    assert slab == before
    assert seen[-1] == (6, 6)
    assert found.moving.tolist() == [2]
    assert found.wavenumbers.shape == (3,)
    assert found.wavenumbers[0] == pytest.approx(found.wavenumbers[1], rel=1e-3)  # a threefold site
    assert not found.modes[:, :2].any()
    cold, hot = found.thermochemistry
    assert cold.model == "harmonic"
    assert hot.free_energy < cold.free_energy
    assert cold.free_energy < found.energy + found.zero_point_energy
    assert found.rigid == 0.0


def test_a_crystal_keeps_its_translations_out():
    found = vibrations(crystal(), relax_first=False)
    assert found.wavenumbers.shape == (9,)
    assert (found.wavenumbers > 50).all()
    assert found.rigid < 1.0


def test_the_result_is_written(tmp_path):
    found = vibrations(trimer())
    names = {path.name for path in found.write(tmp_path)}
    assert names == {"vibrations.json", "vibrations-atoms.extxyz", "vibrations.png", "vibrations.svg"}
    assert found.to_dict()["thermochemistry"][0]["temperature"] == 298.15


# ---- thermochemistry -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wavenumbers", "spin", "entropy"),
    [
        ("N2", [2359], 0, 191.6),
        ("O2", [1580], 1, 205.2),
        ("H2O", [1595, 3657, 3756], 0, 188.8),
        ("CO2", [667, 667, 1333, 2349], 0, 213.8),
        ("CH4", [1306] * 3 + [1534] * 2 + [2917] + [3019] * 3, 0, 186.3),
        ("NH3", [950, 1627, 1627, 3337, 3444, 3444], 0, 192.8),
        ("Ar", [], 0, 154.8),
    ],
)
def test_tabulated_entropies(name, wavenumbers, spin, entropy):
    """Standard entropies of the NIST-JANAF tables at 298.15 K and 1 bar, J/mol/K; measured fundamentals; to 0.5."""
    atoms = Atoms("Ar") if name == "Ar" else molecule(name)
    found = ideal_gas(atoms, np.array(wavenumbers) * invcm, 298.15, spin=spin)
    assert found.entropy / (J / mol) == pytest.approx(entropy, abs=0.5)
    assert found.free_energy == pytest.approx(found.enthalpy - 298.15 * found.entropy)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("H2O", 2),
        ("NH3", 3),
        ("CH4", 12),
        ("C6H6", 12),
        ("CO2", 2),
        ("CO", 1),
        ("C2H4", 4),
        ("C2H6", 6),
        ("CH3OH", 1),
        ("H", 1),
    ],
)
def test_symmetry_numbers(name, number):
    atoms = molecule(name)
    atoms.rotate(33, (1, 2, -1))
    atoms.rattle(1e-3, seed=0)
    assert symmetry_number(atoms) == number


def test_handedness_is_no_rotation():
    """CHFClBr and its mirror image, and a molecule that only a reflection would carry into itself."""
    chiral = molecule("CH4")
    chiral.symbols[1:] = ["H", "F", "Cl", "Br"]
    assert symmetry_number(chiral) == 1
    mirror = molecule("CH4")
    mirror.symbols[1:] = ["H", "H", "Cl", "Br"]
    assert symmetry_number(mirror) == 1


def test_harmonic_limits():
    """Above all quanta every mode has the energy kT and the free energy kT ln(ħω/kT); at zero quanta nothing."""
    hot = harmonic([1e-4, 2e-4], 3000.0, energy=-1.0)
    kt = 3000 * 8.617333e-5
    assert hot.enthalpy == pytest.approx(-1 + 2 * kt, rel=1e-5)
    assert hot.free_energy == pytest.approx(-1 + kt * np.log(2e-8 / kt**2), rel=1e-5)
    assert harmonic([], 300.0, energy=2.0).free_energy == 2.0


def test_a_molecule_is_an_ideal_gas():
    atoms = molecule("N2")
    atoms.calc = EMT()
    found = vibrations(atoms, temperatures=(300.0,), pressure=2.0, fmax=1e-5)
    (state,) = found.thermochemistry
    reference = IdealGasThermo(
        [found.wavenumbers[0] * invcm], "linear", found.energy, found.atoms, symmetrynumber=2, spin=0
    )
    assert state.free_energy == pytest.approx(reference.get_gibbs_energy(300.0, 2e5, verbose=False), abs=1e-9)
    assert (state.model, state.pressure) == ("ideal gas", 2.0)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="method 'exact' is not one of"):
        vibrations(dimer(), method="exact")
    with pytest.raises(ValueError, match="should be positive"):
        vibrations(dimer(), temperatures=[0.0])
    with pytest.raises(ValueError, match="did not relax to 1e-09 eV/Å: .* is left after 1 steps"):
        vibrations(dimer(2.9), fmax=1e-9, max_steps=1)
    atoms = dimer()
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match="know only FixAtoms, found FixBondLength"):
        moving_atoms(atoms)
    atoms.set_constraint(FixAtoms([0, 1]))
    with pytest.raises(ValueError, match="no atom can move"):
        moving_atoms(atoms)
    with pytest.raises(ValueError, match="no calculator"):
        vibrations(bulk("Cu"))


def test_atoms_have_entropy_and_no_modes(tmp_path):
    """Sackur and Tetrode, and the two states of an electron: CODATA has 166.398(4) J/mol/K for gaseous copper."""
    atom, crystal = Atoms("Cu"), bulk("Cu")
    for atoms in (atom, crystal):
        atoms.calc = EMT()
        found = vibrations(atoms, spin=0.5)
        assert found.modes.shape == (0, 1, 3)
        assert found.zero_point_energy == 0
        found.write(tmp_path)
    entropy = vibrations(atom, spin=0.5).thermochemistry[0].entropy
    assert entropy / (J / mol) == pytest.approx(166.398, abs=0.01)  # masses and constants of other years

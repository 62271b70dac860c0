"""`dpa2_ase.workflows.elastic`: second derivatives of the energy, symmetry, Cauchy's relation, averages."""

from __future__ import annotations

import bundled
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from pairs import Morse, crystal

from dpa2_ase.workflows.elastic import elastic, fit_tensor
from dpa2_ase.workflows.eos import eos
from dpa2_ase.workflows.moduli import moduli_of, stability
from dpa2_ase.workflows.relax import relax
from dpa2_ase.workflows.strains import (
    invariant_basis,
    needed_strains,
    point_group,
    strain_tensor,
    strained,
    stress_rotation,
)

CUBIC = {(0, 0), (0, 1), (3, 3)}


def second_derivatives(atoms: Atoms, step: float = 2e-3) -> np.ndarray:
    """Energy's second derivatives by pairs of strains over the volume, GPa; error of order step²."""

    def energy(voigt: np.ndarray) -> float:
        one = strained(atoms, voigt)
        one.calc = atoms.calc
        return one.get_potential_energy()

    unit, found = np.eye(6) * step, np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            found[i, j] = sum(
                a * b * energy(a * unit[i] + b * unit[j]) for a in (-1, 1) for b in (-1, 1)
            )  # fmt: skip
    return found / (4 * step**2) / atoms.get_volume() * 160.21766208


def morse_fcc() -> Atoms:
    atoms = bulk("Cu", a=3.65)
    atoms.calc = Morse(6)
    return atoms


def test_a_pair_potential_obeys_cauchy():
    """Central forces and sites of inversion: c12 = c44 without pressure, here but for the parabola's third order."""
    found = elastic(morse_fcc())
    c = found.tensor
    assert (found.independent, found.strains) == (3, (0, 3))
    assert c[0, 1] == pytest.approx(c[3, 3], rel=3e-4)
    assert abs(found.pressure) < 2e-3
    assert found.stable
    exact = second_derivatives(found.atoms)
    np.testing.assert_allclose(c, exact, atol=0.05)  # fourth derivatives times strain²
    np.testing.assert_allclose(found.clamped, c)  # no atom is free to move
    assert (found.error[c != 0] < 0.05).all()
    zeros = np.ones((6, 6), dtype=bool)
    zeros[:3, :3] = zeros[range(3, 6), range(3, 6)] = False
    np.testing.assert_allclose(c[zeros], 0.0, atol=1e-10)


def test_the_bulk_modulus_is_that_of_the_equation_of_state():
    atoms = bulk("Cu")
    atoms.calc = EMT()
    found, curve = elastic(atoms), eos(atoms, strain=0.02)
    c = found.tensor
    assert (c[0, 0] + 2 * c[0, 1]) / 3 == pytest.approx(curve.fit.b0, rel=3e-3)
    assert found.moduli.bulk_hill == found.moduli.bulk_voigt == pytest.approx((c[0, 0] + 2 * c[0, 1]) / 3)
    np.testing.assert_allclose(c, second_derivatives(found.atoms), atol=0.1)  # EMT's list is cut off, noise of 1e-9 eV


def test_symmetry_changes_effort_and_not_numbers():
    atoms = bulk("Cu")
    atoms.calc = EMT()
    fast, full = elastic(atoms), elastic(atoms, symmetry=False)
    assert full.independent == 21
    np.testing.assert_allclose(fast.tensor, full.tensor, atol=0.02)


def test_the_tensor_turns_with_the_crystal():
    first = elastic(morse_fcc())
    turned = morse_fcc()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    angle = np.linalg.solve(morse_fcc().cell.array, turned.cell.array).T  # columns turn as vectors
    matrix = stress_rotation(angle)
    second = elastic(turned)
    assert second.independent == 3
    np.testing.assert_allclose(second.tensor, matrix @ first.tensor @ matrix.T, atol=0.06)  # other strains, other rest
    np.testing.assert_allclose(second.eigenvalues, first.eigenvalues, atol=0.06)
    assert second.moduli.debye_temperature == pytest.approx(first.moduli.debye_temperature, rel=2e-4)


def test_free_atoms_soften_a_hexagonal_crystal():
    """Hcp: five constants, c66 = (c11 − c12)/2, and the second sublattice gives way to shear in the plane."""
    atoms = bulk("Ti", "hcp", a=2.6, c=4.2)
    atoms.numbers[:] = 29
    atoms.calc = EMT()
    found = elastic(atoms, fmax=1e-5)
    c, clamped = found.tensor, found.clamped
    assert found.independent == 5
    assert c[5, 5] == pytest.approx((c[0, 0] - c[0, 1]) / 2, rel=1e-9)
    assert c[0, 0] == pytest.approx(c[1, 1], rel=1e-9)
    assert np.linalg.eigvalsh(clamped - c).min() > -0.1
    assert clamped[5, 5] - c[5, 5] > 1.0
    assert c[2, 2] == pytest.approx(clamped[2, 2], abs=0.1)
    np.testing.assert_allclose(clamped, second_derivatives(found.atoms), atol=0.3)
    np.testing.assert_array_equal(elastic(atoms, fmax=1e-5, relax_positions=False).tensor, clamped)


def test_a_stretched_crystal_is_relaxed_first():
    atoms = crystal(3.75)
    before = atoms.copy()
    relaxed, stretched = elastic(atoms), elastic(atoms, relax_first=False)
    assert atoms == before
    assert abs(relaxed.pressure) < 0.01
    assert stretched.pressure < -5
    assert stretched.tensor[0, 0] < relaxed.tensor[0, 0]
    assert relaxed.atoms.cell.lengths() == pytest.approx(
        relax(atoms, cell=True, fmax=1e-4).atoms.cell.lengths(), rel=1e-4
    )


def test_an_unstable_crystal_is_called_so():
    """Simple cubic with a pair potential of short range has no resistance to shear."""
    atoms = bulk("Cu", "sc", a=2.6)
    atoms.calc = EMT()
    found = elastic(atoms, relax_positions=False)
    assert not found.stable
    assert found.eigenvalues[0] < 0
    assert np.isnan(found.moduli.shear_hill)


def test_the_result_is_written(tmp_path):
    found = elastic(morse_fcc())
    names = {path.name for path in found.write(tmp_path)}
    assert names == {"elastic.json", "elastic-atoms.extxyz", "elastic.png", "elastic.svg"}
    assert found.to_dict()["moduli"]["bulk_hill"] == found.moduli.bulk_hill


# ---- second derivatives ----------------------------------------------------------------------------------------------


class Numerical(EMT):
    """EMT with second derivatives by central differences of step 1e-4 for strains and 1e-3 Å for atoms."""

    def get_strain_derivatives(self, atoms):
        stresses, forces = [], []
        for row in 1e-4 * np.eye(6):
            ends = [strained(atoms, sign * row) for sign in (1, -1)]
            for one in ends:
                one.calc = EMT()
            stresses.append((ends[0].get_stress() - ends[1].get_stress()) / 2e-4)
            forces.append((ends[0].get_forces() - ends[1].get_forces()) / 2e-4)
        return np.array(stresses), np.array(forces)

    def get_hessian(self, atoms):
        rows = []
        for shift in 1e-3 * np.eye(3 * len(atoms)).reshape(-1, len(atoms), 3):
            ends = [atoms.copy() for _ in range(2)]
            for one, sign in zip(ends, (1, -1), strict=True):
                one.positions += sign * shift
                one.calc = EMT()
            rows.append((ends[1].get_forces() - ends[0].get_forces()).ravel() / 2e-3)
        return np.array(rows)


def hexagonal() -> Atoms:
    atoms = bulk("Ti", "hcp", a=2.6, c=4.2)
    atoms.numbers[:] = 29
    atoms.calc = Numerical()
    return atoms


def test_atoms_answer_a_strain_as_when_they_are_relaxed():
    """The response of the second sublattice of hcp, solved for and relaxed to; the fit has strain² of 1e-6 left."""
    solved = elastic(hexagonal(), fmax=1e-6)
    relaxed = elastic(hexagonal(), fmax=1e-6, source="stress", strain=1e-3)
    assert (solved.source, relaxed.source, solved.strains) == ("derivatives", "stress", tuple(range(6)))
    assert solved.clamped[5, 5] - solved.tensor[5, 5] > 1.0
    np.testing.assert_allclose(solved.tensor, relaxed.tensor, atol=0.02)
    np.testing.assert_allclose(solved.clamped, relaxed.clamped, atol=0.02)
    assert solved.error.max() < 0.02
    assert solved.moduli.bulk_hill == pytest.approx(relaxed.moduli.bulk_hill, rel=1e-4)


def test_derivatives_of_a_crystal_under_pressure_are_those_of_its_stress():
    """The constants of stress against strain, not of the energy, which differ by the pressure of 13 GPa."""
    atoms = crystal(3.45, calc=Numerical())
    settings = {"relax_first": False, "relax_positions": False}
    slopes, stresses = elastic(atoms, **settings), elastic(atoms, source="stress", strain=1e-3, **settings)
    assert slopes.pressure == pytest.approx(stresses.pressure, abs=1e-9)
    assert slopes.pressure > 10
    np.testing.assert_allclose(slopes.tensor, stresses.tensor, atol=0.02)


@pytest.mark.parametrize("symbol", ["Si", "Cu"])
def test_both_sources_agree_for_the_bundled_model(symbol):
    """The diamond lattice answers to shear; parabolas through strains of 1e-3 leave 0.02 GPa of the fourth order."""
    atoms = bulk(symbol)
    atoms.calc = bundled.calculator(symbol)
    exact, fitted = elastic(atoms, fmax=1e-5), elastic(atoms, fmax=1e-5, source="stress", strain=1e-3)
    assert (exact.source, fitted.source) == ("derivatives", "stress")
    np.testing.assert_allclose(exact.tensor, fitted.tensor, atol=0.03)
    np.testing.assert_allclose(exact.clamped, fitted.clamped, atol=0.03)
    np.testing.assert_allclose(exact.error, 0.0, atol=1e-6)
    answers = exact.clamped[3, 3] - exact.tensor[3, 3]
    assert answers == pytest.approx(0.0, abs=1e-6) if symbol == "Cu" else answers > 10


def test_a_crystal_that_is_no_minimum_has_no_relaxed_constants():
    """Two atoms of simple cubic copper may shift against each other, and would run away."""
    atoms = bulk("Cu", "sc", a=2.6) * (2, 1, 1)
    atoms.calc = Numerical()
    with pytest.raises(ValueError, match="the crystal is not a minimum: a displacement of atoms has a force constant"):
        elastic(atoms)
    assert not elastic(atoms, relax_positions=False).stable


def test_sources_that_cannot_be():
    held = crystal(calc=Numerical())
    held.set_constraint(FixAtoms([0]))
    assert elastic(held, relax_first=False).source == "stress"
    with pytest.raises(ValueError, match="second derivatives know no constraints"):
        elastic(held, source="derivatives")
    with pytest.raises(ValueError, match="Morse has no get_strain_derivatives and get_hessian"):
        elastic(crystal(), source="derivatives")
    with pytest.raises(ValueError, match="source 'energy' is not one of"):
        elastic(crystal(), source="energy")


# ---- pieces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("atoms", "constants", "strains"),
    [
        (bulk("Cu"), 3, 2),
        (bulk("Si"), 3, 2),
        (bulk("Ti", "hcp", a=2.9, c=4.6), 5, 3),
        (Atoms("Cu", cell=[3, 3, 4], pbc=True), 6, None),  # tetragonal
        (Atoms("Cu", cell=[3, 3.5, 4], pbc=True), 9, None),  # orthorhombic
        (Atoms("Cu", cell=[[3, 0, 0], [0, 3.5, 0], [0.7, 0, 4]], pbc=True), 13, None),  # monoclinic
        (Atoms("Cu", cell=[[3, 0, 0], [0.4, 3.5, 0], [0.7, 0.3, 4]], pbc=True), 21, None),  # triclinic
    ],
)
def test_numbers_of_independent_constants(atoms, constants, strains):
    """As in every textbook, whatever the orientation; the chosen strains determine all of them."""
    atoms.rotate(25, (1, -1, 2), rotate_cell=True)
    basis = invariant_basis(point_group(atoms, 1e-4))
    chosen = needed_strains(basis)
    assert len(basis) == constants
    if strains is not None:
        assert len(chosen) <= strains
    rng = np.random.default_rng(0)
    tensor = np.einsum("n,nij->ij", rng.normal(size=len(basis)), basis)
    np.testing.assert_allclose(tensor, tensor.T, atol=1e-12)
    steps = np.array([-0.01, -0.005, 0.005, 0.01])
    stresses = [np.zeros(6), *(tensor[:, axis] * step + 0.3 * step**2 for axis in chosen for step in steps)]
    fitted, error = fit_tensor(np.array(stresses), steps, chosen, basis)
    np.testing.assert_allclose(fitted, tensor, atol=1e-10)
    assert error.max() < 1e-10


def test_errors_are_those_of_noise():
    """The scatter of many fits of noisy stresses is what each fit says of itself."""
    rng, steps = np.random.default_rng(0), np.array([-0.01, -0.005, 0.005, 0.01])
    basis = invariant_basis(point_group(bulk("Cu"), 1e-4))
    tensors, errors = [], []
    for _ in range(400):
        tensor, error = fit_tensor(rng.normal(0, 0.01, size=(9, 6)), steps, (0, 3), basis)
        tensors.append(tensor)
        errors.append(error)
    scatter, told = np.std(tensors, axis=0), np.sqrt(np.mean(np.square(errors), axis=0))
    for index in CUBIC:
        assert told[index] == pytest.approx(scatter[index], rel=0.15)


def test_a_strain_does_the_work_of_its_stress():
    voigt = np.array([0.01, 0.02, -0.01, 0.03, -0.02, 0.04])
    tensor = strain_tensor(voigt)
    np.testing.assert_allclose(tensor, tensor.T)
    stress = np.random.default_rng(0).normal(size=6)
    full = np.array(
        [[stress[0], stress[5], stress[4]], [stress[5], stress[1], stress[3]], [stress[4], stress[3], stress[2]]]
    )
    assert (full * tensor).sum() == pytest.approx(stress @ voigt)
    atoms = crystal()
    assert strained(atoms, voigt).get_volume() / atoms.get_volume() == pytest.approx(np.linalg.det(np.eye(3) + tensor))


def test_an_isotropic_solid():
    """Lamé's constants: K = λ + 2μ/3, G = μ; all averages agree."""
    lame, shear = 60.0, 40.0
    tensor = np.diag([2 * shear] * 3 + [shear] * 3)
    tensor[:3, :3] += lame
    found = moduli_of(tensor, density=5.0, number_density=0.05)
    assert [found.bulk_voigt, found.bulk_reuss, found.bulk_hill] == pytest.approx([lame + 2 * shear / 3] * 3)
    assert [found.shear_voigt, found.shear_reuss, found.shear_hill] == pytest.approx([shear] * 3)
    assert found.poisson == pytest.approx(lame / (2 * (lame + shear)))
    assert found.young == pytest.approx(shear * (3 * lame + 2 * shear) / (lame + shear))
    assert found.anisotropy == pytest.approx(0.0, abs=1e-12)
    assert found.transverse == pytest.approx(np.sqrt(40e9 / 5000))
    assert found.longitudinal == pytest.approx(np.sqrt(140e9 / 5000))
    np.testing.assert_allclose(stability(tensor), [2 * shear] * 5 + [3 * lame + 2 * shear])


def test_the_debye_temperature_of_copper():
    """Constants at 4 K give 344 K by integration over directions; Hill's average of an anisotropic crystal is above."""
    tensor = np.diag([176.2] * 3 + [81.8] * 3)
    tensor[:3, :3] += 124.9 * (1 - np.eye(3))
    found = moduli_of(tensor, density=9.018, number_density=4 / 3.603**3)
    assert found.debye_temperature == pytest.approx(344, rel=0.03)
    assert found.debye_temperature > 344
    assert found.bulk_hill == pytest.approx((176.2 + 2 * 124.9) / 3)
    assert found.shear_reuss < found.shear_hill < found.shear_voigt
    assert found.shear_voigt == pytest.approx((176.2 - 124.9 + 3 * 81.8) / 5)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="strain should be between 0 and 0.1"):
        elastic(crystal(), strain=0.0)
    with pytest.raises(ValueError, match="three periodic directions"):
        elastic(Atoms("Cu"))
    with pytest.raises(
        ValueError, match=r"the structure did not relax to 1e-06 eV/Å: .* eV/Å is left after 1 steps; allow"
    ):
        elastic(crystal(3.8), fmax=1e-6, max_steps=1)

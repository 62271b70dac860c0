"""`vacancy`, `surface` and `convergence`: bonds that can be counted."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from pairs import Morse, crystal

from dpa2_ase.workflows.convergence import convergence
from dpa2_ase.workflows.strains import crystal_symmetry
from dpa2_ase.workflows.surface import JOULE_PER_M2, surface
from dpa2_ase.workflows.vacancy import repeats_of, vacancy

NEAREST = 2.5  # Å


def bonded() -> Atoms:
    """Fcc with bonds to the twelve nearest neighbors alone, each of the same energy."""
    atoms = bulk("Cu", a=NEAREST * np.sqrt(2), cubic=True)
    atoms.calc = LennardJones(sigma=NEAREST / 2 ** (1 / 6), epsilon=0.3, rc=1.2 * NEAREST)
    return atoms


def bond() -> float:
    """Energy of one bond: the calculator's energy is shifted to zero at its cutoff."""
    return 0.3 * (-1 - (1.2**-12 - 2 * 1.2**-6))


def emt() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    return atoms


# ---- vacancy ---------------------------------------------------------------------------------------------------------


def test_a_vacancy_breaks_twelve_bonds_and_its_atom_makes_six():
    """Of a pair potential, the unrelaxed energy is that of six bonds, the cohesive energy."""
    atoms = bonded()
    found = vacancy(atoms, repeats=(2, 2, 2), relax_first=False, relax_positions=False)
    (site,) = found.sites
    assert site.unrelaxed == site.formation_energy == pytest.approx(-6 * bond(), rel=1e-10)
    assert site.unrelaxed == pytest.approx(-atoms.get_potential_energy() / 4, rel=1e-10)
    assert (site.index, site.symbol, site.multiplicity) == (0, "Cu", 4)
    assert len(found.defects[0]) == 31


def test_relaxation_lowers_it_and_the_input_stays():
    atoms = emt()
    before = atoms.copy()
    found = vacancy(atoms, shortest=7.0)
    (site,) = found.sites
    assert atoms == before
    assert found.repeats == (2, 2, 2)
    assert 1.0 < site.formation_energy < site.unrelaxed < 1.5  # EMT's copper: 1.1 to 1.2 eV
    assert np.abs(found.defects[0].get_forces()).max() < 0.01
    assert found.chemical_potentials["Cu"] == pytest.approx(found.crystal.get_potential_energy() / 4)


def test_every_kind_of_site(tmp_path):
    """Cu3Au: two kinds, three and one; potentials decide which are made, and shift the energies."""
    atoms = emt()
    atoms.symbols[0] = "Au"
    given = {"Cu": -0.1, "Au": -0.2}
    found = vacancy(atoms, repeats=(2, 2, 2), chemical_potentials=given, fmax=0.05)
    assert [(site.symbol, site.multiplicity) for site in found.sites] == [("Au", 1), ("Cu", 3)]
    only = vacancy(atoms, repeats=(2, 2, 2), chemical_potentials={"Au": 0.8}, fmax=0.05)
    (gold,) = only.sites
    assert gold.formation_energy == pytest.approx(found.sites[0].formation_energy + 1.0)
    with pytest.raises(ValueError, match="give chemical_potentials"):
        vacancy(atoms)
    with pytest.raises(ValueError, match=r"chemical potentials of \['Ag'\]; the crystal has \['Au', 'Cu'\]"):
        vacancy(atoms, chemical_potentials={"Ag": 0.0})
    names = {path.name for path in found.write(tmp_path)}
    assert names == {
        "vacancy.json", "vacancy.png", "vacancy.svg", "vacancy-crystal.extxyz", "vacancy-Au0.extxyz",
        "vacancy-Cu1.extxyz",
    }  # fmt: skip


def test_repeats_reach_as_far_as_asked():
    skewed = Atoms("Cu", cell=[[3, 0, 0], [2.9, 3, 0], [0, 0, 12]], pbc=True)
    assert repeats_of(skewed, 9.0) == (5, 3, 1)  # faces of the first vector are 3·3/4.17 apart
    repeated = skewed.repeat(repeats_of(skewed, 9.0))
    assert (1 / np.linalg.norm(np.linalg.inv(repeated.cell.array), axis=0) >= 9.0).all()
    with pytest.raises(ValueError, match="should be positive"):
        repeats_of(skewed, 0.0)


def test_vacancies_that_cannot_be():
    slab = fcc111("Cu", (1, 1, 2), vacuum=5)
    slab.calc = EMT()
    with pytest.raises(ValueError, match="three periodic directions"):
        vacancy(slab)
    with pytest.raises(ValueError, match="the vacancy of atom 0 did not relax to 1e-08 eV/Å"):
        vacancy(emt(), repeats=(2, 1, 1), relax_first=False, fmax=1e-8, max_steps=1)
    atoms = crystal(3.8)
    with pytest.raises(ValueError, match="the structure did not relax"):
        vacancy(atoms, fmax=1e-7, max_steps=1)


# ---- surface ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("miller", "broken", "area"),
    [((1, 1, 1), 3, np.sqrt(3) / 2), ((1, 0, 0), 4, 1.0), ((1, 1, 0), 6, np.sqrt(2))],  # per atom; nearest distances²
)
def test_surfaces_break_bonds(miller, broken, area):
    """Each broken bond is shared by two surfaces."""
    found = surface(bonded(), miller, layers=(3, 5), relax_first=False, relax_positions=False)
    expected = -broken * bond() / 2 / (area * NEAREST**2) * JOULE_PER_M2
    np.testing.assert_allclose(found.energies, expected, rtol=1e-8)
    assert found.energy == found.energies[-1]
    assert found.fitted == pytest.approx(expected, rel=1e-8)
    np.testing.assert_array_equal(found.energies, found.unrelaxed)
    assert found.slab.pbc.tolist() == [True, True, False]


def test_close_packed_is_lowest_and_relaxing_lowers(tmp_path):
    atoms = emt()
    before = atoms.copy()
    dense, open_ = (surface(atoms, miller, layers=(4, 5, 6), fmax=1e-3) for miller in ((1, 1, 1), (1, 0, 0)))
    assert atoms == before
    assert 0.5 < dense.energy < open_.energy < 2.0
    for found in (dense, open_):
        assert (found.energies < found.unrelaxed).all()
        assert found.fitted == pytest.approx(found.energy, rel=0.02)
    assert pytest.approx(16.0217663, rel=1e-7) == JOULE_PER_M2
    names = {path.name for path in dense.write(tmp_path)}
    assert names == {
        "surface.json", "surface.png", "surface.svg", "surface-crystal.extxyz", "surface-slab.extxyz"
    }  # fmt: skip


def test_surfaces_that_cannot_be():
    with pytest.raises(ValueError, match="two or more positive numbers of layers"):
        surface(emt(), layers=(4,))
    with pytest.raises(ValueError, match="not all zero"):
        surface(emt(), (0, 0, 0))
    slab = fcc111("Cu", (1, 1, 2), vacuum=5)
    slab.calc = EMT()
    with pytest.raises(ValueError, match="three periodic directions"):
        surface(slab)
    with pytest.raises(ValueError, match="the slab of 2 layers did not relax to 1e-09"):
        surface(emt(), layers=(2, 3), relax_first=False, fmax=1e-9, max_steps=1)
    with pytest.raises(ValueError, match="the structure did not relax"):
        surface(crystal(3.8), fmax=1e-6, max_steps=1)


def test_symmetry_of_overlapping_atoms():
    atoms = Atoms("Cu2", np.zeros((2, 3)), cell=[3, 3, 3], pbc=True)
    with pytest.raises(ValueError, match="spglib finds no symmetry"):
        crystal_symmetry(atoms, 1e-3)


# ---- convergence -----------------------------------------------------------------------------------------------------


def test_a_series_converges_where_it_stays():
    """1/n²: the first n from which the next two differ by less than the tolerance."""
    seen = []
    found = convergence(lambda n: 1 / n**2, range(1, 50), tolerance=0.01, on_value=lambda *pair: seen.append(pair))
    assert found.converged
    n = found.setting
    assert 1 / n**2 - 1 / (n + 2) ** 2 <= 0.01 < 1 / (n - 1) ** 2 - 1 / (n + 1) ** 2
    assert found.settings[-1] == n + 2  # no further
    assert seen == list(zip(found.settings, found.values.tolist(), strict=True))


def test_chance_is_not_convergence(tmp_path):
    values = {1: 0.0, 2: 0.001, 3: 1.0, 4: 2.0}
    found = convergence(values.get, [1, 2, 3, 4], tolerance=0.1)
    assert not found.converged
    assert found.setting is None
    assert convergence(values.get, [1, 2, 3, 4], tolerance=0.1, stable=1).setting == 1
    assert {path.name for path in found.write(tmp_path)} == {f"convergence.{end}" for end in ("json", "png", "svg")}
    with pytest.raises(ValueError, match="the quantity is nan at setting 2"):
        convergence({1: 0.0, 2: np.nan}.get, [1, 2, 3], tolerance=1.0)
    with pytest.raises(ValueError, match="more than stable=2"):
        convergence(values.get, [1, 2], tolerance=1.0)


def test_a_vacancy_converges_with_its_cell():
    """Of a short pair potential, unrelaxed, at once: images of the vacancy share no bond from two cells on."""
    atoms = crystal(calc=Morse(1))

    def energy(n: int) -> float:
        atoms.calc = bonded().calc
        found = vacancy(atoms, repeats=(n, n, n), relax_first=False, relax_positions=False)
        return found.sites[0].formation_energy

    found = convergence(energy, (2, 3, 4), tolerance=1e-8)
    assert found.setting == 2

"""`dpa2_ase.workflows.dispersion`: D3(BJ) by its formula, its parameters, and derivatives of what is added."""

from __future__ import annotations

import builtins

import bundled
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.mixing import SumCalculator
from ase.units import Bohr, Hartree
from batching import BatchEMT

from dpa2_ase.workflows.dispersion import CONTAINED, CUTOFF, D3, METHODS, SMOOTH, method_of, with_dispersion
from dpa2_ase.workflows.elastic import elastic
from dpa2_ase.workflows.phonons import phonons
from dpa2_ase.workflows.relax_many import relax_many
from dpa2_ase.workflows.results import provenance_of
from dpa2_ase.workflows.strains import strained

ARGON = 64.6462  # Hartree Bohr⁶, C6 of two argon atoms: S. Grimme et al., J. Chem. Phys. 132, 154104 (2010)
# a1, s8, a2 in Bohr; s6 = 1. PBE, PBE0, TPSS, BLYP, B3LYP, revPBE: S. Grimme, S. Ehrlich, L. Goerigk, J. Comput. Chem.
# 32, 1456 (2011), table 2; SCAN: J. G. Brandenburg et al., Phys. Rev. B 94, 115144 (2016)
PUBLISHED = {
    "PBE": (0.4289, 0.7875, 4.4407),
    "PBE0": (0.4145, 1.2177, 4.8593),
    "TPSS": (0.4535, 1.9435, 4.4752),
    "BLYP": (0.4298, 2.6996, 4.2359),
    "B3LYP": (0.3981, 1.9889, 4.4211),
    "revPBE": (0.5238, 2.3550, 3.5016),
    "SCAN": (0.5380, 0.0, 5.4200),
}
PARTLY = {"fcc": (True, True, True), "slab": (True, True, False), "wire": (False, True, False)}


def energy(atoms: Atoms, functional: str, **options: object) -> float:
    calc = with_dispersion(EMT(), functional, **options).correction
    return calc.get_property("energy", atoms)


def argon(distance: float) -> Atoms:
    return Atoms("Ar2", [[0, 0, 0], [0, 0, distance]])


def formula(r: float, functional: str, c8: float) -> float:
    """E = −C6/(r⁶ + R⁶) − s8 C8/(r⁸ + R⁸), R = a1 (C8/C6)^½ + a2, in eV; r in Å, C8 in atomic units."""
    a1, s8, a2 = PUBLISHED[functional]
    r, radius = r / Bohr, a1 * np.sqrt(c8 / ARGON) + a2
    return -(ARGON / (r**6 + radius**6) + s8 * c8 / (r**8 + radius**8)) * Hartree


@pytest.fixture(scope="module")
def c8() -> float:
    """C8 of two argon atoms, which the papers do not print: from the energy at 9 Å, a tenth of which it makes."""
    low, high, found = 100.0, 10000.0, energy(argon(9.0), "PBE")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if formula(9.0, "PBE", middle) < found else (middle, high)
    assert 1500 < low < 2500  # 3 ⟨r⁴⟩/⟨r²⟩ C6 of an atom of this size
    return low


@pytest.mark.parametrize("functional", PUBLISHED)
def test_two_argon_atoms_attract_by_the_published_formula(functional, c8):
    """One value of C8 gives the energies of all functionals at all distances."""
    for distance in (3.2, 3.8, 5.0, 9.0, 20.0):
        assert energy(argon(distance), functional) == pytest.approx(formula(distance, functional, c8), rel=1e-5)


def test_water_of_the_librarys_manual():
    """The energies of its example, with two bodies at a time; three add little within one molecule."""
    water = molecule("H2O")
    assert energy(water, "PBE") == pytest.approx(-0.009781920198843976, abs=1e-10)
    assert energy(water, "TPSS") == pytest.approx(-0.011441640787279111, abs=1e-10)
    assert 0 < abs(energy(water, "PBE", three_body=True) - energy(water, "PBE")) < 1e-6


def test_graphite_binds():
    """PBE-D3 (the sheets of PBE alone hardly stick) adds 48 to 65 meV per atom at 3.35 Å, as all variants of D3 do."""

    def sheets(distance: float) -> Atoms:
        cell = [[2.46, 0, 0], [-1.23, 2.46 * np.sqrt(3) / 2, 0], [0, 0, 2 * distance]]
        places = [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25], [0, 0, 0.75], [2 / 3, 1 / 3, 0.75]]
        return Atoms("C4", scaled_positions=places, cell=cell, pbc=True)

    binding = (energy(sheets(15.0), "PBE") - energy(sheets(3.35), "PBE")) / 4
    assert 0.045 < binding < 0.068


# ---- derivatives -----------------------------------------------------------------------------------------------------


def irregular(pbc: tuple[bool, bool, bool]) -> Atoms:
    """Six atoms, some outside the cell, in a skewed cell."""
    atoms = bulk("Cu", cubic=True)[:3] + bulk("Au", cubic=True)[1:]
    atoms.positions += np.random.default_rng(4).normal(0, 0.3, (6, 3)) + np.arange(6)[:, None] * [0.0, 0.0, 2.1]
    atoms.set_cell([[3.9, 0.2, 0.1], [0.5, 4.1, -0.2], [-0.3, 0.4, 13.0]])
    atoms.pbc = pbc
    return atoms


@pytest.mark.parametrize(("kind", "three_body"), [("fcc", False), ("slab", False), ("wire", False), ("wire", True)])
def test_forces_and_stress_are_derivatives(kind, three_body):
    """Central differences of 1e-5; larger ones run into the steps of 3e-7 eV where neighbors are no longer counted."""
    atoms = irregular(PARTLY[kind])
    atoms.calc = with_dispersion(EMT(), "PBE", three_body=three_body)
    calc = atoms.calc.correction

    def slope(make) -> float:
        return (calc.get_property("energy", make(1e-5)) - calc.get_property("energy", make(-1e-5))) / 2e-5

    def moved(step: float, index: int, axis: int) -> Atoms:
        one = atoms.copy()
        one.positions[index, axis] += step
        return one

    forces, stress = calc.get_property("forces", atoms), calc.get_property("stress", atoms)
    for index, axis in ((0, 0), (3, 2), (5, 1)):
        numeric = -slope(lambda h, i=index, a=axis: moved(h, i, a))
        assert forces[index, axis] == pytest.approx(numeric, abs=1e-7)
    for component in range(6):
        unit = np.eye(6)[component]
        numeric = slope(lambda h, unit=unit: strained(atoms, h * unit)) / atoms.get_volume()
        assert stress[component] == pytest.approx(numeric, abs=1e-8)


def test_open_directions_have_no_images():
    """Whatever the cell says of them, and wherever the atoms are; the library folds them back into the cell."""
    slab = fcc111("Cu", (1, 1, 4))
    reference = None
    for height, shift in ((0.0, 0.0), (2.0, 0.0), (5.0, -3.0), (40.0, 77.0)):
        one = slab.copy()
        one.cell[2] = [0.3 * height, 0.0, height]
        one.positions[:, 2] += shift
        found = energy(one, "PBE")
        reference = reference or found
        assert found == pytest.approx(reference, abs=1e-12)
    periodic = slab.copy()
    periodic.cell[2] = [0.0, 0.0, 2 * CUTOFF]
    periodic.pbc = True
    assert energy(periodic, "PBE") == pytest.approx(reference, abs=1e-12)


def test_the_cutoff_makes_no_step(c8):
    """Forces go to zero with the energy; a sharp cutoff would leave a step of 1e-7 eV that minimizers trip over."""
    inside, at, outside = (energy(argon(r), "PBE") for r in (CUTOFF - SMOOTH - 0.01, CUTOFF - 0.01, CUTOFF + 0.01))
    assert inside == pytest.approx(formula(CUTOFF - SMOOTH - 0.01, "PBE", c8), rel=1e-5)
    assert 0 <= -at < 1e-6 * -inside
    assert outside == 0.0
    with pytest.raises(ValueError, match="the cutoff should be above"):
        with_dispersion(EMT(), "PBE", cutoff=3.0)


@pytest.fixture(scope="module")
def ours():
    return with_dispersion(bundled.calculator("Cu"), "PBE")


def test_second_derivatives_are_those_of_the_sum(ours):
    """Phonons and elastic constants by derivatives agree with those by displacements and strained cells."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.02, seed=1)
    atoms.calc = ours
    vectors = np.random.default_rng(0).normal(size=(2, 4, 3))
    hessian = ours.get_hessian(atoms)
    products = ours.get_hessian_products(vectors, atoms)
    np.testing.assert_allclose(products.reshape(2, -1), vectors.reshape(2, -1) @ hessian, atol=1e-9)
    forces = []
    for sign in (1, -1):
        one = atoms.copy()
        one.positions += sign * 1e-4 * vectors[0]
        forces.append(ours.get_property("forces", one))
    np.testing.assert_allclose(products[0], (forces[1] - forces[0]) / 2e-4, atol=1e-5)


def test_workflows_with_dispersion(ours):
    atoms = bulk("Cu")
    atoms.calc = ours
    settings = {"fmax": 1e-5, "strain": 1e-3}
    exact, fitted = elastic(atoms, **settings), elastic(atoms, source="stress", **settings)
    assert (exact.source, fitted.source) == ("derivatives", "stress")
    np.testing.assert_allclose(exact.tensor, fitted.tensor, atol=0.1)  # GPa, the fit's fourth order
    both = [
        phonons(exact.atoms, supercell=(2, 2, 2), relax_first="none", source=source).frequencies([[0.5, 0.5, 0.0]])
        for source in ("derivatives", "displacements")
    ]
    np.testing.assert_allclose(both[0], both[1], atol=5e-3)  # THz, displacements of 0.01 Å


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_batches_stay_batches():
    inner = BatchEMT()
    calc = with_dispersion(inner, "PBE")
    structures = [bulk("Cu"), bulk("Au", cubic=True), molecule("CO")]
    results = calc.evaluate(structures, ["energy", "free_energy", "forces", "stress"])
    assert inner.sizes == [3]
    for atoms, found in zip(structures, results, strict=True):
        parts = [part.get_property("energy", atoms) for part in (EMT(), calc.correction)]
        assert found["energy"] == found["free_energy"] == pytest.approx(sum(parts), abs=1e-12)
        one = atoms.copy()
        one.calc = with_dispersion(EMT(), "PBE")
        np.testing.assert_allclose(found["forces"], one.get_forces(), atol=1e-12)
        assert one.get_potential_energy(force_consistent=True) == pytest.approx(found["energy"], abs=1e-12)
        if atoms.pbc.any():
            np.testing.assert_allclose(found["stress"], one.get_stress(), atol=1e-12)
    assert "stress" not in results[2]
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("stress", structures[2])


def test_relaxations_in_batches_end_where_single_ones_do(ours):
    structures = [bulk("Cu", a=3.5), bulk("Cu", a=3.7, cubic=True)]
    together = relax_many(structures, ours, cell=True, fmax=1e-3)
    volumes = [run.atoms.get_volume() / len(run.atoms) for run in together]
    assert volumes[0] == pytest.approx(volumes[1], rel=1e-3)
    bare = relax_many(structures[:1], ours.model, cell=True, fmax=1e-3)[0]
    assert volumes[0] < bare.atoms.get_volume()


def test_provenance_names_both_parts(ours):
    assert isinstance(ours, SumCalculator)
    found = provenance_of(ours)
    model, correction = found["calculator"]["parts"]
    assert len(model["source"]["sha256"]) == 64
    assert correction["parameters"] == {"method": "pbe", "three_body": False, "cutoff": CUTOFF}
    assert found["versions"]["dftd3"] is not None


# ---- functionals -----------------------------------------------------------------------------------------------------


class Known(EMT):
    def __init__(self, **source: str):
        super().__init__()
        self.source = source


@pytest.mark.parametrize("name", METHODS)
def test_every_functional_has_parameters_in_the_library(name):
    assert energy(argon(3.8), name) < 0


@pytest.mark.parametrize(
    ("written", "method"), [("PBE", "pbe"), ("B3-LYP", "b3lyp"), ("r²SCAN", "r2scan"), ("HSE 06", "hse06")]
)
def test_names_are_written_in_many_ways(written, method):
    assert method_of(EMT(), written) == method


def test_the_functional_of_a_head_is_known():
    assert method_of(Known(functional="SCAN"), None) == "scan"
    assert method_of(Known(functional="SCAN"), "scan") == "scan"
    with pytest.raises(ValueError, match="the data of this model are of SCAN, not of PBE"):
        method_of(Known(functional="SCAN"), "PBE")
    with pytest.raises(ValueError, match=r"contain dispersion already \(D3\(BJ\)\); it would count twice"):
        method_of(Known(functional="PBE", dispersion="D3(BJ)"), None)
    with pytest.raises(ValueError, match="which functional made the data of this model"):
        method_of(EMT(), None)


@pytest.mark.parametrize(
    "name",
    ["PBE-D3", "PBE-D3(BJ)", "r2SCAN-D4", "wB97X-D", "ωB97M-V", "B97M-rV", "optB88-vdW", "vdW-DF2", "SCAN+rVV10",
     "PBE0-TS", "PBE+MBD", "B86bPBE-XDM"],
)  # fmt: skip
def test_dispersion_is_not_added_twice(name):
    with pytest.raises(ValueError, match="contains dispersion already; it would count twice"):
        with_dispersion(EMT(), name)


def test_plain_functionals_are_not_taken_for_corrected_ones():
    assert [name for name in (*METHODS, *PUBLISHED, "B3-LYP") if CONTAINED.search(name)] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wB97X", "no D3.BJ. parameters for wB97X: it was fitted to noncovalent energies"),
        ("ωB97X", "refitted functional"),
        ("LDA", "overbinds"),
        ("PBEh", "no D3.BJ. parameters are known for 'PBEh'; known: "),
    ],
)
def test_functionals_without_parameters_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        with_dispersion(EMT(), name)


def test_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.partition(".")[0] == "dftd3":
            raise ModuleNotFoundError("No module named 'dftd3'", name="dftd3")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match="pip install dftd3"):
        D3("pbe", three_body=False, cutoff=CUTOFF)

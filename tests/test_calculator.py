"""The contract of `DPA2Calculator` with ASE and with users."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError, get_calculator_class
from ase.db import connect
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import FIRE
from bundled import head_for
from zoo import METALS

from dpa2_ase import DPA2Calculator, heads, load_potential

DATA = Path(__file__).parent / "data"
PARITY = DATA / "parity"


def copper(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.05, seed=seed)
    return atoms


def oxide(pbc: bool = True) -> Atoms:
    """A few O, H and Cu atoms, for the parity models."""
    rng = np.random.default_rng(3)
    cell = np.array([[5.5, 0.3, 0.1], [0.7, 5.1, -0.4], [-0.2, 0.5, 5.8]])
    grid = np.array([[i, j, k] for i in (0, 0.5) for j in (0, 0.5) for k in (0, 0.5)])
    positions = grid @ cell + rng.normal(0, 0.15, (8, 3))
    return Atoms("OHHCuOHCuH", positions=positions, cell=cell, pbc=pbc)


@pytest.fixture(scope="module")
def calc() -> DPA2Calculator:
    return DPA2Calculator(METALS, dtype="float64")


class Counter:
    """Counts forward and backward passes of a calculator by wrapping the real functions."""

    def __init__(self, calculator: DPA2Calculator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forward = self.backward = 0
        evaluator = calculator.evaluator
        real_forward, real_gradients = evaluator.forward, evaluator.gradients

        def forward(*args, **kwargs):
            self.forward += 1
            return real_forward(*args, **kwargs)

        def gradients(*args, **kwargs):
            self.backward += 1
            return real_gradients(*args, **kwargs)

        monkeypatch.setattr(evaluator, "forward", forward)
        monkeypatch.setattr(evaluator, "gradients", gradients)

    @property
    def counts(self) -> tuple[int, int]:
        return self.forward, self.backward


# ---- results -------------------------------------------------------------------------------------


def test_results_and_their_relations(calc):
    atoms = copper()
    atoms.calc = calc
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    assert isinstance(energy, float)
    assert forces.shape == (8, 3)
    assert stress.shape == (6,)
    assert atoms.get_potential_energy(force_consistent=True) == energy == calc.results["free_energy"]
    np.testing.assert_allclose(atoms.get_potential_energies().sum(), energy, rtol=1e-14)
    np.testing.assert_allclose(atoms.get_stresses().sum(axis=0), stress, atol=1e-15)
    virial = calc.results["virial"]
    np.testing.assert_array_equal(virial, virial.T)
    np.testing.assert_allclose(-virial / atoms.get_volume(), atoms.get_stress(voigt=False), atol=1e-16)
    assert set(calc.implemented_properties) >= {"energy", "free_energy", "forces", "stress", "energies", "stresses"}


def test_default_model_is_the_bundled_one():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = DPA2Calculator(head=head_for("Cu"))
    assert atoms.get_potential_energy() / 4 == pytest.approx(-4.09, abs=0.05)  # VASP PBE total energy of fcc Cu
    assert atoms.calc.parameters["model"].endswith(".pt")


@pytest.mark.parametrize(
    ("case", "name", "shape"),
    [
        ("dpa2-dipole", "dipole", (3,)),
        ("dpa2-polar", "polarizability", (3, 3)),
        ("dpa2-dos", "dos", (7,)),
        ("dpa2-property", "gap", (3,)),
    ],
)
def test_other_kinds_of_models(case, name, shape):
    calculator = DPA2Calculator(PARITY / f"{case}.pt")
    atoms = oxide()
    atoms.calc = calculator
    assert calculator.get_property(name, atoms).shape == shape
    np.testing.assert_array_equal(calculator.evaluate([atoms])[0][name], calculator.results[name])
    with pytest.raises(PropertyNotImplementedError, match=rf"has no \['energy'\]; it has .*{name}"):
        atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match="no energy to differentiate"):
        calculator.get_hessian(atoms)
    if name == "dipole":
        np.testing.assert_array_equal(atoms.get_dipole_moment(), calculator.results["dipole"])


def test_energy_models_have_no_dipole(calc):
    atoms = copper()
    atoms.calc = calc
    with pytest.raises(PropertyNotImplementedError, match=r"no \['dipole'\]"):
        atoms.get_dipole_moment()


# ---- work done -----------------------------------------------------------------------------------


def test_an_interrupted_calculation_is_begun_anew(calc, monkeypatch):
    """What was half used up is not asked again: the next answers are those of an undisturbed calculator."""
    atoms = copper(5)
    atoms.calc = DPA2Calculator(METALS, dtype="float64")

    def interrupted(*_):
        raise KeyboardInterrupt

    atoms.get_potential_energy()
    with monkeypatch.context() as patch:
        patch.setattr(atoms.calc.evaluator, "gradients", interrupted)
        with pytest.raises(KeyboardInterrupt):
            atoms.get_forces()
    forces = atoms.get_forces()
    np.testing.assert_array_equal(forces, calc.get_forces(atoms))
    assert atoms.get_potential_energy() == calc.get_potential_energy(atoms)


def test_energy_costs_no_backward_and_forces_no_second_forward(calc, monkeypatch):
    atoms = copper(1)
    atoms.calc = calc
    count = Counter(calc, monkeypatch)
    energy = atoms.get_potential_energy()
    assert count.counts == (1, 0)
    atoms.get_potential_energies()
    assert count.counts == (1, 0)
    atoms.get_forces()
    assert count.counts == (1, 1)
    atoms.get_stress()
    atoms.get_forces()
    assert atoms.get_potential_energy() == energy
    assert count.counts == (1, 1)


def test_calculate_called_directly_leaves_nothing_of_the_last_structure():
    calculator = DPA2Calculator(METALS, dtype="float64")
    first, second = copper(1), copper(2)
    calculator.calculate(first, ["energy", "forces"])
    forces = calculator.results["forces"]
    calculator.calculate(second, ["energy"])
    assert "forces" not in calculator.results
    calculator.calculate(second, ["forces"], [])
    assert np.abs(calculator.results["forces"] - forces).max() > 0.01
    with pytest.raises(PropertyNotImplementedError, match=r"has no \['magmoms'\]"):
        calculator.calculate(second, ["magmoms"])


def test_energies_of_a_batch_cost_no_backward(calc, monkeypatch):
    count = Counter(calc, monkeypatch)
    results = calc.evaluate([copper(), copper(1)], ["energy"])
    assert count.counts == (1, 0)
    assert [sorted(r) for r in results] == [["energy"], ["energy"]]


@pytest.mark.parametrize("change", ["positions", "cell", "numbers", "pbc"])
def test_cache_notices_changes(calc, monkeypatch, change):
    atoms = copper(2)
    atoms.calc = calc
    before = atoms.get_potential_energy()
    count = Counter(calc, monkeypatch)
    if change == "positions":
        atoms.positions[0, 0] += 1e-6
    elif change == "cell":
        atoms.cell[0, 0] *= 1 + 1e-6
    elif change == "numbers":
        atoms.numbers[0] = 28
    else:
        atoms.pbc = (True, True, False)
    assert atoms.get_potential_energy() != before
    assert count.counts == (1, 0)


def test_cache_ignores_what_the_model_does_not_read(calc, monkeypatch):
    atoms = copper(3)
    atoms.calc = calc
    atoms.get_forces()
    count = Counter(calc, monkeypatch)
    atoms.set_initial_magnetic_moments(np.ones(len(atoms)))
    atoms.set_initial_charges(np.ones(len(atoms)))
    atoms.info["anything"] = 1
    atoms.get_forces()
    assert count.counts == (0, 0)


def test_frame_and_atomic_parameters():
    calculator = DPA2Calculator(PARITY / "dpa2-gelu-aparam.pt")
    atoms = oxide()
    atoms.calc = calculator
    with pytest.raises(ValueError, match="needs 2 frame parameters"):
        atoms.get_potential_energy()
    atoms.info["fparam"] = [0.3, -0.7]
    with pytest.raises(ValueError, match="needs 1 parameters per atom"):
        atoms.get_potential_energy()
    atoms.arrays["aparam"] = np.linspace(-1, 1, len(atoms))[:, None]
    first = atoms.get_potential_energy()
    assert calculator.check_state(atoms) == []
    atoms.info["fparam"] = np.array([0.3, -0.6])
    assert calculator.check_state(atoms) == ["fparam"]
    second = atoms.get_potential_energy()
    atoms.arrays["aparam"] = atoms.arrays["aparam"] * 0.5
    third = atoms.get_potential_energy()
    assert len({first, second, third}) == 3
    del atoms.arrays["aparam"]
    atoms.info["aparam"] = 0.5 * np.linspace(-1, 1, len(atoms))[:, None]
    assert atoms.get_potential_energy() == pytest.approx(third, abs=1e-13)
    for wrong in ([0.3], [0.3, np.nan], "ab", [[1.0], [2.0]]):
        atoms.info["fparam"] = wrong
        with pytest.raises(ValueError, match=r"fparam should be .*shape \(2,\)"):
            atoms.get_potential_energy()
    atoms.info = {"fparam": [0.3, -0.6], "aparam": np.ones((3, 1))}
    with pytest.raises(ValueError, match=r"aparam should be finite numbers of shape \(8, 1\), found shape \(3, 1\)"):
        atoms.get_potential_energy()


def test_parameters_changed_in_place_are_noticed():
    """ASE copies `atoms.info` as a dictionary, so its values are the user's own objects."""
    calculator = DPA2Calculator(PARITY / "dpa2-gelu-aparam.pt")
    atoms = oxide()
    atoms.info.update(fparam=np.array([0.3, -0.7]), aparam=np.ones((8, 1)))
    energies = [calculator.get_potential_energy(atoms)]
    atoms.info["fparam"][:] = 0.5
    energies.append(calculator.get_potential_energy(atoms))
    atoms.info["aparam"][0] = 2.0
    energies.append(calculator.get_potential_energy(atoms))
    assert len(set(energies)) == 3
    given = np.array([0.3, -0.7])
    calculator = DPA2Calculator(PARITY / "dpa2-gelu-aparam.pt", fparam=given, aparam=np.ones((8, 1)))
    given[:] = 0.5
    assert calculator.get_potential_energy(oxide()) == energies[0]
    facts = calculator.todict()
    assert facts["fparam"] == [0.3, -0.7]
    assert facts["aparam"] == [[1.0]] * 8


def test_parameters_of_the_calculator_serve_structures_without():
    given = DPA2Calculator(PARITY / "dpa2-gelu-aparam.pt", fparam=[0.3, -0.7], aparam=np.ones((8, 1)))
    own = DPA2Calculator(PARITY / "dpa2-gelu-aparam.pt")
    atoms, other = oxide(), oxide()
    other.info.update(fparam=[0.3, -0.7], aparam=np.ones((8, 1)))
    assert given.get_potential_energy(atoms) == own.get_potential_energy(other)
    assert given.evaluate([atoms])[0]["energy"] == pytest.approx(own.get_potential_energy(other), rel=1e-14)


# ---- periodicity ---------------------------------------------------------------------------------


def test_molecule_has_no_stress(calc):
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.3]])
    atoms.calc = calc
    assert np.isfinite(atoms.get_potential_energy())
    np.testing.assert_allclose(atoms.get_forces().sum(axis=0), 0, atol=1e-12)
    for ask in (atoms.get_stress, atoms.get_stresses):
        with pytest.raises(PropertyNotImplementedError, match="without periodic directions is not defined"):
            ask()
    assert "stress" not in calc.evaluate([atoms])[0]


def test_slab_does_not_feel_a_thin_vacuum(calc):
    """The images above and below are not there when the direction is open, with or without a cell vector."""
    slab = fcc111("Cu", (2, 2, 3), vacuum=1.0)
    bare = slab.copy()
    bare.cell[2] = 0
    thick = fcc111("Cu", (2, 2, 3), vacuum=20.0)
    energies = [calc.get_potential_energy(atoms) for atoms in (slab, bare, thick)]
    np.testing.assert_allclose(energies, energies[0], rtol=1e-13)
    full = slab.copy()
    full.pbc = True
    assert abs(calc.get_potential_energy(full) - energies[0]) > 0.1
    full_thick = thick.copy()
    full_thick.pbc = True
    assert calc.get_potential_energy(full_thick) == pytest.approx(energies[0], rel=1e-13)


def test_stress_of_slabs_counts_the_cell_or_one_angstrom(calc):
    slab = fcc111("Cu", (2, 2, 3), vacuum=4.0)
    bare = slab.copy()
    bare.cell[2] = 0
    stress, per_area = calc.get_stress(slab), calc.get_stress(bare)
    np.testing.assert_allclose(per_area, stress * slab.cell[2, 2], rtol=1e-10, atol=1e-14)


def test_odd_structures(calc):
    empty = Atoms()
    assert calc.get_potential_energy(empty) == 0.0
    assert calc.get_forces(empty).shape == (0, 3)
    single = Atoms("Cu")
    isolated = calc.get_potential_energy(single)
    np.testing.assert_array_equal(calc.get_forces(single), np.zeros((1, 3)))
    far = Atoms("Cu2", positions=[[0, 0, 0], [1e6, 0, 0]])
    assert calc.get_potential_energy(far) == pytest.approx(2 * isolated, rel=1e-14)
    assert calc.get_descriptors(single).shape == (1, 56)
    assert calc.get_hessian(single).shape == (3, 3)
    assert calc.get_hessian(empty).shape == (0, 0)
    assert calc.evaluate([]) == []


# ---- batches -------------------------------------------------------------------------------------


def test_batch_equals_singles(calc):
    structures = [
        copper(),
        fcc111("Ni", (1, 1, 3), vacuum=3.0),
        Atoms("CuSi", positions=[[0, 0, 0], [0, 0, 2.4]]),
        Atoms(),
        bulk("Si"),
        Atoms("Mo"),
    ]
    together = calc.evaluate(structures)
    small = DPA2Calculator(load_potential(Path(calc.parameters["model"])), dtype="float64", batch_memory=1e-6)
    for results in (together, small.evaluate(structures)):
        for atoms, result in zip(structures, results, strict=True):
            assert result["energy"] == pytest.approx(calc.get_potential_energy(atoms), rel=1e-12, abs=1e-12)
            np.testing.assert_allclose(result["forces"], calc.get_forces(atoms), atol=1e-12)
            assert ("stress" in result) == bool(atoms.pbc.any())
            if atoms.pbc.any():
                np.testing.assert_allclose(result["stress"], calc.get_stress(atoms), atol=1e-13)


def test_batch_refuses_what_it_cannot_give(calc):
    with pytest.raises(PropertyNotImplementedError, match=r"has no \['dipole'\]"):
        calc.evaluate([copper()], ["dipole"])
    for mistaken in ((copper(), None), ([copper()], "energy")):
        with pytest.raises(TypeError, match="takes a list of Atoms and a list of property names"):
            calc.evaluate(*mistaken)
    with pytest.raises(ValueError, match=r"structure 2: elements \['Na'\]"):
        calc.evaluate([copper(), copper(1), Atoms("Na")])


def test_stresses_of_atoms_in_a_batch(calc):
    slab, molecule_ = fcc111("Cu", (1, 1, 3), vacuum=3.0), Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.3]])
    results = calc.evaluate([copper(), molecule_, slab], ["stresses", "stress"])
    assert sorted(results[1]) == []
    for atoms, result in ((copper(), results[0]), (slab, results[2])):
        np.testing.assert_allclose(result["stresses"].sum(axis=0), result["stress"], atol=1e-14)
        np.testing.assert_allclose(result["stresses"], calc.get_property("stresses", atoms), atol=1e-14)


# ---- descriptors and Hessians --------------------------------------------------------------------


def test_descriptors_carry_no_graph_and_can_be_equivariant(calc):
    atoms = copper()
    atoms.calc = calc
    invariant, both = calc.get_descriptors(atoms), calc.get_descriptors(atoms, invariants_only=False)
    assert isinstance(invariant, np.ndarray)
    np.testing.assert_array_equal(both[:, : invariant.shape[1]], invariant)
    equivariant = both[:, invariant.shape[1] :].reshape(len(atoms), -1, 3)
    angle = 0.7
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation.T)
    turned.positions = atoms.positions @ rotation.T
    again = calc.get_descriptors(turned, invariants_only=False)
    np.testing.assert_allclose(again[:, : invariant.shape[1]], invariant, atol=1e-12)
    rotated = again[:, invariant.shape[1] :].reshape(len(atoms), -1, 3)
    # the statistics of the bundled model are the same for x, y and z to the float32 they are stored in
    np.testing.assert_allclose(rotated, equivariant @ rotation.T, atol=1e-6)
    calc.get_potential_energy(atoms)
    np.testing.assert_array_equal(calc.get_descriptors(), invariant)


def test_hessian_is_the_derivative_of_the_forces(calc):
    atoms = copper()
    hessian = calc.get_hessian(atoms)
    step = 1e-4
    moved = atoms.copy()
    moved.positions[3, 1] += step
    plus = calc.get_forces(moved).ravel()
    moved.positions[3, 1] -= 2 * step
    minus = calc.get_forces(moved).ravel()
    # central differences with this step leave 1e-8 of truncation and 1e-11 of rounding
    np.testing.assert_allclose(hessian[10], (minus - plus) / (2 * step), atol=1e-6)


def test_hessian_products_are_the_hessian_times_vectors(calc):
    atoms = copper()
    vectors = np.random.default_rng(5).normal(size=(19, len(atoms), 3))  # more than are differentiated at once
    hessian = calc.get_hessian(atoms)
    products = calc.get_hessian_products(vectors, atoms)
    np.testing.assert_allclose(products.reshape(19, -1), vectors.reshape(19, -1) @ hessian, atol=1e-10)
    assert calc.get_hessian_products(np.zeros((0, len(atoms), 3)), atoms).shape == (0, len(atoms), 3)
    with pytest.raises(ValueError, match=rf"vectors should be \(V, {len(atoms)}, 3\).*found \(2, 3\)"):
        calc.get_hessian_products(np.zeros((2, 3)), atoms)


# ---- neighbor list -------------------------------------------------------------------------------


def test_neighbor_list_is_kept_while_it_is_complete(monkeypatch):
    calc = DPA2Calculator(METALS, dtype="float64")
    built = []
    real = calc.evaluator.reader.neighbor_list

    def build(atoms, skin):
        built.append(skin)
        return real(atoms, skin)

    monkeypatch.setattr(calc.evaluator.reader, "neighbor_list", build)
    atoms = copper(4)
    atoms.calc = calc
    fresh = DPA2Calculator(load_potential(Path(calc.parameters["model"])), dtype="float64", skin=0.0)
    atoms.get_forces()
    assert built == [0.5]
    for step in range(5):
        atoms.rattle(0.02, seed=step)
        atoms.set_cell(atoms.cell.array * 1.002, scale_atoms=True)
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(atoms), atol=1e-12)
    assert built == [0.5]
    atoms.positions[0] += 0.6
    atoms.get_forces()
    assert built == [0.5, 0.5]


def test_cell_relaxation_through_ase(calc):
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array * np.array([[0.96], [1.03], [1.01]]), scale_atoms=True)
    atoms.calc = calc
    assert FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=200)
    np.testing.assert_allclose(atoms.cell.lengths(), atoms.cell.lengths().mean(), rtol=2e-3)
    assert atoms.cell.lengths().mean() == pytest.approx(3.63, abs=0.03)  # the model card's lattice constant


# ---- errors --------------------------------------------------------------------------------------


def test_unknown_elements_are_named(calc):
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    with pytest.raises(ValueError, match=r"elements \['Cl', 'Na'\] \(atoms \[0, 1\]\) are not in the model's type map"):
        calc.get_potential_energy(atoms)


def test_unknown_elements_name_heads_that_know_them():
    calculator = DPA2Calculator(DATA / "extra" / "multitask-alias.pt", head="Water", fparam=[0.1])
    with pytest.raises(ValueError, match=r"heads of this file that know them: \['Cu_alloy'\]"):
        calculator.get_potential_energy(Atoms("Cu"))


def test_elements_the_head_never_saw_are_warned_of_once():
    calculator = DPA2Calculator(PARITY / "multitask-heads.pt", head="Domains_Water")
    with pytest.warns(UserWarning, match=r"was not trained on \['Cu'\], only on \['H', 'O'\]"):
        calculator.get_potential_energy(Atoms("CuO", positions=[[0, 0, 0], [0, 0, 1.8]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.get_potential_energy(Atoms("CuO", positions=[[0, 0, 0], [0, 0, 1.9]]))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda a: a.positions.__setitem__((1, 2), np.nan), r"positions of atoms \[1\] are not finite"),
        (lambda a: a.positions.__setitem__((1, 2), np.inf), r"positions of atoms \[1\] are not finite"),
        (lambda a: a.cell.__setitem__(2, 0), "cell is singular"),
        (lambda a: a.cell.__setitem__(2, a.cell[1]), "cell is singular"),
        (lambda a: a.positions.__setitem__(1, a.positions[0]), r"atoms 0 and 1 are 0.0e\+00 Å apart; remove one"),
    ],
)
def test_broken_structures(calc, break_it, message):
    atoms = copper(5)
    break_it(atoms)
    with pytest.raises(ValueError, match=message):
        calc.get_forces(atoms)
    with pytest.raises(
        ValueError, match=("of structure 1 are 0" if "are 0" in message else "structure 1: .*" + message)
    ):
        calc.evaluate([copper(5), atoms])
    assert np.isfinite(calc.get_forces(copper(5))).all()  # the calculator works on


def test_bad_arguments(tmp_path):
    with pytest.raises(TypeError, match="heads"):
        DPA2Calculator(heads="Default")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'DPA-2.4-7M'\?"):
        DPA2Calculator("DPA-2.4")
    with pytest.raises(FileNotFoundError, match="no model file .*known names: \\['DPA-2.4-7M'\\]"):
        DPA2Calculator(tmp_path / "nothing.pt")
    with pytest.raises(ValueError, match="device 'cuda:99' is not available here; available: \\['cpu'"):
        DPA2Calculator(device="cuda:99")
    with pytest.raises(ValueError, match="device 'nonsense' is not available"):
        DPA2Calculator(device="nonsense")
    with pytest.raises(ValueError, match="dtype 'float8' is not supported"):
        DPA2Calculator(dtype="float8")
    with pytest.raises(ValueError, match="skin should be at least 0"):
        DPA2Calculator(METALS, skin=-1)
    with pytest.raises(ValueError, match="several heads; choose one"):
        DPA2Calculator(PARITY / "multitask-heads.pt")
    with pytest.raises(ValueError, match="did you mean 'Domains_Water'"):
        DPA2Calculator(PARITY / "multitask-heads.pt", head="Domain_Watr")
    with pytest.raises(ValueError, match="one head already"):
        DPA2Calculator(load_potential(PARITY / "dpa1-temperature.pt"), head="Default")
    calculator = DPA2Calculator(PARITY / "dpa1-temperature.pt")
    with pytest.raises(ValueError, match=r"make a new DPA2Calculator to change \['skin'\]"):
        calculator.set(skin=2.0)
    for ask in (calculator.get_descriptors, calculator.get_hessian, calculator.calculate):
        with pytest.raises(ValueError, match="give atoms"):
            ask()


def test_official_names_are_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("DPA2_ASE_OFFLINE", "1")
    monkeypatch.setenv("DPA2_ASE_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(OSError, match="DPA-2.4-7M-patched-mt.pt"):
        DPA2Calculator("dpa-2.4-7m", head="anything")


@pytest.mark.parametrize(
    ("case", "distance", "inside", "energy"),
    [
        ("dpa1-attn", 6.0, False, 10.588983869902483),
        ("dpa1-attn", 6.0, True, 10.591240367968522),
        ("dpa2-resavg-nosmooth", 4.0, False, 10.829563933840062),
        ("dpa2-resavg-nosmooth", 4.0 + 1e-15, False, 10.87924525880373),
    ],
)
@pytest.mark.filterwarnings("ignore:this model was trained without smooth attention")
def test_neighbors_at_the_cutoff(case, distance, inside, energy):
    """DeePMD-kit 3.2.0's numbers: its list is open at the cutoff, the shorter lists within DPA-2 are closed."""
    distance = np.nextafter(distance, 0) if inside else distance
    atoms = Atoms("OHCu", positions=[[0, 0, 0], [0, 0, distance], [1.1, 0, 0]])
    assert DPA2Calculator(PARITY / f"{case}.pt").get_potential_energy(atoms) == pytest.approx(energy, rel=1e-13)


def test_equally_near_neighbors_are_chosen_without_rounding():
    """A perfect crystal with more neighbors than the model keeps: where it stands must not matter."""
    calculator = DPA2Calculator(PARITY / "dpa2-truncated-sel.pt")
    energies = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for shift in np.random.default_rng(0).normal(size=(5, 3)):
            atoms = bulk("Cu", a=4.0, cubic=True)
            atoms.positions += shift
            energies.append(calculator.get_potential_energy(atoms))
    np.testing.assert_allclose(energies, energies[0], rtol=1e-12)


def test_too_many_neighbors_are_dropped_with_one_warning():
    atoms = bulk("Cu", a=3.0)
    calculator = DPA2Calculator(PARITY / "dpa2-truncated-sel.pt")
    with pytest.warns(UserWarning, match=r"atoms have more than \d+ neighbors within .* dropped") as record:
        calculator.get_potential_energy(atoms)
    assert len(record) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.get_potential_energy(bulk("Cu", a=2.9))


@pytest.mark.parametrize(
    ("case", "warns"), [("dpa1-attn", True), ("dpa2-resavg-nosmooth", True), ("dpa2-medium", False)]
)
def test_models_that_jump_at_the_cutoff_are_warned_of(case, warns):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        DPA2Calculator(PARITY / f"{case}.pt")
    assert ["its energy jumps" in str(w.message) for w in record] == [True] * warns


def test_atoms_are_never_modified(calc):
    atoms = copper(6)
    atoms.positions[0] -= 30
    reference = copy.deepcopy(atoms)
    atoms.calc = calc
    atoms.get_stresses()
    calc.evaluate([atoms])
    calc.get_hessian(atoms)
    calc.get_descriptors(atoms)
    assert atoms == reference
    assert atoms.info == reference.info
    assert sorted(atoms.arrays) == sorted(reference.arrays)


# ---- travelling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_in_contexts_that_do_not_record_them(calc, context):
    """Zeros would be plausible and wrong."""
    atoms = copper(9)
    reference = calc.evaluate([atoms])[0]
    hessian, stresses = calc.get_hessian(atoms), calc.get_property("stresses", atoms)
    with context():
        made_inside = DPA2Calculator(METALS, dtype="float64")
        for calculator in (calc, made_inside):
            calculator.reset()
            np.testing.assert_allclose(calculator.get_property("stresses", atoms), stresses, atol=1e-14)
            np.testing.assert_allclose(calculator.get_forces(atoms), reference["forces"], atol=1e-12)
            np.testing.assert_allclose(calculator.get_stress(atoms), reference["stress"], atol=1e-14)
            np.testing.assert_allclose(calculator.evaluate([atoms])[0]["forces"], reference["forces"], atol=1e-12)
            np.testing.assert_allclose(calculator.get_hessian(atoms), hessian, atol=1e-10)
    np.testing.assert_allclose(made_inside.get_forces(copper(1)), calc.get_forces(copper(1)), atol=1e-12)


def test_another_default_device_does_not_matter(calc):
    atoms = copper(9)
    with torch.device("meta"):
        made_inside = DPA2Calculator(METALS, device="cpu", dtype="float64")
        forces, hessian = made_inside.get_forces(atoms), made_inside.get_hessian(atoms)
        stresses = made_inside.get_property("stresses", atoms)
    # tables depend on the structures seen before, by less than 1e-12 of the largest force
    np.testing.assert_allclose(forces, calc.get_forces(atoms), atol=1e-11)
    np.testing.assert_allclose(hessian, calc.get_hessian(atoms), atol=1e-12)
    np.testing.assert_allclose(stresses, calc.get_property("stresses", atoms), atol=1e-12)


FORK = """
import multiprocessing, sys, torch
from ase.build import bulk
from dpa2_ase import DPA2Calculator
torch.set_num_threads(2)
calc = DPA2Calculator(head="materials-pbe")
atoms = bulk("Cu", cubic=True) * 3
energy = calc.get_potential_energy(atoms), calc.get_forces(atoms)
def job(calculator):
    calculator.reset()
    return float(calculator.get_forces(atoms).std() + calculator.get_potential_energy(atoms))
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.apply_async(job, (calc,)).get(60) - job(calc))
"""


def test_forked_processes_do_not_wait_for_threads_they_did_not_inherit():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True, timeout=200)
    assert abs(float(done.stdout)) < 1e-5  # float32 nets, summed by another number of threads


def _energy_in_another_process(calculator: DPA2Calculator) -> float:
    torch.set_num_threads(1)
    return float(calculator.get_potential_energy(copper(7)))


def test_pickle_deepcopy_and_processes(calc):
    atoms = copper(7)
    energy = calc.get_potential_energy(atoms)  # leaves an unfinished forward pass behind, which must not travel
    copied = copy.deepcopy(calc)
    loaded = pickle.loads(pickle.dumps(calc))
    for other in (copied, loaded):  # as above
        np.testing.assert_allclose(other.get_forces(atoms), calc.get_forces(atoms), atol=1e-11)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_energy_in_another_process, [calc]) == [pytest.approx(energy, rel=1e-12)]


def test_todict_traj_and_db(calc, tmp_path):
    atoms = copper(8)
    atoms.calc = calc
    forces = atoms.get_forces()
    facts = json.loads(json.dumps(calc.todict()))
    assert facts["dtype"] == "float64"
    assert facts["model"].endswith("metals6.pt")
    write(tmp_path / "a.traj", atoms)
    np.testing.assert_allclose(read(tmp_path / "a.traj").get_forces(), forces)
    write(tmp_path / "a.extxyz", atoms)
    np.testing.assert_allclose(read(tmp_path / "a.extxyz").get_forces(), forces, atol=1e-8)  # digits of the format
    with connect(tmp_path / "a.db") as database:
        database.write(atoms)
    np.testing.assert_allclose(next(connect(tmp_path / "a.db").select()).forces, forces)


def test_results_that_ase_knows_can_be_exported(calc):
    atoms = copper(8)
    calc.get_stresses(atoms)
    exported = calc.export_properties()
    assert set(exported) == {"energy", "free_energy", "forces", "stress", "stresses", "energies", "natoms"}
    np.testing.assert_array_equal(exported["forces"], calc.results["forces"])
    atoms.calc = calc
    assert atoms.get_properties(["energy"])["energy"] == calc.results["energy"]
    dipole = DPA2Calculator(PARITY / "dpa2-dipole.pt")
    dipole.get_property("dipole", oxide())
    assert "dipole" in dipole.export_properties()


def test_registered_with_ase():
    assert get_calculator_class("dpa2") is DPA2Calculator


def test_a_loaded_potential_is_left_alone():
    potential = load_potential(PARITY / "dpa1-temperature.pt")
    calculator = DPA2Calculator(potential, dtype="float32")
    assert next(potential.parameters()).dtype is torch.float64
    assert calculator.evaluator.potential is not potential
    assert calculator.todict()["model"] == "potential"


def test_precision_can_be_chosen():
    """float32 nets carry seven digits; sums over atoms and the geometry stay in float64."""
    atoms = oxide()
    exact = DPA2Calculator(PARITY / "dpa2-medium.pt")
    single = DPA2Calculator(PARITY / "dpa2-medium.pt", dtype=torch.float32)
    assert exact.get_potential_energy(atoms) != single.get_potential_energy(atoms)
    assert exact.get_potential_energy(atoms) == pytest.approx(single.get_potential_energy(atoms), rel=1e-5)
    np.testing.assert_allclose(single.get_forces(atoms), exact.get_forces(atoms), atol=2e-5)
    assert single.get_forces(atoms).dtype == np.float64


def test_heads_of_a_file():
    infos = heads(PARITY / "multitask-heads.pt")
    assert list(infos) == ["Domains_Water", "Domains_Alloy", "H2O_PBE0"]
    energies = {
        name: DPA2Calculator(PARITY / "multitask-heads.pt", head=name).get_potential_energy(molecule("H2O"))
        for name in infos
    }
    assert len(set(energies.values())) == 3

"""`dpa2_ase.workflows.relax` with ASE's EMT: the workflow knows nothing of our models."""

from __future__ import annotations

import json

import argon
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read
from ase.units import GPa

from dpa2_ase.workflows.relax import OPTIMIZERS, relax, state_of


def rattled() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    return atoms


class NoStress(EMT):
    """A calculator of energies and forces alone."""

    implemented_properties = ("energy", "forces")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_forces_end_below_fmax(optimizer):
    atoms = rattled()
    run = relax(atoms, fmax=0.02, optimizer=optimizer.upper())
    assert run.converged
    assert 0 < run.steps < 100
    assert run.final.max_force <= 0.02 < run.initial.max_force
    assert run.final.max_force == pytest.approx(np.linalg.norm(run.atoms.get_forces(), axis=1).max(), abs=1e-14)
    assert run.final.energy == run.atoms.get_potential_energy() < run.initial.energy
    np.testing.assert_array_equal(run.atoms.cell, atoms.cell)


def test_a_preconditioner_saves_steps():
    """On copper of 108 atoms, beyond which ASE applies it, displaced by a long wave and at random."""
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    atoms.rattle(0.02, seed=2)
    atoms.positions[:, 0] += 0.2 * np.sin(2 * np.pi * atoms.get_scaled_positions()[:, 2])
    atoms.calc = EMT()
    steps = [relax(atoms, fmax=0.05, optimizer=name).steps for name in ("precon-lbfgs", "fire")]
    assert 0 < steps[0] < steps[1] / 2


def test_the_input_is_left_as_it_was():
    atoms = rattled()
    atoms.info["origin"] = "a test"
    before, calc = atoms.copy(), atoms.calc
    run = relax(atoms, cell=True)
    assert atoms == before
    assert atoms.info == before.info
    assert atoms.calc is calc is run.atoms.calc
    assert run.atoms.info == before.info
    assert run.atoms != before


def test_cell_relaxation_finds_the_lattice_constant():
    run = relax(rattled(), cell=True, fmax=1e-4, optimizer="bfgs")
    assert run.converged
    # fcc Cu of EMT: a scan of the energy has its minimum at 3.5898 Å
    constants = np.linspace(3.58, 3.60, 5)
    energies = []
    for constant in constants:
        atoms = bulk("Cu", a=constant)
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
    a, b, _ = np.polyfit(constants, energies, 2)
    assert run.final.cell == pytest.approx([-b / (2 * a)] * 3 + [90.0] * 3, rel=2e-4)
    assert abs(run.final.pressure) < 0.01 < abs(run.initial.pressure)


def test_state_has_ases_numbers_and_signs():
    atoms = bulk("Cu", a=3.4)
    atoms.calc = EMT()
    state = state_of(atoms)
    step = 1e-4
    energies = []
    for scale in (1 - step, 1 + step):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell * scale, scale_atoms=True)
        scaled.calc = EMT()
        energies.append(scaled.get_potential_energy())
    volumes = atoms.get_volume() * np.array([(1 - step) ** 3, (1 + step) ** 3])
    assert state.pressure == pytest.approx(-np.diff(energies)[0] / np.diff(volumes)[0] / GPa, rel=1e-5)
    assert state.pressure > 0  # compressed
    assert state.cell == pytest.approx(atoms.cell.cellpar())


def test_on_step_sees_every_step():
    seen = []
    run = relax(rattled(), on_step=lambda step, force: seen.append((step, force)))
    assert [step for step, _ in seen] == list(range(run.steps + 1))
    assert seen[0][1] == run.initial.max_force
    assert seen[-1][1] == run.final.max_force


def test_no_steps_at_all():
    seen = []
    atoms = rattled()
    run = relax(atoms, max_steps=0, on_step=lambda *step: seen.append(step))
    assert (run.converged, run.steps, len(seen)) == (False, 0, 1)
    assert run.initial == run.final
    np.testing.assert_array_equal(run.atoms.positions, atoms.positions)
    atoms = bulk("Cu")
    atoms.calc = EMT()
    assert relax(atoms, max_steps=0).converged  # forces vanish by symmetry


def test_stops_at_max_steps():
    run = relax(rattled(), fmax=1e-6, max_steps=3)
    assert (run.converged, run.steps) == (False, 3)
    assert run.final != run.initial


def test_molecule_has_no_pressure():
    atoms = molecule("CO")
    atoms.calc = EMT()
    run = relax(atoms, fmax=0.005)
    assert run.converged
    assert run.initial.pressure is run.final.pressure is None


def test_slab_relaxes_but_its_cell_does_not():
    slab = fcc111("Cu", (1, 1, 4), vacuum=6.0, periodic=False)
    slab.calc = EMT()
    run = relax(slab)
    assert run.converged
    assert run.final.pressure is not None
    with pytest.raises(ValueError, match=r"three periodic directions, found pbc=\[True, True, False\]"):
        relax(slab, cell=True)


def test_constraints_are_kept():
    atoms = rattled()
    atoms.set_constraint(FixAtoms([0]))
    run = relax(atoms)
    assert run.converged
    np.testing.assert_array_equal(run.atoms.positions[0], atoms.positions[0])
    assert len(run.atoms.constraints) == 1


def test_a_calculator_without_stress_relaxes_positions():
    atoms = rattled()
    atoms.calc = NoStress()
    run = relax(atoms)
    assert run.converged
    assert run.final.pressure is None


@pytest.mark.parametrize("cell", [False, True])
def test_no_atoms(cell):
    atoms = Atoms(cell=[3.0, 3.1, 3.2], pbc=True)
    atoms.calc = NoStress()
    run = relax(atoms, cell=cell)
    assert (run.converged, run.steps, run.final.energy, run.final.max_force) == (True, 0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "newton"}, r"optimizer 'newton' is not one of \['bfgs', .*'lbfgs', 'precon-lbfgs'\]"),
        ({"fmax": 0.0}, "fmax should be positive"),
        ({"fmax": -1.0}, "fmax should be positive"),
        ({"fmax": float("nan")}, "fmax should be positive"),
        ({"fmax": float("inf")}, "fmax should be positive"),
        ({"max_steps": -1}, "max_steps not negative"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        relax(rattled(), **options)


def test_needs_a_calculator():
    with pytest.raises(ValueError, match=r"no calculator; set atoms\.calc"):
        relax(bulk("Cu"))


def test_pressure_compresses_argon_as_its_lattice_sum_says():
    """Forces below 1e-6 eV leave less than 1e-5 GPa in a cell of 37 Å³."""
    run = relax(argon.crystal(), cell="volume", pressure=0.5, fmax=1e-6, optimizer="bfgs")
    assert run.converged
    np.testing.assert_allclose(argon.stress(run.atoms.cell.array), -0.5 * np.eye(3), atol=1e-5)
    assert run.final.pressure == pytest.approx(0.5, abs=1e-5)
    assert run.final.cell == pytest.approx([run.final.cell[0]] * 3 + [60.0] * 3)  # scaled, not sheared


def test_volume_alone_keeps_the_shape():
    atoms = argon.crystal()
    atoms.set_cell(atoms.cell.array @ np.diag([1.0, 1.02, 0.97]), scale_atoms=True)
    run = relax(atoms, cell="volume", fmax=1e-6, optimizer="bfgs")
    ratio = np.linalg.solve(atoms.cell.array, run.atoms.cell.array)
    np.testing.assert_allclose(ratio, ratio[0, 0] * np.eye(3), atol=1e-12)
    assert argon.stress(run.atoms.cell.array).trace() == pytest.approx(0.0, abs=3e-5)


def test_shape_alone_keeps_the_volume():
    atoms = argon.crystal(a=5.1)
    atoms.set_cell(atoms.cell.array @ np.diag([1.0, 1.02, 0.98]), scale_atoms=True)
    run = relax(atoms, cell="shape", fmax=1e-6, optimizer="bfgs", max_steps=200)
    assert run.converged
    assert run.atoms.get_volume() == pytest.approx(atoms.get_volume(), rel=1e-10)
    stress = argon.stress(run.atoms.cell.array)
    np.testing.assert_allclose(stress, stress[2, 2] * np.eye(3), atol=3e-5)  # a liquid's: the shape is at its minimum
    assert stress[2, 2] < -0.1


def test_mask_frees_one_strain():
    atoms = argon.crystal(a=5.2)
    run = relax(atoms, cell=True, mask=[False, False, True, False, False, False], fmax=1e-6, optimizer="bfgs")
    strain = np.linalg.solve(atoms.cell.array, run.atoms.cell.array) - np.eye(3)
    np.testing.assert_allclose(strain - np.diag([0, 0, strain[2, 2]]), 0, atol=1e-12)
    assert strain[2, 2] > 1e-3
    stress = argon.stress(run.atoms.cell.array)
    assert stress[2, 2] == pytest.approx(0.0, abs=1e-5)
    assert stress[0, 0] < -0.01


def test_a_mask_lets_a_slab_relax_in_its_plane():
    slab = fcc111("Cu", (1, 1, 4), a=3.6, vacuum=6.0, periodic=False)
    slab.calc = EMT()
    in_plane = [True, True, False, False, False, True]
    run = relax(slab, cell=True, mask=in_plane, fmax=1e-3, optimizer="bfgs")
    assert run.converged
    assert run.final.cell[2:] == pytest.approx(run.initial.cell[2:], abs=1e-6)
    assert 0.97 < run.final.cell[0] / run.initial.cell[0] < 0.999
    with pytest.raises(ValueError, match="a mask .* can leave out"):
        relax(slab, cell=True, mask=[True] * 6)


def test_symmetry_is_kept_and_made_exact():
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1] += 2e-3
    atoms.calc = EMT()
    run = relax(atoms, cell=True, symmetry=True, fmax=1e-4)
    assert run.converged
    np.testing.assert_allclose(run.atoms.get_scaled_positions() * 2 % 1, 0, atol=1e-12)
    assert run.atoms.constraints == []
    assert run.provenance["settings"]["symmetry"] is True


@pytest.mark.parametrize("optimizer", ["bfgs", "lbfgs"])  # ASE stores less than all of the others' memory
def test_a_restarted_run_ends_where_an_uninterrupted_one_does(tmp_path, optimizer):
    files = {"trajectory": tmp_path / "run.traj", "restart": tmp_path / "run.json"}
    whole = relax(rattled(), cell=True, optimizer=optimizer)
    first = relax(rattled(), cell=True, optimizer=optimizer, max_steps=4, **files)
    second = relax(rattled(), cell=True, optimizer=optimizer, **files)
    assert (first.steps, second.converged) == (4, True)
    assert second.steps == whole.steps - 4
    np.testing.assert_allclose(second.atoms.positions, whole.atoms.positions, atol=1e-12)
    assert len(read(files["trajectory"], ":")) == whole.steps + 1
    with pytest.raises(ValueError, match="is of Cu4, not Al4; remove it"):
        relax(Atoms("Al4", positions=rattled().positions, cell=rattled().cell, calculator=EMT()), **files)


def test_is_written_and_drawn(tmp_path):
    run = relax(rattled(), cell=True)
    files = {path.name: path for path in run.write(tmp_path / "out")}
    assert {"relax.json", "relax-atoms.extxyz", "relax.png", "relax.svg"} <= files.keys()
    stored = json.loads(files["relax.json"].read_text())
    assert stored["final"]["energy"] == run.final.energy
    assert len(stored["energies"]) == run.steps + 1
    assert read(files["relax-atoms.extxyz"]).get_potential_energy() == pytest.approx(run.final.energy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "length"}, r"cell 'length' is not one of \[False, True, 'full', 'volume', 'shape'\]"),
        ({"pressure": 1.0}, "give cell=True as well"),
        ({"mask": [True] * 6}, "give cell=True as well"),
        ({"cell": True, "mask": [True] * 3}, "takes six values"),
        ({"cell": "volume", "mask": [True] * 6}, "goes with cell=True alone"),
        ({"cell": True, "optimizer": "precon-lbfgs"}, "positions alone"),
        ({"restart": "memory.json"}, "give a trajectory as well"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        relax(rattled(), **options)

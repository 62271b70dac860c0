"""Many relaxations at once are the same relaxations, in fewer calls."""

from __future__ import annotations

import bundled
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from batching import BatchEMT

from dpa2_ase.workflows.relax import relax
from dpa2_ase.workflows.relax_many import TOGETHER, relax_many


def crystals() -> list[Atoms]:
    """Three that need different numbers of steps, one at rest and one with a constraint."""
    found = []
    for seed, (symbol, repeat) in enumerate([("Cu", 1), ("Al", 2), ("Au", 1), ("Ni", 1)]):
        atoms = bulk(symbol, cubic=True) * (repeat, 1, 1)
        atoms.rattle(0.04 * (seed + 1), seed=seed)
        found.append(atoms)
    found[3].set_constraint(FixAtoms([0, 2]))
    return [*found, bulk("Pt")]


@pytest.mark.parametrize(
    ("optimizer", "cell"),
    [(name, cell) for name in TOGETHER for cell in (False, True)] + [("bfgs", "volume")],
)
def test_every_structure_goes_its_own_way(optimizer, cell):
    """Same steps; positions to rounding, which the first call's order of sums may change."""
    calc = BatchEMT()
    together = relax_many(crystals(), calc, optimizer=optimizer, cell=cell, fmax=0.05, max_steps=60)
    for atoms, run in zip(crystals(), together, strict=True):
        atoms.calc = EMT()
        alone = relax(atoms, optimizer=optimizer, cell=cell, fmax=0.05, max_steps=60)
        assert (run.steps, run.converged) == (alone.steps, alone.converged)
        np.testing.assert_allclose(run.atoms.positions, alone.atoms.positions, atol=1e-8)
        np.testing.assert_allclose(run.atoms.cell.array, alone.atoms.cell.array, atol=1e-8)
        np.testing.assert_allclose(run.energies, alone.energies, atol=1e-8)
        assert run.initial.energy == pytest.approx(alone.initial.energy, abs=1e-10)
        assert run.final.max_force == pytest.approx(alone.final.max_force, abs=1e-8)
    steps = [run.steps for run in together]
    assert sum(run.converged for run in together) >= 3
    if optimizer != "fire2":  # one call per step, of those that still move
        assert calc.sizes == [sum(n >= step for n in steps) for step in range(max(steps) + 1)]


def test_symmetry_costs_one_call_more():
    calc = BatchEMT()
    relax_many([bulk("Cu", cubic=True), bulk("Al", cubic=True)], calc, symmetry=True, cell=True)
    assert set(calc.sizes[:2]) == {2}


def test_our_calculator_relaxes_crystals_and_molecules_together():
    """Batches sum in another order: 1e-8 of a force at most, and as much of a path of a few steps."""
    calc = bundled.calculator("Cu")
    crystal, dimer = bulk("Cu", cubic=True), Atoms("Cu2", positions=[[0, 0, 0], [0.3, 0, 2.4]])
    crystal.rattle(0.05, seed=3)
    runs = relax_many([crystal, dimer], calc, fmax=0.05, optimizer="bfgs")
    for atoms, run in zip([crystal, dimer], runs, strict=True):
        atoms.calc = calc
        alone = relax(atoms, fmax=0.05, optimizer="bfgs")
        assert run.steps == alone.steps
        np.testing.assert_allclose(run.atoms.positions, alone.atoms.positions, atol=1e-8)
    assert runs[1].final.pressure is None is not runs[0].final.pressure


def test_results_come_as_soon_as_they_are_there():
    done, seen = [], []
    runs = relax_many(
        crystals(), EMT(), on_done=lambda index, _: done.append(index), on_step=lambda *step: seen.append(step)
    )
    assert done[0] == 4
    assert [runs[index].steps for index in done] == sorted(run.steps for run in runs)
    assert [step for step, _ in seen] == list(range(max(run.steps for run in runs) + 1))
    assert seen[0][1].keys() == {0, 1, 2, 3, 4}
    assert seen[-1][1] == {done[-1]: runs[done[-1]].final.max_force}


def test_stops_at_max_steps_and_leaves_inputs_alone():
    structures = crystals()
    before = [atoms.copy() for atoms in structures]
    runs = relax_many(structures, EMT(), max_steps=2, fmax=1e-5)
    assert [run.converged for run in runs] == [False, False, False, False, True]
    assert [run.steps for run in runs] == [2, 2, 2, 2, 0]
    assert structures == before
    assert all(atoms.calc is None for atoms in structures)
    assert len(runs[3].atoms.constraints) == 1
    assert runs[0].atoms.get_potential_energy() == runs[0].final.energy


def test_nothing_and_no_atoms():
    assert relax_many([], EMT()) == []
    (run,) = relax_many([Atoms(cell=[3, 3, 3], pbc=True)], BatchEMT(), max_steps=5)
    assert (run.converged, run.steps, run.final.energy) == (True, 0, 0.0)


def test_refuses_what_cannot_walk_in_step():
    with pytest.raises(ValueError, match=r"'precon-lbfgs' cannot relax many.*'lbfgs'\)"):
        relax_many(crystals(), EMT(), optimizer="precon-lbfgs")
    with pytest.raises(ValueError, match="structure 1: relaxing the cell needs three periodic directions"):
        relax_many([bulk("Cu"), molecule("CO")], EMT(), cell=True)

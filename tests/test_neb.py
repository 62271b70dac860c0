"""Bands and saddle points with EMT: batches change no path, and both ways of finding a saddle agree."""

from __future__ import annotations

import json

import bundled
import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read
from ase.mep import NEB
from ase.optimize import BFGS
from batching import BatchEMT

from dpa2_ase.workflows.dimer import dimer
from dpa2_ase.workflows.neb import METHODS, Band, neb
from dpa2_ase.workflows.relax import OPTIMIZERS


def vacancy_hop(calc) -> tuple[Atoms, Atoms]:
    """The atom next to a vacancy of copper, before and after it jumped; across the boundary of the cell."""
    crystal = bulk("Cu", cubic=True, a=3.5898) * (2, 2, 2)
    initial = crystal[1:]
    jumper = int(np.argmin(np.linalg.norm(initial.positions, axis=1)))
    final = initial.copy()
    final.positions[jumper] = crystal.cell.array.sum(axis=0)  # the vacancy, one cell away
    initial.calc = calc
    return initial, final


@pytest.fixture(scope="module")
def hop() -> tuple[Band, list[int]]:
    calc = BatchEMT()
    return neb(*vacancy_hop(calc), images=3, relax_ends=True, fmax=0.02, optimizer="bfgs"), calc.sizes


def test_vacancy_hop_is_symmetric(hop):
    """Forces below 0.02 eV/Å leave errors of second order, less than 1 meV, in energies."""
    band, _ = hop
    assert band.converged
    assert band.barrier == pytest.approx(0.791, abs=2e-3)  # of EMT, as found by the dimer below
    assert band.reaction_energy == pytest.approx(0.0, abs=1e-8)
    assert band.reverse_barrier == pytest.approx(band.barrier, abs=1e-8)
    np.testing.assert_allclose(band.energies, band.energies[::-1], atol=1e-6)
    np.testing.assert_allclose(band.distances, band.distances[-1] - band.distances[::-1], atol=1e-6)
    assert band.highest == 2
    assert band.max_forces[1:-1].max() <= 0.02
    assert len(band.images) == len(band.energies) == 5


def test_images_have_the_energies_of_single_evaluations(hop):
    band, _ = hop
    for atoms, energy in zip(band.images, band.energies, strict=True):
        alone = atoms.copy()
        alone.calc = EMT()
        assert alone.get_potential_energy() - band.images[0].get_potential_energy() == pytest.approx(energy, abs=1e-8)
        np.testing.assert_allclose(alone.get_forces(), atoms.get_forces(), atol=1e-8)


def test_one_batch_per_step(hop):
    """First the two ends relax, then all images are evaluated, then the inner ones."""
    band, sizes = hop
    ends = sizes.index(5)
    assert set(sizes[:ends]) == {2}
    assert sizes[ends + 1 :] == [3] * band.steps


@pytest.mark.parametrize("method", METHODS)
def test_is_ases_band(method):
    """The same path as ASE's NEB with a calculator for every image, to the rounding of a few steps."""
    initial, final = vacancy_hop(BatchEMT())
    ours = neb(initial, final, images=3, method=method, climb=False, interpolation="linear", max_steps=4, fmax=1e-3,
               optimizer="bfgs")  # fmt: skip
    path = [initial.copy() for _ in range(4)] + [ours.images[-1].copy()]
    for atoms in path:
        atoms.calc = EMT()
    band = NEB(path, method=method)
    band.interpolate(mic=True)
    with BFGS(band, logfile=None) as run:
        run.run(fmax=1e-3, steps=4)
    for one, other in zip(ours.images, path, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-8)
    assert ours.steps == 4
    assert not ours.converged


def test_dimer_finds_the_same_saddle(hop, tmp_path):
    band, _ = hop
    initial = band.images[0].copy()
    initial.calc = EMT()
    before = initial.copy()
    mode = band.images[1].positions - initial.positions
    saddle = dimer(initial, mode=mode, displacement=0.8, fmax=0.01)
    assert saddle.converged
    assert saddle.curvature < 0
    assert saddle.max_force <= 0.01
    assert saddle.barrier == pytest.approx(band.barrier, abs=1e-3)
    assert np.linalg.norm(saddle.mode) == pytest.approx(1.0)
    assert initial == before
    assert len(saddle.energies) == saddle.steps + 1
    assert saddle.energies[-1] == pytest.approx(saddle.energy, abs=1e-9)
    assert {"dimer.json", "dimer.png", "dimer.svg", "dimer-atoms.extxyz"} == {p.name for p in saddle.write(tmp_path)}
    with pytest.raises(ValueError, match=r"mode should be \(31, 3\) and not null"):
        dimer(initial, mode=np.zeros((31, 3)))
    with pytest.raises(ValueError, match="fmax should be positive"):
        dimer(initial, fmax=0)


def test_dimer_leaves_fixed_atoms_alone():
    initial, _ = adatom_hop()
    saddle = dimer(initial, seed=4, displacement=0.3, max_steps=3)
    np.testing.assert_array_equal(saddle.atoms.positions[:4], initial.positions[:4])
    assert saddle.steps == 3
    assert not saddle.converged


def adatom_hop() -> tuple[Atoms, Atoms]:
    """Aluminium on Al(100) from hollow to hollow, the lower layer fixed."""
    slab = fcc100("Al", (2, 2, 2), vacuum=6.0, periodic=False)
    slab.set_constraint(FixAtoms(indices=[atom.index for atom in slab if atom.tag == 2]))
    initial, final = slab.copy(), slab.copy()
    add_adsorbate(initial, "Al", 1.7, "hollow")
    add_adsorbate(final, "Al", 1.7, "hollow", offset=(1, 0))
    initial.calc = EMT()
    return initial, final


def test_constraints_are_kept():
    band = neb(*adatom_hop(), images=3, relax_ends=True, optimizer="fire2")
    assert band.converged
    for atoms in band.images:
        np.testing.assert_array_equal(atoms.positions[:4], band.images[0].positions[:4])
    assert 0.05 < band.barrier < 1.0
    assert band.barrier == pytest.approx(band.reverse_barrier, abs=0.01)


def test_a_molecule_turns_inside_out():
    """A rhombus of four copper atoms whose other diagonal gets short passes a square, by symmetry."""
    wide, narrow = 2.1, 1.2
    initial = Atoms("Cu4", positions=[[wide, 0, 0], [-wide, 0, 0], [0, narrow, 0], [0, -narrow, 0]], calculator=EMT())
    final = Atoms("Cu4", positions=[[narrow, 0, 0], [-narrow, 0, 0], [0, wide, 0], [0, -wide, 0]])
    band = neb(initial, final, images=3, relax_ends=True, fmax=0.01, optimizer="bfgs")
    assert band.converged
    square = band.images[2].get_all_distances()
    assert square[0, 1] == pytest.approx(square[2, 3], abs=1e-4)
    np.testing.assert_allclose(band.energies, band.energies[::-1], atol=1e-5)
    assert band.barrier > 0.1


def test_a_guess_takes_the_place_of_interpolation():
    initial, final = vacancy_hop(EMT())
    first = neb(initial, final, images=2, interpolation="linear", climb=False, max_steps=3)
    guess = [atoms.copy() for atoms in first.images[1:-1]]
    guess[0].positions[3] += guess[0].cell[1]  # the same atom, written elsewhere
    second = neb(initial, final, guess=guess, climb=False, max_steps=0)
    np.testing.assert_allclose(second.energies, first.energies, atol=1e-8)
    np.testing.assert_allclose(second.distances, first.distances, atol=1e-8)


def test_a_band_goes_on_from_its_trajectory(tmp_path):
    initial, final = vacancy_hop(EMT())
    settings = {"images": 2, "fmax": 0.1, "optimizer": "fire2"}
    first = neb(initial, final, **settings, max_steps=4, trajectory=tmp_path / "band.traj")
    frames = read(tmp_path / "band.traj", ":")
    assert len(frames) == 4 * (first.steps + 1)
    for one, other in zip(frames[-4:], first.images, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-12)
    second = neb(initial, final, **settings, guess=frames[-3:-1])
    assert second.converged
    assert second.max_forces[1:-1].max() <= 0.1


def test_our_calculator_evaluates_bands_in_batches():
    """To 1e-8 the path of single evaluations; batches sum in another order."""
    calc = bundled.calculator("Cu")
    crystal = bulk("Cu", cubic=True)
    initial, final = crystal[1:], crystal[1:]
    final.positions[0] = 0.0
    initial.calc = calc
    band = neb(initial, final, images=3, fmax=0.05, max_steps=3, climb=False)
    path = [initial.copy() for _ in range(4)] + [band.images[-1].copy()]
    for atoms in path:
        atoms.calc = calc
    plain = NEB(path, method="improvedtangent", allow_shared_calculator=True)
    plain.interpolate("idpp", mic=True)
    with OPTIMIZERS["fire"](plain, logfile=None) as run:
        run.run(fmax=0.05, steps=3)
    for one, other in zip(band.images, path, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-8)


def test_inputs_are_left_alone_and_steps_reported():
    initial, final = vacancy_hop(EMT())
    copies, calc = (initial.copy(), final.copy()), initial.calc
    seen = []
    neb(initial, final, images=1, fmax=0.1, max_steps=20, on_step=lambda *step: seen.append(step))
    assert (initial, final) == copies
    assert initial.calc is calc
    assert final.calc is None
    assert [step for step, _ in seen] == sorted(step for step, _ in seen)
    assert seen[-1][1] <= 0.1


def test_is_written_and_drawn(hop, tmp_path):
    band, _ = hop
    files = {path.name: path for path in band.write(tmp_path)}
    assert {"neb.json", "neb.png", "neb.svg", "neb-highest.extxyz", "neb-images.extxyz", "neb-curve.csv"} <= set(files)
    assert json.loads(files["neb.json"].read_text())["barrier"] == band.barrier
    images = read(files["neb-images.extxyz"], ":")
    energies = [atoms.get_potential_energy() for atoms in images]
    np.testing.assert_allclose(np.array(energies) - energies[0], band.energies, atol=1e-6)  # eight digits in the file


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "elastic"}, "method 'elastic' is not one of"),
        ({"interpolation": "spline"}, r"interpolation 'spline' is not one of \['idpp', 'linear'\]"),
        ({"optimizer": "bfgs-linesearch"}, "optimizer 'bfgs-linesearch' is not one of"),
        ({"images": 0}, "images at least 1"),
        ({"fmax": -1.0}, "fmax should be positive"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        neb(*vacancy_hop(EMT()), **options)


def test_ends_have_to_belong_together():
    initial, final = vacancy_hop(EMT())
    with pytest.raises(ValueError, match="different numbers of atoms"):
        neb(initial, final[1:])
    with pytest.raises(ValueError, match=r"no calculator; set atoms\.calc"):
        neb(final, initial)

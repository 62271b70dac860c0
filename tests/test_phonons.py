"""Phonons against the dynamical matrix of Lennard-Jones, against each other, and phonopy's own commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import argon
import bundled
import numpy as np
import phonopy
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.units import _amu, _e, _eps0, _hplanck, kB
from batching import BatchEMT

from dpa2_ase.workflows.phonons import Phonons, bridge, phonons, supercell_matrix

THZ = _hplanck * 1e12 / _e  # eV


@pytest.fixture(scope="module")
def argon_phonons() -> Phonons:
    """Displacements of 1e-3 Å leave an error of their square, 1e-6."""
    return phonons(argon.crystal(), supercell=(4, 4, 4), distance=1e-3)


@pytest.fixture(scope="module")
def copper_gold() -> Phonons:
    """Two elements, not cubic."""
    atoms = bulk("Cu", cubic=True, a=3.9)[:2]
    atoms.set_cell([3.9 / 2**0.5, 3.9 / 2**0.5, 3.8])
    atoms.set_scaled_positions([[0, 0, 0], [0.5, 0.5, 0.5]])
    atoms.symbols[1] = "Au"
    atoms.calc = BatchEMT()
    return phonons(atoms, supercell=(3, 3, 2))


# ---- force constants -----------------------------------------------------------------------------


@pytest.mark.parametrize("q", [(0.25, 0, 0), (0.5, 0, 0.5), (0.5, 0.5, 0.5), (0.5, 0.25, 0.75), (0.25, 0.5, 0.25)])
def test_argon_has_the_frequencies_of_its_dynamical_matrix(argon_phonons, q):
    """At q-points that fit into the supercell nothing is interpolated."""
    a = argon_phonons.atoms.cell.lengths()[0] * 2**0.5
    np.testing.assert_allclose(argon_phonons.frequencies([q])[0], argon.frequencies(np.array(q), a), rtol=1e-5)


def test_relaxes_first(argon_phonons):
    np.testing.assert_allclose(argon.stress(argon_phonons.atoms.cell.array), 0, atol=1e-3)  # 1e-4 eV in 37 Å³
    assert argon_phonons.relaxation.converged
    assert argon_phonons.relaxation.steps > 0
    left = phonons(argon.crystal(5.2), supercell=(2, 2, 2), relax_first="none")
    np.testing.assert_array_equal(left.atoms.cell, argon.crystal(5.2).cell)
    assert left.relaxation is None


def test_translations_cost_nothing(argon_phonons, copper_gold):
    for result in (argon_phonons, copper_gold):
        constants = result.force_constants
        np.testing.assert_allclose(constants.sum(axis=1), 0, atol=1e-12)  # rounding
        np.testing.assert_allclose(constants, constants.transpose(1, 0, 3, 2), atol=1e-12)
        np.testing.assert_allclose(result.frequencies([[0, 0, 0]])[0, :3], 0, atol=1e-5)  # root of rounding
    assert copper_gold.frequencies([[0, 0, 0]])[0, 3] > 1


def test_derivatives_and_displacements_agree():
    """Central differences with 1e-4 Å leave 1e-6 eV/Å²; symmetry leaves silicon one product with the Hessian."""
    calc = bundled.calculator("Si")
    silicon = bulk("Si", a=5.45)
    silicon.calc = calc
    settings = {"supercell": (2, 2, 2), "relax_first": "none"}
    exact = phonons(silicon, **settings)
    numeric = phonons(silicon, **settings, source="displacements", distance=1e-4)
    assert (exact.source, exact.n_displacements, numeric.n_displacements) == ("derivatives", 1, 2)
    np.testing.assert_allclose(exact.force_constants, numeric.force_constants, atol=1e-5)
    supercell = silicon.repeat((2, 2, 2))
    order = [int(np.argmin(np.linalg.norm((supercell.get_scaled_positions() - s + 0.5) % 1 - 0.5, axis=1)))
             for s in exact.phonopy.supercell.scaled_positions]  # fmt: skip
    hessian = calc.get_hessian(supercell).reshape(16, 3, 16, 3).transpose(0, 2, 1, 3)[np.ix_(order, order)]
    np.testing.assert_allclose(exact.force_constants, hessian, atol=1e-9)
    np.testing.assert_allclose(exact.frequencies([[0.3, 0.1, 0]]), numeric.frequencies([[0.3, 0.1, 0]]), atol=1e-4)


class Springs(EMT):
    """Harmonic springs to where the atoms are, with the Hessian that some calculators offer."""

    def get_hessian(self, atoms):
        return 2.0 * np.eye(3 * len(atoms)).reshape(3 * len(atoms), len(atoms), 3)


def test_a_hessian_is_enough():
    atoms = bulk("Cu")
    atoms.calc = Springs()
    result = phonons(atoms, supercell=(1, 1, 1), relax_first="none")
    assert result.source == "derivatives"
    # one atom tied to a place moves against the sum rule, which takes its force constant away
    np.testing.assert_allclose(result.force_constants, 0, atol=1e-12)


def test_all_displacements_are_one_batch(copper_gold):
    calc, seen = BatchEMT(), []
    atoms = copper_gold.atoms.copy()
    atoms.calc = calc
    result = phonons(atoms, supercell=(2, 2, 2), relax_first="none", on_result=lambda *done: seen.append(done))
    assert calc.sizes == [result.n_displacements]
    assert seen == [(result.n_displacements, result.n_displacements)]
    atoms.calc = EMT()
    alone = phonons(atoms, supercell=(2, 2, 2), relax_first="none")
    np.testing.assert_allclose(result.force_constants, alone.force_constants, atol=1e-8)


def test_the_cell_is_a_matter_of_description(argon_phonons):
    """The cubic cell of four atoms is reduced to the primitive one."""
    cubic = phonons(argon.crystal(cubic=True), supercell=(2, 2, 2), distance=1e-3)
    primitive = phonons(argon.crystal(), supercell=[[-2, 2, 2], [2, -2, 2], [2, 2, -2]], distance=1e-3)
    assert len(cubic.primitive) == 1
    for q in ([0.5, 0, 0.5], [0.5, 0.5, 0.5]):
        both = cubic.frequencies([q]), primitive.frequencies([q])
        np.testing.assert_allclose(*both, rtol=1e-4)  # as well as both are relaxed
        np.testing.assert_allclose(both[0], argon_phonons.frequencies([q]), rtol=1e-4)


def test_supercells_are_large_enough():
    atoms = bulk("Si", a=5.43)
    np.testing.assert_array_equal(supercell_matrix(atoms, None, 10.0), np.diag([4, 4, 4]))
    np.testing.assert_array_equal(supercell_matrix(atoms, None, 3.0), np.eye(3))
    np.testing.assert_array_equal(supercell_matrix(atoms, (1, 2, 3), 10.0), np.diag([1, 2, 3]))


# ---- what follows from them ----------------------------------------------------------------------


def test_thermal_properties_have_their_limits(argon_phonons):
    result = argon_phonons.thermal([0.0, 2.0, 50.0, 50.1, 3000.0])
    # Dulong and Petit, to (hν/kT)²/12 and the share of the three translations of the mesh
    assert result.heat_capacity[-1] / (3 * kB) == pytest.approx(1.0, abs=1e-3)
    assert result.heat_capacity[0] == result.entropy[0] == 0
    assert 0 < result.heat_capacity[1] < 0.1 * kB
    _, weights, frequencies = argon_phonons.phonopy.mesh.qpoints, *_mesh(argon_phonons)
    zero_point = THZ * (weights @ frequencies.clip(0).sum(axis=1)) / (2 * weights.sum())
    assert result.free_energy[0] == pytest.approx(zero_point, rel=1e-6)
    slope = (result.free_energy[3] - result.free_energy[2]) / 0.1
    assert -slope == pytest.approx(result.entropy[2:4].mean(), rel=1e-5)


def _mesh(result: Phonons) -> tuple[np.ndarray, np.ndarray]:
    mesh = result.phonopy.mesh
    return np.array(mesh.weights), np.array(mesh.frequencies)


def test_densities_of_states_count_the_modes(copper_gold):
    """Three per atom, shared between the elements; tetrahedra on a coarse mesh leave a percent."""
    dos = copper_gold.dos(mesh=30)
    assert np.trapezoid(dos.total, dos.frequencies) == pytest.approx(6, rel=0.02)
    np.testing.assert_allclose(dos.of_element("Cu") + dos.of_element("Au"), dos.total, atol=1e-12)
    assert np.trapezoid(dos.of_element("Au"), dos.frequencies) == pytest.approx(3, rel=0.02)
    heavy = [np.average(dos.frequencies, weights=dos.of_element(name)) for name in ("Au", "Cu")]
    assert heavy[0] < heavy[1]


@pytest.mark.parametrize("with_seekpath", [True, False])
def test_bands_follow_the_lattice(argon_phonons, monkeypatch, with_seekpath):
    if not with_seekpath:
        monkeypatch.setitem(sys.modules, "seekpath", None)
    bands = argon_phonons.bands(points=21)
    assert bands.labels[:2] == ("Γ", "X")
    assert {"Γ", "X", "L", "W"} <= {name for label in bands.labels for name in label.split("|")}
    assert "U|K" in bands.labels or "K|U" in bands.labels
    np.testing.assert_allclose(argon_phonons.frequencies(bands.qpoints), bands.frequencies, atol=1e-5)
    assert len(bands.ticks) == len(bands.labels)
    assert bands.ticks[-1] == pytest.approx(bands.distances[-1])
    index = 10
    np.testing.assert_allclose(bands.qpoints[index - 1 : index + 2, 1], 0, atol=1e-12)  # still between Γ and X
    step = bands.distances[index + 1] - bands.distances[index - 1]
    slope = (bands.frequencies[index + 1] - bands.frequencies[index - 1]) / step
    speed = np.linalg.norm(bands.group_velocities[index], axis=1)
    np.testing.assert_allclose(speed, np.abs(slope), rtol=0.02)  # of a difference over a tenth of the line


def test_bcc_copper_is_unstable_and_fcc_is_not(argon_phonons):
    atoms = bulk("Cu", "bcc", a=2.86)
    atoms.calc = EMT()
    unstable = phonons(atoms, supercell=(4, 4, 4), relax_first="none")
    report = unstable.imaginary()
    assert not report.is_stable
    assert report.lowest < -0.1
    assert 0 < report.fraction < 0.5
    assert len(report.exact_qpoints) == len(report.exact_frequencies) > 0
    assert "fit into the supercell have one" in str(report)
    worst = report.exact_qpoints[report.exact_frequencies.argmin()]
    energies = []
    for amplitude in (0.0, 0.1):
        displaced = unstable.displaced(worst, amplitude=amplitude)
        displaced.calc = EMT()
        energies.append(displaced.get_potential_energy())
    assert energies[1] < energies[0]
    stable = argon_phonons.imaginary()
    assert stable.is_stable
    assert stable.fraction == len(stable.exact_qpoints) == 0
    assert str(stable).startswith("no imaginary modes")


@pytest.mark.parametrize("q", [(0.5, 0, 0.5), (0.25, 0, 0), (0.5, 0.25, 0.75)])
def test_a_displaced_mode_has_its_energy(argon_phonons, q):
    r""":math:`\Delta E = \frac{1}{2} \omega^2 \sum_j m_j u_j^2`, up to the fourth order of 0.02 Å."""
    for branch in range(3):
        energies, displaced = [], argon_phonons.displaced(q, branch, 0.02)
        at_rest = argon_phonons.displaced(q, branch, 0.0)
        for atoms in (displaced, at_rest):
            atoms.calc = argon.calculator()
            energies.append(atoms.get_potential_energy())
        u = displaced.positions - at_rest.positions
        assert np.linalg.norm(u, axis=1).max() == pytest.approx(0.02)
        omega = 2 * np.pi * 1e12 * argon_phonons.frequencies([q])[0, branch]
        expected = 0.5 * omega**2 * (displaced.get_masses()[:, None] * u**2).sum() * 1e-20 * _amu / _e
        assert energies[0] - energies[1] == pytest.approx(expected, rel=5e-3)


def test_modes_of_two_elements_have_their_energy(copper_gold):
    """The phase between the atoms of a cell matters here."""
    q = (1 / 3, 0, 0.5)
    for branch in (0, 3, 5):
        atoms, at_rest = copper_gold.displaced(q, branch, 0.01), copper_gold.displaced(q, branch, 0.0)
        assert len(atoms) == 12
        atoms.calc, at_rest.calc = EMT(), EMT()
        u = atoms.positions - at_rest.positions
        omega = 2 * np.pi * 1e12 * copper_gold.frequencies([q])[0, branch]
        expected = 0.5 * omega**2 * (atoms.get_masses()[:, None] * u**2).sum() * 1e-20 * _amu / _e
        gained = atoms.get_potential_energy() - at_rest.get_potential_energy()
        assert gained == pytest.approx(expected, rel=0.01)
    with pytest.raises(ValueError, match="no supercell of up to 12"):
        copper_gold.displaced((0.317, 0, 0))


def test_born_charges_split_longitudinal_modes(tmp_path):
    r"""At Γ: :math:`\omega_{LO}^2 - \omega_{TO}^2 = Z^2 e^2 (1/m_1 + 1/m_2) / (\epsilon_0 \epsilon_\infty V)`."""
    charge, dielectric = 1.3, 2.5
    atoms = Atoms("CuAu", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[3.1] * 3, pbc=True, calculator=EMT())
    tensors = [dielectric * np.eye(3), charge * np.eye(3), -charge * np.eye(3)]
    rows = [" ".join(map(str, tensor.ravel())) for tensor in tensors]
    (tmp_path / "BORN").write_text("\n".join(["# charges", *rows]) + "\n")
    settings = {"supercell": (2, 2, 2), "relax_first": "none"}
    plain, polar = phonons(atoms, **settings), phonons(atoms, **settings, born=tmp_path / "BORN")
    np.testing.assert_allclose(polar.frequencies([[0, 0, 0]]), plain.frequencies([[0, 0, 0]]), atol=1e-4)
    lengths = [np.sort(result.frequencies([[1e-3, 0, 0]])[0]) for result in (plain, polar)]
    coulomb = charge**2 * _e**2 / (dielectric * _eps0 * atoms.get_volume() * 1e-30)
    added = coulomb * sum(1 / (mass * _amu) for mass in atoms.get_masses()) / (2 * np.pi * 1e12) ** 2
    squares = [(np.sign(values) * values**2)[-3:] for values in lengths]
    assert np.sum(squares[1] - squares[0]) == pytest.approx(added, rel=1e-3)  # so far from Γ as 1e-3


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(copper_gold, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    paths = copper_gold.write(folder)
    assert len(paths) == len(set(paths)) == len(list(folder.iterdir()))
    return folder


def test_phonopy_reads_what_was_written(copper_gold, written):
    loaded = phonopy.load(written / "phonopy.yaml", log_level=0)
    loaded.run_qpoints([[0.1, 0.2, 0.3]])
    np.testing.assert_allclose(
        loaded.qpoints.frequencies, copper_gold.frequencies([[0.1, 0.2, 0.3]]), atol=1e-6
    )  # sixteen digits of force constants, ten of positions


def phonopy_load(folder: Path) -> np.ndarray:
    """Frequencies at a q-point by phonopy's own command."""
    command = "import sys; from phonopy.scripts.phonopy_load import run; run()"
    arguments = ["phonopy.yaml", "--qpoints", "0.1", "0.2", "0.3"]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", command, *arguments], cwd=folder,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "qpoints.yaml").read_text().splitlines()
    return np.array([float(line.split(":")[1]) for line in lines if "frequency:" in line])


def test_phonopys_command_opens_the_files(copper_gold, written):
    np.testing.assert_allclose(phonopy_load(written), copper_gold.frequencies([[0.1, 0.2, 0.3]])[0], atol=1e-6)


def test_phonopys_command_opens_files_of_derivatives(tmp_path):
    """Without forces of displaced supercells in them: force constants alone."""
    silicon = bulk("Si", a=5.45)
    silicon.calc = bundled.calculator("Si")
    found = phonons(silicon, supercell=(2, 2, 2), relax_first="none")
    assert found.source == "derivatives"
    bridge().save(found.phonopy, tmp_path, with_forces=False)
    np.testing.assert_allclose(phonopy_load(tmp_path), found.frequencies([[0.1, 0.2, 0.3]])[0], atol=1e-6)


def test_force_constants_have_a_file_of_their_own(copper_gold, written):
    loaded = phonopy.load(
        unitcell=copper_gold.phonopy.unitcell, supercell_matrix=copper_gold.phonopy.supercell_matrix,
        force_constants_filename=str(written / "FORCE_CONSTANTS"), is_compact_fc=False, log_level=0,
    )  # fmt: skip
    np.testing.assert_allclose(loaded.force_constants, copper_gold.force_constants, atol=1e-12)


def test_results_are_written_and_drawn(copper_gold, written):
    names = {path.name for path in written.iterdir()}
    for stem in ("phonons", "bands", "dos", "thermal"):
        assert {f"{stem}.json", f"{stem}.png", f"{stem}.svg"} <= names
    assert {"FORCE_CONSTANTS", "band.yaml", "bands.csv", "thermal.csv", "phonons-atoms.extxyz"} <= names
    stored = json.loads((written / "phonons.json").read_text())
    assert stored["imaginary"]["lowest"] > -0.05
    assert stored["supercell"] == [[3, 0, 0], [0, 3, 0], [0, 0, 2]]
    assert stored["gamma_frequencies"] == pytest.approx(copper_gold.frequencies([[0, 0, 0]])[0].tolist(), abs=1e-4)
    assert stored["provenance"]["settings"]["fmax"] == 1e-4


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supercell": (2, 2)}, "three whole numbers or a 3 by 3 matrix"),
        ({"supercell": (2, 2, 0)}, "three whole numbers"),
        ({"supercell": (2, 2, 1.5)}, "three whole numbers"),
        ({"source": "guess"}, "source 'guess' is not one of"),
        ({"source": "derivatives"}, "LennardJones has no get_hessian_products"),
        ({"relax_first": "cell"}, "relax_first 'cell' is not one of"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        phonons(argon.crystal(), **options)


class Restless(EMT):
    """Its forces are noise."""

    generator = np.random.default_rng(7)

    def calculate(self, *args, **kwargs):
        self.atoms = args[0].copy()
        forces = self.generator.normal(size=(len(self.atoms), 3))
        self.results = {"energy": 0.0, "free_energy": 0.0, "forces": forces}


def test_needs_a_crystal_at_rest():
    slab = fcc111("Cu", (1, 1, 3), vacuum=5.0, periodic=False)
    slab.calc = EMT()
    with pytest.raises(ValueError, match=r"need a crystal, found 3 atoms with pbc=\[True, True, False\]"):
        phonons(slab)
    co = molecule("CO")
    co.calc = EMT()
    with pytest.raises(ValueError, match="for a molecule use vibrations"):
        phonons(co)
    with pytest.raises(ValueError, match="no calculator"):
        phonons(bulk("Cu"))
    atoms = Atoms(
        "CuAg", positions=[[0, 0, 0], [1, 1.2, 1.4]], cell=[[3, 0, 0], [0.2, 3.1, 0], [0.3, 0.4, 3.3]], pbc=True
    )
    atoms.calc = Restless()
    with pytest.raises(ValueError, match=r"the crystal did not relax to 0\.0001 eV/Å: .* after 500 steps"):
        phonons(atoms, relax_first="positions")


def test_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "dpa2_ase.workflows.phonopy_bridge", raising=False)
    monkeypatch.delattr("dpa2_ase.workflows.phonopy_bridge", raising=False)
    monkeypatch.setitem(sys.modules, "phonopy", None)
    with pytest.raises(ModuleNotFoundError, match="pip install phonopy"):
        phonons(argon.crystal(), relax_first="none")


def test_the_input_is_left_alone():
    atoms = argon.crystal(5.3)
    before, calc = atoms.copy(), atoms.calc
    phonons(atoms, supercell=(1, 1, 1))
    assert atoms == before
    assert atoms.calc is calc

"""Other packages' own classes run on our calculator as it is, and find our workflows' numbers.

Optional: ``pip install "dpa2-ase[peers]"`` brings fifty more packages (pymatgen, pandas, codecarbon, ...) and an older
rich, too much for every run of the tests.
"""

from __future__ import annotations

import bundled
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read

from dpa2_ase.workflows import elastic, eos, neb, phonons, relax

matcalc = pytest.importorskip("matcalc", reason="optional, see above")
janus = pytest.importorskip("janus_core", reason="optional, see above")

from janus_core.calculations.elasticity import Elasticity  # noqa: E402  # after the question whether it is there
from janus_core.calculations.eos import EoS  # noqa: E402
from janus_core.calculations.geom_opt import GeomOpt  # noqa: E402
from janus_core.calculations.md import NVE, NVT  # noqa: E402
from janus_core.calculations.neb import NEB  # noqa: E402
from janus_core.calculations.phonons import Phonons  # noqa: E402
from janus_core.calculations.single_point import SinglePoint  # noqa: E402
from pymatgen.io.ase import AseAtomsAdaptor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
SYMBOL = "Cu"
QUIET = {"attach_logger": False, "track_carbon": False}


@pytest.fixture(scope="module")
def calc():
    return bundled.calculator(SYMBOL)


@pytest.fixture
def copper(calc) -> Atoms:
    atoms = bulk(SYMBOL, a=3.58)
    atoms.calc = calc
    return atoms


@pytest.fixture(scope="module")
def ours(calc):
    """Relaxed tightly, elastic constants at rest."""
    atoms = bulk(SYMBOL)
    atoms.calc = calc
    return elastic(atoms)


def hop(calc) -> tuple[Atoms, Atoms]:
    """A vacancy and its neighbor in eight atoms; ends that are minima by symmetry."""
    crystal = bulk(SYMBOL, cubic=True) * (2, 1, 1)
    jumper = int(np.argmin(np.linalg.norm(crystal.positions - crystal.cell.array.diagonal() / [4, 2, 1e9], axis=1)))
    initial, final = crystal[1:], crystal[1:]
    final.positions[jumper - 1] = crystal.positions[0]
    initial.calc, final.calc = calc, calc
    return initial, final


# ---- matcalc ---------------------------------------------------------------------------------------------------------


def test_matcalc_relaxes(calc, copper, ours):
    found = matcalc.RelaxCalc(calc, fmax=1e-4, optimizer="BFGS").calc(AseAtomsAdaptor.get_structure(copper))
    assert found["final_structure"].volume == pytest.approx(ours.atoms.get_volume(), rel=1e-5)
    assert found["energy"] == pytest.approx(ours.atoms.get_potential_energy(), abs=1e-6)


def test_matcalc_finds_the_elastic_constants(calc, ours):
    """Its default shears reach 6 percent, whose fourth order is worth two percent of the moduli."""
    structure = AseAtomsAdaptor.get_structure(ours.atoms)
    method = matcalc.ElasticityCalc(
        calc, relax_structure=False, norm_strains=(-0.005, 0.005), shear_strains=(-0.01, 0.01), units_GPa=True
    )
    found = method.calc(structure)
    assert found["bulk_modulus_vrh"] == pytest.approx(ours.moduli.bulk_hill, rel=0.01)
    assert found["shear_modulus_vrh"] == pytest.approx(ours.moduli.shear_hill, rel=0.01)


def test_matcalc_finds_the_equation_of_state(calc, ours):
    structure = AseAtomsAdaptor.get_structure(ours.atoms)
    found = matcalc.EOSCalc(calc, max_abs_strain=0.01, relax_structure=False, fmax=1e-3).calc(structure)
    curve = eos(ours.atoms, strain=0.03)
    assert found["bulk_modulus_bm"] == pytest.approx(curve.fit.b0, rel=0.02)


def test_matcalc_finds_the_phonons(calc, ours):
    structure = AseAtomsAdaptor.get_structure(ours.atoms)
    method = matcalc.PhononCalc(
        calc, supercell_matrix=np.diag([2, 2, 2]), min_length=None, relax_structure=False, atom_disp=0.01,
        write_phonon=False,
    )  # fmt: skip
    phonopy = method.calc(structure)["phonon"]
    phonopy.run_qpoints([[0.5, 0.5, 0.5]])
    mine = phonons(ours.atoms, supercell=(2, 2, 2), relax_first="none").frequencies([[0.5, 0.5, 0.5]])
    np.testing.assert_allclose(phonopy.qpoints.frequencies, mine, atol=0.02)  # THz, displacements of 0.01 Å


# ---- janus-core ------------------------------------------------------------------------------------------------------


def test_janus_evaluates_and_relaxes(copper, ours, tmp_path):
    single = SinglePoint(struct=copper, file_prefix=tmp_path / "single", **QUIET)
    assert single.run()["energy"] == pytest.approx(copper.get_potential_energy(), abs=1e-10)
    job = GeomOpt(struct=copper, fmax=1e-4, file_prefix=tmp_path / "relax", **QUIET)
    job.run()
    assert job.struct.get_volume() == pytest.approx(ours.atoms.get_volume(), rel=1e-5)


def test_janus_finds_the_equation_of_state(copper, ours, tmp_path):
    found = EoS(
        struct=ours.atoms, min_volume=0.98, max_volume=1.02, minimize=False, file_prefix=tmp_path / "eos", **QUIET
    ).run()
    curve = eos(ours.atoms, strain=0.02)
    assert found["v_0"] == pytest.approx(curve.fit.v0, rel=1e-4)
    assert found["bulk_modulus"] == pytest.approx(curve.fit.b0, rel=0.02)


def test_janus_finds_the_elastic_constants(ours, tmp_path):
    found = Elasticity(
        struct=ours.atoms, minimize=False, shear_magnitude=0.01, normal_magnitude=0.005,
        file_prefix=tmp_path / "elasticity", **QUIET,
    ).run()  # fmt: skip
    np.testing.assert_allclose(np.array(found.voigt), ours.tensor, atol=0.01 * ours.tensor.max())


def test_janus_finds_the_phonons(ours, tmp_path):
    job = Phonons(
        struct=ours.atoms, calcs=(), supercell=2, minimize=False, write_results=False, file_prefix=tmp_path / "phonons",
        **QUIET,
    )  # fmt: skip
    job.calc_force_constants()
    phonopy = job.results["phonon"]
    phonopy.run_qpoints([[0.5, 0.5, 0.5]])
    mine = phonons(ours.atoms, supercell=(2, 2, 2), relax_first="none").frequencies([[0.5, 0.5, 0.5]])
    np.testing.assert_allclose(phonopy.qpoints.frequencies, mine, atol=0.02)


@pytest.mark.parametrize("ensemble", [NVE, NVT])
def test_janus_moves_atoms(calc, ensemble, tmp_path):
    atoms = bulk(SYMBOL, cubic=True)
    atoms.calc = calc
    traj = tmp_path / "traj.extxyz"
    job = ensemble(
        struct=atoms, temp=300, steps=40, traj_every=1, traj_file=traj, file_prefix=tmp_path / "md", seed=1, **QUIET
    )
    job.run()
    frames = read(traj, ":")
    assert len(frames) > 35
    if ensemble is NVE:
        energies = [found["energy"] for found in calc.evaluate(frames, ["energy"])]
        kinetic = [frame.get_kinetic_energy() for frame in frames]
        assert np.ptp(np.add(energies, kinetic)) < 0.01 * np.ptp(kinetic)


def test_janus_finds_the_barrier(calc, tmp_path):
    """The same band: three images, improved tangent, no climbing."""
    initial, final = hop(calc)
    ends = [relax(atoms, fmax=0.01, optimizer="bfgs").atoms for atoms in (initial, final)]
    job = NEB(
        init_struct=ends[0], final_struct=ends[1], n_images=3, fmax=0.02, steps=200,
        neb_kwargs={"method": "improvedtangent", "climb": False, "k": 0.1}, file_prefix=tmp_path / "neb", **QUIET,
    )  # fmt: skip
    found = job.run()
    band = neb(*ends, images=3, fmax=0.02, climb=False)
    assert band.converged
    assert found["barrier"] == pytest.approx(band.barrier, abs=0.01)

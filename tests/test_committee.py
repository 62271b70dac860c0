"""Committees: DeePMD-kit's own model deviations, and the laws of means and deviations."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import zoo
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from click.testing import CliRunner

from dpa2_ase import DPA2Calculator
from dpa2_ase.cli import main
from dpa2_ase.committee import COLUMNS, model_deviation
from dpa2_ase.interfaces.committee import Committee
from dpa2_ase.workflows.md import md
from dpa2_ase.workflows.md_watch import Limits, UncertaintyError

DATA = Path(__file__).parent / "data"
NAMES = ("dpa2-medium", "dpa2-strip", "dpa1-noattn-strip")


def committee(*names: str, **options) -> DPA2Calculator:
    return DPA2Calculator([zoo.potential(name) for name in names or NAMES], device="cpu", **options)


def reference() -> tuple[list[Atoms], np.ndarray]:
    """Frames and DeePMD-kit's columns: step, seven deviations, and those of the atoms' forces."""
    with np.load(DATA / "committee" / "model-deviation.npz") as stored:
        assert tuple(stored["models"]) == NAMES
        symbols = [zoo.SYMBOLS[t] for t in stored["types"]]
        frames = [Atoms(symbols, positions, cell=stored["cell"], pbc=True) for positions in stored["positions"]]
        return frames, stored["values"]


def test_model_deviations_are_those_of_deepmd():
    """To rounding: deviations of 1e-3 are differences of numbers of order one that agree to 1e-11."""
    frames, expected = reference()
    found = model_deviation(committee(), frames, frequency=10)
    np.testing.assert_array_equal(found.steps, expected[:, 0])
    np.testing.assert_allclose(found.values, expected[:, 1:8], rtol=0, atol=1e-10)
    results = committee().evaluate(frames, ["forces_deviation"])
    np.testing.assert_allclose([r["forces_deviation"] for r in results], expected[:, 8:], rtol=0, atol=1e-10)


def test_the_table_is_that_of_deepmd(tmp_path):
    frames, _ = reference()
    path = model_deviation(committee(), frames, frequency=10).write(tmp_path / "model_devi.out", "system")
    ours, theirs = path.read_text().splitlines(), (DATA / "committee/model_devi.out").read_text().splitlines()
    assert ours[0] == theirs[0]
    assert ours[1].split() == theirs[1].split()
    np.testing.assert_allclose(np.loadtxt(ours), np.loadtxt(theirs), rtol=2e-6)  # seven digits are printed


@pytest.mark.parametrize("atoms", zoo.structures("skew", "slab", "molecule", "one-atom"), ids=str)
def test_results_are_means_and_deviations_of_the_members(atoms):
    """Within 1e-12: the members see the same graph, or the same without edges beyond their cutoff."""
    calc = committee("dpa2-strip", "extra/dpa1-lmax4", "dpa1-temperature")  # cutoffs 6, 4, 6 Å
    single = [member.evaluate([atoms])[0] for member in calc.members]
    atoms.calc = calc
    energies, forces = np.array([r["energy"] for r in single]), np.array([r["forces"] for r in single])
    assert atoms.get_potential_energy() == pytest.approx(energies.mean(), abs=1e-12)
    assert "forces" not in calc.results  # energies alone cost no backward pass
    np.testing.assert_allclose(atoms.get_forces(), forces.mean(axis=0), atol=1e-12)
    assert calc.results["energy_std"] == pytest.approx(energies.std(), abs=1e-12)
    norms = np.linalg.norm(forces - forces.mean(axis=0), axis=-1)
    np.testing.assert_allclose(calc.results["forces_deviation"], np.sqrt((norms**2).mean(axis=0)), atol=1e-12)
    many = calc.evaluate([atoms, atoms])
    for name in ("energy", "forces", "forces_std", *COLUMNS):
        np.testing.assert_allclose(many[1][name], calc.results[name], atol=1e-12)
    assert ("stress" in many[0]) == atoms.pbc.any()


def test_equal_members_agree():
    calc = committee("dpa2-strip", "dpa2-strip")
    (found,) = calc.evaluate([zoo.structure("skew")])
    assert max(found[name] for name in COLUMNS) == 0.0


def test_one_neighbor_list_for_all(monkeypatch):
    calc = committee()
    built = []
    for member in calc.members:
        reader = member.evaluator.reader
        monkeypatch.setattr(reader, "neighbor_list", lambda a, s, f=reader.neighbor_list: built.append(1) or f(a, s))
    atoms = zoo.structure("skew")
    atoms.calc = calc
    for _ in range(3):
        atoms.positions[0] += 0.01  # less than half the skin
        atoms.get_forces()
    assert len(built) == 1


def test_what_it_is_and_what_it_refuses(tmp_path):
    calc = committee()
    assert isinstance(calc, Committee)
    assert len(calc.source["models"]) == 3
    with pytest.raises(ValueError, match="at least two"):
        DPA2Calculator([zoo.potential("dpa2-strip")])
    with pytest.raises(ValueError, match="2 heads for 3 models"):
        DPA2Calculator([DATA / f"parity/{name}.pt" for name in NAMES], head=["a", "b"])
    with pytest.raises(ValueError, match="predicts dipole"):
        DPA2Calculator([DATA / "parity/dpa2-dipole.pt"] * 2, device="cpu")
    with pytest.raises(NotImplementedError, match="members"):
        calc.get_descriptors(zoo.structure("skew"))
    molecule = zoo.structure("molecule")
    molecule.calc = calc
    with pytest.raises(PropertyNotImplementedError, match="stress"):
        molecule.get_stress()


def test_copies_and_pickles_are_committees():
    calc = committee("dpa2-strip", "dpa1-temperature")
    atoms = zoo.structure("skew")
    expected = calc.evaluate([atoms], ["max_devi_f"])
    for other in (copy.deepcopy(calc), pickle.loads(pickle.dumps(calc))):
        assert other.evaluate([atoms], ["max_devi_f"]) == expected


def test_dynamics_stops_where_models_disagree():
    atoms = zoo.structure("molecule")
    atoms.calc = committee("dpa2-strip", "dpa1-temperature")
    (found,) = atoms.calc.evaluate([atoms], ["max_devi_f"])
    limits = Limits(force=np.inf, distance=0.0, results={"max_devi_f": found["max_devi_f"] / 2})
    with pytest.raises(UncertaintyError, match="was stopped at step 0 .*max_devi_f.*label such structures"):
        md(atoms, steps=2, temperature=10.0, limits=limits)
    with pytest.raises(ValueError, match="limits for .*'nothing'.*it gives"):
        md(atoms, steps=2, temperature=10.0, limits=Limits(force=np.inf, distance=0.0, results={"nothing": 1.0}))


def test_the_command_writes_the_table(tmp_path):
    from ase.io import write

    frames, _ = reference()
    write(tmp_path / "frames.extxyz", frames)
    models = [str(DATA / f"parity/{name}.pt") for name in ("dpa2-strip", "dpa1-noattn-strip")]
    out = tmp_path / "model_devi.out"
    command = ["model-devi", "-m", *models, "-s", str(tmp_path / "frames.extxyz"), "-o", str(out), "--device", "cpu"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    expected = model_deviation([Path(m) for m in models], frames, device="cpu")
    np.testing.assert_allclose(np.loadtxt(out)[:, 1:], expected.values, rtol=1e-6, atol=1e-7)  # positions of 8 digits
    folder = tmp_path / "folder"
    assert CliRunner().invoke(main, [*command[:6], "--out", str(folder), "--device", "cpu"]).exit_code == 0
    assert (folder / "model_devi.out").read_text() == out.read_text()
    (system,) = json.loads((folder / "model_devi.json").read_text())["systems"].values()
    np.testing.assert_allclose(system["max_devi_f"], expected["max_devi_f"], rtol=1e-6, atol=1e-7)
    assert "Deviation of forces" in (folder / "report.html").read_text()
    assert (
        CliRunner().invoke(main, ["model-devi", "-m", models[0], "-s", str(tmp_path / "frames.extxyz")]).exit_code == 2
    )

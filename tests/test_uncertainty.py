"""Uncertainties of one model: formulas, calibration on known noise, files, and what happens in dynamics."""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import zoo
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from click.testing import CliRunner, Result

from dpa2_ase import DPA2Calculator
from dpa2_ase.checkpoint import HeadInfo
from dpa2_ase.cli import main
from dpa2_ase.interfaces.fitness import fit_of, ordered
from dpa2_ase.interfaces.rigidity import MEMBERS, features_of, read_rigidity, standard_model_of, write_rigidity
from dpa2_ase.uncertainty import Calibration, calibrate, check_uncertainty, quality, uncertainty_file
from dpa2_ase.workflows.md import md
from dpa2_ase.workflows.md_watch import Limits, UncertaintyError

MODEL = Path(__file__).parent / "data" / "parity" / "dpa2-strip.pt"


@cache
def labelled(seed: int, count: int) -> tuple[Atoms, ...]:
    """Structures whose labels are the model's own with errors of 30 meV per atom and 0.1 eV/Å."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(count):
        atoms = zoo.liquid(6, 24.0 + 6.0 * rng.random(), seed=1000 * seed + index)
        frames.append(atoms)
    results = DPA2Calculator(MODEL, device="cpu").evaluate(frames, ["energy", "forces"])
    for atoms, found in zip(frames, results, strict=True):
        energy = found["energy"] + 0.03 * len(atoms) * rng.standard_normal()
        forces = found["forces"] + 0.1 * rng.standard_normal((len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return tuple(frames)


def too_near() -> Atoms:
    """A structure with two atoms nearer to each other than any of the labelled ones has."""
    atoms = labelled(3, 20)[0].copy()
    vector = atoms.get_distance(0, 1, mic=True, vector=True)
    atoms.positions[1] = atoms.positions[0] + 0.6 * vector / np.linalg.norm(vector)
    return atoms


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory) -> tuple[Path, Calibration]:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    shutil.copy(MODEL, path)
    return path, calibrate(path, labelled(1, 12), labelled(2, 10), device="cpu", references=16)


def test_the_energy_is_linear_in_the_features():
    """Of a last layer: its weights times the features is the energy above the references, to rounding."""
    potential = zoo.potential("dpa2-strip")
    fitting = standard_model_of(potential).fitting
    graph = zoo.graph_of(potential, zoo.structure("skew"))
    features = features_of(fitting, potential.model.represent(graph).node, graph)
    last = fitting.net[-1]
    expected = potential.atomic(graph) - potential.model.out_bias[graph.types, 0] - fitting.bias_atom_e[graph.types, 0]
    found = features[:, :-1] @ last.weight[:, 0].double() + features[:, -1] * last.bias.double()
    np.testing.assert_allclose(found.detach(), expected.detach(), atol=1e-12)


def test_uncertainties_follow_their_formulas(calibrated):
    path, calibration = calibrated
    calc = DPA2Calculator(path, uncertainty=True, device="cpu")
    atoms = zoo.structure("skew")
    atoms.calc = calc
    energy = atoms.get_potential_energy()
    assert energy == pytest.approx(DPA2Calculator(path, device="cpu").evaluate([atoms])[0]["energy"], abs=1e-10)
    potential = calc.evaluator.reference
    graph = zoo.graph_of(potential, atoms)
    features = (
        features_of(standard_model_of(potential).fitting, potential.model.represent(graph).node, graph).detach().numpy()
    )
    inverse = calibration.rigidity.factor.T @ calibration.rigidity.factor
    total = features.sum(axis=0)
    expected = calibration.rigidity.energy_scale * np.sqrt(total @ inverse @ total)
    assert calc.results["energy_uncertainty"] == pytest.approx(expected, rel=1e-8)
    atomic = calibration.rigidity.energy_scale * np.sqrt(np.einsum("nd,de,ne->n", features, inverse, features))
    np.testing.assert_allclose(calc.results["energies_uncertainty"], atomic, rtol=1e-8)
    assert calc.results["thresholds"].keys() == {"energies_uncertainty", "representation_distance"}


def test_uncertainties_of_forces_are_the_spread_of_random_last_layers(calibrated):
    """Against energies of every member at moved atoms: central differences of 1e-4 Å leave 1e-6 of the largest."""
    path, calibration = calibrated
    calc = DPA2Calculator(path, uncertainty=True, device="cpu", mode="reference")
    atoms = zoo.structure("skew")
    found = calc.get_property("forces_uncertainty", atoms)
    potential, members = calc.evaluator.reference, calibration.rigidity.members

    def energies(moved: Atoms) -> np.ndarray:
        graph = zoo.graph_of(potential, moved)
        node = potential.model.represent(graph).node
        return features_of(standard_model_of(potential).fitting, node, graph).detach().numpy().sum(axis=0) @ members

    forces = np.zeros((3, 3, MEMBERS))
    for index in np.ndindex(3, 3):
        pair = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[index] += sign * 1e-4
            pair.append(energies(moved))
        forces[index] = (pair[1] - pair[0]) / 2e-4
    expected = calibration.rigidity.forces_scale * np.sqrt((forces**2).mean(axis=-1))
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())
    fast = DPA2Calculator(path, uncertainty=True, device="cpu")
    np.testing.assert_allclose(fast.get_property("forces_uncertainty", atoms), found, rtol=1e-6)
    assert "forces" in fast.evaluate([atoms])[0]
    assert "forces_uncertainty" not in fast.evaluate([atoms])[0]


def test_members_spread_as_the_posterior(calibrated):
    """Sixteen draws give a variance within its own sampling error, 35 %; five of these at most, the tail is long.

    Errors are common to the rows as far as few directions carry the variance.
    """
    rigidity = calibrated[1].rigidity
    whole = np.trace(rigidity.members @ rigidity.members.T) / MEMBERS
    assert whole == pytest.approx(np.trace(rigidity.factor.T @ rigidity.factor), rel=1e-10)  # draws are normalized
    rows = np.random.default_rng(7).standard_normal((50, len(rigidity.factor)))
    ratio = ((rows @ rigidity.members) ** 2).mean(axis=1) / rigidity.spread(rows) ** 2
    assert abs(ratio - 1).max() < 5 * np.sqrt(2 / MEMBERS)
    assert abs(ratio.mean() - 1) < np.sqrt(2 / MEMBERS)


def test_calibration_finds_the_size_of_the_errors(calibrated):
    """By construction of the scale the validation errors are as large as predicted, new ones nearly."""
    path, calibration = calibrated
    assert calibration.energies.scale == pytest.approx(1.0, abs=1e-9)
    forces = calibration.forces
    assert forces is not None
    assert (forces.errors**2).sum() == pytest.approx((forces.sigmas**2).sum(), rel=1e-9)
    calc = DPA2Calculator(path, uncertainty=True, device="cpu")
    new = check_uncertainty(calc, labelled(3, 20))
    assert new.scale == pytest.approx(1.0, abs=1.0)  # 10 and 20 samples: each about 20 %, and tails
    assert new.miscalibration < 0.25


def test_unknown_environments_are_far(calibrated):
    path, _ = calibrated
    calc = DPA2Calculator(path, uncertainty=True, device="cpu")
    near, far = (found["representation_distance"] for found in calc.evaluate([labelled(3, 20)[0], too_near()]))
    assert far.max() > 1.25 * near.max()


def test_quality_of_gaussian_errors():
    """Errors drawn as predicted: scale 1 and no miscalibration, to sampling error of 5000; doubled, both show."""
    rng = np.random.default_rng(0)
    sigmas = rng.uniform(0.5, 3.0, 5000)
    errors = sigmas * rng.standard_normal(5000)
    good, bad = quality(errors, sigmas), quality(2 * errors, sigmas)
    assert good.scale == pytest.approx(1.0, abs=0.03)
    assert good.miscalibration < 0.01
    assert good.correlation > 0.3
    assert bad.scale == pytest.approx(2.0, abs=0.06)
    assert bad.miscalibration > 0.1


def test_files_belong_to_their_model(calibrated, tmp_path):
    path, calibration = calibrated
    assert calibration.path == uncertainty_file(path)
    again = read_rigidity(path, "Default")
    np.testing.assert_array_equal(again.factor, calibration.rigidity.factor)
    assert again.reach == pytest.approx(calibration.rigidity.reach)
    other = tmp_path / "other.pt"
    other.write_bytes(MODEL.with_name("dpa2-medium.pt").read_bytes())
    with pytest.raises(FileNotFoundError, match="calibrate"):
        DPA2Calculator(other, uncertainty=True, device="cpu")
    shutil.copy(calibration.path, uncertainty_file(other))
    with pytest.raises(ValueError, match="another model file"):
        DPA2Calculator(other, uncertainty=True, device="cpu")
    uncertainty_file(other).write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match="no calibration, or a damaged one"):
        DPA2Calculator(other, uncertainty=True, device="cpu")
    with pytest.raises(ValueError, match="give the file"):
        DPA2Calculator(zoo.potential("dpa2-strip"), uncertainty=True)


def test_heads_keep_calibrations_of_their_own(calibrated, tmp_path):
    path, calibration = calibrated
    target = write_rigidity(path, "A", calibration.rigidity, tmp_path / "both.npz")
    write_rigidity(path, "B", calibration.rigidity, target)
    assert read_rigidity(path, "A", target).energy_scale == read_rigidity(path, "B", target).energy_scale
    with pytest.raises(ValueError, match=r"no calibration of head 'C', only of \['A', 'B'\]"):
        read_rigidity(path, "C", target)


def test_dynamics_warns_or_stops(calibrated):
    """From a structure far beyond the known ones, of which the distance tells at once."""
    path, _ = calibrated
    atoms = too_near()
    atoms.calc = DPA2Calculator(path, uncertainty=True, device="cpu")
    limits = {"force": np.inf, "distance": 0.0, "temperature": np.inf}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        md(atoms, steps=2, timestep=0.01, temperature=10.0, interval=1, limits=Limits(**limits))
    messages = [str(warning.message) for warning in told]
    assert sum("representation_distance is" in message for message in messages) == 1  # and not in every step
    with pytest.raises(UncertaintyError, match="was stopped"):
        md(atoms, steps=2, timestep=0.01, temperature=10.0, limits=Limits(uncertainty="stop", **limits))


def test_heads_are_judged_by_their_known_environments(calibrated):
    """Of two heads that know the elements, the one that knows the environments comes first; far ones do not fit."""
    path, calibration = calibrated
    atoms = labelled(3, 20)[0]
    symbols = atoms.get_chemical_symbols()
    info = HeadInfo("A", zoo.SYMBOLS, zoo.SYMBOLS, (), "ener")
    node = DPA2Calculator(path, device="cpu").get_descriptors(atoms)
    near = fit_of(info, symbols, calibration.rigidity, node)
    far = fit_of(info, symbols, calibration.rigidity, 100 * node)
    assert near.fits
    assert "strangest atom" in near.reason
    assert not far.fits
    assert ordered({"unknown": fit_of(info, symbols), "far": far, "near": near}) == ["near", "unknown"]


# ---- commands --------------------------------------------------------------------------------------------------------


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def by_command(tmp_path_factory) -> Path:
    """A folder with a model, calibrated by the command, and labelled frames it has not seen."""
    folder = tmp_path_factory.mktemp("commands")
    shutil.copy(MODEL, folder / "model.pt")
    for name, frames in (("known", labelled(1, 12)), ("validation", labelled(2, 10)), ("new", labelled(3, 20)[:3])):
        write(folder / f"{name}.extxyz", list(frames))
    write(folder / "far.extxyz", too_near())
    done = run(
        "calibrate", folder / "known.extxyz", "--validation", folder / "validation.extxyz", "-m", folder / "model.pt",
        "--references", 16, "--device", "cpu", "-o", folder / "calibration",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"written: {uncertainty_file(folder / 'model.pt')}" in done.output
    return folder


def test_the_command_calibrates_as_the_function(by_command, calibrated):
    """Positions of the files have 8 digits. Those turn the axes of directions that no frame tells apart, and with them

    the random last layers: the forces' scale is that of other `MEMBERS` draws, right within 1 / sqrt(2 MEMBERS).
    """
    found, expected = read_rigidity(by_command / "model.pt", "Default"), calibrated[1].rigidity
    assert found.energy_scale == pytest.approx(expected.energy_scale, rel=1e-4)
    assert found.forces_scale == pytest.approx(expected.forces_scale, rel=1 / np.sqrt(2 * MEMBERS))
    stored = json.loads((by_command / "calibration" / "calibration.json").read_text())
    assert stored["quality"]["energies, structures"]["actual / predicted"] == pytest.approx(1.0, abs=1e-6)
    assert len(stored["provenance"]["calculator"]["source"]["sha256"]) == 64
    assert "Validation" in (by_command / "calibration" / "report.html").read_text()


def test_a_single_point_tells_its_uncertainties(by_command, tmp_path):
    words = ("singlepoint", by_command / "new.extxyz", "-m", by_command / "model.pt", "--device", "cpu")
    names = "energy,forces,stress,forces_uncertainty"
    done = run(*words, "--uncertainty", "--properties", names, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "usual" in done.output
    frames = read(tmp_path / "out" / "singlepoint.extxyz", ":")
    stored = json.loads((tmp_path / "out" / "uncertainty.json").read_text())
    with (tmp_path / "out" / "uncertainty.csv").open(newline="") as stream:
        rows = [*csv.DictReader(stream)]
    assert len(rows) == sum(map(len, frames))
    calc = DPA2Calculator(by_command / "model.pt", uncertainty=True, device="cpu")
    expected = calc.evaluate(read(by_command / "new.extxyz", ":"), ["energies_uncertainty", "forces_uncertainty"])
    for atoms, part, wanted in zip(frames, stored["structures"], expected, strict=True):
        assert part["energy_uncertainty"] == pytest.approx(atoms.info["energy_uncertainty"], rel=1e-6)
        np.testing.assert_allclose(part["energies_uncertainty"], wanted["energies_uncertainty"], rtol=1e-9)
        np.testing.assert_allclose(atoms.arrays["energies_uncertainty"], wanted["energies_uncertainty"], rtol=1e-6)
        np.testing.assert_allclose(part["forces_uncertainty"], wanted["forces_uncertainty"], rtol=1e-9)
        assert atoms.arrays["representation_distance"].shape == (len(atoms),)
    assert {*rows[0]} >= {"structure", "atom", "element", "representation_distance", "forces_uncertainty_x"}
    assert stored["thresholds"].keys() == {"energies_uncertainty", "representation_distance"}
    assert "uncertainty" in (tmp_path / "out" / "report.html").read_text()
    again = run(*words, "--uncertainty", "--properties", names, "-o", tmp_path / "out")
    assert "complete already" in again.output
    assert run(*words, "--uncertainty", "-o", tmp_path / "alone.extxyz").exit_code == 0
    assert "energies_uncertainty" in read(tmp_path / "alone.extxyz").arrays


def test_errors_are_compared_with_uncertainties(by_command, tmp_path):
    words = ("evaluate", by_command / "validation.extxyz", "-m", by_command / "model.pt", "--device", "cpu")
    done = run(*words, "--uncertainty", "-o", tmp_path / "out", "--no-report")
    assert done.exit_code == 0, done.output
    stored = json.loads((tmp_path / "out" / "uncertainty.json").read_text())
    assert stored["quality"]["actual / predicted"] == pytest.approx(1.0, abs=1e-4)  # calibrated on these, 8 digits
    assert len(stored["structures"]) == 10


@pytest.mark.filterwarnings("always:.* at step :UserWarning")  # the command prints it
def test_dynamics_by_command_warns_or_stops(by_command, tmp_path):
    words = ["md", by_command / "far.extxyz", "-m", by_command / "model.pt", "--device", "cpu", "--steps", 2]
    words += ["--timestep", 0.01, "--temperature", 10, "--interval", 1, "--no-report"]
    words += ["--max-force", 1e9, "--min-distance", 0, "--max-temperature", 1e9]
    warned = run(*words, "--uncertainty", "-o", tmp_path / "warned")
    assert warned.exit_code == 0, warned.output
    assert "representation_distance is" in warned.output
    stopped = run(*words, "--uncertainty", "stop", "-o", tmp_path / "stopped")
    assert stopped.exit_code == 3, stopped.output
    assert "was stopped" in stopped.output


def test_maps_are_colored_by_uncertainty(by_command, tmp_path):
    """The numbers in the table are those of the calculator."""
    model, frames, table = by_command / "model.pt", by_command / "new.extxyz", tmp_path / "map.csv"
    names = {"uncertainty": "energies_uncertainty", "representation-distance": "representation_distance"}
    words = ["map", frames, "-m", model, "--device", "cpu", "--method", "pca", "-o", table]
    done = run(*words, *(word for name in names for word in ("--color", name)))
    assert done.exit_code == 0, done.output
    with table.open(newline="") as stream:
        rows = [*csv.DictReader(stream)]
    expected = DPA2Calculator(model, uncertainty=True, device="cpu").evaluate(read(frames, ":"), [*names.values()])
    for color, name in names.items():
        wanted = np.concatenate([result[name] for result in expected])
        np.testing.assert_allclose([float(row[color]) for row in rows], wanted, rtol=1e-6)
    assert "goes with --color" in run(*words, "--calibration", uncertainty_file(model)).output


@pytest.mark.parametrize("command", ["singlepoint", "evaluate", "md"])
def test_without_calibration_commands_say_how_to_make_one(by_command, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODEL, "bare.pt")
    extra = ["--steps", 1] if command == "md" else []
    words = [command, by_command / "new.extxyz", "-m", "bare.pt", "--device", "cpu", *extra]
    done = run(*words, "--uncertainty")
    assert done.exit_code == 2
    assert "no calibration bare.pt.uncertainty.npz; make it from labelled frames with dpa2 calibrate" in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"bare.pt"}
    assert "goes with --uncertainty" in run(*words, "--calibration", uncertainty_file(by_command / "model.pt")).output
    assert "dispersion" in run(*words, "--uncertainty", "--dispersion", "PBE").output


def test_elements_of_which_nothing_was_held_out_are_as_far_apart_as_others(tmp_path):
    """Distances of known environments to themselves would call everything else strange."""
    frames = labelled(2, 10)
    symbols = sorted({symbol for atoms in frames for symbol in atoms.symbols})
    held_out = []
    for atoms in frames:
        kept = atoms[[symbol != symbols[0] for symbol in atoms.symbols]]
        kept.calc = SinglePointCalculator(kept, energy=0.0, forces=np.zeros((len(kept), 3)))
        held_out.append(kept)
    found = calibrate(MODEL, labelled(1, 12), held_out, device="cpu", references=16, target=tmp_path / "u.npz").rigidity
    assert found.reach[symbols[0]] > 0.1 * min(found.reach[symbol] for symbol in symbols[1:])


def test_too_little_to_calibrate_with(tmp_path):
    shutil.copy(MODEL, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="too few"):
        calibrate(tmp_path / "model.pt", labelled(1, 12)[:3], device="cpu")
    with pytest.raises(ValueError, match="has no energy"):
        calibrate(tmp_path / "model.pt", labelled(1, 12), [zoo.structure("skew")] * 6, device="cpu")

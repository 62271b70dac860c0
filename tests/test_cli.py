"""The command ``dpa2``: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import read, write
from zoo import METALS

from dpa2_ase import DPA2Calculator, __version__, load_potential
from dpa2_ase.bundled import bundled_model
from dpa2_ase.cli import main

pytest.importorskip("pty", reason="terminals are those of POSIX")
from shell import COMMAND, ENVIRONMENT, copper, dpa2, ok, on_terminal, one_line, shell, with_model

HERE = Path(__file__).parent
PARITY, EXTRA = HERE / "data" / "parity", HERE / "data" / "extra"
SILICON = HERE.parent / "data" / "si-POSCAR"
MULTI_TASK = PARITY / "multitask-heads.pt"
OTHER_KINDS = {"dipole": "dipole", "polar": "polarizability", "dos": "dos", "property": "gap"}
DECIMALS = 1e-8  # extended XYZ keeps eight decimals of forces and positions; energies and stresses in full


def oxide(pbc: bool | tuple[bool, bool, bool] = True) -> Atoms:
    """O, H and Cu atoms, for the parity models."""
    rng = np.random.default_rng(3)
    cell = np.array([[5.5, 0.3, 0.1], [0.7, 5.1, -0.4], [-0.2, 0.5, 5.8]])
    grid = np.array([[i, j, k] for i in (0, 0.5) for j in (0, 0.5) for k in (0, 0.5)])
    positions = grid @ cell + rng.normal(0, 0.15, (8, 3))
    return Atoms("OHHCuOHCuH", positions, cell=cell if np.any(pbc) else None, pbc=pbc)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def files(folder) -> list[str]:
    """Two files, of three frames and of one."""
    write("frames.extxyz", [copper(seed) for seed in range(3)])
    write("one.cif", bulk("Ni", cubic=True))
    return ["frames.extxyz", "one.cif"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- start -----------------------------------------------------------------------------------------------------------


def test_help_is_quick():
    """It imports nothing that takes long: beside click only ASE's top level, with the numpy it needs."""
    code = (
        "import sys; before = {*sys.modules}\n"
        "import dpa2_ase.cli as c; c.main(['--help'], standalone_mode=False)\n"
        "new = {name.split('.')[0] for name in {*sys.modules} - before} - {*sys.stdlib_module_names}\n"
        "print('imported', *sorted(name for name in new if not name.startswith('_')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=HERE.parent)
    assert all(name in done.stdout for name in ("info", "singlepoint", "relax"))
    assert done.stdout.splitlines()[-1].split() == ["imported", "ase", "click", "dpa2_ase", "numpy"]


def test_installed_as_a_command():
    scripts = Path(sys.executable).parent / "dpa2"
    assert "singlepoint" in subprocess.run([scripts, "-h"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("command", sorted(main.commands))
def test_help_of_commands(command):
    assert "Usage:" in ok(dpa2(command, "-h"))


def test_version():
    assert ok(dpa2("--version")).split()[-1] == __version__


# ---- info ------------------------------------------------------------------------------------------------------------

DESCRIBED = [
    pytest.param(METALS, "training checkpoint (.pt)", "DPA2", "repinit 5.5, repformer 4", id="metals"),
    pytest.param(PARITY / "dpa2-medium.dp", "(.dp, HDF5)", "DPA2", "repinit 6, repformer 4, three-body 4", id="dp"),
    pytest.param(PARITY / "dpa2-medium.yaml", "(.yaml)", "DPA2", "repinit 6, repformer 4, three-body 4", id="yaml"),
    pytest.param(PARITY / "dpa2-medium.pth", "TorchScript", "DPA2", "repinit 6, repformer 4, three-body 4", id="pth"),
    pytest.param(PARITY / "dpa1-attn.pt2", "(.pte, .pt2)", "DPA1", "6", id="pt2"),
    pytest.param(PARITY / "dpa2-float32.pt", "training checkpoint (.pt)", "DPA2", "repformer", id="float32"),
]


@pytest.mark.parametrize(("model", "kind", "descriptor", "cutoffs"), DESCRIBED)
def test_info_says_what_a_file_holds(model, kind, descriptor, cutoffs):
    shown = ok(dpa2("info", model))
    facts = json.loads(ok(dpa2("info", model, "--json")))
    potential = load_potential(model)
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    parameters = sum(p.numel() for p in potential.parameters())
    (head,) = facts["heads"].values()
    assert facts["sha256"] == sha256
    assert facts["file"] == str(model)
    assert kind in facts["format"]
    assert head["parameters"] == parameters
    assert head["elements"] == list(potential.type_map)
    assert head["precision"] == potential.config.descriptor.precision
    expected = [kind, facts["writer"], descriptor, cutoffs, f"{parameters:,}", " ".join(potential.type_map), "Default"]
    for text in (*expected, head["precision"], sha256, str(model), "not recorded"):
        assert text in shown
    assert "…" not in shown


def test_info_names_the_writer_where_the_file_does():
    assert "deepmd-kit 3.2.0" in ok(dpa2("info", PARITY / "dpa2-medium.yaml"))


def test_info_without_a_model_is_about_the_bundled_one():
    assert json.loads(ok(dpa2("info", "--json")))["file"] == str(bundled_model())


def test_info_of_several_heads():
    shown = ok(dpa2("info", MULTI_TASK))
    heads = json.loads(ok(dpa2("info", MULTI_TASK, "--json")))["heads"]
    assert list(heads) == ["Domains_Water", "Domains_Alloy", "H2O_PBE0"]
    for name, head in heads.items():
        potential = load_potential(MULTI_TASK, name)
        assert head["parameters"] == sum(p.numel() for p in potential.parameters())
        assert head["observed"] == ["H", "O"]
        (line,) = [line for line in shown.splitlines() if name in line]
        for text in ("DPA2", "float64", f"{head['parameters']:,}", " H O Cu Si ", " H O "):
            assert text in line


@pytest.mark.parametrize(
    "name", ["refuse-hybrid-dpa1-dpa2", "refuse-hybrid-se-e2-a", "refuse-se-e2-a", "refuse-spin-dpa1"]
)
def test_info_says_why_a_model_is_not_supported(name):
    model = EXTRA / f"{name}.pt"
    shown = ok(dpa2("info", model))
    assert "supported" in shown
    assert "O H Cu" in shown
    (head,) = json.loads(ok(dpa2("info", model, "--json")))["heads"].values()
    assert head["unsupported"] in shown
    assert "supported" in one_line(dpa2("singlepoint", SILICON, "-m", model))


def test_info_cuts_nothing_off_a_terminal(tmp_path):
    """Long paths, whatever COLUMNS says."""
    deep = tmp_path / ("a-long-folder-" * 12) / ("and-another-[one]-" * 10)
    deep.mkdir(parents=True)
    model = deep / "model.pt"
    model.write_bytes(MULTI_TASK.read_bytes())
    done = shell("info", model, cwd=tmp_path)
    assert done.returncode == 0
    assert str(model) in done.stdout
    assert hashlib.sha256(model.read_bytes()).hexdigest() in done.stdout


def test_info_folds_on_a_narrow_terminal(tmp_path):
    """On a terminal of 40 columns the sha256 continues on the next line."""
    shown, _ = on_terminal(["info"], cwd=tmp_path, columns=40, stream="stdout")
    letters = "".join(c for c in shown if c in "0123456789abcdef")
    assert hashlib.sha256(bundled_model().read_bytes()).hexdigest() in letters
    assert "…" not in shown


def test_info_to_a_reader_that_stops_reading(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "info"], cwd=HERE.parent, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(60)


@pytest.mark.parametrize("as_json", [False, True])
def test_info_on_the_system(as_json):
    """Needs no model; with one it tells what every block runs on."""
    options = ["--json"] * as_json
    shown = ok(dpa2("info", "--system", *options))
    for fact in ("torch", "threads", "CUDA", "mode auto on cpu", "kernels", torch.__version__):
        assert fact in shown
    blocks = ok(dpa2("info", "--system", PARITY / "dpa2-medium.pt", *options))
    for block in ("repinit", "three_body", "repformer"):
        assert f"model.descriptor.{block}" in blocks
        assert f"model.descriptor.{block}" not in shown
    if as_json:
        assert json.loads(blocks).items() > json.loads(shown).items()


# ---- plan ------------------------------------------------------------------------------------------------------------


def test_plan(folder):
    write("in.extxyz", [oxide(), oxide() * 2])
    shown = ok(dpa2("plan", "in.extxyz", "-m", PARITY / "dpa2-medium.pt", "--mode", "torch", "--memory", "1"))
    assert "in.extxyz@0: 8 atoms" in shown
    assert "in.extxyz@1: 64 atoms" in shown
    assert shown.count("mode torch, float64") == 2
    assert shown.count("1.00 GiB hold") == 2
    failed = dpa2("plan", "in.extxyz", "-m", PARITY / "dpa2-medium.pt", "--memory", "0")
    assert failed.exit_code == 2


# ---- singlepoint -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["extxyz", "xyz", "traj", "db", "json", "extxyz.gz"])
def test_singlepoint_writes_what_the_calculator_says(files, folder, suffix):
    before = contents(folder)
    out = f"out.{suffix}"
    shown = ok(dpa2("singlepoint", *files, "-o", out, "--dtype", "float64"))
    for name in ("frames.extxyz@0", "frames.extxyz@1", "frames.extxyz@2", "one.cif"):
        assert name in shown
    found = read(out, ":")
    inputs = [*read("frames.extxyz", ":"), read("one.cif")]
    expected = DPA2Calculator(METALS, dtype="float64").evaluate(inputs)
    assert len(found) == len(inputs) == 4
    for atoms, origin, numbers in zip(found, inputs, expected, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(numbers["energy"], rel=1e-14)
        np.testing.assert_allclose(atoms.get_forces(), numbers["forces"], atol=DECIMALS)
        np.testing.assert_allclose(atoms.get_stress(), numbers["stress"], atol=1e-14)
        np.testing.assert_allclose(atoms.positions, origin.positions, atol=DECIMALS)
        np.testing.assert_allclose(atoms.cell, origin.cell, atol=DECIMALS)
    assert {name: data for name, data in contents(folder).items() if name != out} == before


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "db"])
def test_results_say_where_they_come_from(folder, suffix):
    write("in.extxyz", oxide())
    model = PARITY / "dpa2-medium.pt"
    ok(dpa2("singlepoint", "in.extxyz", "-m", model, "-o", f"out.{suffix}"))
    info = connect("out.db").get(1).data if suffix == "db" else read(f"out.{suffix}").info
    assert info["model"] == "dpa2-medium.pt"
    assert info["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert info["model_head"] == "Default"
    assert info["model_mode"] == DPA2Calculator(model, device="cpu").engine.mode
    assert info["dpa2_ase_version"] == __version__


def test_what_came_with_the_structure_stays(folder):
    atoms = copper()
    atoms.info["temperature"] = 300
    atoms.arrays["site"] = np.arange(4)
    write("in.extxyz", atoms)
    ok(dpa2("singlepoint", "in.extxyz", "-o", "out.extxyz"))
    np.testing.assert_array_equal(read("out.extxyz").arrays["site"], np.arange(4))
    atoms.set_constraint(FixAtoms([1]))
    write("in.traj", atoms)
    ok(dpa2("singlepoint", "in.traj", "-o", "out.traj"))
    found = read("out.traj")
    assert found.info["temperature"] == 300
    assert found.constraints[0].index.tolist() == [1]
    # the model's forces, not the zeros of a fixed atom
    assert np.abs(found.get_forces(apply_constraint=False)[1]).max() > 0.1


def test_results_of_the_input_do_not_reach_the_output(folder):
    write("in.extxyz", copper())
    ok(dpa2("singlepoint", "in.extxyz", "-o", "first.extxyz"))
    ok(dpa2("singlepoint", "first.extxyz", "--properties", "energy", "-o", "second.extxyz"))
    assert set(read("second.extxyz").calc.results) == {"energy"}


def test_any_periodicity_at_once(folder):
    kinds = [False, (True, False, False), (True, True, False), True]
    structures = [oxide(pbc) for pbc in kinds]
    write("in.traj", [*structures, Atoms("Cu")])
    model = PARITY / "dpa2-medium.pt"
    shown = ok(dpa2("singlepoint", "in.traj", "-m", model, "-o", "out.extxyz"))
    found = read("out.extxyz", ":")
    calculator = DPA2Calculator(model)
    for atoms, origin in zip(found, [*structures, Atoms("Cu")], strict=True):
        origin.calc = calculator
        assert atoms.pbc.tolist() == origin.pbc.tolist()
        assert atoms.get_potential_energy() == pytest.approx(origin.get_potential_energy(), rel=1e-13)
        np.testing.assert_allclose(atoms.get_forces(), origin.get_forces(), atol=DECIMALS)
        assert ("stress" in atoms.calc.results) == origin.pbc.any()
        if origin.pbc.any():
            np.testing.assert_allclose(atoms.get_stress(), origin.get_stress(), atol=1e-14)
    pressures = [line.split("│")[-2].strip() for line in shown.splitlines() if "in.traj" in line]
    assert [pressure == "–" for pressure in pressures] == [True, False, False, False, True]


def test_properties(folder):
    write("in.extxyz", [copper(), Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]])])
    names = "energy, energies,stresses,virial,free_energy"
    ok(dpa2("singlepoint", "in.extxyz", "--properties", names, "-o", "out.extxyz"))
    crystal, pair = read("out.extxyz", ":")
    assert set(crystal.calc.results) == {"energy", "free_energy", "energies", "stresses"}
    assert set(pair.calc.results) == {"energy", "free_energy", "energies"}  # a molecule has no stress
    assert crystal.calc.results["energies"].sum() == pytest.approx(crystal.get_potential_energy(), abs=1e-7)
    stress = crystal.calc.results["stresses"].sum(axis=0)[:3]  # eV/Å³
    np.testing.assert_allclose(stress, -np.diag(crystal.info["virial"]) / crystal.get_volume(), atol=4 * DECIMALS)


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "db", "json"])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_models_of_other_quantities(folder, kind, suffix):
    structures = [oxide(), oxide(pbc=False)]
    write("in.traj", structures)
    model, name, out = PARITY / f"dpa2-{kind}.pt", OTHER_KINDS[kind], f"out.{suffix}"
    shown = ok(dpa2("singlepoint", "in.traj", "-m", model, "-o", out))
    expected = DPA2Calculator(model).evaluate(structures)
    rows = list(connect(out).select()) if suffix in ("db", "json") else read(out, ":")
    for row, numbers in zip(rows, expected, strict=True):
        if suffix in ("db", "json"):
            found = row.data | {name: row[name] for name in numbers if name in row}
        else:
            found = row.info | (row.calc.results if row.calc else {})
        assert set(numbers) <= set(found)
        for key, value in numbers.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-12)
        for value in np.ravel(numbers[name]):
            assert f"{value:.6g}" in shown


def test_some_of_other_quantities(folder):
    write("in.extxyz", oxide())
    out = ok(
        dpa2("singlepoint", "in.extxyz", "-m", PARITY / "dpa2-dos.pt", "--properties", "atomic_dos", "-o", "o.traj")
    )
    assert "–" in out
    assert "atomic_dos" in read("o.traj").info
    assert "dos" not in read("o.traj").info


def test_a_head_must_be_chosen(folder):
    write("in.extxyz", Atoms("OH2", [[0, 0, 0], [0.8, 0.6, 0], [-0.8, 0.6, 0]]))
    message = one_line(dpa2("singlepoint", "in.extxyz", "-m", MULTI_TASK))
    for name in ("Domains_Water", "Domains_Alloy", "H2O_PBE0"):
        assert f"{name}: H O" in message
    assert "did you mean 'H2O_PBE0'" in one_line(dpa2("relax", "in.extxyz", "-m", MULTI_TASK, "--head", "H2O_PBE"))
    ok(dpa2("singlepoint", "in.extxyz", "-m", MULTI_TASK, "--head", "H2O_PBE0", "-o", "out.extxyz"))
    found = read("out.extxyz")
    assert found.info["model_head"] == "H2O_PBE0"
    expected = DPA2Calculator(MULTI_TASK, head="H2O_PBE0").evaluate([found])[0]["energy"]
    assert found.get_potential_energy() == pytest.approx(expected, abs=1e-6)


def test_warnings_take_one_line(tmp_path):
    write(tmp_path / "in.extxyz", oxide())
    done = shell("singlepoint", "in.extxyz", "-m", MULTI_TASK, "--head", "H2O_PBE0", cwd=tmp_path)
    assert one_line(done, 0).startswith("dpa2: warning: head 'H2O_PBE0' was not trained on ['Cu']")


def test_index_and_at_signs(files):
    ok(dpa2("singlepoint", "frames.extxyz", "--index", "1:", "-o", "last.traj"))
    last = read("last.traj", ":")
    np.testing.assert_allclose(last[0].positions, copper(1).positions, atol=DECIMALS)
    assert len(last) == 2
    assert "frames.extxyz@-1 " in ok(dpa2("singlepoint", "frames.extxyz", "--index", "-1"))
    shown = ok(dpa2("singlepoint", "frames.extxyz@0", "frames.extxyz@1:", "one.cif"))
    for name in ("frames.extxyz@0 ", "frames.extxyz@1:[0]", "frames.extxyz@1:[1]", "one.cif "):
        assert name in shown
    Path("odd@2.extxyz").write_bytes(Path("frames.extxyz").read_bytes())
    assert "odd@2.extxyz[2]" in ok(dpa2("singlepoint", "odd@2.extxyz"))


def test_more_structures_than_one_pass(folder, monkeypatch):
    monkeypatch.setattr("dpa2_ase.cli.journal.ATOMS_AT_ONCE", 3)
    structures = [bulk("Cu", a=3.5 + 0.02 * number) for number in range(8)]
    write("in.traj", structures)
    ok(dpa2("singlepoint", "in.traj", "-o", "out.traj", "--dtype", "float64"))
    expected = DPA2Calculator(METALS, dtype="float64").evaluate(structures, ["energy"])
    found = [atoms.get_potential_energy() for atoms in read("out.traj", ":")]
    np.testing.assert_allclose(found, [r["energy"] for r in expected], rtol=1e-13)


def test_an_existing_output_is_replaced_whole(folder):
    write("in.extxyz", copper())
    for out in ("out.db", "out.extxyz"):
        write(out, [copper()] * 3)
        ok(dpa2("singlepoint", "in.extxyz", "-o", out))
        assert len(read(out, ":")) == 1


def test_output_through_a_link(folder):
    write("in.extxyz", copper())
    Path("real").mkdir()
    Path("link.extxyz").symlink_to("real/out.extxyz")
    ok(dpa2("singlepoint", "in.extxyz", "-o", "link.extxyz"))
    assert Path("link.extxyz").is_symlink()
    assert read("real/out.extxyz").get_potential_energy() < 0
    assert [path.name for path in Path("real").iterdir()] == ["out.extxyz"]


# ---- relax -----------------------------------------------------------------------------------------------------------


def vacancy() -> Atoms:
    atoms = bulk("Cu", cubic=True) * 2
    del atoms[5]
    atoms.rattle(0.05, seed=2)
    return atoms


@pytest.mark.parametrize("optimizer", ["fire", "bfgs", "lbfgs"])
def test_relax_a_vacancy(folder, optimizer):
    write("in.extxyz", vacancy())
    before = contents(folder)
    shown = ok(dpa2("relax", "in.extxyz", "--fmax", 0.05, "--optimizer", optimizer, "-o", "out.extxyz"))
    assert "in.extxyz: Cu31, converged after" in shown
    found = read("out.extxyz")
    assert np.linalg.norm(found.get_forces(), axis=1).max() <= 0.05 + DECIMALS
    np.testing.assert_allclose(found.cell, vacancy().cell)
    assert found.info["model"] == METALS.name
    assert contents(folder)["in.extxyz"] == before["in.extxyz"]
    assert set(contents(folder)) == {"in.extxyz", "out.extxyz"}
    again = found.copy()
    again.calc = DPA2Calculator(METALS)
    assert again.get_potential_energy() == pytest.approx(found.get_potential_energy(), abs=1e-4)  # positions rounded


def table_row(shown: str, label: str) -> list[str]:
    (row,) = [line for line in shown.splitlines() if line.startswith(f"│ {label}")]
    return [entry.strip() for entry in row.strip("│").split("│")]


def test_relax_the_cell_of_silicon(folder):
    shown = ok(dpa2("relax", SILICON, "--cell", "--fmax", 0.001, "--no-report"))
    for title in ("energy / eV", "max force / eV/Å", "pressure / GPa", "a, b, c / Å", "α, β, γ / °"):
        assert title in shown
    found = read("si-POSCAR-relax/relaxed.extxyz")
    _, energy, force, pressure, lengths, angles = table_row(shown, "final")
    assert float(energy) == pytest.approx(found.get_potential_energy(), abs=1e-6)
    assert float(force) < 0.001
    assert abs(float(pressure)) < 0.05
    lattice = [*map(float, lengths.split(",")), *map(float, angles.split(","))]
    np.testing.assert_allclose(lattice, found.cell.cellpar(), atol=5e-3)
    start = table_row(shown, "initial")
    np.testing.assert_allclose(
        [float(x) for x in start[4].split(",")], read(SILICON, format="vasp").cell.lengths(), atol=1e-4
    )
    assert float(energy) < float(start[1])
    assert found.cell.lengths() == pytest.approx([3.87] * 3, abs=0.1)  # PBE: 3.867


def test_relax_several_files(folder):
    write("a.extxyz", [copper(1), copper(2)])
    write("b.extxyz", bulk("Ni", cubic=True))
    shown = ok(dpa2("relax", "a.extxyz", "b.extxyz", "--fmax", 0.1, "--no-report"))
    assert [name in shown for name in ("a.extxyz@0: Cu4", "a.extxyz@1: Cu4", "b.extxyz: Ni4")] == [True] * 3
    assert [atoms.get_chemical_formula() for atoms in read("a-relax/relaxed.extxyz", ":")] == ["Cu4", "Cu4", "Ni4"]


def test_not_converged(folder):
    write("in.extxyz", [copper(1), bulk("Cu")])
    message = one_line(dpa2("relax", "in.extxyz", "--max-steps", 2, "-o", "out.traj"), code=3)
    assert "not converged in 2 steps: in.extxyz@0; raise --max-steps" in message  # the other one had no forces
    first, second = read("out.traj", ":")
    assert first.get_potential_energy() < 0
    assert np.abs(second.get_forces()).max() < 1e-3


def test_relax_slabs(folder):
    slab = fcc111("Cu", (1, 1, 3), vacuum=6.0, periodic=False)
    slab.info.clear()
    write("slab.traj", slab)
    shown = ok(dpa2("relax", "slab.traj", "--fmax", 0.1, "--no-report"))
    assert "converged" in shown
    assert read("slab-relax/relaxed.extxyz").pbc.tolist() == [True, True, False]
    message = one_line(dpa2("relax", "slab.traj", "--cell", "-o", "other.extxyz"))
    assert "three periodic directions" in message
    assert not Path("other.extxyz").exists()


def test_relax_a_molecule_into_a_format_of_coordinates(folder):
    write("pair.xyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]]))
    shown = ok(dpa2("relax", "pair.xyz", "--fmax", 0.05, "-o", "pair.vasp.xyz"))
    assert table_row(shown, "final")[3:] == ["–", "–", "–"]  # neither pressure nor lattice
    write("crystal.extxyz", copper())
    ok(dpa2("relax", "crystal.extxyz", "--fmax", 0.1, "-o", "CONTCAR"))
    assert len(read("CONTCAR")) == 4


def test_fixed_atoms_stay_and_their_forces_are_told(folder):
    atoms = copper()
    atoms.set_constraint(FixAtoms([0, 1]))
    write("in.traj", atoms)
    ok(dpa2("relax", "in.traj", "--fmax", 0.05, "-o", "out.traj"))
    found = read("out.traj")
    np.testing.assert_allclose(found.positions[:2], atoms.positions[:2])
    assert np.abs(found.get_forces()).max() <= 0.05 < np.abs(found.get_forces(apply_constraint=False)).max()


# ---- bad input -------------------------------------------------------------------------------------------------------

PLAIN = '{}\npbc="F F F"\n{}\n'
BAD_STRUCTURES = {
    "corrupt.xyz": ("3\ncomment\nCu 0 0\n", "cannot be read as a structure"),
    "words.extxyz": ("this is not a structure\n", "cannot be read as a structure"),
    "empty.extxyz": ("", "cannot be read as a structure"),
    "gold.extxyz": (PLAIN.format(1, "Au 0 0 0"), r"elements ['Au'] (atoms [0]) are not in the model's type map"),
    "unknown.extxyz": (PLAIN.format(1, "Qq 0 0 0"), "cannot be read as a structure"),
    "nan.extxyz": (PLAIN.format(2, "Cu 0 0 0\nCu nan 0 2"), "positions of atoms [1] are not finite"),
    "twice.extxyz": (PLAIN.format(2, "Cu 0 0 0\nCu 0 0 0"), "atoms 0 and 1 are 0.0e+00 Å apart"),
    "flat.extxyz": ('1\nLattice="3 0 0 3 0 0 0 0 3" pbc="T T T"\nCu 0 0 0\n', "cell"),
}


@pytest.mark.parametrize("command", ["singlepoint", "relax"])
def test_errors_name_the_file_and_nothing_is_begun(folder, command):
    """Elements are checked before the first structure is evaluated or relaxed."""
    write("good.extxyz", copper())
    write("salt.extxyz", Atoms("NaCl", positions=[[0, 0, 0], [0, 0, 2.4]]))
    result = dpa2(command, "good.extxyz", "salt.extxyz", "-o", "out.extxyz")
    assert "dpa2: salt.extxyz: elements ['Cl', 'Na']" in one_line(result)
    assert not Path("out.extxyz").exists()


def test_singlepoint_names_the_file_whose_atoms_coincide(folder, monkeypatch):
    monkeypatch.setattr("dpa2_ase.cli.journal.ATOMS_AT_ONCE", 8)
    write("good.extxyz", [copper()] * 3)
    write("twice.extxyz", Atoms("Cu2", positions=np.zeros((2, 3))))
    message = one_line(dpa2("singlepoint", "good.extxyz", "twice.extxyz"))
    assert "atoms 0 and 1 of twice.extxyz are 0.0e+00 Å apart" in message


def test_relaxations_that_are_done_survive_a_later_failure(folder):
    write("good.extxyz", copper())
    write("twice.extxyz", Atoms("Cu2", positions=np.zeros((2, 3))))
    result = dpa2("relax", "good.extxyz", "twice.extxyz", "--fmax", "0.2", "-o", "out.extxyz")
    assert result.exit_code == 2
    assert len(read("out.extxyz", ":")) == 1


def test_quantities_without_a_column_need_a_file(folder):
    write("good.extxyz", copper())
    assert "give -o" in one_line(dpa2("singlepoint", "good.extxyz", "--properties", "energies"))


@pytest.mark.parametrize("command", ["singlepoint", "relax"])
@pytest.mark.parametrize("name", BAD_STRUCTURES)
def test_bad_structures(folder, name, command):
    text, message = BAD_STRUCTURES[name]
    Path(name).write_text(text)
    assert message in one_line(dpa2(command, name, "-o", "out.extxyz"))
    assert set(contents(folder)) == {name}


@pytest.mark.parametrize("command", ["singlepoint", "relax"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.extxyz"], "no structure file missing.extxyz"),
        (["missing.extxyz@0"], "no structure file missing.extxyz@0"),
        ([SILICON, "-m", "missing.pt"], "no model file missing.pt"),
        ([SILICON, "-m", HERE], "is a folder"),
        ([SILICON, "-m", SILICON], "si-POSCAR"),
        ([SILICON, "-o", "no/folder/out.extxyz"], "to write out.extxyz to"),
        ([SILICON, "-o", "out.nonsense"], "ASE cannot write out.nonsense"),
        ([SILICON, "-o", "no/folder"], "to make folder in"),
        ([SILICON, "-o", SILICON], "is also an input, which is never overwritten"),
        ([SILICON, "-o", "POSCAR.extxyz"], "ASE takes a file named POSCAR.extxyz for one of format vasp"),
        ([SILICON, "--index", "7"], "at index 7"),
        ([SILICON, "--index", "first"], "--index 'first' is neither a number nor a slice"),
        ([SILICON, "--head", "nonsense"], "has no head 'nonsense'"),
        ([HERE], "cannot be read as a structure"),
    ],
    ids=lambda value: "-".join(Path(str(x)).name for x in value) if isinstance(value, list) else "",
)
def test_bad_arguments(folder, command, arguments, message):
    output = [] if "-o" in arguments else ["-o", "out.extxyz"]
    assert message in one_line(dpa2(command, *arguments, *output))
    assert contents(folder) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["singlepoint", "--properties", "energy,dipole"], "this model has no ['dipole']; it has ['energy'"),
        (["singlepoint", "--properties", ","], "this model has no such property"),
        (["singlepoint", "-o", "out.cif"], "a file of format cif holds no results; use one of .extxyz, .traj"),
        (["relax", "--fmax", "-1"], "fmax should be positive"),
        (["relax", "--fmax", "nan"], "fmax should be positive"),
        (["relax", "--max-steps", "-1"], "max_steps not negative"),
    ],
)
def test_bad_options(folder, arguments, message):
    write("in.extxyz", copper())
    assert message in one_line(dpa2(arguments[0], "in.extxyz", *arguments[1:]))
    assert set(contents(folder)) == {"in.extxyz"}


def test_a_model_of_dipoles_relaxes_nothing(folder):
    write("in.extxyz", oxide())
    assert "has no ['energy']" in one_line(dpa2("relax", "in.extxyz", "-m", PARITY / "dpa2-dipole.pt"))
    assert set(contents(folder)) == {"in.extxyz"}


@pytest.mark.parametrize(
    "options", [["--dtype", "float16"], ["--optimizer", "newton"], ["--fmax", "small"], ["--nonsense"]]
)
def test_options_that_click_refuses(folder, options):
    result = dpa2("relax", SILICON, *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr
    assert contents(folder) == {}


@pytest.mark.parametrize("content", [b"", b"\x80\x02garbage", bytes(range(256)) * 9, b"PK\x03\x04 broken", b"a: [1"])
def test_bad_models(folder, content):
    Path("bad.pt").write_bytes(content)
    for command in (["info"], ["singlepoint", SILICON, "-m"], ["relax", SILICON, "-m"]):
        assert "bad.pt" in one_line(dpa2(*command, "bad.pt"))
    assert set(contents(folder)) == {"bad.pt"}


def test_half_a_model(folder):
    whole = bundled_model().read_bytes()
    Path("half.pt").write_bytes(whole[: len(whole) // 2])
    assert "half.pt" in one_line(dpa2("singlepoint", SILICON, "-m", "half.pt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "abacus"])
def test_no_such_device(folder, device):
    message = one_line(dpa2("relax", SILICON, "--device", device))
    assert f"device '{device}' is not available here; available: ['cpu']" in message


def test_an_input_is_never_the_output(folder):
    write("in.extxyz", copper())
    Path("link.extxyz").symlink_to("in.extxyz")
    before = contents(folder)
    for out in ("in.extxyz", "link.extxyz", "./in.extxyz"):
        assert "never overwritten" in one_line(dpa2("relax", "in.extxyz", "-o", out))
    assert contents(folder) == before


def test_several_structures_do_not_fit_into_one(folder):
    write("in.extxyz", [copper(), copper()])
    assert "holds one structure, not 2" in one_line(dpa2("relax", "in.extxyz", "-o", "POSCAR"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder where nobody can write")
def test_a_folder_nobody_can_write_to(folder):
    assert "cannot write to folder /proc" in one_line(dpa2("singlepoint", SILICON, "-o", "/proc/out.extxyz"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_devices_are_not_replaced(folder):
    Path("full.extxyz").symlink_to("/dev/full")
    assert "is not a regular file" in one_line(dpa2("singlepoint", SILICON, "-o", "full.extxyz"))
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("suffix", ["extxyz", "db"])
def test_no_space_left(tmp_path, suffix):
    """A limit on the size of files stands in for a full disk: both fail in the middle of writing."""
    write(tmp_path / "in.extxyz", bulk("Cu", cubic=True) * 3)
    (tmp_path / f"out.{suffix}").write_text("an older result")
    before = contents(tmp_path)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = shell("singlepoint", "in.extxyz", "-o", f"out.{suffix}", cwd=tmp_path, preexec_fn=limit)
    assert "cannot write out" in one_line(done)
    assert contents(tmp_path) == before


# ---- terminals and interrupts ----------------------------------------------------------------------------------------


def test_progress_appears_on_a_terminal_only(tmp_path):
    write(tmp_path / "in.extxyz", copper())
    arguments = ["relax", "in.extxyz", "--fmax", "0.1", "-o", "out.extxyz"]
    shown, code = on_terminal(arguments, cwd=tmp_path, stream="stderr")
    assert code == 0
    assert "relaxing in.extxyz" in shown
    assert "max force" in shown
    assert "━" in shown  # the bar
    done = shell(*arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "relaxing" not in done.stdout
    shown, _ = on_terminal(["singlepoint", "in.extxyz"], cwd=tmp_path, stream="stderr")
    assert "evaluating" in shown


def test_interrupt_leaves_nothing_behind(tmp_path):
    write(tmp_path / "in.extxyz", copper())
    arguments = ["relax", "in.extxyz", "--fmax", "1e-12", "--max-steps", "1000000", "-o", "out.extxyz"]
    shown, code = on_terminal(
        arguments, cwd=tmp_path, stream="stderr", columns=200, until="max force", then=signal.SIGINT
    )
    assert code == 130
    assert "dpa2: interrupted; nothing half-written was left" in shown
    assert "Traceback" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["in.extxyz"]


def test_output_to_a_terminal_of_few_letters(tmp_path):
    """An encoding without Å replaces it; the work is done all the same."""
    write(tmp_path / "in.extxyz", copper())
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(HERE.parent)}
    command = [*COMMAND, *with_model(["relax", "in.extxyz", "--fmax", "0.2", "--no-report"])]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert (tmp_path / "in-relax" / "relaxed.extxyz").exists()

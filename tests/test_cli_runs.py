"""Folders of runs: resumed, refused, complete; what is left after failures, signals and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from zoo import METALS

from dpa2_ase import DPA2Calculator
from dpa2_ase.bundled import bundled_model
from dpa2_ase.cli import display
from dpa2_ase.cli.journal import Journal, JournaledCalculator

pytest.importorskip("pty", reason="terminals are those of POSIX")
from shell import COMMAND, ENVIRONMENT, ROOT, copper, dpa2, ok, on_terminal, one_line, shell, with_model

SAME = 1e-9  # relative; a model's tables differ in the last digits by what it evaluated before


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with a crystal of one atom and one of four that are not at rest."""
    monkeypatch.chdir(tmp_path)
    write("prim.extxyz", bulk("Cu", a=3.65))
    write("cell.traj", [copper(0), copper(1)])
    write("ends.traj", [Atoms("Cu3", [[0, 0, 0], [2.3, 0, 0], [x, 2.2, 0.1]]) for x in (0.6, 1.7)])
    return tmp_path


def state(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "run.json").read_text())


def names(folder: str | Path = ".") -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def interrupt_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Ctrl-C as soon as so many answers are in the journal."""
    add = Journal.add

    def added(self: Journal, *arguments: Any) -> None:
        add(self, *arguments)
        if len(self) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", added)


# ---- interrupted and gone on with ------------------------------------------------------------------------------------

RUNS = {
    "relax": (["relax", "cell.traj", "--fmax", "0.3", "--cell"], 5),
    "eos": (["eos", "prim.extxyz", "--points", "5"], 3),
    "elastic": (["elastic", "prim.extxyz", "--source", "stress"], 7),
    "vibrations": (["vibrations", "cell.traj@0", "--method", "displacements"], 9),
    "neb": (["neb", "ends.traj", "--images", "1", "--interpolation", "linear", "--fmax", "0.5"], 3),
    "singlepoint": (["singlepoint", "cell.traj"], 1),
    "compare": (["compare", "cell.traj", "--eos"], 3),
}


@pytest.mark.parametrize("command", RUNS)
def test_an_interrupted_run_ends_where_it_would_have(folder, monkeypatch, command):
    """Whatever was evaluated before Ctrl-C is not evaluated again."""
    monkeypatch.setattr("dpa2_ase.cli.journal.ATOMS_AT_ONCE", 1)
    arguments, count = RUNS[command]
    arguments = [*arguments, "--no-report"]
    ok(dpa2(*arguments, "-o", "whole"))
    with monkeypatch.context() as patched:
        interrupt_after(patched, count)
        message = one_line(dpa2(*arguments, "-o", "parts"), code=130)
    assert "go on with the same command and --resume" in message
    assert state("parts")["state"] == "interrupted"
    assert "not finished; go on with --resume" in one_line(dpa2(*arguments, "-o", "parts"))
    ok(dpa2(*arguments, "-o", "parts", "--resume"))
    whole, parts = state("whole"), state("parts")
    assert parts["state"] == "complete"
    assert parts["hash"] == whole["hash"]
    for expected, found in zip(whole["table"]["rows"], parts["table"]["rows"], strict=True):
        for left, right in zip(expected, found, strict=True):
            assert right == (pytest.approx(left, rel=SAME, abs=1e-6) if isinstance(left, float) else left)
    assert names("whole") == names("parts")
    assert "journal.bin" not in names("parts")
    spared = whole["provenance"]["evaluations"] - parts["provenance"]["evaluations"]
    assert spared >= count // 2


def test_md_goes_on_to_the_last_bit(folder, monkeypatch):
    arguments = ["md", "cell.traj@0", "--interval", 2, "--frame-interval", 4, "--timestep", 2, "--no-report"]
    ok(dpa2(*arguments, "--steps", 24, "-o", "whole"))
    calls, compute = [], DPA2Calculator.calculate

    def counted(self: DPA2Calculator, *given: Any, **named: Any) -> None:
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        compute(self, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(DPA2Calculator, "calculate", counted)
        one_line(dpa2(*arguments, "--steps", 24, "-o", "parts"), code=130)
    assert 0 < len(Path("parts/md-thermo.csv").read_text().splitlines()) < 14
    ok(dpa2(*arguments, "--steps", 24, "-o", "parts", "--resume"))
    tables = [np.genfromtxt(f"{name}/md-thermo.csv", delimiter=",", skip_header=1) for name in ("whole", "parts")]
    np.testing.assert_allclose(tables[1], tables[0], rtol=SAME)
    # a longer run is the same run, further
    message = one_line(dpa2(*arguments, "--steps", 30, "-o", "whole"))
    assert "to its end (steps 24 there, 30 here); go on with --resume" in message
    ok(dpa2(*arguments, "--steps", 30, "-o", "whole", "--resume"))
    message = one_line(dpa2(*arguments, "--steps", 10, "-o", "whole", "--resume"))
    assert "holds this run to steps 30; ask for no less" in message
    assert len(read("whole/md-trajectory.extxyz", ":")) == 8
    assert "initial" not in one_line(dpa2(*arguments, "--steps", 30, "-o", "whole", "--seed", 1))


def test_ctrl_c_on_a_terminal_and_resume(folder):
    """A process of its own, a real signal."""
    arguments = ["relax", "cell.traj@0", "--fmax", "1e-12", "--max-steps", "8000", "--no-report", "-o", "out"]
    shown, code = on_terminal(arguments, cwd=folder, stream="stderr", columns=300, until="step ", then=signal.SIGINT)
    assert code == 130
    assert "interrupted; go on with the same command and --resume (kept in out)" in shown
    assert "Traceback" not in shown
    assert names("out") == {"run.json", "journal.bin"}
    result = dpa2(*arguments, "--resume")
    assert result.exit_code == 3  # 8000 steps do not reach that force
    assert state("out")["table"]["rows"][0][3] == 8000


def test_the_end_of_a_job_and_a_kill(folder):
    """SIGTERM is Ctrl-C to a batch system; SIGKILL leaves no time to write anything."""
    arguments = with_model(
        ["md", "cell.traj@0", "--steps", "100000", "--interval", "1", "--frame-interval", "5", "--no-report"]
    )
    for ending, code in ((signal.SIGTERM, 130), (signal.SIGKILL, -9)):
        process = subprocess.Popen(
            [*COMMAND, *arguments, "--resume"], env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        before = _size("cell-md/md-thermo.csv")
        deadline = time.monotonic() + 100
        while _size("cell-md/md-trajectory.extxyz") < 6000 or _size("cell-md/md-thermo.csv") < before + 3000:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        assert "another dpa2 is at work" in one_line(dpa2(*arguments, "--resume"))
        process.send_signal(ending)
        assert process.wait(60) == code
    assert state("cell-md")["state"] == "running"
    assert "not finished" in one_line(dpa2(*arguments))
    ok(dpa2("md", "cell.traj@0", "--steps", 3, "--overwrite", "--no-report", "-o", "cell-md"))
    assert len(Path("cell-md/md-thermo.csv").read_text().splitlines()) == 2


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def test_resume_begins_where_there_is_nothing(folder):
    """So that a job script need not know whether it runs for the first time."""
    ok(dpa2("eos", "prim.extxyz", "--points", 5, "--resume", "--no-report"))
    assert "complete already: prim-eos" in ok(dpa2("eos", "prim.extxyz", "--points", 5, "--resume"))


# ---- the same run or another -----------------------------------------------------------------------------------------


def test_what_is_complete_is_not_computed_again(folder):
    first = ok(dpa2("eos", "prim.extxyz", "--points", 5, "--no-report"))
    before = {path.name: path.stat().st_mtime_ns for path in Path("prim-eos").iterdir()}
    write("elsewhere.cif", read("prim.extxyz"))  # another name and format, the same structure but for rounding
    write("elsewhere.traj", read("prim.extxyz"))
    second = ok(dpa2("eos", "elsewhere.traj", "--points", 5, "-o", "prim-eos"))
    assert second.replace("complete already: ", "written: ") == first
    assert {path.name: path.stat().st_mtime_ns for path in Path("prim-eos").iterdir()} == before


def test_another_run_is_refused_in_one_line_that_says_why(folder):
    ok(dpa2("eos", "prim.extxyz", "--points", 5, "-o", "out", "--no-report"))
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    changed = read("prim.extxyz")
    changed.positions += 1e-12
    changed.set_cell(changed.cell * (1 + 1e-9))
    write("changed.traj", changed)
    model = Path("model.pt")
    model.write_bytes(bundled_model().read_bytes() + b"\0")
    cases = [
        (["eos", "prim.extxyz", "--points", 6], "points 5 there, 6 here"),
        (["eos", "prim.extxyz", "--points", 5, "--dtype", "float64"], "model dtype None there, float64 here"),
        (["eos", "changed.traj", "--points", 5], "other structures"),
        (["eos", "prim.extxyz", "cell.traj", "--points", 5], "1 structures there, 3 here"),
        (["elastic", "prim.extxyz"], "command eos there, elastic here"),
    ]
    for arguments, reason in cases:
        for resume in ([], ["--resume"]):
            message = one_line(dpa2(*arguments, *resume, "-o", "out"))
            assert f"out holds another run ({reason}" in message
            assert "--overwrite" in message
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


def test_another_model_is_another_run(folder):
    parity = ROOT / "tests" / "data" / "parity"
    write("pair.traj", Atoms("CuO", [[0, 0, 0], [1.9, 0, 0]]))
    ok(dpa2("singlepoint", "pair.traj", "-m", parity / "dpa2-medium.pt", "-o", "out", "--no-report"))
    message = one_line(dpa2("singlepoint", "pair.traj", "-m", parity / "dpa2-strip.pt", "-o", "out"))
    assert "model sha256" in message


def test_overwriting_leaves_what_is_not_the_run_s(folder):
    ok(dpa2("relax", "cell.traj", "--fmax", 0.2, "-o", "out", "--no-report"))
    Path("out/notes.txt").write_text("mine")
    ok(dpa2("eos", "prim.extxyz", "--points", 5, "-o", "out", "--no-report", "--overwrite"))
    assert names("out") == {"run.json", "notes.txt", "eos.json", "eos.png", "eos.svg", "eos-atoms.extxyz"}
    ok(dpa2("eos", "prim.extxyz", "--points", 6, "-o", "out", "--no-report", "--overwrite"))
    assert Path("out/notes.txt").read_text() == "mine"


def test_a_list_of_files_that_somebody_edited(folder):
    """Overwriting deletes nothing outside the folder."""
    ok(dpa2("eos", "prim.extxyz", "--points", 5, "-o", "out", "--no-report"))
    edited = state("out")
    edited["files"] += ["../prim.extxyz", "/etc/hostname"]
    Path("out/run.json").write_text(json.dumps(edited))
    ok(dpa2("eos", "prim.extxyz", "--points", 6, "-o", "out", "--no-report", "--overwrite"))
    assert Path("prim.extxyz").exists()


# ---- bad input -------------------------------------------------------------------------------------------------------

ALL = {
    "singlepoint": ["-o", "out"], "relax": [], "md": ["--steps", "5"], "phonons": [], "neb": [], "eos": [],
    "elastic": [], "vibrations": [], "evaluate": [], "compare": ["-o", "out"], "plan": [],
}  # fmt: skip


@pytest.mark.parametrize("command", ALL)
def test_bad_input_leaves_nothing(folder, command):
    """One line on stderr, exit code 2, no file more than before."""
    write("salt.extxyz", Atoms("NaCl", positions=[[0, 0, 0], [0, 0, 2.4]]))
    Path("nan.extxyz").write_text('2\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nCu 0 0 0\nCu nan 0 2\n')
    write("flat.traj", Atoms("Cu", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True))
    Path("words.extxyz").write_text("words\n")
    before, options = names(), ALL[command]
    heads = ["--heads", "nonsense"] if command == "compare" else ["--head", "nonsense"]
    cases = [
        (["missing.cif"], "no structure file missing.cif"),
        (["none*.cif"], "no structure file fits none*.cif"),
        (["words.extxyz"], "cannot be read as a structure"),
        (["nan.extxyz"], "not finite"),
        (["flat.traj"], "flat.traj: cell is singular"),
        (["salt.extxyz"], "elements ['Cl', 'Na']" if command != "compare" else "['Cl', 'Na']"),
        (["prim.extxyz", "--index", "9"], "at index 9"),
        (["prim.extxyz", *heads], "has no head 'nonsense'"),
        (["prim.extxyz", "--device", "abacus"], "device 'abacus' is not available"),
    ]
    if command != "compare":
        cases.append((["prim.extxyz", "--model", "missing.pt"], "no model file missing.pt"))
    for arguments, message in cases:
        assert message in one_line(dpa2(command, *arguments, *options))
        assert names() == before


WRONG = [
    (["relax", "prim.extxyz", "--fmax", "-1"], "fmax should be positive"),
    (["relax", "prim.extxyz", "--pressure", "5"], "give cell=True"),
    (["relax", "ends.traj", "--cell"], "three periodic directions"),
    (["md", "prim.extxyz", "--steps", "-5"], "steps should not be negative"),
    (["md", "prim.extxyz", "--steps", "5", "--timestep", "0"], "timestep should be positive"),
    (["md", "prim.extxyz", "--steps", "5", "--ensemble", "nve", "--temp-end", "9"], "a ramp needs a thermostat"),
    (["phonons", "ends.traj@0"], "phonons need a crystal"),
    (["phonons", "prim.extxyz", "--supercell", "0 1 1"], "supercell should be three whole numbers"),
    (["neb", "ends.traj", "--fmax", "0"], "fmax should be positive"),
    (["eos", "prim.extxyz", "--points", "3"], "points at least 5"),
    (["eos", "ends.traj@0"], "three periodic directions"),
    (["elastic", "prim.extxyz", "--strain", "3"], "strain should be between"),
    (["vibrations", "ends.traj@0", "--temperatures", "-5"], "should be positive"),
    (["evaluate", "prim.extxyz"], "no structure has an energy"),
    (["compare", "ends.traj", "--relax", "--fmax", "nan"], "fmax should be positive"),
    (["singlepoint", "prim.extxyz", "--properties", "charm", "-o", "out"], "no ['charm']"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), WRONG, ids=lambda value: "-".join(value[:4]) if isinstance(value, list) else ""
)
def test_nonsense_leaves_nothing(folder, arguments, message):
    before = names()
    assert message in one_line(dpa2(*arguments))
    assert names() == before


def test_folders_that_cannot_be_used(folder):
    before = names()
    assert "no folder" in one_line(dpa2("eos", "prim.extxyz", "-o", "no/such"))
    assert "is a file" in one_line(dpa2("eos", "prim.extxyz", "-o", "cell.traj"))
    assert "holds no run of dpa2" in one_line(dpa2("eos", "prim.extxyz", "-o", "."))
    assert "cannot make the folder" in one_line(dpa2("eos", "prim.extxyz", "-o", "/proc/out"))
    assert names() == before
    Path("locked").mkdir(mode=0o500)
    if not os.access("locked", os.W_OK):  # the superuser may write anywhere
        assert "cannot write to folder locked" in one_line(dpa2("eos", "prim.extxyz", "-o", "locked"))
    Path("run").mkdir()
    Path("run/run.json").write_text("{}")
    assert "holds no run of dpa2" in one_line(dpa2("eos", "prim.extxyz", "-o", "run"))


def test_an_empty_folder_stays_empty(folder):
    Path("out").mkdir()
    Path("twice.extxyz").write_text('2\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nCu 0 0 0\nCu 0 0 0\n')
    for command, options in (("eos", []), ("relax", []), ("md", ["--steps", "5"]), ("singlepoint", [])):
        assert "apart" in one_line(dpa2(command, "twice.extxyz", *options, "-o", "out"))
        assert names("out") == set()
        assert "apart" in one_line(dpa2(command, "twice.extxyz", *options, "-o", "made"))
        assert not Path("made").exists()


def test_a_full_disk_costs_no_evaluation(folder, monkeypatch):
    """The answers of the model are kept, for when there is room."""

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    arguments = ["eos", "prim.extxyz", "--points", 5, "--no-report"]
    with monkeypatch.context() as patched:
        patched.setattr("dpa2_ase.workflows.plots.save", full)
        assert "no space left" in one_line(dpa2(*arguments))
    assert state("prim-eos")["state"] == "failed"
    ok(dpa2(*arguments, "--resume"))
    assert state("prim-eos")["provenance"]["evaluations"] == 0


def test_failure_in_a_process_of_its_own(tmp_path):
    assert "no structure file none.cif" in one_line(shell("phonons", "none.cif", cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


# ---- the journal -----------------------------------------------------------------------------------------------------


def test_journal_forgets_what_was_half_written(tmp_path):
    path = tmp_path / "journal.bin"
    journal = Journal(path)
    answers = [{"energy": float(n), "forces": np.full((2, 3), n + 0.5)} for n in range(3)]
    for number, answer in enumerate(answers):
        journal.add(bytes([number] * 32), answer)
    journal.close()
    whole = path.read_bytes()
    for cut in (1, 30, 100):
        path.write_bytes(whole[:-cut])
        journal = Journal(path)
        assert len(journal) == 2
        journal.add(bytes([9] * 32), answers[0])
        journal.close()
        again = Journal(path)
        assert len(again) == 3
        assert again.get(bytes([1] * 32))["energy"] == 1.0
        np.testing.assert_array_equal(again.get(bytes([9] * 32))["forces"], answers[0]["forces"])
        assert again.get(bytes([2] * 32)) is None
        again.close()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    path.write_bytes(damaged)
    journal = Journal(path)
    assert len(journal) == 1  # everything after the damage is asked again
    journal.close()


def test_a_calculator_with_a_journal_says_the_same(tmp_path):
    """Values, shapes and types, asked in any order; the journal answers for the model."""
    plain, atoms = DPA2Calculator(METALS), copper()
    vectors = np.random.default_rng(0).normal(size=(3, 4, 3))
    for turn in range(2):
        calculator = JournaledCalculator(METALS)
        calculator.journal = Journal(tmp_path / "journal.bin")
        own = atoms.copy()
        own.calc = calculator
        assert own.get_potential_energy() == pytest.approx(plain.get_potential_energy(atoms), rel=SAME)
        np.testing.assert_allclose(own.get_forces(), plain.get_forces(atoms), atol=1e-7)
        np.testing.assert_allclose(own.get_stress(), plain.get_stress(atoms), atol=1e-9)
        (row,) = calculator.evaluate([atoms], ["energy", "forces"])
        assert isinstance(row["energy"], float)
        np.testing.assert_allclose(row["forces"], plain.get_forces(atoms), atol=1e-7)
        np.testing.assert_allclose(calculator.get_hessian(atoms), plain.get_hessian(atoms), atol=1e-6)
        products = plain.get_hessian_products(vectors, atoms)
        np.testing.assert_allclose(calculator.get_hessian_products(vectors, atoms), products, atol=1e-6)
        for mine, theirs in zip(
            calculator.get_strain_derivatives(atoms), plain.get_strain_derivatives(atoms), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)
        own.positions[0, 0] += 0.1  # another structure is another question
        assert own.get_potential_energy() != pytest.approx(plain.get_potential_energy(atoms), abs=1e-4)
        assert calculator.asked == (3 if turn == 0 else 0)
        calculator.journal.close()


# ---- progress --------------------------------------------------------------------------------------------------------


def test_lines_of_progress_off_a_terminal(folder, monkeypatch):
    """One now and then; here after every sample."""
    monkeypatch.setattr(display, "EVERY", 0.0)
    result = dpa2("md", "cell.traj@0", "--steps", 4, "--interval", 2, "--no-report")
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("dynamics of cell.traj@0 4/4 T ")
    for unit in ("K", "eV", "GPa", "steps/s", "left"):
        assert unit in lines[-1]
    result = dpa2("eos", "prim.extxyz", "--points", 5, "--no-report")
    assert "eos of prim.extxyz 5/5" in result.stderr

"""Every command from end to end: the numbers of the function behind it, in files and a report."""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from zoo import METALS

from dpa2_ase import DPA2Calculator
from dpa2_ase.cli import main
from dpa2_ase.cli.config import options_of, read_config, template
from dpa2_ase.cli.options import Command
from dpa2_ase.workflows.comparison import compare
from dpa2_ase.workflows.dispersion import with_dispersion
from dpa2_ase.workflows.elastic import elastic
from dpa2_ase.workflows.eos import eos
from dpa2_ase.workflows.errors import errors
from dpa2_ase.workflows.md import md
from dpa2_ase.workflows.neb import neb
from dpa2_ase.workflows.phonons import phonons
from dpa2_ase.workflows.relax import relax
from dpa2_ase.workflows.vibrations import vibrations

pytest.importorskip("pty", reason="terminals are those of POSIX")
from shell import copper, dpa2, ok, one_line

MULTI_TASK = Path(__file__).parent / "data" / "parity" / "multitask-heads.pt"
SAME = 1e-9  # relative; both ways compute the same, tables differ in the last digits by what was evaluated before
COMMON = {
    "structures",
    "index",
    "model",
    "head",
    "device",
    "dtype",
    "mode",
    "dispersion",
    "out",
    "resume",
    "overwrite",
    "report",
}
COMMON |= {"config", "help"}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with a crystal of one atom, one of four that are not at rest, and a pair."""
    monkeypatch.chdir(tmp_path)
    write("prim.extxyz", bulk("Cu", a=3.62))
    write("cell.traj", copper())
    write("pair.xyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]]))
    return tmp_path


def calculated(name: str) -> Atoms:
    """A structure of the folder with the calculator that commands use by default."""
    atoms = read(name)
    atoms.calc = DPA2Calculator(METALS)
    return atoms


def state(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "run.json").read_text())


def stored(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """All numbers of a result by their place, without those of the clock and the machine."""
    if isinstance(value, dict):
        parts = [(f"{path}.{key}", item) for key, item in value.items() if key not in ("provenance", "versions")]
    elif isinstance(value, list):
        parts = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {path: value} if isinstance(value, float) else {}
    return {place: number for name, item in parts for place, number in numbers(item, name).items()}


def agree(found: dict[str, Any], expected: dict[str, Any], *, absolute: float = 1e-9) -> None:
    """The same numbers at the same places."""
    assert found["workflow"] == expected["workflow"]
    left, right = numbers(found), numbers(json.loads(json.dumps(expected, default=str)))
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value == pytest.approx(right[name], rel=SAME, abs=absolute, nan_ok=True), name


# ---- thin faces ------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "relax": relax, "md": md, "phonons": phonons, "neb": neb, "eos": eos, "elastic": elastic,
    "vibrations": vibrations, "compare": compare,
}  # fmt: skip
NOT_OPTIONS = {
    "atoms", "initial", "final", "structures", "calculators", "names", "guess", "calc",
    "on_step", "on_result", "on_progress", "on_model", "observers", "folder", "resume", "restart", "limits",
}  # fmt: skip
OWN = {
    "relax": {"opt_cell_fully", "opt_cell_lengths", "trajectory"},
    "md": {"max_temperature", "max_force", "min_distance", "uncertainty", "calibration", "rdf", "msd", "vdos"},
    "phonons": {"mesh", "temperatures", "gruneisen", "qha", "pressure"},
    "compare": {"models", "heads"},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_names_and_defaults_are_those_of_the_function(name):
    options = {option.name: option for option in main.commands[name].params}
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    wanted = set(parameters) - NOT_OPTIONS
    assert set(options) - COMMON - OWN.get(name, set()) == wanted - ({"trajectory"} if name == "relax" else set())
    for word in wanted - {"trajectory", "steps"}:
        default, expected = options[word].get_default(click.Context(main), call=False), parameters[word].default
        if expected is False or expected is None:
            assert default is False or not isinstance(default, bool | int | float | str | tuple), word
        else:
            assert default in (expected, (expected,)), word


def test_names_of_janus_core_are_understood():
    """Where it has an option for the same thing, under its name."""
    words = {
        "relax": "--steps --fmax --optimizer --pressure --opt-cell-lengths --opt-cell-fully --fix-symmetry",
        "md": "--ensemble --steps --timestep --temp --temp-end --seed --thermostat-time --barostat-time --pressure "
        "--stats-every --traj-every",
        "phonons": "--supercell --displacement --fmax --mesh",
        "neb": "--n-images --interpolator --optimizer --fmax --steps --minimize",
        "eos": "--n-volumes --eos-type --fmax",
        "elastic": "--minimize --fmax",
        "singlepoint": "--properties --out --device --model",
    }
    for command, names in words.items():
        known = {word for option in main.commands[command].params for word in option.opts}
        assert set(names.split()) <= known


# ---- one structure, one result ---------------------------------------------------------------------------------------

JOBS = [
    ("eos", "prim.extxyz", ["--points", "5"], lambda a: eos(a, points=5)),
    ("elastic", "prim.extxyz", ["--source", "stress", "--no-relax-first"],
     lambda a: elastic(a, source="stress", relax_first=False)),
    ("elastic", "prim.extxyz", [], elastic),
    ("vibrations", "pair.xyz", ["--method", "displacements", "--temperatures", "100:300:100"],
     lambda a: vibrations(a, method="displacements", temperatures=(100.0, 200.0, 300.0))),
    ("relax", "cell.traj", ["--cell", "volume", "--fmax", "0.1"], lambda a: relax(a, cell="volume", fmax=0.1)),
]  # fmt: skip


@pytest.mark.parametrize(("command", "structure", "options", "function"), JOBS)
def test_a_command_gives_what_its_function_gives(folder, command, structure, options, function):
    ok(dpa2(command, structure, *options, "-o", "out", "--no-report"))
    # elastic constants by stresses of float32 nets: noise of 1e-6 eV/Å over a strain of 1e-3 is 1e-2 GPa
    absolute = {"elastic": 0.05, "vibrations": 0.05}.get(command, 1e-6)
    agree(stored(f"out/{command}.json"), function(calculated(structure)).to_dict(), absolute=absolute)
    run = state("out")
    assert run["state"] == "complete"
    assert {f"{command}.json", f"{command}.png", f"{command}.svg"} <= set(run["files"])
    assert sorted(run["files"]) == sorted(p.name for p in Path("out").iterdir() if p.name != "run.json")


def test_dispersion(folder):
    """D3 of two atoms, and where it is said to be in the numbers."""
    arguments = ["singlepoint", "pair.xyz", "--properties", "energy,forces"]
    ok(dpa2(*arguments, "-o", "without.extxyz"))
    ok(dpa2(*arguments, "-o", "with.extxyz", "--dispersion", "PBE"))
    expected = with_dispersion(DPA2Calculator(METALS), "PBE").evaluate([read("pair.xyz")], ["energy"])[0]["energy"]
    assert read("with.extxyz").get_potential_energy() == pytest.approx(expected, rel=SAME)
    assert read("with.extxyz").get_potential_energy() < read("without.extxyz").get_potential_energy()
    assert read("with.extxyz").info["dispersion"] == "D3(BJ), PBE"
    assert "no D3(BJ) parameters are known" in one_line(dpa2("eos", "prim.extxyz", "--dispersion", "XYZ"))


def test_compare_with_dispersion(folder):
    """Every model with D3, as the function has it with calculators that have it."""
    ok(dpa2("compare", "cell.traj", "--dispersion", "PBE", "-o", "out", "--no-report"))
    expected = compare([read("cell.traj")], {"metals6": with_dispersion(DPA2Calculator(METALS), "PBE")})
    agree(stored("out/comparison.json"), expected.to_dict())
    assert state("out")["identity"]["models"][0]["dispersion"] == "PBE"


def test_run_says_where_its_numbers_come_from(folder):
    ok(dpa2("eos", "prim.extxyz", "--points", "5"))
    run = state("prim-eos")
    calculator = DPA2Calculator(METALS)
    (model,) = run["provenance"]["models"]
    assert model["sha256"] == calculator.source["sha256"]
    assert model["head"] == calculator.source["head"]
    assert model["engine"] == calculator.engine.mode
    assert {"dpa2-ase", "torch", "ase", "numpy", "python"} <= run["provenance"]["versions"].keys()
    assert run["timings"]["calculation"] > 0
    assert run["arguments"][:4] == ["eos", "prim.extxyz", "--points", "5"]
    page = Path("prim-eos/report.html").read_text()
    for text in ("dpa2 eos prim.extxyz --points 5", model["sha256"], model["head"], "prim.extxyz"):
        assert text in page
    for forbidden in ('src="http', "@import", 'rel="stylesheet" href'):
        assert forbidden not in page


def test_phonons(folder):
    ok(dpa2("phonons", "prim.extxyz", "--supercell", "2x2x2", "--temperatures", "0 300", "--mesh", "20", "--gruneisen",
            "--no-report"))  # fmt: skip
    expected = phonons(calculated("prim.extxyz"), supercell=(2, 2, 2))
    agree(stored("prim-phonons/phonons.json"), expected.to_dict(), absolute=1e-3)  # translations at Γ are noise
    assert stored("prim-phonons/thermal.json")["temperatures"] == [0.0, 300.0]
    agree(stored("prim-phonons/dos.json"), expected.dos(20).to_dict(), absolute=1e-6)
    assert {"gruneisen.png", "bands.csv", "phonopy.yaml"} <= set(state("prim-phonons")["files"])
    same = ["--supercell", "2 2 2", "--temperatures", "0:300:300", "--mesh", "20", "--gruneisen"]
    assert "complete already" in ok(dpa2("phonons", "prim.extxyz", *same))  # only spelled differently


def test_thermal_expansion_and_a_supercell_by_its_matrix(folder):
    """The conventional cell of fcc, which its primitive vectors give with these factors."""
    ok(dpa2("phonons", "prim.extxyz", "--supercell=-1 1 1 1 -1 1 1 1 -1", "--qha", "--temperatures", "0:200:100",
            "--mesh", "10", "--fmax", "0.001", "--no-report"))  # fmt: skip
    assert stored("prim-phonons/phonons.json")["supercell"] == [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]
    assert stored("prim-phonons/quasi-harmonic.json")["temperatures"] == [0.0, 100.0, 200.0]


def test_md(folder):
    arguments = ["md", "cell.traj", "--steps", 20, "--interval", 5, "--frame-interval", 5, "--temp", 400, "--seed", 3]
    shown = ok(dpa2(*arguments, "--rdf", "--msd", "--vdos", "--no-report"))
    assert "T / K" in shown
    direct = md(calculated("cell.traj"), steps=20, interval=5, frame_interval=5, temperature=400.0, seed=3)
    found = np.genfromtxt("cell-md/md-thermo.csv", delimiter=",", names=True)
    np.testing.assert_allclose(found["total_energy_eV"], direct.thermo["total_energy"], rtol=SAME)
    assert len(read("cell-md/md-trajectory.extxyz", ":")) == 5
    assert {"rdf.json", "diffusion.json"} <= set(state("cell-md")["files"])


def test_an_explosion_leaves_its_last_good_frame(folder):
    message = one_line(dpa2("md", "cell.traj", "--steps", 50, "--max-force", 1.0, "--no-report"), code=3)
    assert "the simulation exploded at step 0" in message
    message = one_line(
        dpa2("md", "cell.traj", "--steps", 50, "--max-temperature", 320, "--interval", 1, "--temp", 300,
             "--ensemble", "nve", "--timestep", 2, "--no-report", "-o", "hot"), code=3
    )  # fmt: skip
    assert "the last good frame" in message
    assert Path("hot/md-last-good.extxyz").exists()


def test_neb(folder):
    start, end = (Atoms("Cu3", [[0, 0, 0], [2.3, 0, 0], [x, 2.2, 0.1]]) for x in (0.6, 1.7))
    write("ends.traj", [start, end])
    arguments = ["--images", "1", "--interpolation", "linear", "--no-report"]
    dpa2("neb", "ends.traj", *arguments, "--max-steps", "1", "-o", "short")
    assert state("short")["exit_code"] == 3
    ok(dpa2("neb", "ends.traj", *arguments, "--fmax", "0.5", "-o", "out"))
    start.calc = DPA2Calculator(METALS)
    expected = neb(start, end, images=1, interpolation="linear", fmax=0.5)
    assert stored("out/neb.json")["barrier"] == pytest.approx(expected.barrier, rel=1e-6)
    assert len(read("out/neb-images.extxyz", ":")) == 3
    # the images of one run are the guess of the next
    ok(dpa2("neb", "out/neb-images.extxyz", "--fmax", "0.5", "--no-report", "-o", "again"))
    assert stored("again/neb.json")["barrier"] == pytest.approx(expected.barrier, abs=1e-5)  # positions rounded
    assert "takes two structures at least" in one_line(dpa2("neb", "pair.xyz"))


def test_relaxations_together_and_alone(folder):
    write("many.traj", [copper(seed) for seed in range(3)])
    ok(dpa2("relax", "many.traj", "--fmax", 0.1, "-o", "together", "--no-report"))
    ok(dpa2("relax", "many.traj", "--fmax", 0.1, "-o", "alone", "--no-report", "--trajectory"))
    names = sorted(path.name for path in Path("alone").iterdir() if path.is_dir())
    assert names == ["0-many.traj@0", "1-many.traj@1", "2-many.traj@2"]
    for name in names:
        agree(stored(f"together/{name}/relax.json"), stored(f"alone/{name}/relax.json"), absolute=1e-6)
        steps = stored(f"alone/{name}/relax.json")["steps"]
        assert len(read(f"alone/{name}/relax.traj", ":")) == steps + 1


def test_one_of_several_that_fails_does_not_stop_the_others(folder):
    write("twice.extxyz", Atoms("Cu2", np.zeros((2, 3)), cell=[4] * 3, pbc=True))
    result = dpa2("eos", "prim.extxyz", "twice.extxyz", "--points", 5, "-o", "out", "--no-report")
    assert "twice.extxyz" in one_line(result)
    run = state("out")
    assert [row[0] for row in run["table"]["rows"]] == ["prim.extxyz"]
    assert [failure["structure"] for failure in run["failures"]] == ["twice.extxyz"]
    again = dpa2("eos", "prim.extxyz", "twice.extxyz", "--points", 5, "-o", "out", "--no-report")
    assert one_line(again) == one_line(result)
    assert again.stdout.replace("complete already: ", "written: ") == result.stdout


# ---- evaluate and compare --------------------------------------------------------------------------------------------


def labelled(shift: float = 0.0) -> list[Atoms]:
    """Frames of two groups; labels are 0.25 eV/atom and 0.1 eV/Å off, the second group's 0.5 eV/atom."""
    calculator, frames = DPA2Calculator(METALS), []
    for seed in range(4):
        atoms = copper(seed)
        result = calculator.evaluate([atoms], ["energy", "forces", "stress"])[0]
        off = 0.25 * len(atoms) * (1 + seed // 2) + shift * len(atoms)
        atoms.calc = SinglePointCalculator(
            atoms, energy=result["energy"] + off, forces=result["forces"] + 0.1, stress=result["stress"]
        )
        atoms.info["config_type"] = "cold" if seed < 2 else "hot"
        frames.append(atoms)
    return frames


def test_evaluate(folder):
    write("labelled.extxyz", labelled())
    shown = ok(dpa2("evaluate", "labelled.extxyz", "--worst", "2"))
    for text in ("all frames", "cold", "hot", "forces on Cu", "worst frames", "labelled.extxyz@3"):
        assert text in shown
    found = stored("labelled-evaluate/errors.json")
    assert found["by_group"]["cold"]["energy"]["mae"] == pytest.approx(250, rel=1e-6)  # meV/atom
    assert found["by_group"]["hot"]["energy"]["rmse"] == pytest.approx(500, rel=1e-6)
    assert found["total"]["forces"]["rmse"] == pytest.approx(100, rel=1e-4)  # meV/Å; eight decimals in the file
    assert found["by_element"]["Cu"]["mae"] == pytest.approx(100, rel=1e-4)
    assert found["total"]["stress"]["rmse"] < 1e-3  # MPa
    assert Path("labelled-evaluate/errors.csv").read_text().count("\n") == 5
    assert "labelled.extxyz@0" in Path("labelled-evaluate/report.html").read_text()


def test_evaluate_frames_of_deepmd(folder):
    write("labelled.extxyz", labelled())
    ok(dpa2("convert", "labelled.extxyz", "system", "--format", "deepmd-npy"))
    ok(dpa2("evaluate", "system", "--shift", "-o", "out", "--no-report"))
    found = stored("out/errors.json")
    assert found["shift"]["Cu"] == pytest.approx(0.375, rel=1e-6)  # eV, the mean
    assert found["total"]["energy"]["mae"] == pytest.approx(125, rel=1e-6)


def test_evaluate_by_other_names(folder):
    atoms = copper()
    atoms.info["dft_energy"] = -16.0
    write("named.extxyz", atoms)
    assert "no structure has an energy" in one_line(dpa2("evaluate", "named.extxyz"))
    assert "'DFT'" in one_line(dpa2("evaluate", "named.extxyz", "--energy-key", "DFT"))
    ok(dpa2("evaluate", "named.extxyz", "--energy-key", "dft_energy", "--no-report"))


def water() -> Atoms:
    return Atoms("OH2", [[0, 0, 0], [0.8, 0.6, 0], [-0.8, 0.6, 0]])


def test_compare_heads(folder):
    wide = water()
    wide.positions[1:, 1] += 0.05
    write("water.traj", [water(), wide])
    shown = ok(dpa2("compare", "water.traj", "--models", MULTI_TASK, "-o", "out"))
    found = stored("out/comparison.json")
    assert found["models"] == ["Domains_Water", "Domains_Alloy", "H2O_PBE0"]
    for head, energies, relative in zip(found["models"], found["energies"], found["relative"], strict=True):
        assert head in shown
        expected = [r["energy"] / 3 for r in DPA2Calculator(MULTI_TASK, head=head).evaluate([water(), wide])]
        assert energies == pytest.approx(expected, rel=1e-12)
        assert relative == pytest.approx([0, 1000 * (expected[1] - expected[0])], abs=1e-9)
    differences = np.array(found["force_differences"])
    np.testing.assert_allclose(differences, differences.T, atol=1e-12)
    assert (np.diag(differences) == 0).all()
    chosen = ok(dpa2("compare", "water.traj", "--models", MULTI_TASK, "--heads", "H2O_PBE0", "Domains_Water"))
    assert "Domains_Alloy" not in chosen
    assert "2 heads and 3 models" in one_line(
        dpa2("compare", "water.traj", "--models", "a", "b", "c", "--heads", "x", "y")
    )


def test_compare_models(folder):
    parity = Path(__file__).parent / "data" / "parity"
    write("oxide.traj", Atoms("CuO", [[0, 0, 0], [1.9, 0.2, 0.1]]))
    shown = ok(dpa2("compare", "oxide.traj", "--models", parity / "dpa2-medium.pt", parity / "dpa2-strip.pt"))
    assert "dpa2-medium" in shown
    assert "dpa2-strip" in shown
    assert "predicts no energies" in one_line(dpa2("compare", "oxide.traj", "--models", parity / "dpa2-dipole.pt"))


def test_compare_volumes(folder):
    ok(dpa2("compare", "prim.extxyz", "--eos", "--relax", "-o", "out", "--no-report"))
    found, direct = stored("out/comparison.json"), eos(calculated("prim.extxyz"), points=7)
    assert found["eos_volumes"][0][0] == pytest.approx(direct.fit.v0, rel=1e-6)
    assert found["bulk_moduli"][0][0] == pytest.approx(direct.fit.b0, rel=1e-6)
    assert found["relaxed_volumes"][0][0] == pytest.approx(direct.fit.v0, rel=2e-3)  # pressure left by fmax


def test_errors_by_element_and_of_single_quantities():
    """EMT against itself with a known error on one element, without energies and stresses."""
    from ase.calculators.emt import EMT

    atoms = bulk("Cu", cubic=True)
    atoms.symbols[1] = "Ni"
    atoms.rattle(0.05, seed=1)
    own = atoms.copy()
    own.calc = EMT()
    forces = own.get_forces()
    forces[1] += [0.3, 0, 0]
    atoms.calc = SinglePointCalculator(atoms, forces=forces)
    found = errors([atoms], EMT())
    assert set(found.total) == {"forces"}
    assert found.by_element["Cu"].worst == pytest.approx(0, abs=1e-9)
    assert found.by_element["Ni"].rmse == pytest.approx(300 / np.sqrt(3), rel=1e-9)
    assert found.plot() is not None


# ---- settings files --------------------------------------------------------------------------------------------------

WITH_FILES = sorted(name for name, command in main.commands.items() if isinstance(command, Command))


@pytest.mark.parametrize("name", WITH_FILES)
def test_template_holds_every_option_with_its_default(name, folder):
    command = main.commands[name]
    ok(dpa2("init", name, "settings.yml"))
    text = Path("settings.yml").read_text()
    assert text == template(command)
    for key, option in options_of(command).items():
        assert f"{key}:" in text
        if getattr(option, "help", None):
            assert option.help in text
    active = {line.partition(":")[0]: line for line in text.splitlines() if line and line[0] != "#"}
    assert read_config(Path("settings.yml"), command).keys() == active.keys()
    commented = [line[1:] for line in text.splitlines() if line.startswith("#") and not line.startswith("# ")]
    assert yaml.safe_load("\n".join(commented)).keys() | active.keys() == options_of(command).keys()
    assert "nothing is overwritten" in one_line(dpa2("init", name, "settings.yml"))


def test_a_template_changes_nothing(folder):
    ok(dpa2("init", "eos"))
    ok(dpa2("eos", "prim.extxyz", "-o", "plain", "--no-report"))
    ok(dpa2("eos", "prim.extxyz", "-o", "filed", "--no-report", "--config", "eos.yml"))
    assert state("plain")["hash"] == state("filed")["hash"]


def test_init_knows_its_commands(folder):
    assert "there is one for" in one_line(dpa2("init", "fly"))
    assert "no folder" in one_line(dpa2("init", "eos", "nowhere/eos.yml"))


def test_a_file_of_settings(folder):
    Path("settings.yml").write_text(
        "structures: [prim.extxyz, 'cell*.traj']\npoints: 5\nform: vinet\nout: results\nreport: false\nstrain: 5e-2\n"
    )
    ok(dpa2("eos", "--config", "settings.yml", "--form", "murnaghan"))
    settings = state("results")["identity"]["settings"]
    assert (settings["points"], settings["form"], settings["strain"]) == (5, "murnaghan", 0.05)
    assert len(state("results")["table"]["rows"]) == 2


BAD_SETTINGS = [
    ("eos", "point: 5", "point is not an option of eos; did you mean points?"),
    ("eos", "points: five", "points should be a whole number, found 'five'"),
    ("eos", "points: 5.5", "points should be a whole number"),
    ("eos", "points: true", "points should be a whole number"),
    ("eos", "strain: [1]", "strain should be a number"),
    ("eos", "form: cubic", "form should be one of sj, taylor"),
    ("eos", "report: 1", "report should be true or false"),
    ("eos", "model: 7", "model should be text"),
    ("eos", "structures: [1]", "structures[0] should be text"),
    ("eos", "points: 5\npoints: 6", "points is given twice"),
    ("eos", "points: 5\nn_volumes: 6", "n_volumes says again what points says"),
    ("eos", "resume: true", "resume is not an option"),
    ("eos", "- 1", "should be a table of options"),
    ("eos", "a: [", "cannot be read as YAML"),
    ("eos", "!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ("phonons", "supercell: [2, 2.5, 2]", "supercell should be 3 or 9 whole numbers"),
    ("phonons", "supercell: 2", "supercell should be 3 or 9 whole numbers"),
    ("phonons", "temperatures: {a: 1}", "temperatures should be numbers or START:STOP:STEP"),
    ("relax", "cell: sideways", "cell should be one of full, volume, shape"),
    ("relax", "mask: [1, 1]", "mask should be 6 of 0 and 1"),
    ("compare", "models: [1]", "models[0] should be text"),
]


@pytest.mark.parametrize(("command", "text", "message"), BAD_SETTINGS)
def test_bad_settings_are_told_by_their_path(folder, command, text, message):
    Path("bad.yml").write_text(text + "\n")
    before = sorted(path.name for path in Path().iterdir())
    found = one_line(dpa2(command, "prim.extxyz", "--config", "bad.yml"))
    assert "bad.yml" in found
    assert message in found
    assert sorted(path.name for path in Path().iterdir()) == before


def test_a_missing_file_of_settings(folder):
    assert "no settings file none.yml" in one_line(dpa2("eos", "prim.extxyz", "--config", "none.yml"))


def test_true_and_false_for_an_option_that_goes_without_its_value(folder):
    for text, expected in (("true", "full"), ("false", False), ("shape", "shape")):
        Path("c.yml").write_text(f"cell: {text}\nmax_steps: 0\n")
        dpa2("relax", "prim.extxyz", "--config", "c.yml", "-o", text, "--no-report")
        assert state(text)["identity"]["settings"]["cell"] == expected


@pytest.mark.parametrize(
    ("arguments", "cell"),
    [
        (["--cell", "prim.extxyz"], "full"),
        (["prim.extxyz", "--cell"], "full"),
        (["prim.extxyz", "--cell", "shape"], "shape"),
        (["prim.extxyz", "--opt-cell-fully"], "full"),
        (["prim.extxyz", "--opt-cell-lengths"], "volume"),
    ],
)
def test_spellings_of_the_cell(folder, arguments, cell):
    dpa2("relax", *arguments, "--max-steps", "0", "-o", "out", "--no-report")
    assert state("out")["identity"]["settings"]["cell"] == cell


def test_contradictions_of_the_cell(folder):
    message = one_line(dpa2("relax", "prim.extxyz", "--cell", "shape", "--opt-cell-fully"))
    assert "give one of them" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["phonons", "prim.extxyz", "--supercell", "2 2"], "3 or 9 whole numbers"),
        (["vibrations", "pair.xyz", "--temperatures", "10:5:0"], "START:STOP:STEP"),
        (["md", "prim.extxyz", "--steps", "5", "--axes", "1 2 1"], "3 of 0 and 1"),
        (["md", "prim.extxyz"], "--steps"),
        (["eos"], "STRUCTURES"),
    ],
)
def test_words_that_are_no_numbers(folder, arguments, message):
    result = dpa2(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_every_function_of_a_command_is_public():
    """Whoever reads a command finds its function in `dpa2_ase.workflows`."""
    public = import_module("dpa2_ase.workflows")
    assert {*FUNCTIONS, "errors"} <= set(public.__all__)

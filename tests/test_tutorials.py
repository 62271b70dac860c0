"""Every tutorial runs from top to bottom on a small setting and ends with sensible numbers.

Tolerances of quantities that a model predicts leave room for another bundled model and for the small setting; those of
laws do not.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from bundled import head_for

TUTORIALS = Path(__file__).parent.parent / "tutorials"
NUMBER = r"(?<![\w.^])-?\d+(?:\.\d+)?(?:e[-+]\d+)?(?![\w³²])"

Numbers = dict[str, list[float]]


def checks(output: str) -> Numbers:
    """The lines ``CHECK what = numbers unit`` at the end of a tutorial."""
    lines = re.findall(r"^CHECK (\w+) = (.*)$", output, flags=re.MULTILINE)
    return {key: [float(x) for x in re.findall(NUMBER, text)] for key, text in lines}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a tutorial of this name on its small setting, where it may write; warnings are errors here as elsewhere."""
    monkeypatch.setenv("DPA2_ASE_TUTORIAL_FAST", "1")
    monkeypatch.setenv("DPA2_ASE_TUTORIAL_OUTPUT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TUTORIALS))

    def run_one(name: str, *arguments: str) -> Numbers:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output):
                runpy.run_path(str(TUTORIALS / name), run_name="__main__")
        finally:
            sys.modules.pop("setting", None)  # it has read this test's environment
        return checks(output.getvalue())

    return run_one


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and 5_000 < path.stat().st_size <= 150_000


def test_first_steps(tmp_path):
    """As a user does it, in a process of its own, which leaves no files and says nothing on stderr."""
    environment = os.environ | {
        "DPA2_ASE_TUTORIAL_FAST": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(TUTORIALS.parent),
    }
    done = subprocess.run(
        [sys.executable, TUTORIALS / "01_first_steps.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    found = checks(done.stdout)
    a0, relaxed = found["a0"]
    assert a0 == pytest.approx(3.63, abs=0.05)  # Å, PBE
    assert relaxed == pytest.approx(a0, abs=0.005)  # two ways to one number
    assert found["B"][0] == pytest.approx(140, abs=25)  # GPa, PBE
    assert 0 < found["spread"][0] < 0.5  # meV/atom
    assert found["optical"][0] == pytest.approx(15.5, rel=0.2)  # THz, experiment


def test_phonons(run, tmp_path):
    found = run("02_phonons.py")
    assert 0 < found["difference"][0] < 0.01  # eV/Å², the error of finite differences
    assert found["sums"][0] < 1e-6
    assert found["acoustic"][0] < 0.01  # THz
    assert found["optical"][0] == pytest.approx(15.5, rel=0.2)  # THz, experiment
    assert found["capacity"][0] == pytest.approx(94, abs=3)
    copper, silicon = found["errors"]
    assert copper < 10
    assert silicon < 35
    assert is_picture(tmp_path / "phonons.png")
    assert (tmp_path / "silicon-phonons" / "phonopy.yaml").is_file()


def test_relaxation(run, tmp_path):
    found = run("03_relaxation.py")
    bfgs, lbfgs, fire2, fire = found["steps"]
    assert max(bfgs, lbfgs) < min(fire2, fire) < 200
    assert found["loss"][0] == pytest.approx(6.0, abs=1.5)  # percent at 10 GPa, of 140 GPa and B′ = 5
    together, once = found["resumed"]
    assert together == once
    same, count = found["same"]
    assert same == count
    assert found["difference"][0] < 1e-8  # eV
    assert found["speedup"][0] > 0
    assert is_picture(tmp_path / "relaxation.png")


def test_equation_of_state(run, tmp_path):
    found = run("04_equation_of_state.py")
    assert found["a0"][0] == pytest.approx(3.63, abs=0.05)  # Å, PBE
    assert found["B"][0] == pytest.approx(140, abs=25)  # GPa, PBE
    assert max(found["delta"]) < 10  # meV/atom
    assert max(map(abs, found["lattice"])) < 1.0  # percent
    assert is_picture(tmp_path / "equation-of-state.png")


def test_elastic_constants(run, tmp_path):
    found = run("05_elastic_constants.py")
    assert found["constants"] == pytest.approx([177, 132, 82], rel=0.15)  # GPa, PBE
    assert found["difference"][0] < 1.0  # GPa, two ways to one number
    assert found["debye"][0] == pytest.approx(343, rel=0.1)  # K, measured
    soft, hard, middle = found["young"]
    assert soft < middle < hard
    assert is_picture(tmp_path / "elastic-constants.png")


def test_vacancies_and_surfaces(run, tmp_path):
    found = run("06_vacancies_and_surfaces.py")
    assert 0.5 < found["vacancy"][0] < 1.5  # eV; PBE 1.07
    assert found["relaxation"][0] > 0
    assert found["surfaces"] == sorted(found["surfaces"])  # the densest plane is the cheapest
    assert found["slopes"] == pytest.approx(found["surfaces"], rel=0.05)
    assert 0.3 < min(found["ratios"]) <= max(found["ratios"]) < 1.3
    assert is_picture(tmp_path / "surfaces.png")


def test_thermal_expansion(run, tmp_path):
    found = run("07_thermal_expansion.py")
    cold, warm = found["lattice"]
    assert 3.58 < cold < warm < 3.72  # Å; PBE 3.63 at rest
    assert 5 < found["expansion"][0] < 30
    assert all(0.5 < value < 3.0 for value in found["gruneisen"])
    assert found["dynamics"] == pytest.approx([warm], abs=0.05)  # of a few steps
    assert is_picture(tmp_path / "thermal-expansion.png")


def test_molecular_dynamics(run, tmp_path):
    found = run("08_molecular_dynamics.py")
    assert found["gap"] == [0.0]  # to the last bit
    assert abs(found["drift"][0]) < 20  # meV/atom/ps; of a tenth of a picosecond
    solid, liquid = found["temperatures"]
    assert solid == pytest.approx(300, rel=0.5)
    assert liquid > 2 * solid
    peak, neighbors, diffusion = found["solid"]
    assert peak == pytest.approx(3.64 / 2**0.5, abs=0.1)  # Å
    assert neighbors == pytest.approx(12, abs=0.1)
    assert abs(diffusion) < found["liquid"][2]
    assert is_picture(tmp_path / "molecular-dynamics.png")


def test_nudged_elastic_band(run, tmp_path):
    found = run("09_nudged_elastic_band.py")
    assert 0.5 < found["barrier"][0] < 1.1  # eV; PBE 0.74
    assert found["reaction"][0] == pytest.approx(0, abs=0.002)  # by symmetry, to the forces of 0.05 eV/Å left
    assert found["saddle"][0] == pytest.approx(0.5, abs=0.01)  # by symmetry
    assert is_picture(tmp_path / "nudged-elastic-band.png")
    assert (tmp_path / "vacancy-hop" / "neb-images.extxyz").is_file()


def test_saddle_and_rate(run, tmp_path):
    found = run("10_saddle_and_rate.py")
    assert 0.3 < found["barrier"][0] < 1.4  # eV, of a tiny cell
    assert found["imaginary"] == [0, 1]
    assert 1 < found["attempts"][0] < 30  # THz
    assert is_picture(tmp_path / "saddle-and-rate.png")


def test_vibrations(run, tmp_path):
    found = run("11_vibrations.py")
    assert found["wavenumber"][0] == pytest.approx(2358.6, abs=2)  # displacements meet a little anharmonicity
    tables = [191.609, 206.739, 228.170, 241.880, 252.074]
    assert found["entropies"] == pytest.approx(tables, abs=0.4)  # J/(mol K), without centrifugal distortion
    assert len(found["adatom"]) == 3
    assert min(found["adatom"]) > 20  # 1/cm
    assert is_picture(tmp_path / "vibrations.png")


def test_dispersion(run, tmp_path):
    found = run("12_dispersion.py")
    assert found["power"][0] == pytest.approx(-6.1, abs=0.1)  # with a little of the eighth
    plain, corrected = found["lengths"]
    assert 0.02 < plain - corrected < 0.1  # Å; PBE 0.06
    assert is_picture(tmp_path / "dispersion.png")


def test_from_the_shell(tmp_path):
    """The commands are those installed beside this Python; the head is the one for copper."""
    environment = os.environ | {
        "DPA2_ASE_TUTORIAL_FAST": "1",
        "HEAD": head_for("Cu"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    script = TUTORIALS / "13_from_the_shell.sh"
    done = subprocess.run(
        ["bash", str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    found = checks(done.stdout)
    assert found["a0"][0] == pytest.approx(3.63, abs=0.05)  # Å, PBE
    assert found["B"][0] == pytest.approx(140, abs=25)  # GPa, PBE
    assert 0.3 < found["barrier"][0] < 1.4  # eV, of a tiny cell
    assert found["steps"] == [0, 10, 20]
    assert found["temperature"][0] == pytest.approx(600, rel=0.3)


def test_every_tutorial_has_a_test_and_explains_itself():
    scripts = sorted(TUTORIALS.glob("[0-9]*"))
    here, index = Path(__file__).read_text(), (TUTORIALS / "README.md").read_text()
    for script in scripts:
        text = script.read_text()
        assert f'"{script.name}"' in here
        assert f"`{script.name}`" in index
        assert text.startswith("# %% [markdown]\n# # " if script.suffix == ".py" else "# ")
        assert "CHECK" in text
    assert len(scripts) >= 13


def test_pictures_of_the_readme_are_there_and_small():
    shown = re.findall(r"!\[[^\]]*\]\((tutorials/[^)]*)\)", (TUTORIALS.parent / "README.md").read_text())
    assert len(shown) == 3
    for path in shown:
        assert is_picture(TUTORIALS.parent / path)


def test_uncertainty(run, tmp_path):
    found = run("uncertainty.py")
    assert all(0.1 < size < 10 for size in found["size"])  # a dozen small frames calibrate it
    assert all(0 <= area < 0.5 for area in found["miscalibration"])
    assert 0 < found["distance"][0] < 4  # where it would stop
    assert len([*tmp_path.glob("*.uncertainty.npz")]) == 1
    assert is_picture(tmp_path / "uncertainty.png")

"""Every tutorial runs from top to bottom on a small setting and ends with sensible numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"


def numbers(name: str, folder: Path) -> dict[str, list[float]]:
    """Run a tutorial where it may write, and read the lines ``CHECK what = numbers unit`` at its end."""
    environment = os.environ | {
        "DPA2_ASE_TUTORIAL_FAST": "1",
        "DPA2_ASE_TUTORIAL_OUTPUT": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(TUTORIALS.parent),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
    }
    done = subprocess.run(
        [sys.executable, TUTORIALS / name],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    lines = re.findall(r"^CHECK (\w+) = (.*)$", done.stdout, flags=re.MULTILINE)
    return {key: [float(x) for x in re.findall(r"-?\d+\.?\d*(?![\w³²])", text)] for key, text in lines}


def test_first_steps(tmp_path):
    found = numbers("01_first_steps.py", tmp_path)
    a0, relaxed = found["a0"]
    assert a0 == pytest.approx(3.63, abs=0.05)  # Å, PBE
    assert relaxed == pytest.approx(a0, abs=0.005)  # two ways to one number
    assert found["B"][0] == pytest.approx(140, abs=25)  # GPa, PBE
    assert 0 < found["spread"][0] < 0.5  # meV/atom
    assert found["optical"][0] == pytest.approx(15.5, rel=0.2)  # THz, experiment
    assert list(tmp_path.iterdir()) == []


def test_phonons(tmp_path):
    found = numbers("02_phonons.py", tmp_path)
    assert 0 < found["difference"][0] < 0.01  # eV/Å², the error of finite differences
    assert found["acoustic"][0] < 0.01  # THz
    assert found["optical"][0] == pytest.approx(15.5, rel=0.2)  # THz, experiment
    lowest, middle, highest = found["X"]
    assert 2.0 < lowest < 10.0 < middle <= highest < 18.0
    picture = tmp_path / "si-phonons.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000


def test_every_tutorial_has_a_test_and_explains_itself():
    scripts = sorted(TUTORIALS.glob("*.py"))
    here = Path(__file__).read_text()
    for script in scripts:
        text = script.read_text()
        assert f'"{script.name}"' in here
        assert text.startswith("# %% [markdown]\n# # ")
        assert "CHECK" in text
    assert len(scripts) >= 2

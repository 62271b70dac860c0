"""The tutorials on training run from top to bottom on a tiny setting.

A dozen steps learn next to nothing; what is checked is that everything is there, and what is true from the first step.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from dpa2_ase.checkpoint import heads, load_potential
from dpa2_ase.training.data.files import read_frames

TUTORIALS = Path(__file__).parent.parent / "tutorials" / "training"
NUMBER = r"(?<![\w.^])-?\d+(?:\.\d+)?(?:e[-+]\d+)?(?![\w³²])"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a tutorial of this name where it may write, and reads its lines ``CHECK what = numbers unit``."""
    monkeypatch.setenv("DPA2_ASE_TUTORIAL_FAST", "1")
    monkeypatch.setenv("DPA2_ASE_TUTORIAL_OUTPUT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TUTORIALS))

    def run_one(name: str, *arguments: str) -> dict[str, list[float]]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output):
                runpy.run_path(str(TUTORIALS / name), run_name="__main__")
        finally:
            sys.modules.pop("common", None)  # it has read this test's environment
        lines = re.findall(r"^CHECK (\w+) = (.*)$", output.getvalue(), flags=re.MULTILINE)
        return {key: [float(x) for x in re.findall(NUMBER, text)] for key, text in lines}

    return run_one


def assert_picture(path: Path) -> None:
    assert path.read_bytes().startswith(b"\x89PNG")
    assert 5_000 < path.stat().st_size < 200_000


def test_water(run, tmp_path):
    found = run("01_water.py")
    assert found["frames"] == [32, 8]
    assert 0 < found["forces"][0] < 1500  # meV/Å; the forces themselves are 815
    assert 0.6 < found["bonds"][0] < found["bonds"][1] < 1.6  # Å, after five short steps
    assert heads(tmp_path / "water.pt")["Default"].observed == ("H", "O")
    assert_picture(tmp_path / "water-training.png")


def test_finetuning(run, tmp_path):
    found = run("02_finetune.py")
    for case in ("pretrained", "finetuned", "scratch"):
        assert all(value > 0 for value in found[case])
    assert found["finetuned"][1] < found["scratch"][1]  # meV/Å
    assert load_potential(tmp_path / "alone.pt").type_map == ("Cu", "Ni")
    assert_picture(tmp_path / "finetuning.png")


def test_multi_task(run, tmp_path):
    found = run("03_multi_task.py")
    assert found["heads"] == [2, 1]
    assert all(0 < value < 2000 for name in ("water", "alloys") for value in found[f"{name}_forces"])  # meV/Å
    assert load_potential(tmp_path / "water.dp").type_map == ("O", "H", "Cu", "Ni")
    assert_picture(tmp_path / "several-heads.png")


def test_finetuning_study(run, tmp_path):
    """Of whatever systems suit the bundled model; what is done is not done again."""
    found = run("04_finetuning_study.py")
    gains = {name: values for name, values in found.items() if "_gain_" in name}
    assert gains
    assert all(len(values) == 2 and min(values) > 0 for values in gains.values())
    assert np.mean([np.mean(values) for name, values in gains.items() if name.endswith("energy")]) > 1
    table = tmp_path / "finetuning-study.csv"
    rows = table.read_text()
    assert run("04_finetuning_study.py") == found
    assert table.read_text() == rows
    assert_picture(tmp_path / "finetuning-study.png")


def test_finetuning_study_of_own_frames(run, tmp_path):
    """Also of elements the bundled model has not seen, where a model is given that knows them."""
    run("01_water.py")
    model = str(tmp_path / "water.pt")
    found = run("04_finetuning_study.py", str(TUTORIALS / "water" / "valid"), "--model", model, "--steps", "2")
    assert len(found["valid_gain_forces"]) == 2
    rows = (tmp_path / "finetuning-study.csv").read_text().splitlines()
    assert [row.split(",")[:4] for row in rows[1:]] == [
        ["valid", start, count, "0"] for count in ("2", "4") for start in ("finetune", "scratch")
    ]


def test_every_tutorial_has_a_test_and_explains_itself():
    scripts = sorted(path for path in TUTORIALS.glob("*.py") if path.name != "common.py")
    for script in scripts:
        text = script.read_text()
        assert f'"{script.name}"' in Path(__file__).read_text()
        assert text.startswith("# %% [markdown]\n# # ")
        assert "CHECK" in text
    assert len(scripts) == 4


def test_frames_of_water_are_sound():
    """Their forces do not quite sum up to zero, by less than the limit of the checks."""
    train, valid = (read_frames(TUTORIALS / "water" / part) for part in ("train", "valid"))
    assert (len(train), len(valid)) == (32, 8)
    assert not {f.positions.tobytes() for f in train} & {f.positions.tobytes() for f in valid}
    assert max(np.abs(f.forces.sum(axis=0)).max() / len(f) for f in train) < 0.005

"""What all workflows share: batches, results, files and pictures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms
from ase.io import read
from zoo import METALS

from dpa2_ase import DPA2Calculator
from dpa2_ase.checkpoint import load_potential, read_checkpoint
from dpa2_ase.workflows import plots
from dpa2_ase.workflows.batch import evaluate
from dpa2_ase.workflows.files import write_bytes, write_csv, write_json
from dpa2_ase.workflows.relax import relax
from dpa2_ase.workflows.results import Result, provenance_of, with_calculator


class BatchEMT(EMT):
    """EMT that counts the batches it is given."""

    batches = 0

    def evaluate(self, structures, properties):
        self.batches += 1
        return evaluate(structures, EMT(), properties)


def crystals() -> list[Atoms]:
    found = []
    for seed, symbol in enumerate(("Cu", "Al", "Cu")):
        atoms = bulk(symbol, cubic=True)
        atoms.rattle(0.05, seed=seed)
        found.append(atoms)
    found[2].set_constraint(FixAtoms([0, 1]))
    return found


def test_a_batch_is_the_sum_of_its_parts():
    frames, calc = crystals(), BatchEMT()
    before = [atoms.copy() for atoms in frames]
    seen: list[tuple[int, int]] = []
    names = ["energy", "forces", "stress"]
    batched = evaluate(frames, calc, names, on_result=lambda *count: seen.append(count))
    assert (calc.batches, seen) == (1, [(3, 3)])
    seen.clear()
    single = evaluate(iter(frames), EMT(), names, on_result=lambda *count: seen.append(count))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for atoms, old, a, b in zip(frames, before, batched, single, strict=True):
        assert atoms == old
        assert atoms.calc is None
        assert a["energy"] == b["energy"]
        np.testing.assert_array_equal(a["forces"], b["forces"])
        own = atoms.copy()
        own.calc = EMT()
        assert b["energy"] == own.get_potential_energy()
        np.testing.assert_array_equal(b["forces"], own.get_forces(apply_constraint=False))
        np.testing.assert_array_equal(b["stress"], own.get_stress(apply_constraint=False))
    assert evaluate([], calc) == []


def test_a_batch_method_that_answers_wrongly_is_named():
    class Wrong(EMT):
        def evaluate(self, structures, properties):
            return {"energy": np.zeros(len(structures))}

    class Incomplete(EMT):
        def evaluate(self, structures, properties):
            return [{"energy": 0.0}, {}]

    with pytest.raises(TypeError, match="list of 3 dictionaries of results, found dict"):
        evaluate(crystals(), Wrong())
    with pytest.raises(PropertyNotImplementedError, match=r"no \['energy'\] for structure 1 of the batch"):
        evaluate(crystals()[:2], Incomplete(), ["energy"])
    with pytest.raises(PropertyNotImplementedError):
        evaluate(crystals(), EMT(), ["dipole"])


@dataclass(frozen=True, eq=False, kw_only=True)
class Line(Result):
    """A straight line."""

    name: ClassVar[str] = "line"

    x: np.ndarray
    slope: complex
    final: Atoms

    def plot(self, ax=None):
        ax = plots.axes(ax)
        ax.plot(self.x, self.x, color=plots.COLORS["blue"], label="line")
        ax.set(xlabel="distance (Å)", ylabel="energy (eV)")
        ax.legend()
        return ax


def line() -> Line:
    atoms = bulk("Cu")
    return Line(
        x=np.array([0.0, np.nan, 2.0]), slope=1 + 2j, final=atoms, provenance=provenance_of(EMT(), fmax=np.float64(0.1))
    )


def test_a_result_is_written_whole(tmp_path):
    result = line()
    paths = result.write(tmp_path / "new" / "folder")
    assert sorted(path.name for path in paths) == ["line-final.extxyz", "line.json", "line.png", "line.svg"]
    assert sorted(tmp_path.rglob("*.*")) == sorted(paths)
    stored = json.loads((tmp_path / "new/folder/line.json").read_text())
    assert stored["workflow"] == "line"
    assert stored["x"] == [0.0, None, 2.0]
    assert stored["slope"] == [1.0, 2.0]
    assert stored["final"]["symbols"] == ["Cu"]
    assert stored["provenance"]["settings"] == {"fmax": 0.1}
    assert read(paths[1]) == result.final
    assert paths[2].read_bytes()[:4] == b"\x89PNG"
    assert "energy (eV)" in paths[3].read_text()
    first = paths[3].read_bytes()
    assert result.write(tmp_path / "new" / "folder")[3].read_bytes() == first  # equal figures, equal files


def test_pictures_leave_matplotlib_as_it_was():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    ax = line().plot()
    assert line().plot(ax) is ax
    assert len(ax.lines) == 2
    assert dict(mpl.rcParams) == before


def test_a_result_without_a_picture_says_so(tmp_path):
    with pytest.raises(NotImplementedError, match="result is not drawn"):
        Result().plot()
    assert [path.name for path in Result().write(tmp_path)] == ["result.json"]


def test_provenance_reads_any_calculator():
    calc = SumCalculator([LennardJones(epsilon=0.5), EMT()])
    found = provenance_of(calc, steps=3)
    assert found["calculator"]["class"].endswith("SumCalculator")
    assert [part["class"].rpartition(".")[2] for part in found["calculator"]["parts"]] == ["LennardJones", "EMT"]
    assert found["calculator"]["parts"][0]["parameters"]["epsilon"] == 0.5
    assert found["settings"] == {"steps": 3}
    assert {"python", "ase", "numpy", "scipy"} <= found["versions"].keys()
    json.dumps(found, allow_nan=False)


def test_provenance_says_which_model_it_was(tmp_path):
    """Enough to find the model again: the file's sum, head, precision and how it was computed."""
    path = tmp_path / "model.pt"
    path.write_bytes(METALS.read_bytes())
    calc = DPA2Calculator(path, device="cpu", dtype="float64", mode="reference")
    atoms = bulk("Cu")
    atoms.calc = calc
    result = relax(atoms, max_steps=0)
    source = result.provenance["calculator"]["source"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (source["model"], source["sha256"], source["head"]) == (str(path), digest, calc.parameters["head"])
    assert (source["dtype"], source["mode"]) == ("float64", "reference")
    assert result.provenance["versions"]["torch"] == torch.__version__
    assert "sha256" not in DPA2Calculator(load_potential(read_checkpoint(path)), device="cpu").source


def test_provenance_does_not_name_another_file(tmp_path):
    """The sum is taken late; a file that was replaced meanwhile is not the model that was read."""
    path = tmp_path / "model.pt"
    path.write_bytes(METALS.read_bytes())
    early, late, last = (DPA2Calculator(path, device="cpu") for _ in range(3))
    known = early.source["sha256"]
    path.write_bytes(b"another model")
    assert (early.source["sha256"], late.source["sha256"]) == (known, None)
    path.unlink()
    assert last.source["sha256"] is None


def test_files_are_whole_or_as_before(tmp_path):
    path = write_json(tmp_path / "a.json", {"b": float("inf"), 1: (1, 2)})
    assert json.loads(path.read_text()) == {"b": None, "1": [1, 2]}
    with pytest.raises(TypeError):
        write_json(path, {"b": object()})
    with pytest.raises(TypeError):
        write_bytes(path, "text")
    assert json.loads(path.read_text()) == {"b": None, "1": [1, 2]}
    assert write_csv(tmp_path / "t.csv", {"x": [1, 2], "y": [0.5, 1.5]}).read_text() == "x,y\n1,0.5\n2,1.5\n"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.json", "t.csv"]


def test_the_input_needs_a_calculator():
    atoms = bulk("Cu")
    with pytest.raises(ValueError, match=r"no calculator; set atoms\.calc"):
        with_calculator(atoms)
    atoms.calc = EMT()
    copied = with_calculator(atoms)
    assert copied is not atoms
    assert copied.calc is atoms.calc

"""All heads in one pass: the numbers of each head alone, and what is said about them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from ase import Atoms
from click.testing import CliRunner

from dpa2_ase import DPA2Calculator, heads, load_potential
from dpa2_ase.checkpoint.writing import HeadNotes, write_checkpoint
from dpa2_ase.cli import main
from dpa2_ase.nn.descriptors import DPA2
from dpa2_ase.training.heads import random_potential

DATA = Path(__file__).parent / "data" / "parity"
FILES = ("multitask-heads", "multitask-shared-fitting", "multitask-old-layout")
pytestmark = [
    pytest.mark.filterwarnings("ignore:head .* was not trained on:UserWarning"),
    pytest.mark.filterwarnings("ignore:mode 'torch' leaves parts of this model:UserWarning"),
]


def of_first_head(path: Path, **options) -> DPA2Calculator:
    return DPA2Calculator(path, head=next(iter(heads(path))), device="cpu", **options)


@pytest.mark.parametrize("mode", ["auto", "torch", "reference"])
@pytest.mark.parametrize("name", FILES)
def test_every_head_gives_its_own_numbers(name, mode):
    """Within 1e-12 of a calculator of its own: the operations are the same ones, as far as no others add up faster.

    Energies alone are computed by all nets together, in another order of sums: 1e-12 of some hundred eV in float64.
    """
    path, atoms = DATA / f"{name}.pt", zoo.structure("sheared")
    calc = of_first_head(path, mode=mode)
    found, energies_alone = calc.evaluate_heads(atoms, forces=True), calc.evaluate_heads(atoms)
    assert len(found.groups) == 1
    assert list(found.heads) == list(heads(path))
    for head, result in found.heads.items():
        (alone,) = DPA2Calculator(path, head=head, device="cpu", mode=mode).evaluate([atoms])
        assert result.energy == pytest.approx(alone["energy"], abs=1e-10)
        np.testing.assert_allclose(result.forces, alone["forces"], atol=1e-11)
        np.testing.assert_allclose(result.energies.sum(), result.relative, atol=1e-9)
        together = energies_alone[head]
        assert together.forces is None
        assert together.energy == pytest.approx(alone["energy"], rel=1e-12)
        np.testing.assert_allclose(together.energies, result.energies, atol=1e-12 * np.abs(alone["energies"]).max())
        assert together.reference == result.reference


def unlike_nets(path: Path) -> Path:
    """Heads of one descriptor whose nets differ in everything that keeps nets apart, and two that are alike."""
    section = {
        "type_map": ["O", "H", "Cu"],
        "descriptor": {
            "type": "dpa1", "neuron": [4, 8], "axis_neuron": 3, "attn_layer": 0, "rcut": 4.0, "rcut_smth": 1.0,
            "sel": 40, "tebd_dim": 4, "precision": "float64",
        },
    }  # fmt: skip
    nets = {
        "wide": {"neuron": [56, 56]},
        "twin": {"neuron": [56, 56]},
        "growing": {"neuron": [14, 28, 28], "resnet_dt": False},
        "smooth": {"neuron": [28, 28], "activation_function": "gelu"},
        "single": {"neuron": [30, 30], "precision": "float32"},
        "told": {"neuron": [56, 56], "numb_fparam": 2, "numb_aparam": 1},
        "vacuum": {"neuron": [56, 56], "atom_ener": [-1.0, -2.0, -3.0]},
    }
    potentials = {}
    for seed, (name, net) in enumerate(nets.items()):
        fitting = {"precision": "float64", "resnet_dt": True} | net
        potentials[name] = random_potential(section | {"fitting_net": fitting}, "model", seed=seed)
        potentials[name].model.descriptor = potentials["wide"].model.descriptor
        potentials[name].model.out_bias += torch.arange(3.0)[:, None] * (seed + 1)
        potentials[name].model.fitting.bias_atom_e += 0.1 * seed
    write_checkpoint(path, potentials)
    return path


@pytest.mark.parametrize("mode", ["auto", "torch"])
def test_nets_of_any_shapes_are_evaluated_together(tmp_path, mode):
    """Float64 to 1e-12 of some eV; the float32 net to its own rounding, 1e-6."""
    path, atoms = unlike_nets(tmp_path / "heads.pt"), zoo.structure("sheared")
    options = {"device": "cpu", "mode": mode, "fparam": [0.3, -0.2], "aparam": np.linspace(-1, 1, len(atoms))[:, None]}
    found = DPA2Calculator(path, head="wide", **options).evaluate_heads(atoms)
    assert found.groups == (tuple(heads(path)),)
    for name, result in found.heads.items():
        (alone,) = DPA2Calculator(path, head=name, **options).evaluate([atoms], ["energy", "energies"])
        tolerance = 1e-6 if name == "single" else 1e-12
        assert result.energy == pytest.approx(alone["energy"], rel=tolerance)
        np.testing.assert_allclose(result.energies.sum(), alone["energy"] - result.reference, atol=100 * tolerance)


def test_the_descriptor_is_computed_once(monkeypatch):
    calc = of_first_head(DATA / "multitask-heads.pt", mode="reference")
    calc.evaluate_heads(zoo.structure("sheared"))  # loads
    passes = []
    forward = DPA2.forward
    monkeypatch.setattr(DPA2, "forward", lambda self, graph: passes.append(1) or forward(self, graph))
    found = calc.evaluate_heads(zoo.structure("skew"))
    assert len(found.heads) == 3
    assert len(passes) == 1


def test_relative_energies_do_not_depend_on_the_zero(tmp_path):
    """A shift of all energies of an element is that head's reference and nothing else."""
    first = load_potential(DATA / "dpa2-strip.pt")
    second = load_potential(DATA / "dpa2-strip.pt")
    second.model.out_bias += torch.tensor([[3.0], [-5.0], [7.0]])
    write_checkpoint(tmp_path / "two.pt", {"A": first, "B": second})
    found = of_first_head(tmp_path / "two.pt").evaluate_heads(zoo.structure("skew"))
    assert found["A"].relative == pytest.approx(found["B"].relative, abs=1e-10)
    assert abs(found["A"].energy - found["B"].energy) > 1.0
    assert found.spread(["A", "B"]) == pytest.approx(0.0, abs=1e-10)


def other_descriptor(path: Path) -> Path:
    """Three heads: two of one descriptor, one of another; water, water with copper, and unknown."""
    first, other = load_potential(DATA / "dpa2-strip.pt"), load_potential(DATA / "dpa2-strip.pt")
    other.model.descriptor.repinit.environment.std *= 1.01
    notes = {"water": HeadNotes(observed=["O", "H"]), "copper": HeadNotes(observed=["O", "H", "Cu"])}
    write_checkpoint(path, {"copper": first, "water": first, "unknown": other}, notes=notes)
    return path


def test_other_descriptors_are_passes_of_their_own(tmp_path):
    path = other_descriptor(tmp_path / "three.pt")
    found = of_first_head(path).evaluate_heads(zoo.structure("skew"), forces=True)
    assert found.groups == (("copper", "water"), ("unknown",))
    for name, result in found.heads.items():
        (alone,) = DPA2Calculator(path, head=name, device="cpu").evaluate([zoo.structure("skew")])
        np.testing.assert_allclose(result.forces, alone["forces"], atol=1e-11)
    spread = found.forces_spread(["copper", "unknown"])
    half = np.linalg.norm(found["copper"].forces - found["unknown"].forces, axis=1) / 2  # of two values
    np.testing.assert_allclose(spread, half, atol=1e-12)


def test_heads_are_suggested_with_reasons_and_never_chosen(tmp_path):
    path = other_descriptor(tmp_path / "three.pt")
    calc = of_first_head(path)
    water = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    found = calc.evaluate_heads(water)
    assert [head.name for head in found.fitting] == ["water", "copper"]  # the more particular first
    assert "alone" in found["water"].fit.reason
    assert "1 more" in found["copper"].fit.reason
    assert "does not say" in found["unknown"].fit.reason
    copper = calc.evaluate_heads(Atoms("CuO", [[0, 0, 0], [1.8, 0, 0]]))
    assert [head.name for head in copper.fitting] == ["copper"]
    assert copper["water"].fit.unseen == ("Cu",)
    assert "not trained on Cu" in copper["water"].fit.reason


def test_mistakes_are_named(tmp_path):
    calc = of_first_head(DATA / "multitask-heads.pt")
    with pytest.raises(ValueError, match=r"no heads \['nothing'\]"):
        calc.evaluate_heads(zoo.structure("skew"), ["nothing"])
    gold = calc.evaluate_heads(Atoms("Au"))
    assert not gold.heads
    assert all("not in the model's type map" in reason for reason in gold.left_out.values())
    with pytest.raises(ValueError, match="give the file"):
        DPA2Calculator(zoo.potential("dpa2-strip")).evaluate_heads(zoo.structure("skew"))


def test_the_command(tmp_path):
    from ase.io import write

    write(tmp_path / "skew.extxyz", zoo.structure("skew"))
    path = other_descriptor(tmp_path / "three.pt")
    shown = CliRunner().invoke(main, ["heads", str(path), str(tmp_path / "skew.extxyz"), "--forces", "--device", "cpu"])
    assert shown.exit_code == 0, shown.output
    assert "2 descriptors" in shown.output
    assert "fitting, most particular first: copper" in shown.output
    command = ["heads", str(path), str(tmp_path / "skew.extxyz"), "--json", "--device", "cpu"]
    facts = json.loads(CliRunner().invoke(main, command).output)
    expected = of_first_head(path).evaluate_heads(zoo.structure("skew"))
    (found,) = facts.values()
    assert found["heads"]["water"]["energy"] == pytest.approx(
        expected["water"].energy, abs=1e-6
    )  # positions of 8 digits
    folder = tmp_path / "out"
    written = CliRunner().invoke(main, [*command[:3], "--device", "cpu", "-o", str(folder)])
    assert written.exit_code == 0, written.output
    stored = json.loads((folder / "heads.json").read_text())
    assert stored["structures"].keys() == facts.keys()
    assert len(stored["provenance"]["calculator"]["source"]["sha256"]) == 64
    assert "copper" in (folder / "report.html").read_text()

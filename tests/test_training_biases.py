"""Energies of atoms: fits, ridges, isolated atoms, elements a head has not seen, and weights of frames."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import CliRunner
from trainings import ELEMENTS, FRAMES, TINY, multi_task, table, trainer_of

from dpa2_ase.checkpoint import heads as heads_of_file
from dpa2_ase.checkpoint import load_potential
from dpa2_ase.cli.train import train as train_command
from dpa2_ase.training.biases import borrow_biases, fit_biases
from dpa2_ase.training.data.files import read_frames, write_frames
from dpa2_ase.training.data.frames import Frame, LabelKeys, frame_of_atoms
from dpa2_ase.training.deepmd_input import settings_of_input
from dpa2_ase.training.frameset import FrameSet
from dpa2_ase.training.heads import random_potential
from dpa2_ase.training.loss import LossConfig, Prefactor, loss_terms, total_loss
from dpa2_ase.training.settings import read_settings
from dpa2_ase.training.statistics import energy_bias
from dpa2_ase.training.trainer import predict


def many_elements(seed: int, n_frames: int = 150, n_types: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, energies and the true energies of atoms: a third of the elements occur in one or two frames alone."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-5, 2, n_types)
    popularity = np.where(np.arange(n_types) < 2 * n_types // 3, 1.0, 0.02)
    counts = np.zeros((n_frames, n_types))
    for row in counts:
        chosen = rng.choice(n_types, 3, replace=False, p=popularity / popularity.sum())
        row[chosen] = rng.integers(1, 9, 3)
    noise = 0.8 * rng.normal(size=n_frames) * counts.sum(axis=1)  # what bonds add, eV per atom
    return counts, counts @ true + noise, true


def test_a_ridge_keeps_rare_elements_near_the_others():
    """Averaged over data sets, energies of rare elements are nearer to the truth than those of plain least squares."""
    ridge, plain, common = [], [], []
    for seed in range(8):
        counts, energies, true = many_elements(seed)
        seen = counts.any(axis=0)
        rare = seen & ((counts > 0).sum(axis=0) <= 2)
        fitted = fit_biases(counts, energies, around_mean=True)
        direct = np.linalg.lstsq(counts, energies, rcond=None)[0]
        ridge.append(np.abs(fitted - true)[rare].mean())
        plain.append(np.abs(direct - true)[rare].mean())
        common.append(np.abs(fitted - direct)[seen & ~rare].mean())
        assert not fitted[~seen].any()
    assert np.mean(ridge) < 0.8 * np.mean(plain)
    assert np.mean(common) < 0.5  # eV: others hardly notice


def test_exact_data_gets_no_ridge():
    counts, _, true = many_elements(1, n_frames=400)
    seen = counts.any(axis=0)
    found = fit_biases(counts, counts @ true, around_mean=True)
    np.testing.assert_allclose(found[seen], true[seen], atol=1e-9)


def test_bias_of_elements_another_head_has_seen():
    biases = {"a": np.array([-3.0, -4.0, 0.0, 0.0]), "b": np.array([-13.0, -16.0, -20.0, 0.0])}
    occurs = {"a": np.array([5, 5, 0, 0]), "b": np.array([9, 9, 2, 0])}
    found = borrow_biases(biases, occurs, ["a", "b"])
    assert found["b"].tolist() == biases["b"].tolist()
    assert found["a"].tolist() == [-3.0, -4.0, -20.0 + 11.0, 0.0]  # moved by 10 and 12 in the elements of both


def isolated(energies: dict[str, float]) -> list[Frame]:
    frames = []
    for symbol, energy in energies.items():
        atoms = Atoms(symbol)
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        frames.append(frame_of_atoms(atoms))
    return frames


@pytest.fixture
def data(tmp_path):
    write_frames(tmp_path / "train.xyz", FRAMES[:9])
    write_frames(tmp_path / "valid.xyz", FRAMES[9:])
    write_frames(tmp_path / "atoms.xyz", isolated({"Au": -4.5}))
    return tmp_path


def test_energies_of_isolated_atoms_become_the_bias(data):
    """Elements that are not given are fitted to what is left."""
    settings = table(data)
    settings["data"]["isolated_atoms"] = [str(data / "atoms.xyz")]
    copper, gold = energy_bias(trainer_of(settings).heads["Default"])
    assert gold == -4.5
    counts = np.array([[f.symbols.count("Cu"), f.symbols.count("Au")] for f in FRAMES[:9]])
    left = np.array([f.energy for f in FRAMES[:9]]) + 4.5 * counts[:, 1]
    assert copper == pytest.approx(float(left @ counts[:, 0] / (counts[:, 0] @ counts[:, 0])), abs=0.05)
    settings["data"]["atomic_energies"] = {"Cu": -3.0}
    assert energy_bias(trainer_of(settings).heads["Default"]).tolist() == [-3.0, -4.5]
    settings["data"]["isolated_atoms"] = [str(data / "train.xyz")]
    with pytest.raises(ValueError, match="frame 0: one atom with an energy was expected, found 4 atoms"):
        trainer_of(settings)
    settings["data"] |= {"isolated_atoms": [], "atomic_energies": {"Ag": -1.0}}
    with pytest.raises(ValueError, match=r"given for \['Ag'\], which are not in the type map"):
        trainer_of(settings)


def test_paths_of_isolated_atoms_are_relative_to_the_settings(data):
    settings = table(data)
    settings["data"] |= {"train": "train.xyz", "valid": "valid.xyz", "isolated_atoms": "atoms.xyz"}
    (data / "x.yaml").write_text(yaml.safe_dump(settings))
    assert read_settings(data / "x.yaml").heads["Default"].data.isolated_atoms == (str(data / "atoms.xyz"),)


def test_heads_lend_biases(data):
    copper = [dataclasses.replace(f, energy=f.energy + 7.0 * len(f)) for f in FRAMES if set(f.symbols) == {"Cu"}]
    write_frames(data / "copper.xyz", copper)
    settings = multi_task(data)
    settings["heads"]["b.c"]["train"] = str(data / "copper.xyz")
    heads = trainer_of(settings).heads
    (cu, au), (other_cu, other_au) = energy_bias(heads["a"]), energy_bias(heads["b.c"])
    assert other_au - au == pytest.approx(other_cu - cu)
    assert other_cu - cu == pytest.approx(7.0, abs=0.5)  # eV: another mixture of crystals


def test_preset_energies_of_deepmd():
    data = {"training_data": {"systems": ["x"]}}
    head = {**TINY, "preset_out_bias": {"energy": [None, -7.5]}, "finetune_head": "RANDOM"}
    single = settings_of_input({"model": head, "training": {"numb_steps": 1} | data}).heads["Default"]
    assert (single.atomic_energies, single.finetune_head) == ({"Au": -7.5}, "RANDOM")
    assert "preset_out_bias" not in single.model
    for wrong in ({"energy": [1.0]}, {"dipole": [1.0, 2.0]}, {"energy": {"Au": 1.0}}):
        with pytest.raises(ValueError, match=r"model.preset_out_bias should be \{energy"):
            settings_of_input({"model": {**head, "preset_out_bias": wrong}, "training": {"numb_steps": 1} | data})


def test_elements_are_those_of_the_data(data):
    settings = table(data)
    del settings["elements"]
    settings["data"] |= {"train": "train.xyz", "valid": "valid.xyz"}
    (data / "x.yaml").write_text(yaml.safe_dump(settings))
    assert read_settings(data / "x.yaml").heads["Default"].model["type_map"] == ["Cu", "Au"]


def test_smallest_settings(data):
    (data / "x.yaml").write_text(f"data: {{train: {data / 'train.xyz'}}}\n")
    config = read_settings(data / "x.yaml")
    assert config.steps == 100_000
    assert config.heads["Default"].model["descriptor"]["repformer"]["nlayers"] == 3
    assert config.heads["Default"].loss.virial == Prefactor(0.02, 1.0)


def loss(frames: list[Frame], config: LossConfig) -> float:
    potential = random_potential(TINY, "model", 0)
    batch = FrameSet(frames, ELEMENTS, potential.cutoff).batch(range(len(frames)))
    return total_loss(loss_terms(config, predict(potential, batch, gradient=True, training=True), batch, 0.5)).item()


@pytest.mark.parametrize("function", ["mse", "mae", "huber"])
def test_weights_of_frames_multiply_what_they_add(function):
    """The loss is a mean over structures or atoms of equal numbers: weights 2 and 0 count one frame twice."""
    config = LossConfig(virial=Prefactor(1, 1), function=function)
    frames = [f for f in FRAMES if len(f) == 4][:2]
    alone = [loss([frame], config) for frame in frames]
    weighted = [dataclasses.replace(f, weight=w) for f, w in zip(frames, (2.0, 0.0), strict=True)]
    assert loss(weighted, config) == pytest.approx(alone[0], rel=1e-12)
    one = [dataclasses.replace(frames[0], weight=3.0), frames[1]]
    assert loss(one, config) == pytest.approx((3 * alone[0] + alone[1]) / 2, rel=1e-12)


def test_frames_of_large_forces_are_drawn_more_often(data):
    """In proportion to root mean square forces plus 0.1 eV/Å; an entry keeps its share, a frame at rest a chance."""
    quiet = [dataclasses.replace(f, forces=np.zeros_like(f.forces)) for f in FRAMES[:2]]
    write_frames(data / "quiet.xyz", [*quiet, *FRAMES[2:5]])
    entries = {"train": [str(data / "quiet.xyz"), str(data / "train.xyz")], "by_forces": 0.1}
    drawn = trainer_of(table(data, data=entries | {"weights": [0.25, 0.75]})).data["Default"].weights
    size = np.array([0.1, 0.1, *(0.1 + np.sqrt(np.mean(f.forces**2)) for f in FRAMES[2:5])])
    assert drawn[:5] == pytest.approx(0.25 * size / size.sum(), rel=1e-6)  # files hold eight digits
    assert drawn[5:].sum() == pytest.approx(0.75, rel=1e-12)
    alone = trainer_of(table(data, data=entries)).data["Default"].weights
    assert alone[:5].sum() / alone.sum() == pytest.approx(5 / len(alone), rel=1e-12)
    with pytest.raises(ValueError, match=r"data\.by_forces should be above zero"):
        trainer_of(table(data, data=entries | {"by_forces": 0}))


@pytest.mark.parametrize("name", ["x.extxyz", "x.traj", "new", "new.hdf5", "new.lmdb"])
def test_weights_of_frames_are_read_and_written(tmp_path, name):
    frames = [dataclasses.replace(f, weight=0.5 + k) for k, f in enumerate(FRAMES[:3])]
    write_frames(tmp_path / name, frames)
    assert [f.weight for f in read_frames(tmp_path / name)] == [0.5, 1.5, 2.5]
    atoms = Atoms("Cu")
    atoms.info["my_weight"] = 4
    assert frame_of_atoms(atoms, LabelKeys(weight="my_weight")).weight == 4.0


def test_command_changes_the_bias(data):
    """Energies of another zero: two numbers are fitted, forces and the other head stay as they are."""
    trainer_of(multi_task(data)).run(quiet=True)
    shifted = [dataclasses.replace(f, energy=f.energy + 3 * f.symbols.count("Cu") - 9) for f in FRAMES]
    write_frames(data / "other.xyz", shifted)
    command = ["change-bias", str(data / "model.pt"), str(data / "other.xyz"), "-o", str(data / "new.pt")]
    found = CliRunner().invoke(train_command, command)
    assert "has several heads" in str(found.exception)
    output = CliRunner().invoke(train_command, [*command, "--head", "a"], catch_exceptions=False).output
    before, after = (float(word) for word in output.split("energies: ")[1].split(" meV")[0].split(" -> "))
    assert after < 0.3 * before
    assert set(heads_of_file(data / "new.pt")) == {"a", "b.c"}
    assert heads_of_file(data / "new.pt")["a"].observed == ("Au", "Cu")
    for head in ("a", "b.c"):
        old, new = (load_potential(data / f"{name}.pt", head).model.state_dict() for name in ("model", "new"))
        changed = [key for key, tensor in old.items() if not torch.equal(tensor, new[key])]
        assert changed == (["out_bias"] if head == "a" else [])
    assert "nothing is overwritten" in str(CliRunner().invoke(train_command, [*command, "--head", "a"]).exception)

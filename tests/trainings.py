"""Trainings of seconds: a tiny DPA-2, copper and gold with EMT's labels, settings in both languages."""

from __future__ import annotations

import copy
import csv
import signal
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from dpa2_ase.training.data.frames import Frame, frame_of_atoms
from dpa2_ase.training.run import make_trainer
from dpa2_ase.training.settings import settings_of_table
from dpa2_ase.training.trainer import Trainer

ELEMENTS = ["Cu", "Au"]
TINY = {
    "type_map": ELEMENTS,
    "descriptor": {
        "type": "dpa2",
        "repinit": {"rcut": 4.5, "rcut_smth": 0.5, "nsel": 60, "neuron": [4, 8], "axis_neuron": 4, "tebd_dim": 4}
        | {"use_three_body": True, "three_body_rcut": 3.2, "three_body_rcut_smth": 2.8, "three_body_sel": 20},
        "repformer": {"rcut": 3.2, "rcut_smth": 2.8, "nsel": 20, "nlayers": 2, "g1_dim": 12, "g2_dim": 6}
        | {"update_g1_has_attn": False, "update_g2_has_g1g1": False, "update_g2_has_attn": False}
        | {"update_style": "res_residual", "update_residual": 0.1, "attn2_has_gate": True},
        "precision": "float64",
    },
    "fitting_net": {"neuron": [12, 12], "precision": "float64"},
}  # fmt: skip


def emt_frame(seed: int, symbols: str = "Cu3Au") -> Frame:
    """A strained and rattled fcc cell with EMT's labels."""
    atoms = bulk("Cu", a=3.75, cubic=True)[: len(Atoms(symbols))]
    atoms.symbols = Atoms(symbols).symbols
    rng = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.rattle(0.08, rng=rng)
    atoms.calc = EMT()
    atoms.get_forces()
    atoms.get_stress()
    return frame_of_atoms(atoms)


FRAMES = [emt_frame(seed, ("Cu3Au", "Cu2Au2", "Cu3")[seed % 3]) for seed in range(12)]


def table(folder: Path, **changes: object) -> dict:
    """Settings of a short training."""
    settings = {
        "elements": ELEMENTS,
        "steps": 6,
        "model": {k: v for k, v in TINY.items() if k != "type_map"},
        "data": {"train": str(folder / "train.xyz"), "valid": str(folder / "valid.xyz"), "batch": 3},
        "loss": {"energy": [0.02, 1], "forces": [1000, 1], "virial": [0.02, 1]},
        "learning_rate": {"start": 1e-2, "stop": 1e-3, "decay_steps": 10},
        "output": {
            "checkpoint": str(folder / "model.pt"),
            "log": str(folder / "log.csv"),
            "log_every": 2,
            "validate_every": 4,
            "save_every": 1000,
        },
        "seed": 3,
    }
    return settings | changes


def trainer_of(settings: dict, **options: object) -> Trainer:
    return make_trainer(settings_of_table(settings), **options)


def parameters(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.heads.named_parameters()}


def assert_same_training(one: Trainer, other: Trainer) -> None:
    """Two trainings are at the same step, with the same bits in all parameters and their running means."""
    assert one.step_number == other.step_number
    ours, theirs = parameters(one), parameters(other)
    assert ours.keys() == theirs.keys()
    assert one.ema.keys() == other.ema.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    for name, tensor in one.ema.items():
        assert torch.equal(tensor, other.ema[name]), name


def without_time(log: Path) -> list[list[str]]:
    """Rows of a log but for the seconds."""
    with log.open(newline="") as stream:
        return [row[:1] + row[2:] for row in csv.reader(stream)]


def multi_task(folder: Path, **changes: object) -> dict:
    settings = table(folder, **changes)
    one = settings.pop("data")
    settings["heads"] = {"a": one | {"probability": 3.0}, "b.c": one | {"loss": {"forces": 1.0, "energy": 0.0}}}
    return settings


def deepmd_input(folder: Path) -> dict:
    """An input of DeePMD-kit as its examples have it."""
    return {
        "_comment": "that's all",
        "model": copy.deepcopy(TINY),
        "learning_rate": {"type": "exp", "decay_steps": 5000, "start_lr": 0.001, "stop_lr": 3.51e-08},
        "loss": {"type": "ener", "start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1},
        "training": {
            "training_data": {"systems": [str(folder / "sys")], "batch_size": "auto:8", "_comment": "x"},
            "validation_data": {"systems": str(folder / "sys"), "batch_size": 1, "numb_btch": 3},
            "numb_steps": 4,
            "gradient_max_norm": 5.0,
            "seed": 10,
            "disp_file": str(folder / "lcurve.out"),
            "save_ckpt": str(folder / "model.ckpt"),
            "disp_freq": 2,
            "save_freq": 2000,
        },
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def press(trainer: Trainer, number: int, *, after: int, times: int = 1) -> None:
    """Send this process a signal while a step is made."""
    step = trainer.step

    def step_and_press() -> float:
        loss = step()
        if trainer.step_number == after:
            for _ in range(times):
                signal.raise_signal(number)
        return loss

    trainer.step = step_and_press

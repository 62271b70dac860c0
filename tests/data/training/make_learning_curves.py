"""Train DeePMD-kit's example input ``examples/water/se_atten_compressible/input.json`` with DeePMD-kit and with us.

usage: make_learning_curves.py WATER DP [--steps 600] [--folder runs]

WATER holds the example's frames as ``data_0`` to ``data_3``; DP is the command ``dp`` of DeePMD-kit 3.2.0. The input is
the example's but for the number of steps, the last learning rate (1e-5, so that the rate does not vanish long before
the end of so short a training) and how often errors are written. Both start from the same random weights, which this
package draws, and see the frames in orders of their own. Errors of both are computed here, on every second frame of
``data_3``, of the checkpoints written on the way. Writes learning-curves.json beside itself after every seed; a quarter
of an hour on one core for each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from dpa2_ase import DPA2Calculator
from dpa2_ase.training.data.files import read_frames
from dpa2_ase.training.data.frames import Frame, atoms_of_frame
from dpa2_ase.training.run import make_trainer
from dpa2_ase.training.settings import read_settings

HERE = Path(__file__).parent
SEEDS = (10,)


def example(water: Path, steps: int, seed: int) -> dict:
    """The example input."""
    descriptor = {"type": "se_atten_v2", "sel": 120, "rcut_smth": 0.5, "rcut": 6.0, "neuron": [25, 50, 100]}
    descriptor |= {"resnet_dt": False, "axis_neuron": 16, "seed": 1, "attn": 128, "attn_layer": 0, "attn_dotr": True}
    descriptor |= {"attn_mask": False, "precision": "float64"}
    fitting = {"neuron": [240, 240, 240], "resnet_dt": True, "precision": "float64", "seed": 1}
    return {
        "model": {"type_map": ["O", "H"], "descriptor": descriptor, "fitting_net": fitting},
        "learning_rate": {"type": "exp", "decay_steps": 5000, "start_lr": 0.001, "stop_lr": 1e-5},
        "loss": {"start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1}
        | {"start_pref_v": 0, "limit_pref_v": 0},
        "training": {
            "training_data": {"systems": [str(water / f"data_{k}") for k in range(3)], "batch_size": "auto"},
            "validation_data": {"systems": [str(water / "data_3")], "batch_size": 1, "numb_btch": 3},
            "numb_steps": steps,
            "seed": seed,
            "disp_freq": max(steps // 30, 1),
            "save_freq": max(steps // 6, 1),
            "max_ckpt_keep": 100,
        },
    }


def errors(checkpoint: Path, frames: list[Frame]) -> dict[str, float]:
    """RMSE of a checkpoint on the frames: energy per atom, eV, and force components, eV/Å."""
    results = DPA2Calculator(checkpoint, device="cpu").evaluate([atoms_of_frame(frame) for frame in frames])
    energy = [(r["energy"] - f.energy) / len(f) for r, f in zip(results, frames, strict=True)]
    forces = [r["forces"] - f.forces for r, f in zip(results, frames, strict=True)]
    return {"energy": _rms(energy), "forces": _rms(forces)}


def _rms(values: list) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def start(settings: dict, folder: Path) -> Path:
    """A checkpoint of random weights, with the statistics of the data."""
    folder.mkdir(parents=True)
    (folder / "input.json").write_text(json.dumps(settings, indent=1))
    make_trainer(read_settings(folder / "input.json")).save(folder / "start.pt")
    return (folder / "start.pt").resolve()


def run(command: list[str], settings: dict, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "input.json").write_text(json.dumps(settings, indent=1))
    subprocess.run(command, cwd=folder, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("water", type=Path)
    parser.add_argument("dp")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    given = parser.parse_args()
    water, frames = given.water.resolve(), read_frames(given.water / "data_3")[::2]
    commands = {
        "dpa2_ase": [sys.executable, "-m", "dpa2_ase.train", "input.json", "--quiet"],
        "DeePMD-kit 3.2.0": [given.dp, "--pt", "train", "input.json", "--skip-neighbor-stat"],
    }
    curves: dict[str, dict[str, list]] = {}
    settings = example(Path("water"), given.steps, SEEDS[0])
    for seed in SEEDS:
        weights = start(example(water, given.steps, seed), given.folder / f"start-{seed}")
        for name, command in commands.items():
            folder = given.folder / f"{name.split()[0]}-{seed}"
            run([*command, "--init-model", str(weights)], example(water, given.steps, seed), folder)
            numbered = {int(p.stem.rsplit("-", 1)[1]): p for p in folder.glob("model.ckpt-[0-9]*.pt")}
            rows = [{"step": step} | errors(path, frames) for step, path in sorted(numbered.items())]
            curves.setdefault(name, {})[str(seed)] = rows
            print(name, seed, rows, flush=True)
        (HERE / "learning-curves.json").write_text(json.dumps({"input": settings, "curves": curves}, indent=1) + "\n")


if __name__ == "__main__":
    main()

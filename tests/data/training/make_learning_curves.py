"""Train DeePMD-kit's example input ``examples/water/se_atten_compressible/input.json`` with DeePMD-kit and with us.

usage: make_learning_curves.py WATER DP [--steps 600] [--folder runs]

WATER holds the example's frames as ``data_0`` to ``data_3``; DP is the command ``dp`` of DeePMD-kit 3.2.0. The input is
the example's but for the number of steps, the last learning rate (1e-5, so that the rate does not vanish long before
the end of so short a training) and how often errors are written. Both start from random weights of their own. Errors of
both are computed here, on every second frame of ``data_3``, of the checkpoints written on the way. Writes
learning-curves.json beside itself; an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from dpa2_ase.checkpoint import load_potential
from dpa2_ase.training.data.files import read_frames
from dpa2_ase.training.frameset import FrameSet
from dpa2_ase.training.metrics import Errors
from dpa2_ase.training.trainer import predict

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


def errors(checkpoint: Path, frames: list) -> dict[str, float]:
    """RMSE of a checkpoint on the frames: energy per atom, eV, and force components, eV/Å."""
    potential = load_potential(checkpoint)
    data = FrameSet(frames, potential.type_map, potential.cutoff)
    found = Errors()
    for index in range(len(frames)):
        batch = data.batch([index])
        found.add(predict(potential, batch, gradient=True, training=False), batch)
    return {"energy": found.rmse("energy"), "forces": found.rmse("forces")}


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
    for seed in SEEDS:
        for name, command in commands.items():
            folder = given.folder / f"{name.split()[0]}-{seed}"
            run(command, example(water, given.steps, seed), folder)
            numbered = {int(p.stem.rsplit("-", 1)[1]): p for p in folder.glob("model.ckpt-[0-9]*.pt")}
            rows = [{"step": step} | errors(path, frames) for step, path in sorted(numbered.items())]
            curves.setdefault(name, {})[str(seed)] = rows
            print(name, seed, rows, flush=True)
    settings = example(Path("water"), given.steps, 0)
    (HERE / "learning-curves.json").write_text(json.dumps({"input": settings, "curves": curves}, indent=1) + "\n")


if __name__ == "__main__":
    main()

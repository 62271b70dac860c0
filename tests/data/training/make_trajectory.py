"""What DeePMD-kit's own training does, for a comparison step by step: statistics of the data, and twenty steps.

usage: make_trajectory.py BIN   (BIN holds the command ``dp`` of DeePMD-kit 3.2.0)

Starts from a checkpoint of this package with the batch of all frames, so that no random number matters. Writes
trajectory.npz beside itself: frames, first and last weights, the errors DeePMD-kit wrote at every step; mean and
standard deviation of the environment and energies of atoms that DeePMD-kit takes from two systems.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from make_round_trips import HERE, MODEL, frames, run, settings

from dpa2_ase.checkpoint import load_potential
from dpa2_ase.checkpoint.writing import write_checkpoint
from dpa2_ase.training.data.files import write_frames
from dpa2_ase.training.run import make_trainer
from dpa2_ase.training.settings import read_settings


def statistics(dp: Path, folder: Path) -> dict[str, np.ndarray]:
    """What DeePMD-kit takes from two systems of four frames each, Cu3Au and the same with half the copper as gold."""
    folder.mkdir()
    half = [replace(frame, symbols=("Cu", "Au", "Cu", "Au"), energy=frame.energy + 1.0) for frame in frames()[:4]]
    write_frames(folder / "a", frames()[:4], type_map=MODEL["type_map"])
    write_frames(folder / "b", half, type_map=MODEL["type_map"])
    content = settings(folder)
    for block in ("repinit", "repformer"):
        content["model"]["descriptor"][block]["set_davg_zero"] = False
    content["training"]["training_data"] = {"systems": [str(folder / "a"), str(folder / "b")], "batch_size": 4}
    content["training"]["numb_steps"] = 1
    (folder / "input.json").write_text(json.dumps(content))
    run(dp, "--pt", "train", "input.json", "--skip-neighbor-stat", folder=folder)
    state = load_potential(folder / "model.ckpt.pt").state_dict()
    chosen = [key for key in state if ".environment." in key or key.endswith("out_bias")]
    return {f"statistics/{key}": state[key].numpy() for key in chosen}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_frames(folder / "sys", frames()[:4])
        content = settings(folder)
        content["training"]["training_data"]["batch_size"] = 4
        content["training"] |= {"numb_steps": 20, "gradient_max_norm": 5.0}
        content["learning_rate"] = {"type": "exp", "start_lr": 1e-2, "stop_lr": 1e-4, "decay_steps": 2}
        (folder / "input.json").write_text(json.dumps(content))
        start = make_trainer(read_settings(folder / "input.json")).heads["Default"]
        write_checkpoint(folder / "start.pt", {"Default": start})
        options = ("--skip-neighbor-stat", "--init-model", folder / "start.pt")
        run(Path(sys.argv[1]).absolute() / "dp", "--pt", "train", "input.json", *options, folder=folder)
        curve = np.loadtxt(folder / "lcurve.out")
        last = load_potential(folder / "model.ckpt.pt")
        stored = {f"start/{key}": tensor.numpy() for key, tensor in start.state_dict().items()}
        stored |= {f"last/{key}": tensor.numpy() for key, tensor in last.state_dict().items()}
        for key in ("positions", "cell", "energy", "forces", "virial"):
            stored[key] = np.array([getattr(frame, key) for frame in frames()[:4]])
        stored |= {"symbols": np.array(frames()[0].symbols), "curve": curve, "input": np.array(json.dumps(content))}
        stored |= statistics(Path(sys.argv[1]).absolute() / "dp", folder / "statistics")
        np.savez_compressed(HERE / "trajectory.npz", **stored, section=np.array(json.dumps(MODEL)))


if __name__ == "__main__":
    main()

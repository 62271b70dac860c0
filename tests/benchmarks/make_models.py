"""Make the model files of the benchmark; run it with the python of a DeePMD-kit installation.

    PYTHON_WITH_DEEPMD make_models.py FOLDER [--only NAME ...] [--pt2-minutes 10]

Every configuration in ``configs/`` is trained for one step on a few made-up frames, so that statistics, parameter
names and file layout are what ``dp --pt train`` writes; then all weights are perturbed, so that no term of the model
is hidden behind a small initial value. ``.pth`` and ``.pt2`` hold the same weights as the ``.pt`` beside them.
Files that exist are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule

CONFIGS = Path(__file__).with_name("configs")
WEIGHT_NOISE = 0.05  # added to every weight, of the size of a trained change
BIAS_NOISE = 3.0  # eV, energies of elements
TRAINING = {
    "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-5, "decay_steps": 10},
    "loss": {"type": "ener", "start_pref_e": 1, "limit_pref_e": 1, "start_pref_f": 1, "limit_pref_f": 1},
}


def water_boxes(count: int, seed: int) -> list[Atoms]:
    """Periodic boxes of eight randomly turned and shifted water molecules at the density of the liquid."""
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(count):
        box = Atoms(cell=[6.2, 6.2, 6.2], pbc=True)
        for site in np.ndindex(2, 2, 2):
            water = molecule("H2O")
            water.euler_rotate(*rng.uniform(0, 360, 3))
            water.translate(3.1 * np.array(site) + rng.normal(0, 0.15, 3))
            box += water
        boxes.append(box[np.argsort(box.numbers != 8, kind="stable")])
    return boxes


def write_frames(folder: Path, boxes: list[Atoms], rng: np.random.Generator) -> None:
    """DeePMD's folder of arrays, with random labels."""
    frames = folder / "set.000"
    frames.mkdir(parents=True)
    np.savetxt(folder / "type.raw", (boxes[0].numbers != 8).astype(int), fmt="%d")
    (folder / "type_map.raw").write_text("O\nH\n")
    np.save(frames / "coord.npy", np.stack([box.positions.ravel() for box in boxes]))
    np.save(frames / "box.npy", np.stack([box.cell.array.ravel() for box in boxes]))
    np.save(frames / "energy.npy", rng.normal(-100.0, 1.0, len(boxes)))
    np.save(frames / "force.npy", rng.normal(0, 1.0, (len(boxes), 3 * len(boxes[0]))))


def deepmd(arguments: list[str], folder: Path, seconds: float | None = None) -> None:
    """Run ``dp``; raises what `subprocess.run` raises, with the end of the output in the message."""
    try:
        subprocess.run(
            [sys.executable, "-m", "deepmd", *arguments],
            cwd=folder,
            check=True,
            timeout=seconds,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"dp {' '.join(arguments)} failed:\n{error.stdout[-2000:]}") from error


def train(config: dict, folder: Path) -> Path:
    """One training step in `folder`; returns the checkpoint."""
    write_frames(folder / "frames", water_boxes(4, seed=1), np.random.default_rng(2))
    data = {"systems": ["frames"], "batch_size": 1}
    settings = {
        **TRAINING,
        "model": config,
        "training": {"training_data": data, "numb_steps": 1, "save_freq": 1, "disp_freq": 1, "seed": 1},
    }
    (folder / "input.json").write_text(json.dumps(settings))
    deepmd(["--pt", "train", "input.json", "--skip-neighbor-stat"], folder)
    return folder / "model.ckpt-1.pt"


def perturb(path: Path, target: Path, seed: int) -> None:
    """Copy a checkpoint with noise on every weight and on the energies of elements; statistics stay."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    checkpoint.pop("optimizer", None)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in checkpoint["model"].items():
        if not torch.is_tensor(tensor) or not tensor.is_floating_point() or not tensor.numel():
            continue
        leaf = name.split(".")[-1]
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
        if leaf in ("bias_atom_e", "out_bias"):
            tensor.copy_(BIAS_NOISE * noise)
        elif leaf in ("matrix", "bias", "idt", "w", "b") or "residual" in name:
            tensor.add_(WEIGHT_NOISE * noise)
    torch.save(checkpoint, target)


def make(name: str, target: Path) -> None:
    """The checkpoint of one configuration and the frozen model of the same weights."""
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        perturb(train(config, folder), folder / f"{name}.pt", seed=3)
        deepmd(["--pt", "freeze", "-c", f"{name}.pt", "-o", f"{name}.pth"], folder)
        for suffix in (".pth", ".pt"):
            shutil.copy(folder / f"{name}{suffix}", target)


def export(name: str, target: Path, seconds: float) -> str:
    """Compile the frozen model to ``.pt2``; returns what happened, since not every model can be exported."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            made = Path(temporary) / f"{name}.pt2"
            deepmd(["convert-backend", str(target / f"{name}.pth"), str(made)], Path(temporary), seconds)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return f"left out: {error}"
        shutil.copy(made, target)
    return f"written in {time.perf_counter() - start:.0f} s"


def main() -> None:
    """Read the command line and make the models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(path.stem for path in CONFIGS.glob("*.json"))
    parser.add_argument("folder", type=Path, help="where the model files go")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--pt2-minutes", type=float, default=10.0, help="give an export up after this time; 0: none")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("DP_INTERFACE_PREC", "high")
    folder = arguments.folder.resolve()
    for name in arguments.only:
        if not (folder / f"{name}.pt").exists():
            make(name, folder)
            print(f"{name}.pt, {name}.pth: written", flush=True)
    for name in arguments.only:
        if arguments.pt2_minutes > 0 and not (folder / f"{name}.pt2").exists():
            print(f"{name}.pt2: {export(name, folder, 60 * arguments.pt2_minutes)}", flush=True)


if __name__ == "__main__":
    main()

"""Time and memory of a training step: training_step.py FRAMES [--model small] [--frames 1] [--deepmd DP]

FRAMES is anything `read_frames` takes; README's numbers are of liquid water, 192 atoms. Every case is a process of its
own that trains from random weights on the same frames, with the same loss; DP is the command ``dp`` of DeePMD-kit,
whose own training is timed beside ours (wall time, as it reports it). Use an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LOSS = {"energy": [0.02, 1], "forces": [1000, 1], "virial": 0.0}
MIB = 1024  # of ru_maxrss, which Linux gives in KiB


def ours(options: argparse.Namespace, precision: str, derivatives: str) -> dict[str, float]:
    """Median wall time of a step (s) and peak memory above that of an idle process (MiB), in this process."""
    import torch

    from dpa2_ase.training.data.files import read_frames
    from dpa2_ase.training.frameset import FrameSet
    from dpa2_ase.training.head_data import HeadData
    from dpa2_ase.training.run import make_trainer
    from dpa2_ase.training.settings import settings_of_table

    torch.set_num_threads(options.threads)
    frames = read_frames(options.data)[: 4 * options.frames]
    elements = list(dict.fromkeys(s for frame in frames for s in frame.symbols))
    table = {"elements": elements, "steps": 1000, "model": options.model, "precision": precision, "loss": LOSS}
    table |= {"derivatives": derivatives, "data": {"train": options.data, "batch": options.frames}}
    table |= {"optimizer": {"type": "adam"}}  # without clipping and means, as DeePMD-kit's
    config = settings_of_table(table)
    cutoff = config.heads["Default"].model["descriptor"]["repinit"]["rcut"]
    trainer = make_trainer(config, data={"Default": HeadData(FrameSet(frames, elements, cutoff), None, None)})
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(options.repeats + 2):
        start = time.perf_counter()
        trainer.step()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle
    return {"seconds": float(np.median(times[2:])), "mib": peak / MIB, "atoms": len(frames[0]) * options.frames}


def deepmd(options: argparse.Namespace, precision: str) -> dict[str, float]:
    """The same of ``dp --pt train``: its average time of a step after the first ones."""
    from dpa2_ase.training.data.files import read_frames, write_frames
    from dpa2_ase.training.presets import preset

    frames = read_frames(options.data)[: 4 * options.frames]
    elements = list(dict.fromkeys(s for frame in frames for s in frame.symbols))
    steps = max(options.repeats, 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_frames(folder / "system", frames)
        loss = {f"{when}_pref_{term[0]}": float(np.ravel(LOSS[term])[i]) for term in LOSS for i, when in PREFACTORS}
        training = {"training_data": {"systems": [str(folder / "system")], "batch_size": options.frames}}
        training |= {"numb_steps": 2 * steps, "disp_freq": steps, "save_freq": 2 * steps, "seed": 1}
        rate = {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-6, "decay_steps": 1000}
        section = {"model": preset(options.model, elements, precision), "loss": {"type": "ener", **loss}}
        (folder / "input.json").write_text(json.dumps(section | {"training": training, "learning_rate": rate}))
        threads = {"OMP_NUM_THREADS": str(options.threads), "DP_INTER_OP_PARALLELISM_THREADS": "1"}
        threads |= {"DP_INTRA_OP_PARALLELISM_THREADS": str(options.threads), "CUDA_VISIBLE_DEVICES": ""}
        command = [options.deepmd, "--pt", "train", "input.json", "--skip-neighbor-stat"]
        run = subprocess.run(command, cwd=folder, env=os.environ | threads, text=True, capture_output=True, check=False)
    found = re.findall(r"average training time: ([\d.]+) s/batch", run.stdout + run.stderr)
    if run.returncode or not found:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(run.stdout + run.stderr)[-2000:]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / MIB
    return {"seconds": float(found[-1]), "mib": peak, "atoms": len(frames[0]) * options.frames}


PREFACTORS = ((0, "start"), (-1, "limit"))


def main() -> None:
    """Print one line per case, and how many times faster than the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--model", default="small")
    parser.add_argument("--frames", type=int, default=1, help="frames of a batch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precisions", default="float64,float32")
    parser.add_argument("--deepmd", metavar="DP", help="command of DeePMD-kit")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        precision, kind = options.case.split(",")
        print(json.dumps(deepmd(options, precision) if kind == "deepmd" else ours(options, precision, kind)))
        return
    for precision in options.precisions.split(","):
        first = 0.0
        for kind in (["deepmd"] if options.deepmd else []) + ["exact", "auto"]:
            command = [sys.executable, __file__, *sys.argv[1:], "--case", f"{precision},{kind}"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(output.splitlines()[-1])
            first = first or found["seconds"]
            print(
                f"{precision} {found['atoms']} atoms, {kind}: {found['seconds']:.3f} s, "
                f"{1e3 * found['seconds'] / found['atoms']:.2f} ms/atom, {first / found['seconds']:.1f} x, "
                f"{found['mib']:.0f} MiB"
            )


if __name__ == "__main__":
    main()

"""Time of one training step and where it goes: training_step.py FRAMES [--model small] [--frames 1].

FRAMES is anything `read_frames` takes, water (192 atoms) in the numbers of README. CPU time of the process is given,
which other programs on the machine disturb less than wall time; with one thread both are the same on a quiet machine.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from dpa2_ase import derivatives
from dpa2_ase.model import Prediction, differentiable
from dpa2_ase.training.data.files import read_frames
from dpa2_ase.training.frameset import FrameSet
from dpa2_ase.training.heads import Heads, random_potential
from dpa2_ase.training.loss import LossConfig, loss_terms, total_loss
from dpa2_ase.training.presets import preset
from dpa2_ase.training.statistics import set_energy_bias, set_environment_statistics


def one_step(potential, frames, indices, optimizer) -> list[float]:
    """CPU seconds of batch, forward, first derivatives, second derivatives, optimizer."""
    marks = [time.process_time()]
    batch = frames.batch(indices)
    marks.append(time.process_time())
    graph = differentiable(batch.graph)
    atomic = potential.atomic(graph)
    energy = potential.total(atomic, graph)
    marks.append(time.process_time())
    gradient = derivatives.edge_gradient(energy, graph, create_graph=True)
    forces = derivatives.forces(gradient, graph)
    marks.append(time.process_time())
    prediction = Prediction(energy=energy, atomic_energies=atomic, forces=forces)
    optimizer.zero_grad(set_to_none=True)
    total_loss(loss_terms(LossConfig(), prediction, batch, 1.0)).backward()
    marks.append(time.process_time())
    optimizer.step()
    marks.append(time.process_time())
    return np.diff(marks).tolist()


def main() -> None:
    """Print one line per precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--model", default="small")
    parser.add_argument("--frames", type=int, default=1, help="frames of a batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precisions", default="float64,float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = read_frames(options.data)[: max(10, 2 * options.frames)]
    elements = list(dict.fromkeys(s for frame in source for s in frame.symbols))
    for precision in options.precisions.split(","):
        heads = Heads({"Default": random_potential(preset(options.model, elements, precision), "model", 1)})
        potential = heads["Default"]
        frames = FrameSet(source, elements, potential.cutoff)
        set_environment_statistics(heads, {"Default": frames}, {"Default": 1.0}, {}, 0)
        set_energy_bias(potential, frames, 0)
        potential.requires_grad_(True)
        optimizer = torch.optim.Adam(potential.parameters(), lr=1e-3)
        rows = [
            one_step(
                potential, frames, [(k * options.frames + i) % len(source) for i in range(options.frames)], optimizer
            )
            for k in range(options.repeats + 1)
        ][1:]
        parts = np.median(rows, axis=0)
        names = ("batch", "forward", "gradient", "backward", "optimizer")
        text = "  ".join(f"{name} {value:.3f}" for name, value in zip(names, parts, strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        n_atoms = sum(len(frame) for frame in source[: options.frames])
        total = np.median(np.sum(rows, axis=1))
        print(
            f"{precision} {n_atoms} atoms: {total:.3f} s, {1e3 * total / n_atoms:.2f} ms/atom: {text}; {peak:.0f} MiB"
        )


if __name__ == "__main__":
    main()

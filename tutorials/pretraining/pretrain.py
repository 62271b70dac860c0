"""Make the multi-task model of data/: pretrain.py DATA [--out FOLDER] [--hours H] [--finish STEPS]

Trains at a constant learning rate and stores the state every few minutes; run again to go on from there. Whenever the
model should be used, `--finish STEPS` lets the learning rate fall to its end in so many steps, in a copy: the constant
training can go on from where it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from dpa2_ase.training.run import make_trainer
from dpa2_ase.training.settings import TrainingConfig, relative_to, settings_of_table
from dpa2_ase.training.state import read_state
from dpa2_ase.training.statistics import change_energy_bias
from dpa2_ase.training.trainer import Trainer

STEPS_AT_ONCE = 4000  # the interval of validation: each part begins after one
STEPS_OF_BIASES = 12000  # between two fits of the energies of elements
ATOMS_OF_BIASES = 12000  # in the frames of a head they are fitted to


def settings(data: Path, derivatives: str) -> TrainingConfig:
    """What pretraining.yaml says, with paths below the folder `data`."""
    table = yaml.safe_load(Path(__file__).with_name("pretraining.yaml").read_text())
    for name in ("filter", "limits"):  # the same in all heads
        value = table.pop(name)
        for head in table["heads"].values():
            head.setdefault(name, value)
    table["derivatives"] = derivatives
    return relative_to(settings_of_table(table), data.resolve())


def corrected(data: Path, folder: Path) -> Path:
    """A folder of the same data sets, in which yz and xz of the stresses of Mo, Ni and Cu in mlearn are exchanged.

    Upstream has them in the wrong order: strained perfect crystals show stresses in the component that is not strained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for source in data.resolve().iterdir():
        target = folder / source.name
        if source.name != "metals_mlearn_pbe" and not target.exists():
            target.symlink_to(source)
        elif source.name == "metals_mlearn_pbe" and not target.exists():
            target.mkdir()
            for file in source.glob("*.xyz"):
                write(target / file.name, [_reordered(atoms) for atoms in read(file, ":")])
    return folder


def _reordered(atoms: Atoms) -> Atoms:
    labels = dict(atoms.calc.results)
    if "stress" in labels and {*atoms.symbols} <= {"Mo", "Ni", "Cu"}:
        labels["stress"] = labels["stress"][[0, 1, 2, 4, 3, 5]]
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def finishing(config: TrainingConfig, checkpoint: Path, steps: int) -> TrainingConfig:
    """Settings that end `steps` after the state in `checkpoint`, all of them with a falling learning rate."""
    last = read_state(checkpoint).step + steps
    rate = replace(config.learning_rate, decay_part=steps / last)
    output = replace(config.output, checkpoint="finished.pt", log="finished.csv")
    return replace(config, steps=last, learning_rate=rate, output=output)


def refit_biases(trainer: Trainer) -> None:
    """Shift the energies of elements by what the mean parameters miss; nets take long to learn such constants."""
    with trainer.averaged():
        for name, potential in trainer.heads.items():
            frames = trainer.data[name].train
            limit = round(ATOMS_OF_BIASES / np.mean(frames.n_atoms))
            change_energy_bias(potential, frames, trainer.step_number, limit)


def main() -> None:
    """Start or go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("pretraining"))
    parser.add_argument("--hours", type=float, default=1e6, help="stop after so many hours, at a stored state")
    parser.add_argument("--finish", type=int, default=0, metavar="STEPS", help="let the learning rate fall")
    parser.add_argument("--derivatives", choices=["auto", "exact", "difference"], default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = settings(corrected(options.data, options.out / "data"), options.derivatives)
    os.chdir(options.out)
    checkpoint = Path(config.output.checkpoint)
    if options.finish:
        config, finished = finishing(config, checkpoint, options.finish), Path("finished.pt")
        if not finished.exists():
            shutil.copy(checkpoint, finished)
        checkpoint = finished
    restart = checkpoint.exists()
    trainer = make_trainer(config, start="restart" if restart else "new", model=checkpoint if restart else None)
    end = time.monotonic() + 3600 * options.hours
    while trainer.step_number < config.steps and time.monotonic() < end:
        if trainer.step_number % STEPS_OF_BIASES == 0:
            refit_biases(trainer)
        trainer.run(until=(trainer.step_number // STEPS_AT_ONCE + 1) * STEPS_AT_ONCE)
    refit_biases(trainer)
    trainer.save(checkpoint)


if __name__ == "__main__":
    main()

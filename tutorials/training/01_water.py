# %% [markdown]
# # Train on water in ten minutes
#
# A small DPA-2 from nothing but 32 frames of liquid water: settings, training, errors, and a short simulation with the
# result. Ten minutes on one core of a laptop:
#
#     OMP_NUM_THREADS=1 python tutorials/training/01_water.py

# %%
from __future__ import annotations

import csv

import numpy as np
import yaml
from ase import units
from ase.md.bussi import Bussi
from common import FAST, HERE, OUTPUT, errors, picture

from dpa2_ase import DPA2Calculator
from dpa2_ase.training.data.checks import check_frames
from dpa2_ase.training.data.files import read_frames
from dpa2_ase.training.data.frames import atoms_of_frame
from dpa2_ase.training.run import train
from dpa2_ase.workflows import plots

# %% [markdown]
# ## The data
#
# DeePMD systems, HDF5, LMDB and everything ASE reads are taken alike. Checks come first: broken frames, duplicates,
# forces that do not sum up to zero, units and signs that look wrong. (`dpa2 convert SOURCE TARGET --check` does it for
# files.) The forces of these frames sum up to a little more than nothing; that is how they were published.

# %%
frames = read_frames(HERE / "water" / "train")
print(check_frames(frames, ["O", "H"]).text())
forces = np.concatenate([frame.forces for frame in frames])
print(f"root mean square of the forces: {1000 * forces.std():.0f} meV/Å")

# %% [markdown]
# ## The settings
#
# Everything but the data may be left out; `dpa2 train init` writes a file with all there is, commented. Here the model
# is tiny, and so is the number of steps. The weight of the forces falls from a hundred to one while the learning rate
# falls, that of the energies rises: forces first, energies last. `water-ema.pt`, the running mean of the
# weights, is the better model at the end.

# %%
settings = {
    "data": {
        "train": str(HERE / "water" / "train"),
        "valid": str(HERE / "water" / "valid"),
        "batch": 1,
        "valid_batch": 1,
        "valid_batches": None,  # all
    },
    "elements": ["O", "H"],
    "model": "tiny",
    "steps": 20 if FAST else 2500,
    "learning_rate": {"start": 4.0e-3, "stop": 2.0e-5, "decay_steps": 20, "warmup": 5 if FAST else 20},
    "loss": {"energy": [0.02, 1.0], "forces": [100.0, 1.0]},
    "optimizer": {"clip": 10.0, "ema": 0.98},
    "output": {
        "checkpoint": str(OUTPUT / "water.pt"),
        "log": str(OUTPUT / "water.csv"),
        "log_every": 5 if FAST else 50,
        "validate_every": 10 if FAST else 250,
    },
    "seed": 1,
}
(OUTPUT / "water.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
trainer = train(OUTPUT / "water.yaml", quiet=True)  # in the shell: dpa2 train water.yaml
final = errors(trainer)
print(f"errors on 8 other frames: {final['energy']:.2f} meV/atom, {final['forces']:.0f} meV/Å (root mean square)")

# %% [markdown]
# ## The curve
#
# The log is a CSV file with one row per report; `output.tensorboard` writes the same for TensorBoard.

# %%
with (OUTPUT / "water.csv").open() as stream:
    rows = list(csv.DictReader(stream))
left, right = plots.subplots(1, 2, (8.0, 3.4))
for part, label, color in (("train", "training", "blue"), ("valid", "validation", "orange")):
    known = [row for row in rows if row[f"Default/{part}/forces_rmse"]]
    curve = [1000 * float(row[f"Default/{part}/forces_rmse"]) for row in known]
    style = {"color": plots.COLORS[color], "marker": "o" if part == "valid" else None}
    left.plot([int(row["step"]) for row in known], curve, label=label, **style)
left.set(xlabel="step", ylabel="RMSE of forces (meV/Å)")
left.legend(frameon=False)
valid = read_frames(HERE / "water" / "valid")
calc = DPA2Calculator(OUTPUT / "water-ema.pt", device="cpu")
wanted = np.concatenate([frame.forces.ravel() for frame in valid])
found = np.concatenate([result["forces"].ravel() for result in calc.evaluate([atoms_of_frame(f) for f in valid])])
right.plot(wanted, found, ".", markersize=2, color=plots.COLORS["blue"])
right.plot([-5, 5], [-5, 5], color=plots.COLORS["gray"], linewidth=0.8)
right.set(xlabel="force, PBE0 (eV/Å)", ylabel="force, model (eV/Å)", xlim=(-5, 5), ylim=(-5, 5))
picture(left, "water-training")

# %% [markdown]
# ## A simulation
#
# What counts in the end: a liquid that stays a liquid. 300 K, half a femtosecond per step. A model this small and
# this young is no good for properties; the O-H distances say whether molecules stay whole.

# %%
water = atoms_of_frame(valid[0])
water.calc = calc
rng = np.random.default_rng(0)
widths = np.sqrt(water.get_masses() * 300 * units.kB)[:, None]
water.set_momenta(widths * rng.normal(size=(len(water), 3)))
with Bussi(water, 0.5 * units.fs, temperature_K=300, taut=20 * units.fs, rng=rng) as dynamics:
    dynamics.run(5 if FAST else 400)
oxygen = [atom.index for atom in water if atom.symbol == "O"]
hydrogen = [atom.index for atom in water if atom.symbol == "H"]
bonds = water.get_all_distances(mic=True)[np.ix_(hydrogen, oxygen)].min(axis=1)
print(
    f"after {dynamics.nsteps} steps: {water.get_temperature():.0f} K, O-H from {bonds.min():.2f} to {bonds.max():.2f} Å"
)

# %% [markdown]
# ## Check
#
# Two and a half thousand steps bring the errors of forces from 815 meV/Å, which is the forces themselves, down to 241,
# and those of energies to 1.8 meV/atom. Molecules hold together through 400 steps of dynamics, but the longest O-H
# distance, 1.7 Å, is that of one on its way apart: nothing of that kind is among 32 frames. The next steps: more
# frames, `model: small`, a hundred times as many steps.

# %%
print(f"CHECK frames = {len(frames)} {len(valid)}")
print(f"CHECK energy = {final['energy']:.3f} meV/atom")
print(f"CHECK forces = {final['forces']:.1f} meV/Å")
print(f"CHECK bonds = {bonds.min():.2f} {bonds.max():.2f} Å")

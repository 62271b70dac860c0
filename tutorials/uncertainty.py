# %% [markdown]
# # How far can the numbers be trusted?
#
# A model does not say when it is asked about something it has never seen. Three quantities from a single model tell:
# the variance of energies and forces by the rigidity of its last layer (LLPR,
# https://doi.org/10.1088/2632-2153/ad805f), and the distance of an atom's representation to known ones. They are
# calibrated once, kept beside the model, and then part of the results. Runs in about a minute:
#
#     OMP_NUM_THREADS=1 python tutorials/uncertainty.py

# %%
from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read
from setting import FAST, OUTPUT, bundled, picture

from dpa2_ase import DPA2Calculator
from dpa2_ase.uncertainty import calibrate, check_uncertainty, quality
from dpa2_ase.workflows import plots

DATA = Path(__file__).parent.parent / "data"
METALS = ("Li", "Mo") if FAST else ("Cu", "Li", "Mo", "Ni")

# %% [markdown]
# ## What the model knows
#
# `calibrate` wants structures that stand for the training data; labels are not looked at. The bundled model's are not
# bundled, so crystals take their place here: strained, shaken, some with a vacancy.


# %%
def crystals(symbol: str, count: int) -> list[Atoms]:
    rng = np.random.default_rng(5)
    found = []
    for index in range(count):
        atoms = bulk(symbol, cubic=True) * 2
        if index % 3 == 2:
            del atoms[0]
        atoms.set_cell(
            atoms.cell @ (np.eye(3) * rng.uniform(0.96, 1.05) + rng.normal(0, 0.01, (3, 3))), scale_atoms=True
        )
        atoms.rattle(rng.uniform(0.02, 0.25), seed=index)
        found.append(atoms)
    return found


known = [atoms for symbol in METALS for atoms in crystals(symbol, 4 if FAST else 15)]

# %% [markdown]
# ## What it has to predict
#
# PBE energies and forces that it was not trained on (`data/README.md`). Every other frame of pure metals calibrates,
# the rest is the test. Alloys of nickel and molybdenum are outside of what the model of 2026 was trained on, which saw
# no mixtures at all.

# %%
frames = [atoms for atoms in read(DATA / "metals-frames.extxyz", ":") if not FAST or len(atoms) < 60]
pure = [atoms for atoms in frames if len({*atoms.symbols}) == 1]
alloys = [atoms for atoms in frames if len({*atoms.symbols}) > 1]
validation, test = pure[::2], pure[1::2]
head = bundled(*METALS).parameters["head"]
file = OUTPUT / "metals.uncertainty.npz"
calibration = calibrate(None, known, validation, head=head, target=file)
print(f"calibrated on {len(known)} crystals and {len(validation)} labelled frames: {file}")
for name, (warn, stop) in calibration.rigidity.thresholds.items():
    print(f"{name}: warns above {warn:.3g}, stops above {stop:.3g}")

# %% [markdown]
# ## Predicted and actual errors
#
# On the validation frames the sizes agree by construction. `scale` is the root mean square of errors in units of their
# own predicted standard deviations, `miscalibration` the area between how many errors should be and are within an
# interval (0.5 is the worst), `correlation` (Spearman's) says whether large errors are where they are predicted.

# %%
calc = DPA2Calculator(head=head, uncertainty=file)
groups = {"calibration": validation, "test": test} | ({"Ni-Mo alloys": alloys} if alloys else {})
energies = {name: check_uncertainty(calc, chosen) for name, chosen in groups.items()}
forces, distances = {}, {}
for name, chosen in groups.items():
    found = calc.evaluate(chosen, ["forces", "forces_uncertainty", "representation_distance"])
    labels = np.concatenate([atoms.get_forces().ravel() for atoms in chosen])
    sigma = np.concatenate([result["forces_uncertainty"].ravel() for result in found])
    error = np.concatenate([result["forces"].ravel() for result in found]) - labels
    usable = sigma > 0.01 * np.median(sigma)  # some vanish by symmetry
    forces[name] = quality(error[usable], sigma[usable])
    distances[name] = np.array([result["representation_distance"].max() for result in found])
for kind, table, unit in (("energies", energies, "meV/atom"), ("forces", forces, "meV/Å")):
    for name, q in table.items():
        print(
            f"{kind:8s} {name:12s} RMSE {1e3 * np.sqrt((q.errors**2).mean()):6.1f} {unit}, predicted "
            f"{1e3 * np.sqrt((q.sigmas**2).mean()):6.1f}, scale {q.scale:5.2f}, miscalibration {q.miscalibration:.2f}, "
            f"correlation {q.correlation:5.2f}"
        )
for name, values in distances.items():
    print(
        f"strangest atom, {name}: distance {np.median(values):.2f} (median), {values.max():.2f} (largest); 1 is usual"
    )

# %%
panels = plots.subplots(1, 2, (8.4, 3.6))
for ax, table, title, factor in zip(
    panels, (energies, forces), ("energy (meV/atom)", "forces (meV/Å)"), (1e3, 1e3), strict=True
):
    for number, (name, q) in enumerate(table.items()):
        scaled = quality(factor * q.errors, factor * q.sigmas)
        scaled.plot(ax, label=name, color=plots.colors()[number])
    spread = factor * np.concatenate([q.sigmas for q in table.values()])
    line = np.array([spread.min(), spread.max()])
    for times, style in ((1, "-"), (2, "--"), (3, ":")):
        ax.plot(line, times * line, style, color="black", lw=1)
    highest = factor * max(np.abs(q.errors).max() for q in table.values())
    ax.set(title=f"{title}; lines: 1, 2, 3 σ", ylim=(1e-3 * highest, 2 * highest))
panels[0].legend(fontsize=8, loc="lower right")
picture(panels[0], "uncertainty")

# %% [markdown]
# ## Check
#
# With the bundled model, which is provisional: forces of the test frames are as wrong as predicted (221 and 216 meV/Å,
# miscalibration 0.09), and larger errors are where they are predicted (correlation 0.4). Energies are right in size (69
# and 72 meV/atom), but hardly tell good from bad (correlation 0.2): the error of molybdenum is systematic, which no
# variance knows. Alloys are 3.7 times more wrong than predicted. So a variance alone does not notice an element among
# strangers; the distance does: half of the alloys have an atom farther than 2.2, where 1.5 warns, and of the test
# frames 2.2 is the largest.


# %%
def magnitude(name: str, table: dict) -> float:
    """Root mean square of the errors over that of the predicted ones."""
    return float(np.sqrt((table[name].errors ** 2).mean() / (table[name].sigmas ** 2).mean()))


energy, force = energies["test"], forces["test"]
sizes = [magnitude("test", table) for table in (energies, forces)]
print(f"CHECK size = {sizes[0]:.2f} of predicted for energies, {sizes[1]:.2f} for forces")
print(f"CHECK miscalibration = {energy.miscalibration:.3f} for energies, {force.miscalibration:.3f} for forces")
print(f"CHECK correlation = {energy.correlation:.2f} for energies, {force.correlation:.2f} for forces")
print(f"CHECK distance = {np.median(distances['test']):.2f} of test frames")
if alloys:
    far = float(np.median(distances["Ni-Mo alloys"]))
    print(f"CHECK alloys = {magnitude('Ni-Mo alloys', energies):.2f} of predicted for energies, distance {far:.2f}")

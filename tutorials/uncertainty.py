# %% [markdown]
# # How far can the numbers be trusted?
#
# A model does not say when it is asked about something it has never seen. Three quantities from a single model tell:
# the variance of energies and forces by the rigidity of its last layer (LLPR,
# https://doi.org/10.1088/2632-2153/ad805f), and the distance of an atom's representation to known ones. They are
# calibrated once, kept beside the model, and then part of the results. Runs in a minute or two:
#
#     OMP_NUM_THREADS=1 python tutorials/uncertainty.py [--model FILE]

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read
from setting import FAST, OUTPUT, picture

from dpa2_ase import DPA2Calculator, heads
from dpa2_ase.bundled import bundled_model
from dpa2_ase.uncertainty import calibrate, check_uncertainty, quality
from dpa2_ase.workflows import plots

DATA = Path(__file__).parent.parent / "data"
parser = argparse.ArgumentParser()
parser.add_argument("--model", default=str(bundled_model()))
given = parser.parse_args()

# %% [markdown]
# ## Three kinds of frames
#
# `calibrate` wants structures that stand for the training data, whose labels are not looked at, and labelled ones that
# the model was not trained on. Both are in `data/environments.extxyz.gz` for the head `materials-pbe`: crystals of all
# elements. Every other frame held out calibrates, the rest is the test. Outside of its domain are frames that other
# heads learned from, but not this one: metals and semiconductors hot, strained and with surfaces, and molecules in
# vacuum, all labelled by PBE as well. A model of six metals without this head is asked about metals and their alloys.


# %%
def materials() -> tuple[list[Atoms], list[Atoms], dict[str, list[Atoms]]]:
    """Frames of the head's training set, frames of the same elements held out, and frames of others by name."""
    frames = [atoms for atoms in read(DATA / "environments.extxyz.gz", ":") if not FAST or len(atoms) <= 8]
    parts: dict[str, list[Atoms]] = {"training": [], "held out": []}
    for atoms in frames:
        if atoms.info["head"] == "materials-pbe":
            parts[atoms.info["part"]].append(atoms)
    trained = parts["training"][:: 2 if FAST else 1]
    elements = {symbol for atoms in trained for symbol in atoms.symbols}
    held_out = [atoms for atoms in parts["held out"] if {*atoms.symbols} <= elements]
    strangers = {
        "metals": ("metals-pbe", "refractory-pbe", "semiconductors-pbe"),
        "molecules": ("molecules-pbe",),
    }
    outside = {name: [a for a in frames if a.info["head"] in of] for name, of in strangers.items()}
    return trained, held_out[: 12 if FAST else None], outside


def metals() -> tuple[list[Atoms], list[Atoms], dict[str, list[Atoms]]]:
    """Shaken crystals in place of training data, labelled frames of pure metals, and of alloys."""
    frames = [atoms for atoms in read(DATA / "metals-frames.extxyz", ":") if not FAST or len(atoms) < 60]
    pure = [atoms for atoms in frames if len({*atoms.symbols}) == 1]
    symbols = sorted({symbol for atoms in pure for symbol in atoms.symbols})
    alloys = [atoms for atoms in frames if len({*atoms.symbols}) > 1]
    return [a for s in symbols for a in crystals(s, 4 if FAST else 15)], pure, {"alloys": alloys}


def crystals(symbol: str, count: int) -> list[Atoms]:
    """Strained, shaken, some with a vacancy."""
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


names = [*heads(given.model)]
has_materials = "materials-pbe" in names
head = "materials-pbe" if has_materials else names[0]
known, labelled, outside = materials() if has_materials else metals()
outside = {name: chosen for name, chosen in outside.items() if chosen}
validation, test = labelled[::2], labelled[1::2]
file = OUTPUT / f"{head}.uncertainty.npz"
calibration = calibrate(given.model, known, validation, head=head, target=file)
print(f"{head}: {len(known)} known structures, {len(validation)} labelled ones to calibrate: {file}")
for name, (warn, stop) in calibration.rigidity.thresholds.items():
    print(f"{name}: warns above {warn:.3g}, stops above {stop:.3g}")

# %% [markdown]
# ## Predicted and actual errors
#
# On the validation frames the sizes agree by construction. `scale` is the root mean square of errors in units of their
# own predicted standard deviations, `miscalibration` the area between how many errors should be and are within an
# interval (0.5 is the worst), `correlation` (Spearman's) says whether large errors are where they are predicted. Sets
# outside of the domain have zeros of energy of their own, which are fitted to them (an energy for every element) first.


# %%
def zeros(chosen: list[Atoms]) -> dict[str, float]:
    """Energy of an atom of each element (eV) by which the model is off on average."""
    symbols = sorted({symbol for atoms in chosen for symbol in atoms.symbols})
    counts = np.array([[sum(atoms.symbols == symbol) for symbol in symbols] for atoms in chosen], dtype=float)
    found = [result["energy"] for result in calc.evaluate(chosen, ["energy"])]
    errors = np.array(found) - [atoms.calc.results["energy"] for atoms in chosen]
    return dict(zip(symbols, np.linalg.lstsq(counts, errors, rcond=None)[0].tolist(), strict=True))


calc = DPA2Calculator(given.model, head=head, uncertainty=file)
groups = {"calibration": validation, "test": test} | outside
energies = {
    name: check_uncertainty(calc, chosen, zeros(chosen) if name in outside and has_materials else None)
    for name, chosen in groups.items()
}
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

# %% [markdown]
# At the left and in the middle errors beside predicted ones (of forces some hundreds of each kind), at the right the
# part of the errors of forces that is within the predicted intervals: on the diagonal where predictions are right,
# below it where errors are larger.

# %%
panels = plots.subplots(1, 3, (11.4, 3.6))
for ax, table, title in zip(panels, (energies, forces), ("energy (meV/atom)", "forces (meV/Å)"), strict=False):
    for number, (name, q) in enumerate(table.items()):
        few = slice(None, None, max(len(q.errors) // 400, 1))
        quality(1e3 * q.errors[few], 1e3 * q.sigmas[few]).plot(ax, label=name, color=plots.colors()[number])
    sigmas = 1e3 * np.concatenate([q.sigmas for q in table.values()])
    line = np.array([np.quantile(sigmas, 0.02) / 2, 2 * sigmas.max()])
    for times, style in ((1, "-"), (2, "--"), (3, ":")):
        ax.plot(line, times * line, style, color="black", lw=1)
    highest = 1e3 * max(np.abs(q.errors).max() for q in table.values())
    ax.set(title=f"{title}; lines: 1, 2, 3 σ", xlim=line, ylim=(1e-3 * highest, 2 * highest))
levels = np.linspace(0, 1, len(forces["test"].coverage()))
for number, (name, q) in enumerate(forces.items()):
    panels[2].plot(levels, q.coverage(), color=plots.colors()[number], label=name)
panels[2].plot([0, 1], [0, 1], color="black", lw=1)
panels[2].set(title="forces", xlabel="part that should be within an interval", ylabel="part that is")
panels[2].legend(fontsize=8)
picture(panels[0], "uncertainty")

# %% [markdown]
# ## Check
#
# `size` is the root mean square of errors over that of predicted ones. In the domain it should be near one. Outside,
# two things can happen: errors grow as predicted, or they grow more, and then it is the distance that has to notice.
# Sizes that are right on average do not say which errors are the large ones; the correlation does, where it is not
# small. Predictions of forces usually are worth more than those of energies: there are many to calibrate with.


# %%
def magnitude(table: dict, name: str) -> float:
    """Root mean square of the errors over that of the predicted ones."""
    return float(np.sqrt((table[name].errors ** 2).mean() / (table[name].sigmas ** 2).mean()))


warn = calibration.rigidity.thresholds["representation_distance"][0]
for name in outside:
    times = [magnitude(forces, name), magnitude(forces, name) / magnitude(forces, "test")]
    far = [float((distances[which] > warn).mean()) for which in (name, "test")]
    print(
        f"{name}: errors of forces are {times[0]:.1f} times the predicted ones, {times[1]:.1f} times as much as in the "
        f"domain; the distance warns of {far[0]:.0%} of the frames, in the domain of {far[1]:.0%}"
    )
    print(f"CHECK {name} = {magnitude(forces, name):.2f} of predicted for forces, {far[0]:.2f} of frames are far")
sizes = [magnitude(table, "test") for table in (energies, forces)]
for kind, size, table in zip(("energies", "forces"), sizes, (energies, forces), strict=True):
    is_sized, is_ordered = 0.5 < size < 2, table["test"].correlation > 0.3
    print(
        f"{kind} of test frames: errors are {'' if is_sized else 'not '}as large as predicted on average, and large "
        f"ones are {'' if is_ordered else 'not '}where they are predicted"
    )
print(f"CHECK size = {sizes[0]:.2f} of predicted for energies, {sizes[1]:.2f} for forces")
energy, force = energies["test"], forces["test"]
print(f"CHECK miscalibration = {energy.miscalibration:.3f} for energies, {force.miscalibration:.3f} for forces")
print(f"CHECK correlation = {energy.correlation:.2f} for energies, {force.correlation:.2f} for forces")
print(f"CHECK distance = {np.median(distances['test']):.2f} of test frames")

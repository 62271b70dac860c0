# %% [markdown]
# # Relaxation, of one structure and of many
#
# Optimizers, cells under pressure, and many structures at once: a batch is the quickest way to relax what is small.
# Runs in half a minute:
#
#     OMP_NUM_THREADS=1 python tutorials/03_relaxation.py

# %%
from __future__ import annotations

import time

import numpy as np
from ase.build import bulk
from setting import FAST, OUTPUT, bundled, picture

from dpa2_ase.workflows import plots
from dpa2_ase.workflows.relax import relax
from dpa2_ase.workflows.relax_many import relax_many

calc = bundled("Cu", "Ni")

# %% [markdown]
# ## One structure
#
# A copper crystal with an atom missing and all others pushed out of place. `relax` works on a copy. BFGS takes the
# fewest steps for small systems, but its matrix has (3N)² elements; L-BFGS, FIRE and FIRE2 need no matrix.

# %%
defect = bulk("Cu", a=3.62, cubic=True) * (2, 2, 2)
del defect[0]
defect.rattle(0.08, seed=0)
defect.calc = calc
steps = {}
for optimizer in ("bfgs", "lbfgs", "fire2", "fire"):
    run = relax(defect, optimizer=optimizer, fmax=0.01)
    steps[optimizer] = run.steps
    print(f"{optimizer:6}: {run.steps:3} steps to {run.final.max_force:.4f} eV/Å, {run.final.energy:.5f} eV")

# %% [markdown]
# ## Under pressure
#
# With `cell` the lattice relaxes as well, and `pressure` (GPa) is that of the surroundings. `symmetry=True` keeps the
# space group, and `cell="volume"` or `"shape"` or a mask of strains restrict what may change. Copper loses 6 % of its
# volume at 10 GPa: a bulk modulus of 140 GPa at rest that grows by five times the pressure.

# %%
cubic = bulk("Cu", a=3.62, cubic=True)
cubic.calc = calc
volumes = {}
for pressure in (0.0, 10.0):
    run = relax(cubic, cell=True, pressure=pressure, symmetry=True, fmax=1e-4, optimizer="bfgs")
    volumes[pressure] = run.atoms.get_volume()
    print(f"{pressure:4.1f} GPa: a = {run.final.cell[0]:.4f} Å, pressure inside {run.final.pressure:.3f} GPa")
loss = 100 * (1 - volumes[10.0] / volumes[0.0])

# %% [markdown]
# ## A long run
#
# A trajectory and a restart file make a relaxation resumable: the second call below goes on where the first one
# stopped, as if there had been no break.

# %%
for path in (OUTPUT / "relax.traj", OUTPUT / "relax.restart"):
    path.unlink(missing_ok=True)
files = {"trajectory": OUTPUT / "relax.traj", "restart": OUTPUT / "relax.restart"}
first = relax(defect, optimizer="lbfgs", max_steps=8, **files)
second = relax(defect, optimizer="lbfgs", **files)
print(f"{first.steps} steps, then {second.steps} more; without the break {steps['lbfgs']}")

# %% [markdown]
# ## Many structures
#
# Small rattled crystals of two elements. `relax_many` gives each an optimizer of its own and evaluates all that still
# move in one batch per step; those that have converged leave. Steps and results are those of `relax`, to rounding.
# Expect the batch to take little more than half the time on one core of a CPU; a GPU gains far more.

# %%
count = 6 if FAST else 24
random = np.random.default_rng(0)
crystals = []
for number in range(count):
    crystal = bulk(("Cu", "Ni")[number % 2], cubic=True) * (1, 1, 1 + number % 3)
    crystal.positions += random.normal(scale=0.03 * (1 + number % 4), size=crystal.positions.shape)
    crystals.append(crystal)

for crystal in crystals:
    crystal.calc = calc
began = time.process_time()
together = relax_many(crystals, calc, fmax=0.005)
batched = time.process_time() - began
began = time.process_time()
alone = [relax(crystal, fmax=0.005) for crystal in crystals]
single = time.process_time() - began
difference = max(abs(a.final.energy - b.final.energy) for a, b in zip(together, alone, strict=True))
same = sum(a.steps == b.steps for a, b in zip(together, alone, strict=True))
print(f"{count} structures: {batched:.1f} s together, {single:.1f} s one by one; difference {difference:.0e} eV")

# %% [markdown]
# The picture: largest force of every structure on its way, and how many are left in the batch.

# %%
upper, lower = plots.subplots(2, 1, (5.4, 4.6), sharex=True, height_ratios=[3, 1])
for run, crystal in zip(together, crystals, strict=True):
    color = plots.COLORS["orange" if crystal.symbols[0] == "Cu" else "blue"]
    upper.semilogy(run.max_forces, color=color, linewidth=0.9)
for symbol, color in (("Cu", "orange"), ("Ni", "blue")):
    upper.plot([], [], color=plots.COLORS[color], label=symbol)
upper.axhline(0.005, color=plots.COLORS["gray"], linestyle="--", linewidth=0.8)
upper.set(ylabel="largest force (eV/Å)")
upper.set_title(f"{count} crystals: {batched:.1f} s in one batch, {single:.1f} s one by one")
upper.legend(frameon=False)
longest = max(run.steps for run in together)
left = [sum(run.steps >= step for run in together) for step in range(longest + 1)]
lower.fill_between(range(longest + 1), left, step="mid", color=plots.COLORS["sky"], alpha=0.5, linewidth=0)
lower.set(xlabel="step", ylabel="in the batch", xlim=(0, longest), ylim=(0, None))
picture(upper, "relaxation")

# %% [markdown]
# ## Check
#
# With the bundled model: BFGS 20, FIRE 36 to 48 steps; 5.8 % of the volume lost at 10 GPa; the same number of steps for
# all structures, and energies equal to the last digits. How much quicker the batch is (processor time of one core)
# depends on the model and on the cells: about twice for these, less for larger ones.

# %%
print(f"CHECK steps = {' '.join(str(number) for number in steps.values())}")
print(f"CHECK loss = {loss:.2f} % of the volume at 10 GPa")
print(f"CHECK resumed = {first.steps + second.steps} steps in two runs, {steps['lbfgs']} in one")
print(f"CHECK same = {same} of {count} structures took as many steps")
print(f"CHECK difference = {difference:.2e} eV")
print(f"CHECK speedup = {single / batched:.2f}")

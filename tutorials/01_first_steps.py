# %% [markdown]
# # First steps
#
# A model, a structure, and what one usually does with the two: relax, equation of state, molecular dynamics,
# descriptors, vibrations. Runs in less than a minute on a laptop, with nothing but the core dependencies (small models
# gain nothing from several threads):
#
#     OMP_NUM_THREADS=1 python tutorials/01_first_steps.py
#
# `data/MODEL_CARD.md` says how good the bundled model is. It shows how things are done; for numbers to publish, give
# `DPA2Calculator` a model of yours or the name of an official one.

# %%
from __future__ import annotations

import numpy as np
from ase import units
from ase.build import bulk
from ase.eos import EquationOfState
from ase.md.verlet import VelocityVerlet
from setting import FAST, bundled

from dpa2_ase.workflows.relax import relax

calc = bundled("Cu")  # DPA2Calculator(head="metals-pbe", dtype="float64"): of several heads the one for copper
print("properties:", ", ".join(calc.implemented_properties))

# %% [markdown]
# ## Relax
#
# Push the atoms of a copper cell out of place and let them and the cell find back. `relax` works on a copy, and with
# any ASE calculator; the command `dpa2 relax` does the same for files.

# %%
atoms = bulk("Cu", cubic=True)
atoms.rattle(0.1, seed=1)
atoms.calc = calc
run = relax(atoms, cell=True, fmax=0.001)
print(f"relaxed in {run.steps} steps: {run.initial.energy:.4f} -> {run.final.energy:.4f} eV")
print(f"lattice {np.round(run.final.cell[:3], 3)} Å, pressure {run.final.pressure:.3f} GPa")

# %% [markdown]
# ## Equation of state
#
# Seven volumes in one pass: `evaluate` takes many structures at once, which is quicker than one after the other. The
# fit should agree with the relaxation above. Experiment has a0 = 3.60 Å and B = 142 GPa near 0 K; PBE,
# on which the model was trained, is near 3.63 Å and 140 GPa.

# %%
copper = [bulk("Cu", a=a, cubic=True) for a in np.linspace(3.48, 3.78, 7)]
energies = [result["energy"] for result in calc.evaluate(copper, ["energy"])]
volume, _, modulus = EquationOfState([a.get_volume() for a in copper], energies, eos="birchmurnaghan").fit()
a0, bulk_modulus = volume ** (1 / 3), modulus / units.GPa
print(f"equation of state: a0 = {a0:.4f} Å, B = {bulk_modulus:.1f} GPa")

# %% [markdown]
# ## Molecular dynamics
#
# Without a thermostat the total energy is conserved if forces are the gradient of the energy, and they are, by
# automatic differentiation. What is left is the error of the integrator, which falls with the square of the time
# step: expect a spread near 0.1 meV per atom, and no drift.

# %%
moving = bulk("Cu", a=a0, cubic=True) * (2, 2, 2)
moving.calc = calc
widths = np.sqrt(moving.get_masses() * 600 * units.kB)[:, None]  # of the momenta at 600 K
momenta = widths * np.random.default_rng(0).normal(size=(len(moving), 3))
moving.set_momenta(momenta - momenta.mean(axis=0))
totals: list[float] = []
with VelocityVerlet(moving, timestep=2.0 * units.fs) as dynamics:
    dynamics.attach(lambda: totals.append(moving.get_total_energy() / len(moving)))
    dynamics.run(30 if FAST else 200)
spread = 1000 * (max(totals) - min(totals))  # meV per atom
print(f"NVE: {dynamics.nsteps} steps at {moving.get_temperature():.0f} K, total energy within {spread:.3f} meV/atom")

# %% [markdown]
# ## Descriptors
#
# What the model knows of the surroundings of an atom, as a vector. In a perfect crystal all atoms of a kind have the
# same; beside a vacancy they differ, and the nearest neighbors most.

# %%
crystal = bulk("Cu", a=a0, cubic=True) * (3, 3, 3)
reference = calc.get_descriptors(crystal)[0]  # (C,)
vacancy = crystal.copy()
distances = crystal.get_distances(0, range(1, len(crystal)), mic=True)
del vacancy[0]
change = np.linalg.norm(calc.get_descriptors(vacancy) - reference, axis=1)
near = distances < 1.01 * distances.min()
print(f"descriptors: {len(reference)} numbers per atom; {near.sum()} neighbors of the vacancy differ most", end=" ")
print(f"({change[near].min():.3f} and more, all others up to {change[~near].max():.3f})")

# %% [markdown]
# ## Vibrations
#
# Second derivatives come from automatic differentiation too, without a step to choose. For the two atoms of a
# primitive cell of silicon they give the phonons at Γ: three translations at zero and one optical mode, three times.
# Experiment has the latter at 15.5 THz; the bundled model is one THz below.

# %%
silicon = bulk("Si", a=5.47)
hessian = bundled("Si").get_hessian(silicon)  # (6, 6) eV/Å²
mass = np.repeat(silicon.get_masses(), 3)
squares = np.linalg.eigvalsh(hessian / np.sqrt(np.outer(mass, mass)))  # eV/(Å² u)
frequencies = np.sign(squares) * np.sqrt(np.abs(squares)) / (2 * np.pi) * units.fs * 1e3  # THz
print("Γ of silicon:", np.round(frequencies, 2), "THz")

# %% [markdown]
# ## Check
#
# With the bundled model: a0 = 3.617 Å, B = 147 GPa, a spread of 0.06 meV/atom, and 14.4 THz. A model trained further
# will move these numbers, towards those of the literature above.

# %%
print(f"CHECK a0 = {a0:.3f} Å (relaxation: {np.mean(run.final.cell[:3]):.3f})")
print(f"CHECK B = {bulk_modulus:.0f} GPa")
print(f"CHECK spread = {spread:.3f} meV/atom")
print(f"CHECK optical = {frequencies[-1]:.2f} THz")

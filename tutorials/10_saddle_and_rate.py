# %% [markdown]
# # Saddle points and rates
#
# The dimer method climbs from a minimum to a saddle point without knowing the other end. Second derivatives at both
# then give a rate. Runs in a quarter of a minute:
#
#     OMP_NUM_THREADS=1 python tutorials/10_saddle_and_rate.py

# %%
from __future__ import annotations

import numpy as np
from ase.build import bulk
from ase.units import kB
from setting import FAST, bundled, picture

from dpa2_ase.workflows import plots
from dpa2_ase.workflows.dimer import dimer
from dpa2_ase.workflows.relax import relax
from dpa2_ase.workflows.vibrations import vibrations

# %% [markdown]
# ## The minimum
#
# A vacancy in copper, relaxed tightly, since its frequencies are wanted.

# %%
cell = bulk("Cu", cubic=True)
cell.calc = bundled("Cu")
crystal = relax(cell, cell=True, symmetry=True, optimizer="bfgs", fmax=1e-4).atoms
defect = crystal * ((2, 2, 1) if FAST else (2, 2, 2))
hole = defect.positions[0].copy()
neighbor = int(np.argsort(defect.get_distances(0, range(len(defect)), mic=True))[1]) - 1
del defect[0]
defect.calc = cell.calc
minimum = relax(defect, optimizer="lbfgs", fmax=1e-3).atoms

# %% [markdown]
# ## Uphill
#
# A first guess of the direction saves steps: a neighbor moves towards the hole. Without `mode` the direction is random.

# %%
direction = np.zeros((len(minimum), 3))
way = hole - minimum.positions[neighbor]
direction[neighbor] = way - minimum.cell.cartesian_positions(np.round(minimum.cell.scaled_positions(way)))
saddle = dimer(minimum, mode=direction, displacement=0.9, fmax=0.005)
print(f"{saddle.steps} steps to {saddle.max_force:.4f} eV/Å, barrier {saddle.barrier:.3f} eV")
print(f"curvature along the mode {saddle.curvature:.2f} eV/Å²; {'converged' if saddle.converged else 'not converged'}")

# %% [markdown]
# ## Is it one?
#
# A saddle point of first order has one imaginary mode, a minimum none. The second derivatives come from automatic
# differentiation.

# %%
below = vibrations(minimum, relax_first=False)
above = vibrations(saddle.atoms, relax_first=False)
print(f"imaginary modes: {len(below.imaginary)} at the minimum, {len(above.imaginary)} at the saddle point")
print(f"the latter at {above.imaginary[0]:.0f}i 1/cm")

# %% [markdown]
# ## The rate
#
# G. H. Vineyard (J. Phys. Chem. Solids 3, 121 (1957)): an attempt frequency, the product of all frequencies of the
# minimum over those of the saddle point but the imaginary one, times Boltzmann's factor of the barrier. There are
# twelve neighbors.

# %%
THZ = 0.0299792458  # of one 1/cm
real = above.wavenumbers[above.wavenumbers > 0]
attempts = float(np.exp(np.log(THZ * below.wavenumbers).sum() - np.log(THZ * real).sum()))  # THz
temperature = np.linspace(400.0, 1350.0, 96)
rate = 12 * attempts * 1e12 * np.exp(-saddle.barrier / (kB * temperature))
at_1000 = 12 * attempts * 1e12 * np.exp(-saddle.barrier / (kB * 1000.0))
print(f"attempt frequency {attempts:.2f} THz; a vacancy jumps {at_1000:.2e} times per second at 1000 K")

ax = plots.axes(None)
ax.semilogy(1000 / temperature, rate, color=plots.COLORS["blue"], label=f"model, {saddle.barrier:.2f} eV")
with_pbe = 12 * attempts * 1e12 * np.exp(-0.74 / (kB * temperature))
ax.semilogy(1000 / temperature, with_pbe, "--", color=plots.COLORS["orange"], label="with PBE's barrier, 0.74 eV")
ax.set(xlabel="1000 K / temperature", ylabel="jumps of a vacancy per second")
ax.set_title(f"copper: attempt frequency {attempts:.1f} THz")
ax.legend(frameon=False)
picture(ax, "saddle-and-rate")

# %% [markdown]
# ## Check
#
# With the bundled model: ten steps to a barrier of 0.801 eV (tutorial 09 has 0.772 eV in a larger cell), one
# imaginary mode of 104i 1/cm, an attempt frequency of 3.3 THz, and 4 jumps per nanosecond at 1000 K; PBE's barrier
# would make that 7.

# %%
print(f"CHECK barrier = {saddle.barrier:.3f} eV")
print(f"CHECK imaginary = {len(below.imaginary)} {len(above.imaginary)} modes")
print(f"CHECK attempts = {attempts:.2f} THz")

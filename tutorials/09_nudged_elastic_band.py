# %% [markdown]
# # Barriers with the nudged elastic band
#
# How a neighbor jumps into a vacancy of copper: the path, the barrier, and the same with another calculator in the same
# loop. Runs in half a minute:
#
#     OMP_NUM_THREADS=1 python tutorials/09_nudged_elastic_band.py

# %%
from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from setting import FAST, OUTPUT, bundled, picture

from dpa2_ase.workflows import plots
from dpa2_ase.workflows.neb import neb
from dpa2_ase.workflows.relax import relax

# %% [markdown]
# ## Two ends
#
# Both have the same atoms in the same order; only the jumping one is somewhere else. The lattice constant is that of
# the calculator, and `relax_ends` relaxes the ends.


# %%
def ends(calc: object, size: int) -> tuple[Atoms, Atoms]:
    """A vacancy, and the same after a neighbor has jumped into it."""
    cell = bulk("Cu", cubic=True)
    cell.calc = calc
    crystal = relax(cell, cell=True, symmetry=True, optimizer="bfgs", fmax=1e-4).atoms * (size, size, size)
    neighbor = int(np.argsort(crystal.get_distances(0, range(len(crystal)), mic=True))[1])
    hole = crystal.positions[0].copy()
    jumped = crystal.copy()
    jumped.positions[neighbor] = hole
    del crystal[0], jumped[0]
    crystal.calc = calc
    return crystal, jumped


# %% [markdown]
# ## The band
#
# Five images between the ends, interpolated by IDPP, improved tangents, and a climbing image that ends at the saddle
# point. All images are evaluated in one batch per step. The band is converged when no atom feels more than 0.02 eV/Å.

# %%
size = 2 if FAST else 3
bands = {}
for name, calc in (("model", bundled("Cu")), ("EMT", EMT())):
    if name == "EMT" and FAST:
        continue
    initial, final = ends(calc, size)
    bands[name] = neb(initial, final, images=3 if FAST else 5, relax_ends=True, fmax=0.05 if FAST else 0.02)
    band = bands[name]
    print(
        f"{name:5}: {len(initial)} atoms, {band.steps} steps, barrier {band.barrier:.3f} eV, "
        f"reaction energy {band.reaction_energy:+.4f} eV, largest force {band.max_forces.max():.3f} eV/Å"
    )
written = bands["model"].write(OUTPUT / "vacancy-hop")
print("written:", ", ".join(sorted(path.name for path in written)))

# %% [markdown]
# ## The profile
#
# The curve goes through energies and forces along the path. PBE has 0.74 eV (Y. Lysogorskiy et al., npj Comput. Mater.
# 7, 97 (2021)), experiment 0.67 to 0.76 eV. Symmetry makes the profile even, and the saddle lies half-way.

# %%
ax = plots.axes(None)
for (name, band), color in zip(bands.items(), ("blue", "green"), strict=False):
    scale = 1 / band.distances[-1]
    ax.plot(scale * band.curve_distances, band.curve_energies, color=plots.COLORS[color], label=name)
    ax.plot(scale * band.distances, band.energies, "o", color=plots.COLORS[color])
ax.axhspan(0.67, 0.76, color=plots.COLORS["gray"], alpha=0.3, linewidth=0, label="measured")
ax.axhline(0.74, color=plots.COLORS["orange"], linestyle="--", label="PBE")
ax.set(xlabel="way of the jump", ylabel="energy (eV)", ylim=(0, None), xlim=(0, 1))
ax.set_title(f"vacancy in copper, {4 * size**3 - 1} atoms")
ax.legend(frameon=False, loc="lower center")
picture(ax, "nudged-elastic-band")

# %% [markdown]
# ## Check
#
# With the bundled model: a barrier of 0.772 eV (PBE 0.74 eV, EMT 0.794 eV), a reaction energy of zero and the saddle at
# 0.500 of the way, both by symmetry.

# %%
band = bands["model"]
middle = band.distances[band.highest] / band.distances[-1]
print(f"CHECK barrier = {band.barrier:.3f} eV")
print(f"CHECK reaction = {band.reaction_energy:.4f} eV")
print(f"CHECK saddle = {middle:.3f} of the way")
print(f"CHECK emt = {bands['EMT'].barrier:.3f} eV" if "EMT" in bands else "no comparison with EMT in the small setting")

# %% [markdown]
# # Equations of state
#
# Energy against volume: lattice constants, bulk moduli, and how far a model is from its DFT reference, in the one
# number that the DFT codes themselves are compared by. Runs in a few seconds:
#
#     OMP_NUM_THREADS=1 python tutorials/04_equation_of_state.py

# %%
from __future__ import annotations

import numpy as np
from ase.build import bulk
from ase.collections import dcdft
from ase.units import GPa
from setting import FAST, bundled, picture

from dpa2_ase.workflows import plots
from dpa2_ase.workflows.eos import eos

# %% [markdown]
# ## Copper
#
# `eos` evaluates all volumes in one batch, moves the scan if the minimum is not near its middle, and fits all of ASE's
# forms. Their spread says what the choice of a form is worth.

# %%
copper = bulk("Cu", cubic=True)
copper.calc = bundled("Cu")
curve = eos(copper)
print("form               a0 / Å   B0 / GPa   B0′   residual / meV")
for form, fit in curve.fits.items():
    print(f"{form:16} {fit.v0 ** (1 / 3):8.4f} {fit.b0:10.2f} {fit.b0_prime:6.2f} {1000 * fit.residual:10.3f}")

# %% [markdown]
# ## The Δ-factor
#
# The root mean square difference of two equations of state between 0.94 and 1.06 times the volume, minima aligned (K.
# Lejaeghere et al., Science 351, aad3000 (2016)). ASE holds the crystals and the all-electron PBE curves of that work.
# DFT codes are within 1 meV/atom of each other.


# %%
def murnaghan(volume: np.ndarray, v0: float, b0: float, b0_prime: float) -> np.ndarray:
    """Birch and Murnaghan's energy above the minimum; `b0` in eV/Å³."""
    squeeze = (v0 / volume) ** (2 / 3) - 1
    return 9 / 16 * v0 * b0 * squeeze**2 * (2 + (b0_prime - 4) * squeeze)


ELEMENTS = ("Cu", "Ni") if FAST else ("Cu", "Ni", "Li", "Mo", "Si", "Ge")
panels = plots.subplots(1, 2, (6.4, 3.2)) if FAST else plots.subplots(2, 3, (8.4, 5.0))
deltas, lattice = {}, {}
for ax, element in zip(panels, ELEMENTS, strict=True):
    crystal, reference = dcdft[element], dcdft.data[element]
    crystal.calc = bundled(element)
    n, fit = len(crystal), eos(crystal, strain=0.06).fit
    dft = reference["wien2k_volume"], reference["wien2k_B"] * GPa, reference["wien2k_Bp"]
    ours = fit.v0 / n, fit.b0 * GPa, fit.b0_prime
    volumes = np.linspace(0.94, 1.06, 101) * (dft[0] + ours[0]) / 2
    gap = murnaghan(volumes, *ours) - murnaghan(volumes, *dft)
    deltas[element] = 1000 * float(np.sqrt(np.mean(gap**2)))
    lattice[element] = 100 * ((ours[0] / dft[0]) ** (1 / 3) - 1)
    print(
        f"{element}: V0 = {ours[0]:6.3f} Å³/atom (PBE {dft[0]:6.3f}), B0 = {fit.b0:5.1f} GPa "
        f"({reference['wien2k_B']:5.1f}), Δ = {deltas[element]:5.2f} meV/atom"
    )
    for values, label, color in ((dft, "PBE", "gray"), (ours, "model", "blue")):
        ax.plot(volumes, 1000 * murnaghan(volumes, *values), color=plots.COLORS[color], label=label)
    ax.set_title(f"{element}: Δ = {deltas[element]:.1f} meV/atom")
for ax in panels[-3:]:
    ax.set_xlabel("volume (Å³/atom)")
for ax in panels[::3]:
    ax.set_ylabel("energy (meV/atom)")
panels[0].legend(frameon=False)
picture(panels[0], "equation-of-state")

# %% [markdown]
# ## Check
#
# With the bundled model: copper 3.618 Å and 147 GPa (PBE 3.63 Å and 141 GPa). Lattice constants are within 0.6 % for
# all six elements. Δ is below 1 meV/atom for silicon and lithium, 4 to 5 for copper, germanium and nickel, and 8 for
# molybdenum, whose volume is 0.8 % too large; two codes of electronic structure differ by about 1. The model's own data
# are not the reference's: its copper and nickel have the lattice constants of their data to 0.1 %.

# %%
print(f"CHECK a0 = {curve.fit.v0 ** (1 / 3):.3f} Å")
print(f"CHECK B = {curve.fit.b0:.0f} GPa")
print(f"CHECK delta = {' '.join(f'{value:.2f}' for value in deltas.values())} meV/atom")
print(f"CHECK lattice = {' '.join(f'{value:.2f}' for value in lattice.values())} %")

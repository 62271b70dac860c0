# %% [markdown]
# # Vibrations and thermochemistry
#
# Normal modes of a molecule and of an adsorbed atom, and the free energies that follow. The workflows take any
# calculator of ASE: here a Morse potential, which is exact enough for nitrogen to be held against thermochemical
# tables, and the bundled model. Runs in a few seconds:
#
#     OMP_NUM_THREADS=1 python tutorials/11_vibrations.py

# %%
from __future__ import annotations

import numpy as np
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms
from ase.units import kB, kJ, mol, second
from setting import FAST, bundled, picture

from dpa2_ase.workflows import plots
from dpa2_ase.workflows.relax import relax
from dpa2_ase.workflows.vibrations import vibrations

# %% [markdown]
# ## A molecule
#
# A Morse potential with the spectroscopic constants of N2: well 9.90 eV deep at 1.0977 Å, harmonic wavenumber 2359 1/cm
# (K. P. Huber and G. Herzberg, Constants of Diatomic Molecules). Without `get_hessian`, central differences of forces
# do. Translations and rotations are projected out, the symmetry number is found, and the gas is ideal.

# %%
nitrogen = molecule("N2")
WELL, LENGTH, WAVENUMBER = 9.90, 1.0977, 2358.6  # eV, Å, 1/cm
frequency = 2 * np.pi * WAVENUMBER * 2.99792458e10 / second  # angular, in units of ASE
stiffness = nitrogen.get_masses()[0] / 2 * frequency**2  # eV/Å², with the reduced mass
steepness = np.sqrt(stiffness / (2 * WELL)) * LENGTH
nitrogen.calc = MorsePotential(epsilon=WELL, r0=LENGTH, rho0=steepness, rcut1=9.0, rcut2=10.0)
TABLE = {298.15: 191.609, 500.0: 206.739, 1000.0: 228.170, 1500.0: 241.880, 2000.0: 252.074}  # J/(mol K), JANAF
found = vibrations(nitrogen, temperatures=list(TABLE))
print(f"N2: {found.wavenumbers[0]:.1f} 1/cm, zero-point energy {1000 * found.zero_point_energy:.1f} meV")
entropies = np.array([state.entropy for state in found.thermochemistry]) / (1e-3 * kJ / mol)
for state, entropy, table in zip(found.thermochemistry, entropies, TABLE.values(), strict=True):
    print(f"{state.temperature:7.2f} K: S = {entropy:.3f} J/(mol K), table {table}; G = {state.free_energy:.4f} eV")

# %% [markdown]
# ## An adsorbed atom
#
# A copper atom on copper: the slab below is fixed, so only the atom vibrates, and its free energy is that of three
# oscillators. The model gives second derivatives by automatic differentiation.

# %%
slab = fcc111("Cu", size=(2, 2, 3) if FAST else (3, 3, 4), a=3.616, vacuum=8.0)
slab.set_constraint(FixAtoms(range(len(slab))))
add_adsorbate(slab, "Cu", height=2.0, position="fcc")
slab.calc = bundled("Cu")
resting = relax(slab, fmax=1e-3, optimizer="bfgs").atoms
adatom = vibrations(resting, fmax=1e-3, temperatures=list(TABLE))
print("adatom:", np.round(adatom.wavenumbers, 1), f"1/cm by {adatom.method}; imaginary modes: {len(adatom.imaginary)}")

# %% [markdown]
# ## The picture
#
# Entropy of the gas, with the tables, and of the adsorbed atom. High temperatures bring small differences: real
# molecules stretch when they rotate.

# %%
ax = plots.axes(None)
temperature = np.linspace(200.0, 2000.0, 19)
smooth = vibrations(nitrogen, relax_first=False, temperatures=temperature.tolist()).thermochemistry
held = vibrations(resting, relax_first=False, temperatures=temperature.tolist()).thermochemistry
ax.plot(temperature, [state.entropy / kB for state in smooth], color=plots.COLORS["blue"], label="N2, ideal gas")
ax.plot(list(TABLE), np.array(list(TABLE.values())) / 8.314463, "s", color=plots.COLORS["gray"], label="JANAF tables")
ax.plot(temperature, [state.entropy / kB for state in held], color=plots.COLORS["orange"], label="Cu on Cu(111)")
ax.set(xlabel="temperature (K)", ylabel="entropy (k_B)", ylim=(0, None))
ax.legend(frameon=False)
picture(ax, "vibrations")

# %% [markdown]
# ## Check
#
# 2359.6 1/cm, of which 1 1/cm is the error of the displacements. Entropies are 0.04 J/(mol K) below the tables at room
# temperature and 0.3 at 2000 K, where the rigid rotor falls short. The adsorbed atom vibrates at 90 1/cm along the
# surface, twice by symmetry, and at 177 1/cm towards it.

# %%
print(f"CHECK wavenumber = {found.wavenumbers[0]:.1f} 1/cm")
print(f"CHECK entropies = {' '.join(f'{entropy:.2f}' for entropy in entropies)} J/(mol K)")
print(f"CHECK adatom = {' '.join(f'{value:.0f}' for value in adatom.wavenumbers)} per cm")

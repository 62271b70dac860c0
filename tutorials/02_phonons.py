# %% [markdown]
# # Phonons of silicon
#
# Two ways to the same force constants: finite displacements with phonopy, all of them evaluated in one pass, and the
# Hessian of the supercell by automatic differentiation. Needs phonopy (`pip install "dpa2-ase[phonons]"`), which
# brings matplotlib for the picture. Runs in less than a minute (small models gain nothing from several threads):
#
#     OMP_NUM_THREADS=1 python tutorials/02_phonons.py
#
# The picture goes to the folder in `DPA2_ASE_TUTORIAL_OUTPUT`, by default the current one.

# %%
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from dpa2_ase import DPA2Calculator
from dpa2_ase.workflows.relax import relax

FAST = os.environ.get("DPA2_ASE_TUTORIAL_FAST") == "1"  # a smaller supercell, for the tests
OUTPUT = Path(os.environ.get("DPA2_ASE_TUTORIAL_OUTPUT", "."))
calc = DPA2Calculator(dtype="float64")

# %% [markdown]
# ## The crystal at rest
#
# Force constants belong to a minimum of the energy of the same model, so relax first.

# %%
silicon = bulk("Si", a=5.43)
silicon.calc = calc
silicon = relax(silicon, cell=True, fmax=1e-4, optimizer="bfgs").atoms
a0 = float(np.linalg.norm(silicon.cell[0]) * np.sqrt(2))
print(f"lattice constant: {a0:.4f} Å (experiment 5.431, PBE 5.469)")

# %% [markdown]
# ## Finite displacements
#
# phonopy says which atoms to move (symmetry leaves one displacement for silicon; `is_plusminus` adds its mirror
# image, which removes the cubic terms), `evaluate` gives the forces of all of them together.

# %%
size = 2 if FAST else 3
unitcell = PhonopyAtoms(
    symbols=silicon.get_chemical_symbols(), cell=silicon.cell.array, scaled_positions=silicon.get_scaled_positions()
)
phonon = Phonopy(unitcell, supercell_matrix=np.diag([size] * 3))
phonon.generate_displacements(distance=0.005, is_plusminus=True)


def as_atoms(cell: PhonopyAtoms) -> Atoms:
    """The same structure for ASE."""
    return Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)


displaced = [as_atoms(cell) for cell in phonon.supercells_with_displacements]
phonon.forces = [result["forces"] for result in calc.evaluate(displaced, ["forces"])]
phonon.produce_force_constants()
by_displacement = phonon.force_constants  # (N, N, 3, 3) eV/Å²
print(f"{len(displaced)} displaced supercells of {len(displaced[0])} atoms")

# %% [markdown]
# ## The Hessian
#
# `get_hessian` differentiates the energy twice, with no displacement to choose. Both agree to the error of the finite
# differences, which falls with the square of the displacement: expect 0.003 eV/Å² at 0.005 Å (and four times that at
# phonopy's usual 0.01 Å), where the largest force constants are near 15.

# %%
supercell = as_atoms(phonon.supercell)
n = len(supercell)
by_differentiation = calc.get_hessian(supercell).reshape(n, 3, n, 3).transpose(0, 2, 1, 3)
difference = np.abs(by_displacement - by_differentiation).max()
print(f"force constants up to {np.abs(by_differentiation).max():.2f} eV/Å², largest difference {difference:.1e} eV/Å²")

# %% [markdown]
# ## Frequencies
#
# At X experiment (Nilsson and Nelin, Phys. Rev. B 6, 3777 (1972)) has TA 4.5, LA and LO together 12.3 and TO
# 13.9 THz, at Γ 15.5 THz. X is commensurate with an even supercell; in an odd one it is interpolated.
#
# The bundled model is provisional and has seen little of silicon. It gets the degeneracies right, which symmetry does
# for it, and the upper branches to about 10 %, but the TA branch, known to be difficult, some 60 % too high. A model
# trained for the purpose comes within a few percent.

# %%
experiment = np.array([4.49, 4.49, 12.32, 12.32, 13.90, 13.90])  # THz
phonon.force_constants = by_differentiation
phonon.run_qpoints([[0.0, 0.0, 0.0], [0.5, 0.0, 0.5]])  # Γ and X, in units of the primitive reciprocal lattice
at_gamma, at_x = phonon.qpoints.frequencies
print("Γ:", np.round(at_gamma, 2), "THz")
print("X:", np.round(at_x, 2), "THz")
print("   ", np.round(experiment, 2), "THz in experiment; relative difference", np.round(at_x / experiment - 1, 2))

# %% [markdown]
# ## Band structure

# %%
path = {"Γ": (0, 0, 0), "X": (0.5, 0, 0.5), "U": (0.625, 0.25, 0.625), "K": (0.375, 0.375, 0.75), "L": (0.5, 0.5, 0.5)}
legs = [("Γ", "X"), ("X", "U"), ("K", "Γ"), ("Γ", "L")]
points = 11 if FAST else 51
phonon.run_band_structure([np.linspace(path[a], path[b], points) for a, b in legs])
bands = phonon.band_structure

try:
    import matplotlib as mpl
except ImportError:
    print("no matplotlib, no picture")
else:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for distance, frequencies in zip(bands.distances, bands.frequencies, strict=True):
        axes.plot(distance, frequencies, color="tab:blue", linewidth=1)
    ends = [distance[0] for distance in bands.distances] + [bands.distances[-1][-1]]
    axes.plot([ends[1]] * 6, experiment, "o", color="tab:red", markersize=4, label="experiment at X")
    axes.set_xticks(ends, ["Γ", "X", "U|K", "Γ", "L"])
    axes.set_xlim(ends[0], ends[-1])
    axes.set_ylim(min(0.0, float(np.min(bands.frequencies)) * 1.05), 18.0)
    for end in ends:
        axes.axvline(end, color="gray", linewidth=0.5)
    axes.set_ylabel("frequency (THz)")
    axes.set_title(f"silicon, bundled model, {size}×{size}×{size} supercell")
    axes.legend(loc="upper right")
    figure.savefig(OUTPUT / "si-phonons.png", dpi=150)
    print("picture:", OUTPUT / "si-phonons.png")

# %% [markdown]
# ## Check
#
# With the bundled model: a difference of 0.003 eV/Å², acoustic modes at zero, 13.5 THz at Γ, and 7.3, 13.8 and
# 13.9 THz at X. A model trained further will move the frequencies.

# %%
print(f"CHECK difference = {difference:.6f} eV/Å²")
print(f"CHECK acoustic = {np.abs(at_gamma[:3]).max():.4f} THz")
print(f"CHECK optical = {at_gamma[-1]:.2f} THz")
print(f"CHECK X = {at_x[0]:.2f} {at_x[2]:.2f} {at_x[-1]:.2f} THz")

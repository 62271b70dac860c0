# %% [markdown]
# # Phonons
#
# One call from a crystal to bands, density of states and heat capacity; then what is behind it: force constants by
# displacements and by automatic differentiation. Needs phonopy (`pip install "dpa2-ase[phonons]"`). Runs in a few
# seconds (small models gain nothing from several threads):
#
#     OMP_NUM_THREADS=1 python tutorials/02_phonons.py

# %%
from __future__ import annotations

import numpy as np
from ase.build import bulk
from ase.units import kB
from setting import FAST, OUTPUT, bundled, picture

from dpa2_ase.workflows import plots
from dpa2_ase.workflows.phonons import phonons

# %% [markdown]
# ## Copper, in one call
#
# `phonons` relaxes the crystal first, to 1e-4 eV/Å, since force constants belong to a minimum of the energy of the same
# model. phonopy's symmetry then leaves a single displacement of one atom. How the forces change along it comes from
# automatic differentiation: no length of a displacement to choose, no finite difference.

# %%
size = 2 if FAST else 4
copper = bulk("Cu")
copper.calc = bundled("Cu")
found = phonons(copper, supercell=(size, size, size))
a0 = float(np.linalg.norm(found.atoms.cell[0]) * np.sqrt(2))
print(f"copper: a0 = {a0:.3f} Å, {found.n_displacements} product with the Hessian of {size**3} atoms ({found.source})")
print(found.imaginary())

# %% [markdown]
# Every property is a method. Heat capacities need no experiment to be checked: they tend to 3 k_B per atom, and copper
# is at 94 % of that at room temperature.

# %%
thermal = found.thermal([100.0, 300.0, 1000.0])
capacities = thermal.heat_capacity / (3 * kB)
print("heat capacity at 100, 300, 1000 K:", np.round(100 * capacities, 1), "% of Dulong and Petit's")

# %% [markdown]
# ## Silicon, in two ways
#
# Displacements are the way of calculators without second derivatives. All displaced supercells are evaluated in one
# batch. Both ways agree to the error of the finite differences, which falls with the square of the displacement: expect
# 0.003 eV/Å² at 0.005 Å, where the largest force constants are near 15.

# %%
silicon = bulk("Si", a=5.47)
silicon.calc = bundled("Si")
supercell = (2, 2, 2) if FAST else (3, 3, 3)
exact = phonons(silicon, supercell=supercell)
displaced = phonons(silicon, supercell=supercell, source="displacements", distance=0.005)
difference = float(np.abs(exact.force_constants - displaced.force_constants).max())
largest = float(np.abs(exact.force_constants).max())
print(f"silicon: force constants up to {largest:.1f} eV/Å², largest difference {difference:.1e} eV/Å²")
sums = float(np.abs(exact.force_constants.sum(axis=1)).max())
print(f"acoustic sum rule: {sums:.1e} eV/Å²")

# %% [markdown]
# ## Files for phonopy
#
# `write` leaves what phonopy's own commands read (`phonopy-load phonopy.yaml --band auto -p`), besides tables and
# pictures of bands, densities of states and thermal properties.

# %%
written = exact.write(OUTPUT / "silicon-phonons")
print("written:", ", ".join(sorted(path.name for path in written)))

# %% [markdown]
# ## Against neutrons
#
# Frequencies in THz at special points, in units of the primitive reciprocal vectors. Copper at 49 K (R. M. Nicklow et
# al., Phys. Rev. 164, 922 (1967)), silicon at room temperature (G. Nilsson and G. Nelin, Phys. Rev. B 6, 3777 (1972); Γ
# and L as quoted by P. Giannozzi et al., Phys. Rev. B 43, 7231 (1991)).

# %%
X, L, K, GAMMA = (0.5, 0.0, 0.5), (0.5, 0.5, 0.5), (0.375, 0.375, 0.75), (0.0, 0.0, 0.0)
MEASURED = {
    "copper": {X: (5.16, 5.16, 7.38), L: (3.41, 3.41, 7.44), K: (4.60, 5.90, 6.70)},
    "silicon": {
        GAMMA: (0.0, 0.0, 0.0, 15.53, 15.53, 15.53),  # translations, and the optical mode
        X: (4.49, 4.49, 12.32, 12.32, 13.90, 13.90),
        L: (3.43, 3.43, 11.35, 12.60, 14.68, 14.68),
    },
}
panels = plots.subplots(1, 2, (8.4, 3.4))
errors = {}
for ax, (name, result) in zip(panels, (("copper", found), ("silicon", exact)), strict=True):
    bands = result.bands()
    bands.plot(ax)
    measured = MEASURED[name]
    calculated = dict(zip(measured, result.frequencies(list(measured)), strict=True))
    for point, frequencies in measured.items():
        label = {X: "X", L: "L", K: "K", GAMMA: "Γ"}[point]
        print(f"{name} at {label}: {np.round(calculated[point], 2)} THz, measured {np.array(frequencies)}")
        for tick, text in zip(bands.ticks, bands.labels, strict=True):
            if label in text.split("|"):
                points = ax.plot([tick] * len(frequencies), frequencies, "o", color=plots.COLORS["orange"])
                points[0].set(zorder=3, clip_on=False)
    ax.set_ylim(0, 1.05 * max(ax.get_ylim()[1], *(max(frequencies) for frequencies in measured.values())))
    every = [(calculated[point], np.array(frequencies)) for point, frequencies in measured.items()]
    ratios = np.concatenate([have[want > 0] / want[want > 0] for have, want in every])
    errors[name] = 100 * float(np.abs(ratios - 1).mean())
    ax.set_title(f"{name}, {size if name == 'copper' else supercell[0]}³ cells; points: neutrons")
picture(panels[0], "phonons")

# %% [markdown]
# ## Check
#
# With the bundled model: copper within 2 % of the neutrons on average. Silicon 11 %: symmetry gives the degeneracies
# and the upper branches are 5 to 9 % low, as those of PBE are by half of that; the lowest one, known to be difficult,
# is 13 % too high at L and 29 % at X. A model trained for the purpose comes within a few percent.

# %%
print(f"CHECK difference = {difference:.6f} eV/Å²")
print(f"CHECK sums = {sums:.8f} eV/Å²")
print(f"CHECK acoustic = {np.abs(exact.frequencies([GAMMA])[0][:3]).max():.4f} THz")
print(f"CHECK optical = {exact.frequencies([GAMMA])[0][-1]:.2f} THz")
print(f"CHECK capacity = {100 * capacities[1]:.1f} % of Dulong and Petit's at 300 K")
print(f"CHECK errors = {errors['copper']:.1f} % for copper, {errors['silicon']:.1f} % for silicon")

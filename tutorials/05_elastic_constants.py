# %% [markdown]
# # Elastic constants
#
# The tensor from stresses of strained cells, what follows from it for polycrystals, and how stiff a single crystal is
# in every direction. Runs in a few seconds:
#
#     OMP_NUM_THREADS=1 python tutorials/05_elastic_constants.py

# %%
from __future__ import annotations

import numpy as np
from ase.build import bulk
from setting import FAST, bundled, picture

from dpa2_ase.workflows import plots
from dpa2_ase.workflows.elastic import elastic

# %% [markdown]
# ## The tensor
#
# `elastic` relaxes the crystal and takes second derivatives of the energy by strain and position, by automatic
# differentiation. With `source="stress"`, which any calculator can, it applies only the strains that symmetry does not
# repeat (two of six for a cubic crystal), each in four steps and all in one batch, and fits parabolas. Constants of
# copper measured at low temperature are 176, 125 and 82 GPa, of nickel 261, 151 and 132 GPa (C. Kittel, Introduction to
# Solid State Physics); PBE gives 177, 132 and 82 GPa for copper (Y. Lysogorskiy et al., npj Comput. Mater. 7, 97
# (2021)).

# %%
calc = bundled("Cu", "Ni")
MEASURED = {"Cu": (176.2, 124.9, 81.8), "Ni": (261.2, 150.8, 131.7)}  # GPa: C11, C12, C44
found = {}
for symbol in ("Cu",) if FAST else ("Cu", "Ni"):
    crystal = bulk(symbol, cubic=True)
    crystal.calc = calc
    result = found[symbol] = elastic(crystal)
    constants = result.tensor[[0, 0, 3], [0, 1, 3]]
    print(f"{symbol}: {result.independent} independent constants by {result.source}")
    for name, value, measured in zip(("C11", "C12", "C44"), constants, MEASURED[symbol], strict=True):
        print(f"    {name} = {value:6.1f} GPa (measured {measured})")
    moduli = result.moduli
    print(f"    K = {moduli.bulk_hill:.0f}, G = {moduli.shear_hill:.0f}, E = {moduli.young:.0f} GPa (Hill)")
    print(f"    Born stable: {result.stable}; Debye temperature {moduli.debye_temperature:.0f} K")

copper = found["Cu"]
by_stress = elastic(copper.atoms, source="stress", relax_first=False)
difference = float(np.abs(by_stress.tensor - copper.tensor).max())
print(f"by stresses of strains {by_stress.strains}: {difference:.2f} GPa away, ± {by_stress.error.max():.2f} GPa")

# %% [markdown]
# ## Stiffness by direction
#
# Young's modulus along a unit vector n of a cubic crystal, with the compliances S = C⁻¹:
#
# 1/E = S11 − 2 (S11 − S12 − S44/2) (n₁²n₂² + n₂²n₃² + n₃²n₁²)
#
# In the plane of [001] and [110] all three axes of high symmetry lie: 67 GPa along [001], 131 along [110] and 191 along
# [111] are the values of copper as measured at room temperature.


# %%
def young(c11: float, c12: float, c44: float, angle: np.ndarray) -> np.ndarray:
    """Young's modulus (GPa) at an angle from [001] towards [110]."""
    s11, s12 = (c11 + c12) / ((c11 - c12) * (c11 + 2 * c12)), -c12 / ((c11 - c12) * (c11 + 2 * c12))
    n3, n1 = np.cos(angle), np.sin(angle) / np.sqrt(2)  # n2 = n1
    return 1 / (s11 - 2 * (s11 - s12 - 1 / (2 * c44)) * (n1**4 + 2 * n1**2 * n3**2))


axes_of = {"[001]": 0.0, "[111]": float(np.arccos(1 / np.sqrt(3))), "[110]": np.pi / 2}
angle = np.linspace(0, 2 * np.pi, 361)
panels = plots.subplots(1, len(found), (3.8 * len(found), 3.8), subplot_kw={"projection": "polar"})
for ax, (symbol, result) in zip(panels, found.items(), strict=True):
    constants = result.tensor[[0, 0, 3], [0, 1, 3]]
    ax.plot(angle, young(*MEASURED[symbol], angle), color=plots.COLORS["gray"], label="measured")
    ax.plot(angle, young(*constants, angle), color=plots.COLORS["blue"], label="model")
    ax.set_theta_zero_location("N")
    ax.set_theta_direction(-1)
    ax.set_xticks(list(axes_of.values()), list(axes_of))
    ax.set_rticks([100, 200, 300][: 2 if symbol == "Cu" else 3])
    ax.set_rlabel_position(180)
    ax.set_xlabel(f"Young's modulus of {symbol} (GPa)")
panels[0].legend(loc="center", frameon=False)
picture(panels[0], "elastic-constants")

# %% [markdown]
# ## Check
#
# With the bundled model: C11, C12 and C44 of copper 180, 128 and 79 GPa, two ways within 0.1 GPa, and a Debye
# temperature of 349 K (343 K measured); of nickel 293, 180 and 122 GPa. So copper is 74, 200 and 140 GPa stiff along
# [001], [111] and [110].

# %%
stiffness = young(*found["Cu"].tensor[[0, 0, 3], [0, 1, 3]], np.array(list(axes_of.values())))
print(f"CHECK constants = {' '.join(f'{value:.1f}' for value in found['Cu'].tensor[[0, 0, 3], [0, 1, 3]])} GPa")
print(f"CHECK difference = {difference:.2f} GPa between two ways")
print(f"CHECK debye = {found['Cu'].moduli.debye_temperature:.0f} K")
print(f"CHECK young = {' '.join(f'{value:.0f}' for value in stiffness)} GPa")

# %% [markdown]
# # Molecular dynamics
#
# A crystal that vibrates and a melt that flows: thermostats, a restart that continues exactly, radial distribution,
# diffusion and vibrational spectrum. Runs in a minute:
#
#     OMP_NUM_THREADS=1 python tutorials/08_molecular_dynamics.py

# %%
from __future__ import annotations

import shutil

import numpy as np
from ase import Atoms
from ase.build import bulk
from setting import FAST, OUTPUT, bundled, picture

from dpa2_ase.workflows import plots
from dpa2_ase.workflows.analysis import rdf
from dpa2_ase.workflows.md import md
from dpa2_ase.workflows.md_result import Simulation
from dpa2_ase.workflows.motion import motion_of, msd, vibrational_spectrum

calc = bundled("Cu")
size = 2 if FAST else 3


def crystal(a: float) -> Atoms:
    """Copper with lattice constant `a` (Å)."""
    atoms = bulk("Cu", a=a, cubic=True) * (size, size, size)
    atoms.calc = calc
    return atoms


# %% [markdown]
# ## A crystal at 300 K
#
# Bussi's thermostat rescales velocities so that the temperature fluctuates as it should. A crystal at rest gives half
# of its kinetic energy to its potential energy, so it starts twice as hot.

# %%
steps = 40 if FAST else 500
solid = md(
    crystal(3.64), steps=steps, timestep=4.0, temperature=300.0, initial_temperature=600.0, interval=5, frame_interval=4
)
mean, error = solid.average("temperature")
print(f"solid: {mean:.0f} ± {error:.0f} K, drift of the conserved energy {1e3 * solid.drift():.2f} meV/atom/ps")

# %% [markdown]
# ## Melting, and a break
#
# The same crystal with the density of the liquid (8.0 g/cm³), from 4000 K, where it melts at once, down a ramp to 1500
# K. The ramp writes its files into a folder; the run after it stops half-way and is continued. A run without the break
# ends in the same place, to the last bit.

# %%
folder = OUTPUT / "copper-melt"
shutil.rmtree(folder, ignore_errors=True)
ramp = md(
    crystal(3.75), steps=20 if FAST else 300, timestep=3.0, temperature=4000.0, temperature_end=1500.0,
    initial_temperature=8000.0, folder=folder / "ramp",
)  # fmt: skip
choices = {"timestep": 3.0, "temperature": 1500.0, "interval": 5, "frame_interval": 4, "seed": 1}
steps = 40 if FAST else 800
md(ramp.atoms, steps=steps // 2, folder=folder / "liquid", **choices)
liquid = md(ramp.atoms, steps=steps, folder=folder / "liquid", resume=True, **choices)
short = 24 if FAST else 60
whole = md(ramp.atoms, steps=short, **choices)
md(ramp.atoms, steps=short // 2, folder=folder / "test", **choices)
broken = md(ramp.atoms, steps=short, folder=folder / "test", resume=True, **choices)
gap = float(np.abs(broken.atoms.positions - whole.atoms.positions).max())
mean, error = liquid.average("temperature")
print(f"liquid: {mean:.0f} ± {error:.0f} K; after a break {gap:.1e} Å from the run without")

# %% [markdown]
# ## What the frames tell
#
# Crystal and liquid differ in everything that is drawn: shells of neighbors against a distribution that forgets, atoms
# that stay against atoms that go, and a spectrum that begins with the square of the frequency against one that does not
# vanish at zero, where its value is the diffusion coefficient.


# %%
def describe(run: Simulation, color: str, label: str) -> tuple[float, float, float]:
    """Draw one run; first peak of g(r) in Å, coordination up to 3.2 Å, diffusion coefficient in 1e-5 cm²/s."""
    frames = run.frames()[len(run.frames()) // 4 :]  # the first quarter is not in equilibrium yet
    pairs, motion = rdf(frames[::4], r_max=6.5 if FAST else 8.0), motion_of(frames)
    diffusion, spectrum = msd(motion), vibrational_spectrum(motion, longest=None if FAST else 0.6)
    shown = spectrum.frequency < 12.0
    lags = diffusion.time <= diffusion.time[-1] / 2
    panels[0].plot(pairs.r, pairs.g, color=plots.COLORS[color], label=label)
    panels[1].plot(diffusion.time[lags], diffusion.msd["Cu"][lags], color=plots.COLORS[color])
    panels[2].plot(spectrum.frequency[shown], spectrum.dos[shown], color=plots.COLORS[color])
    value, uncertainty = (1e5 * number for number in diffusion.coefficient["Cu"])
    peak, neighbors = pairs.r[np.argmax(pairs.g)], np.interp(3.2, pairs.r, pairs.coordination)
    print(f"{label}: peak at {peak:.2f} Å, {neighbors:.1f} neighbors, D = {value:.2f} ± {uncertainty:.2f} 1e-5 cm²/s")
    return float(peak), float(neighbors), value


panels = plots.subplots(1, 3, (10.0, 3.2))
in_solid = describe(solid, "blue", "crystal, 300 K")
in_liquid = describe(liquid, "orange", "liquid, 1500 K")
panels[0].set(xlabel="distance (Å)", ylabel="g(r)", ylim=(0, None), xlim=(1.5, None))
panels[1].set(xlabel="time (ps)", ylabel="mean squared displacement (Å²)", ylim=(0, None), xlim=(0, None))
panels[2].set(xlabel="frequency (THz)", ylabel="vibrational density of states (1/THz)", ylim=(0, None), xlim=(0, 12))
panels[0].legend(frameon=False)
picture(panels[0], "molecular-dynamics")

# %% [markdown]
# ## Check
#
# Neutrons see the first peak of liquid copper at 2.5 Å with eleven to twelve neighbors, and D is about 4 1e-5 cm²/s at
# 1500 K (A. Meyer, Phys. Rev. B 81, 012102 (2010)). A cell of a hundred atoms and 2 ps are good for 30 %. With the
# bundled model: 2.5 Å, 11.4 neighbors and 3.1 ± 0.1 1e-5 cm²/s in the liquid, 2.58 Å, 12 neighbors and no diffusion in
# the crystal, whose energy drifts by 0.01 meV/atom/ps; the broken run is the unbroken one to the last bit.

# %%
print(f"CHECK drift = {1e3 * solid.drift():.3f} meV/atom/ps")
print(f"CHECK gap = {gap:.1e} Å")
print(f"CHECK temperatures = {solid.average('temperature')[0]:.0f} {liquid.average('temperature')[0]:.0f} K")
print(f"CHECK solid = {in_solid[0]:.2f} {in_solid[1]:.1f} {in_solid[2]:.2f}")
print(f"CHECK liquid = {in_liquid[0]:.2f} {in_liquid[1]:.1f} {in_liquid[2]:.2f}")

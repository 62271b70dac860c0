"""Saddle points from one structure, by the dimer method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from ase import Atoms
from ase.mep import DimerControl, MinModeAtoms, MinModeTranslate

from . import plots
from .relax import max_force
from .results import Result, provenance_of, with_calculator

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Saddle(Result):
    """A stationary point with one direction downhill, if `curvature` is negative."""

    name: ClassVar[str] = "dimer"

    atoms: Atoms  # with the calculator
    converged: bool
    steps: int
    energy: float  # eV
    barrier: float  # eV above the structure the search began from
    max_force: float  # eV/Å
    curvature: float  # eV/Å², along `mode`
    mode: np.ndarray  # (N, 3), of length one
    energies: np.ndarray  # (steps + 1,) eV, after the first displacement and every translation

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the energy above the structure the search began from (eV) against the translation."""
        ax = plots.axes(ax)
        ax.plot(self.energies - self.energy + self.barrier, "o-", color=plots.COLORS["blue"], markersize=3)
        ax.axhline(self.barrier, color=plots.COLORS["gray"], lw=0.8, ls="--")
        ax.set(xlabel="translation", ylabel="energy above the start (eV)")
        ax.set_title(f"barrier {self.barrier:.3f} eV, curvature {self.curvature:.2f} eV/Å²")
        return ax


def dimer(  # noqa: PLR0913  # the choices of a search
    atoms: Atoms,
    *,
    mode: np.ndarray | None = None,
    displacement: float = 0.1,
    seed: int = 0,
    fmax: float = 0.05,
    max_steps: int = 500,
) -> Saddle:
    """Climb from `atoms`, which is left as it was, to a saddle point.

    ASE's `DimerControl`, `MinModeAtoms` and `MinModeTranslate` with their defaults; see
    https://doi.org/10.1063/1.480097 and https://doi.org/10.1063/1.2104507.

    Parameters
    ----------
    atoms
        A minimum or a guess of the saddle, with a calculator.
    mode
        First guess of the direction to climb along, (N, 3) of any length; random if not given.
    displacement
        Length (Å) of the first step along `mode`, which leaves the minimum.
    seed
        Of the random direction.
    fmax
        Converged when no atom's force is larger, in eV/Å.
    max_steps
        Stop after so many translations even if not converged.

    Raises
    ------
    ValueError
        For a mode of another shape, a nonsensical `fmax`, or no calculator.
    """
    moving = with_calculator(atoms)
    if mode is None:
        mode = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    direction = np.array(mode, dtype=float)
    if direction.shape != (len(atoms), 3) or not np.linalg.norm(direction) > 0:
        raise ValueError(f"mode should be ({len(atoms)}, 3) and not null, found shape {direction.shape}")
    if not 0 < fmax < np.inf:
        raise ValueError(f"fmax should be positive (eV/Å), found {fmax}")
    for constraint in moving.constraints:
        constraint.adjust_forces(moving, direction)  # what is fixed does not take part
    direction /= np.linalg.norm(direction)
    start = float(moving.get_potential_energy())
    moving.set_positions(moving.positions + displacement * direction)
    with DimerControl(logfile=None) as control:
        searching = MinModeAtoms(moving, control, eigenmodes=[direction], random_seed=seed)
        energies: list[float] = []
        with MinModeTranslate(searching, logfile=None) as run:
            run.attach(lambda: energies.append(float(searching.get_potential_energy())))
            converged = bool(run.run(fmax=fmax, steps=max_steps))
            energy = float(moving.get_potential_energy())
            return Saddle(
                atoms=moving,
                converged=converged,
                steps=run.nsteps,
                energy=energy,
                barrier=energy - start,
                max_force=max_force(moving),
                curvature=float(searching.get_curvature()),
                mode=np.array(searching.get_eigenmode()),
                energies=np.array(energies),
                provenance=provenance_of(atoms.calc, displacement=displacement, seed=seed, fmax=fmax),
            )

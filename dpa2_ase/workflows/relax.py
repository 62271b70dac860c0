"""Relax a structure with any ASE calculator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from ase.units import GPa

OPTIMIZERS = {"fire": FIRE, "bfgs": BFGS, "lbfgs": LBFGS}


@dataclass(frozen=True)
class State:
    """What one looks at before and after a relaxation."""

    energy: float  # eV
    max_force: float  # eV/Å, the largest norm of an atom's force
    pressure: float | None  # GPa; None without periodic directions or a calculator's stress
    cell: tuple[float, ...]  # a, b, c in Å and alpha, beta, gamma in degrees


@dataclass(frozen=True)
class Relaxation:
    """A relaxed copy of a structure."""

    atoms: Atoms  # with the calculator that relaxed it
    converged: bool
    steps: int
    initial: State
    final: State


def state_of(atoms: Atoms) -> State:
    """Energy, largest force, pressure and lattice of `atoms`, which has a calculator."""
    energy, cell = float(atoms.get_potential_energy()), tuple(map(float, atoms.cell.cellpar()))
    return State(energy, _max_force(atoms), _pressure(atoms), cell)


def _pressure(atoms: Atoms) -> float | None:
    if not atoms.pbc.any():
        return None
    try:
        return -float(atoms.get_stress(voigt=False).trace()) / 3 / GPa
    except PropertyNotImplementedError:  # not every calculator has a stress, and positions relax without
        return None


def _max_force(atoms: Atoms) -> float:
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max(initial=0.0))


def relax(  # noqa: PLR0913  # the choices of a relaxation
    atoms: Atoms,
    *,
    fmax: float = 0.01,
    cell: bool = False,
    optimizer: str = "fire",
    max_steps: int = 500,
    on_step: Callable[[int, float], None] | None = None,
) -> Relaxation:
    """Return a relaxed copy of `atoms`; the input is left as it was.

    Parameters
    ----------
    atoms
        A structure with a calculator.
    fmax
        Converged when no atom's force is larger, in eV/Å; with `cell` also no strain gradient, in eV.
    cell
        Relax the lattice as well; needs three periodic directions.
    optimizer
        ``fire``, ``bfgs`` or ``lbfgs``.
    max_steps
        Stop after so many steps even if not converged.
    on_step
        Called with the number of the step and the largest force, eV/Å, before the first step and after each.

    Raises
    ------
    ValueError
        For an unknown optimizer, a nonsensical `fmax` or `max_steps`, no calculator, or `cell` without a full lattice.
    """
    if optimizer.lower() not in OPTIMIZERS:
        raise ValueError(f"optimizer {optimizer!r} is not one of {sorted(OPTIMIZERS)}")
    if not 0 < fmax < np.inf or max_steps < 0:
        raise ValueError(f"fmax should be positive (eV/Å) and max_steps not negative, found {fmax} and {max_steps}")
    if atoms.calc is None:
        raise ValueError("the structure has no calculator; set atoms.calc")
    if cell and not atoms.pbc.all():
        raise ValueError(f"relaxing the cell needs three periodic directions, found pbc={atoms.pbc.tolist()}")
    moving = atoms.copy()
    moving.calc = atoms.calc
    initial = state_of(moving)
    target = FrechetCellFilter(moving) if cell else moving
    with OPTIMIZERS[optimizer.lower()](target, logfile=None) as run:
        if on_step is not None:
            run.attach(lambda: on_step(run.nsteps, _max_force(moving)))
        converged = bool(run.run(fmax=fmax, steps=max_steps)) if len(moving) else True
        return Relaxation(moving, converged, run.nsteps, initial, state_of(moving))

"""Relax a structure with any ASE calculator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixSymmetry
from ase.io import read
from ase.optimize import BFGS, FIRE, FIRE2, LBFGS, BFGSLineSearch
from ase.optimize.precon import PreconLBFGS
from ase.units import GPa

from . import plots
from .cell_filter import CellFilter
from .results import Result, provenance_of, with_calculator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPTIMIZERS = {
    "fire": FIRE,
    "fire2": FIRE2,
    "bfgs": BFGS,
    "lbfgs": LBFGS,
    "bfgs-linesearch": BFGSLineSearch,
    "precon-lbfgs": PreconLBFGS,
}
CELL_FILTERS: dict[str, dict[str, bool]] = {
    "full": {},
    "volume": {"hydrostatic_strain": True},
    "shape": {"constant_volume": True},
}
Cell = bool | Literal["full", "volume", "shape"]
VOIGT_AXES = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # xx, yy, zz, yz, xz, xy


@dataclass(frozen=True)
class State:
    """What one looks at before and after a relaxation."""

    energy: float  # eV
    max_force: float  # eV/Å, the largest norm of an atom's force
    pressure: float | None  # GPa; None without periodic directions or a calculator's stress
    cell: tuple[float, ...]  # a, b, c in Å and alpha, beta, gamma in degrees


@dataclass(frozen=True, eq=False)
class Relaxation(Result):
    """A relaxed copy of a structure."""

    name: ClassVar[str] = "relax"

    atoms: Atoms  # with the calculator that relaxed it, or of many relaxed together with its results
    converged: bool
    steps: int
    initial: State
    final: State
    energies: np.ndarray  # (steps + 1,) eV, at every step of this run
    max_forces: np.ndarray  # (steps + 1,) eV/Å

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw energy above the last (meV, left) and largest force (eV/Å, right) against the step."""
        ax = plots.axes(ax)
        ax.plot(1000 * (self.energies - self.final.energy), color=plots.COLORS["blue"])
        ax.set_xlabel("step")
        ax.set_ylabel("energy above the last (meV)", color=plots.COLORS["blue"])
        right = ax.twinx()
        right.semilogy(np.maximum(self.max_forces, 1e-12), color=plots.COLORS["orange"])
        right.set_ylabel("largest force (eV/Å)", color=plots.COLORS["orange"])
        right.grid(False)
        return ax


def state_of(atoms: Atoms) -> State:
    """Energy, largest force, pressure and lattice of `atoms`, which has a calculator."""
    energy, cell = float(atoms.get_potential_energy()), tuple(map(float, atoms.cell.cellpar()))
    return State(energy, max_force(atoms), _pressure(atoms), cell)


def _pressure(atoms: Atoms) -> float | None:
    if not atoms.pbc.any():
        return None
    try:
        return -float(atoms.get_stress(voigt=False).trace()) / 3 / GPa
    except PropertyNotImplementedError:  # not every calculator has a stress, and positions relax without
        return None


def max_force(atoms: Atoms) -> float:
    """Largest norm of a force on an atom, eV/Å, constraints considered."""
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max(initial=0.0))


@dataclass(frozen=True)
class Task:
    """What to relax and how, checked; see `relax` for the fields."""

    fmax: float = 0.01
    cell: Cell = False
    mask: Sequence[bool] | None = None
    pressure: float = 0.0
    symmetry: bool = False
    optimizer: str = "fire"
    max_steps: int = 500

    def __post_init__(self) -> None:
        if self.optimizer.lower() not in OPTIMIZERS:
            raise ValueError(f"optimizer {self.optimizer!r} is not one of {sorted(OPTIMIZERS)}")
        if not 0 < self.fmax < np.inf or self.max_steps < 0:
            raise ValueError(
                f"fmax should be positive (eV/Å) and max_steps not negative, found {self.fmax} and {self.max_steps}"
            )
        if self.cell is not False and self.cell is not True and self.cell not in CELL_FILTERS:
            raise ValueError(f"cell {self.cell!r} is not one of {[False, True, *CELL_FILTERS]}")
        if not self.cell and (self.mask is not None or self.pressure):
            raise ValueError("mask and pressure act on the cell; give cell=True as well")
        if self.mask is not None and (len(self.mask) != 6 or self.cell not in (True, "full")):
            raise ValueError("mask takes six values (xx, yy, zz, yz, xz, xy) and goes with cell=True alone")
        if self.cell and self.optimizer.lower() == "precon-lbfgs":
            raise ValueError("precon-lbfgs relaxes positions alone; use another optimizer with a cell")

    def check(self, atoms: Atoms) -> None:
        """Refuse strains along directions without period."""
        if not self.cell or atoms.pbc.all():
            return
        strained = [axes for axes, on in zip(VOIGT_AXES, self.mask or [True] * 6, strict=True) if on]
        if self.mask is None or not all(atoms.pbc[list(axes)].all() for axes in strained):
            raise ValueError(
                f"relaxing the cell needs three periodic directions, found pbc={atoms.pbc.tolist()}; "
                "a mask (xx, yy, zz, yz, xz, xy) can leave out strains along the open ones"
            )

    def target(self, atoms: Atoms) -> Atoms | CellFilter:
        """What an optimizer of `atoms` moves; positions in the filter are relative to the cell as it is now."""
        if self.symmetry:
            atoms.set_constraint([*atoms.constraints, FixSymmetry(atoms)])
        if not self.cell:
            return atoms
        kind = CELL_FILTERS["full" if self.cell is True else self.cell]
        return CellFilter(atoms, mask=self.mask, scalar_pressure=self.pressure * GPa, **kind)

    def start(self, target: Atoms | CellFilter, **files: Any) -> Any:
        """Optimizer of ASE's for `target`."""
        name = self.optimizer.lower()
        if name == "precon-lbfgs":
            files["precon"] = "Exp" if len(target) >= 100 else None  # as ASE chooses, less its warning
        with warnings.catch_warnings():
            # a restart would miss the cell that strains refer to; `relax` makes the filter with that of the beginning
            warnings.filterwarnings("ignore", "WARNING: restart function is untested", UserWarning)
            return OPTIMIZERS[name](target, logfile=None, **files)

    def result(  # noqa: PLR0913  # all there is to say
        self,
        atoms: Atoms,
        *,
        converged: bool,
        steps: int,
        initial: State,
        final: State,
        energies: Sequence[float],
        max_forces: Sequence[float],
        calc: Any,
    ) -> Relaxation:
        """What came out of `atoms`, which `calc` relaxed."""
        return Relaxation(
            atoms,
            converged,
            steps,
            initial,
            final,
            np.array(energies),
            np.array(max_forces),
            provenance=provenance_of(calc, **asdict(self)),
        )


def relax(  # noqa: PLR0913  # the choices of a relaxation
    atoms: Atoms,
    *,
    fmax: float = 0.01,
    cell: Cell = False,
    mask: Sequence[bool] | None = None,
    pressure: float = 0.0,
    symmetry: bool = False,
    optimizer: str = "fire",
    max_steps: int = 500,
    trajectory: str | Path | None = None,
    restart: str | Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Relaxation:
    """Return a relaxed copy of `atoms`; the input is left as it was.

    Parameters
    ----------
    atoms
        A structure with a calculator.
    fmax
        Converged when no atom's force is larger, in eV/Å; with `cell` also no strain gradient per atom, in eV.
    cell
        Relax the lattice as well: all of it (``True`` or ``"full"``), its ``"volume"`` with the shape kept, or its
        ``"shape"`` with the volume kept. Needs three periodic directions.
    mask
        Strains that may change, xx, yy, zz, yz, xz, xy; lets the periodic directions of a slab relax.
    pressure
        Of the surroundings, in GPa; positive compresses. The enthalpy is minimized.
    symmetry
        Keep the space group, found to 0.01 Å and made exact first. Needs spglib.
    optimizer
        ``fire``, ``fire2``, ``bfgs``, ``lbfgs``, ``bfgs-linesearch`` or, for positions of large structures,
        ``precon-lbfgs`` (https://doi.org/10.1063/1.4947024).
    max_steps
        Stop after so many steps even if not converged.
    trajectory
        File for the structure at every step, in ASE's ``.traj`` format.
    restart
        File for the optimizer's memory. If it and `trajectory` exist, the run goes on from the trajectory's last frame;
        ``bfgs`` and ``lbfgs`` as if it had not been interrupted, others with what ASE stores of them.
    on_step
        Called with the number of the step and the largest force, eV/Å, before the first step and after each.

    Raises
    ------
    ValueError
        For unknown or contradictory choices, no calculator, or `cell` without a full lattice.
    """
    task = Task(fmax, cell, mask, pressure, symmetry, optimizer, max_steps)
    moving = with_calculator(atoms)
    task.check(moving)
    if restart is not None and trajectory is None:
        raise ValueError("a restart needs the structures too; give a trajectory as well")
    initial = state_of(moving)
    target = task.target(moving)
    resumes = restart is not None and Path(restart).is_file() and Path(str(trajectory)).is_file()
    if resumes:
        _continue_from(str(trajectory), moving)
    energies: list[float] = []
    forces: list[float] = []
    with task.start(target, trajectory=trajectory, restart=restart, append_trajectory=resumes) as run:

        def record() -> None:
            energies.append(float(moving.get_potential_energy()))
            forces.append(max_force(moving))
            if on_step is not None:
                on_step(run.nsteps, forces[-1])

        run.attach(record)
        converged = bool(run.run(fmax=fmax, steps=max_steps)) if len(moving) else True
    moving.set_constraint(atoms.copy().constraints)
    return task.result(
        moving,
        converged=converged,
        steps=run.nsteps,
        initial=initial,
        final=state_of(moving),
        energies=energies,
        max_forces=forces,
        calc=atoms.calc,
    )


def _continue_from(trajectory: str, moving: Atoms) -> None:
    """Give `moving` the lattice and positions of the last frame of a run that began where it is now."""
    last: Any = read(trajectory, index=-1)
    if not np.array_equal(last.numbers, moving.numbers):
        raise ValueError(f"{trajectory} is of {last.symbols}, not {moving.symbols}; remove it to start anew")
    moving.set_cell(last.cell, apply_constraint=False)
    moving.set_positions(last.positions, apply_constraint=False)

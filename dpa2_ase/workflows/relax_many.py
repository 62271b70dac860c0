"""Relax many structures at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from .lockstep import in_lockstep
from .relax import Cell, Relaxation, State, Task, max_force, state_of

# optimizers whose step asks for the forces where they are; fire2 alone once more after going uphill
TOGETHER = ("fire", "fire2", "bfgs", "lbfgs")


def relax_many(  # noqa: PLR0913  # the choices of a relaxation
    structures: Sequence[Atoms],
    calc: Any,
    *,
    fmax: float = 0.01,
    cell: Cell = False,
    mask: Sequence[bool] | None = None,
    pressure: float = 0.0,
    symmetry: bool = False,
    optimizer: str = "fire",
    max_steps: int = 500,
    on_step: Callable[[int, dict[int, float]], None] | None = None,
    on_done: Callable[[int, Relaxation], None] | None = None,
) -> list[Relaxation]:
    """Return relaxed copies of `structures`, in order; every step evaluates all that still move in one batch.

    Each structure has an optimizer of its own and takes the steps and stops where `relax` would. Those that are done
    leave the batch. The choices are those of `relax`; they hold for all structures.

    Parameters
    ----------
    structures
        Any sizes and compositions; calculators they may have are not used.
    calc
        An ASE calculator. One with ``evaluate(structures, properties)`` is asked once per step.
    optimizer
        ``fire``, ``fire2``, ``bfgs`` or ``lbfgs``; those with line searches do not walk in step.
    on_step
        Called with the number of the step and the largest force (eV/Å) of each structure that still moves, by index.
    on_done
        Called with the index and the relaxation of every structure as soon as it is done.

    Raises
    ------
    ValueError
        As `relax`; the message names the structure.
    """
    task = Task(fmax, cell, mask, pressure, symmetry, optimizer, max_steps)
    if task.optimizer.lower() not in TOGETHER:
        raise ValueError(f"optimizer {optimizer!r} cannot relax many structures in step; use one of {TOGETHER}")
    for index, atoms in enumerate(structures):
        try:
            task.check(atoms)
        except ValueError as error:
            raise ValueError(f"structure {index}: {error}") from None
    moving = [atoms.copy() for atoms in structures]
    in_lockstep(moving, calc)
    initial = [state_of(atoms) for atoms in moving]
    walkers = [Walker(atoms, task, state) for atoms, state in zip(moving, initial, strict=True)]
    results: dict[int, Relaxation] = {}
    for step in range(max_steps + 1):
        forces = {index: walkers[index].look() for index in range(len(walkers)) if index not in results}
        if on_step is not None and forces:
            on_step(step, forces)
        for index in forces:
            if walkers[index].is_done:
                results[index] = walkers[index].result(structures[index], calc)
                if on_done is not None:
                    on_done(index, results[index])
            else:
                walkers[index].move()
        if len(results) == len(walkers):
            break
    return [results[index] for index in range(len(walkers))]


class Walker:
    """One structure and its optimizer, whose step is taken apart: first all move, then all look at their forces.

    Parameters
    ----------
    atoms
        Moved in place; its calculator knows the other structures.
    task
        How to relax.
    initial
        What there was before.
    """

    def __init__(self, atoms: Atoms, task: Task, initial: State) -> None:
        self.atoms, self.task, self.initial = atoms, task, initial
        self.energies: list[float] = []
        self.max_forces: list[float] = []
        self.converged = not len(atoms)
        self.optimizer = task.start(task.target(atoms))
        self.move = self.optimizer.step
        self.optimizer.step = lambda: None  # ASE's loop has its log, counter and criterion; the move came before
        self._run: Generator[bool, None, None] = self.optimizer.irun(fmax=task.fmax, steps=task.max_steps)

    def look(self) -> float:
        """Largest force (eV/Å) where the structure is now; decides whether it is converged."""
        if len(self.atoms):
            self.converged = next(self._run)
        self.energies.append(float(self.atoms.get_potential_energy()))
        self.max_forces.append(max_force(self.atoms))
        return self.max_forces[-1]

    @property
    def is_done(self) -> bool:
        """Whether to stop here."""
        return self.converged or self.optimizer.nsteps >= self.task.max_steps

    def result(self, original: Atoms, calc: Any) -> Relaxation:
        """What came out, with the constraints of the `original` and the results as its calculator."""
        self.atoms.calc.leave()
        self.atoms.set_constraint(original.copy().constraints)
        relaxed = self.atoms.copy()
        relaxed.calc = SinglePointCalculator(relaxed, **self.atoms.calc.results)
        return self.task.result(
            relaxed,
            converged=self.converged,
            steps=self.optimizer.nsteps,
            initial=self.initial,
            final=state_of(self.atoms),
            energies=self.energies,
            max_forces=self.max_forces,
            calc=calc,
        )

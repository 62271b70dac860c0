"""Structures that are evaluated together whenever one of them is asked.

ASE's optimizers and NEB ask one structure after another. Here each has a small calculator that knows the others: the
first one asked after all have moved has all of them evaluated in one batch, and the others answer from memory. Whoever
did not move (a relaxation that is done, the ends of a band) is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from .batch import evaluate

PROPERTIES = ("energy", "free_energy", "forces", "stress")
ARRAYS = ("positions", "numbers", "initial_charges", "initial_magmoms")  # what a calculator may look at


def in_lockstep(structures: Sequence[Atoms], calc: Any) -> None:
    """Have `structures` evaluated together by `calc` from now on; sets their calculators.

    `calc` is any ASE calculator; one with ``evaluate(structures, properties)`` gets all of them in one call.
    """
    names = [name for name in PROPERTIES if name in calc.implemented_properties]
    group: list[Member] = []
    for atoms in structures:
        atoms.calc = Member(atoms, calc, names, group)
        group.append(atoms.calc)


class Member(Calculator):
    """Calculator of one structure of a group.

    Parameters
    ----------
    owner
        The structure that moves.
    calc
        Evaluates it, and is shared by the group.
    names
        Properties to ask for.
    group
        All members, this one included.
    """

    def __init__(self, owner: Atoms, calc: Any, names: list[str], group: list[Member]) -> None:
        super().__init__()
        self.implemented_properties = names
        self.owner, self.shared, self.group = owner, calc, group

    def leave(self) -> None:
        """Stay out of the batches of the others, who need not ask any more whether this structure moved."""
        self.group.remove(self)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """List what changed, as ASE does; its comparison takes longer than the evaluation of a small cell."""
        if self.atoms is None:
            return super().check_state(atoms, tol)
        changes = [name for name in ARRAYS if not _equal(self.atoms.arrays.get(name), atoms.arrays.get(name), tol)]
        changes += ["cell"] * (not _equal(self.atoms.cell.array, atoms.cell.array, tol))
        return changes + ["pbc"] * (not np.array_equal(self.atoms.pbc, atoms.pbc))

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Iterable[str] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        """Evaluate every member that moved since it was last evaluated; another structure alone."""
        if atoms is not None and atoms is not self.owner:
            self._fill([(self, atoms)])
            return
        others = [m for m in self.group if m is not self and (not m.results or m.check_state(m.owner))]
        self._fill([(m, m.owner) for m in (self, *others)])

    def _fill(self, pairs: list[tuple[Member, Atoms]]) -> None:
        structures = [atoms for _, atoms in pairs]
        found = evaluate(structures, self.shared, self.implemented_properties, optional=["stress"])
        for (member, atoms), results in zip(pairs, found, strict=True):
            member.atoms, member.results = atoms.copy(), dict(results)


def _equal(old: np.ndarray | None, new: np.ndarray | None, tol: float) -> bool:
    if old is None or new is None:
        return old is new
    return old.shape == new.shape and bool((np.abs(new - old) <= tol).all())

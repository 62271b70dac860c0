r"""Do energies, forces and stresses of similar frames agree with each other?

Between two frames of the same atoms, to second order in the difference,

.. math:: \Delta E = -\bar F \cdot \Delta x - \bar W : \epsilon

with :math:`\Delta x` the displacement at fixed lattice, :math:`\epsilon` the strain, and mean forces and virials
:math:`\bar F, \bar W`. A slope of one between the two sides says that signs and units are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .frames import Frame

Quantity = Literal["forces", "stress"]
MAX_PAIRS = 2000
MAX_MOVE = 0.15  # Å, of any atom
MAX_STRAIN = 0.06
NOTHING = 1e-4  # Å, or strain


@dataclass(frozen=True)
class WorkTest:
    """How changes of the energy compare with the work of forces or stresses."""

    quantity: Quantity
    n_pairs: int
    slope: float  # change of the energy over work, least squares; one is right
    scatter: float  # part of the change that the work does not explain, from zero to one

    @property
    def is_consistent(self) -> bool:
        """Whether the slope is near one, or cannot be told."""
        return self.n_pairs < 3 or self.scatter > 0.5 or 0.6 < self.slope < 1.6


def work_tests(frames: Sequence[Frame]) -> list[WorkTest]:
    """The two tests, where frames allow them."""
    groups: dict[tuple[str, ...], list[Frame]] = {}
    for frame in frames:
        if frame.energy is not None:
            groups.setdefault(frame.symbols, []).append(frame)
    found = [_compare(a, b) for group in groups.values() for a, b in _pairs(group)]
    return _fit(np.array([row for row in found if row is not None]))


def _pairs(group: Sequence[Frame]) -> list[tuple[Frame, Frame]]:
    """Neighbors in the list, which trajectories and strain series put side by side, up to three places apart."""
    pairs = [(a, b) for step in (1, 2, 3) for a, b in zip(group, group[step:], strict=False)]
    return pairs[:MAX_PAIRS]


def _compare(a: Frame, b: Frame) -> tuple[float, float, float] | None:
    """Work of forces, work of stresses, and change of the energy, if the frames are similar and labelled enough."""
    if a.pbc != b.pbc or a.energy is None or b.energy is None:
        return None
    cell_a, cell_b = (f.cell if f.cell is not None and all(f.pbc) else np.eye(3) for f in (a, b))
    strain = np.linalg.solve(cell_a, cell_b) - np.eye(3)
    moved = np.linalg.solve(cell_b.T, b.positions.T).T - np.linalg.solve(cell_a.T, a.positions.T).T
    moved -= np.round(moved) * np.array(a.pbc)
    displacement = moved @ (cell_a + cell_b) / 2
    distance = float(np.linalg.norm(displacement, axis=1).max(initial=0.0))
    size = float(np.abs(strain).max())
    if distance > MAX_MOVE or size > MAX_STRAIN or (distance < NOTHING and size < NOTHING):
        return None
    of_forces = of_stress = 0.0
    if a.forces is not None and b.forces is not None:
        of_forces = -float(((a.forces + b.forces) / 2 * displacement).sum())
    elif distance > NOTHING:
        return None
    if a.virial is not None and b.virial is not None and all(a.pbc):
        of_stress = -float(((a.virial + b.virial) / 2 * strain).sum())
    elif size > NOTHING:
        return None
    return of_forces, of_stress, b.energy - a.energy


def _fit(rows: np.ndarray) -> list[WorkTest]:
    if not len(rows):
        return []
    work, change = rows[:, :2], rows[:, 2]
    slopes = np.linalg.lstsq(work, change, rcond=None)[0]
    explained = work * slopes
    total = float(change @ change) or 1.0
    rest = float(np.square(change - explained.sum(axis=1)).sum()) / total
    tests = []
    quantities: tuple[Quantity, Quantity] = ("forces", "stress")
    for quantity, column, part, slope in zip(quantities, work.T, explained.T, slopes, strict=True):
        told = float(part @ part) / total > 0.1  # else it is lost in the other
        if column.any():
            tests.append(WorkTest(quantity, int((column != 0).sum()), float(slope), rest if told else 1.0))
    return tests

"""What goes on between a calculator's questions: a neighbor list that lasts, a forward pass that waits for more."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from ase import Atoms

from ..neighbors import NeighborList
from ..topology import Topology
from .evaluator import Evaluator, Pending, Results
from .properties import NEEDS_GRADIENT


class LastingList:
    """The neighbor list of the structure at hand, built anew only if it could miss a neighbor.

    Parameters
    ----------
    evaluator
        Its cutoff and device.
    skin
        What is searched beyond the cutoff, Å.
    """

    def __init__(self, evaluator: Evaluator, skin: float) -> None:
        self._evaluator, self._skin = evaluator, skin
        self._known: tuple[NeighborList, Topology] | None = None

    def topology(self, atoms: Atoms) -> Topology:
        """Pairs that may be neighbors, on the device."""
        if self._known is None or not self._known[0].valid_for(atoms):
            self._known = None  # two lists of a large structure may be too much
            neighbors = self._evaluator.reader.neighbor_list(atoms, self._skin)
            self._evaluator.memory.check(neighbors)
            self._known = neighbors, self._evaluator.reader.topology([neighbors])
        return self._known[1]

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or another process, makes its own."""
        return self.__dict__ | {"_known": None}


class Calculation:
    """Results of one structure, as far as they were asked for.

    Parameters
    ----------
    evaluator
        Evaluates.
    neighbors
        Outlives the structure.
    """

    def __init__(self, evaluator: Evaluator, neighbors: LastingList) -> None:
        self._evaluator, self._neighbors = evaluator, neighbors
        self._pending: Pending | None = None

    def forget(self) -> None:
        """Another structure comes."""
        self._pending = None

    def results(self, atoms: Atoms, wanted: AbstractSet[str]) -> Results:
        """What is `wanted` and not known yet, and all that costs nothing beside it; `atoms` as before, or forgotten.

        Energies alone cost no backward pass; what is asked for later reuses the forward pass.
        """
        evaluator, found = self._evaluator, Results()
        is_energy = evaluator.kind == "ener"
        pending, self._pending = self._pending, None  # which an error may leave half used up
        if pending is None:
            inputs = evaluator.reader.read([atoms], self._neighbors.topology(atoms))
            pending = evaluator.forward(inputs, with_gradient=is_energy)
            found |= evaluator.energies(pending, [atoms])[0]
        if "stresses" in wanted:
            found |= evaluator.atomic_stresses(pending, [atoms])[0]
        if "forces_uncertainty" in wanted:
            found |= evaluator.forces_uncertainties(pending, [atoms])[0]
        if is_energy and wanted & NEEDS_GRADIENT:
            found |= evaluator.gradients(pending, [atoms])[0]
        elif is_energy:
            self._pending = pending
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Autograd graphs do not travel."""
        return self.__dict__ | {"_pending": None}

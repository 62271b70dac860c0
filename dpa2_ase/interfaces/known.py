"""Neighbor lists of structures that are evaluated together again and again, as relaxations and bands do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
from ase import Atoms

from ..neighbors import NeighborList
from ..topology import Topology


@dataclass(frozen=True, eq=False)
class Listed:
    """A neighbor list, and how much memory an evaluation of its structure takes."""

    neighbors: NeighborList
    needed: float  # bytes


class KnownLists:
    """The lists of the last pass, of use while they are provably complete.

    A list with a skin costs more, and most structures come once: it is made for `Atoms` of the last pass, and for those
    with the crystal of the structure before them, as displacements of a supercell have.

    Parameters
    ----------
    build
        Makes a list from a structure and a skin in Å.
    join
        Makes the topology of lists.
    """

    def __init__(
        self, build: Callable[[Atoms, float], Listed], join: Callable[[Sequence[NeighborList]], Topology]
    ) -> None:
        self._build, self._join = build, join
        self._owners: dict[int, tuple[ReferenceType[Atoms], Listed]] = {}
        self._last: tuple[list[Listed], Topology] | None = None

    def of(self, atoms: Atoms, skin: float, before: tuple[Atoms, Listed] | None) -> Listed:
        """A list valid for `atoms`; the skin (Å) is for a new one, and `before` is what came before in the batch."""
        owner, own = self._owners.get(id(atoms), (None, None))
        candidates = [own] * (own is not None and owner is not None and owner() is atoms)
        if before is not None and _alike(before[0], atoms):
            candidates.append(before[1])
        valid = (listed for listed in candidates if listed and listed.neighbors.valid_for(atoms))
        return next(valid, None) or self._build(atoms, skin if candidates else 0.0)

    def topology(self, structures: Sequence[Atoms], lists: Sequence[Listed], memory: float) -> Topology:
        """The topology of a pass over `structures`, remembered in place of the last unless it takes more (bytes)."""
        last, self._last, self._owners = self._last, None, {}
        if last is None or len(last[0]) != len(lists) or any(a is not b for a, b in zip(last[0], lists, strict=True)):
            last = [*lists], self._join([listed.neighbors for listed in lists])
        if sum(listed.needed for listed in lists) <= memory:
            self._last = last
            self._owners = {id(atoms): (ref(atoms), listed) for atoms, listed in zip(structures, lists, strict=True)}
        return last[1]

    def __getstate__(self) -> dict[str, Any]:
        """Nothing is remembered in a copy or another process."""
        return self.__dict__ | {"_owners": {}, "_last": None}


def _alike(one: Atoms, other: Atoms) -> bool:
    parts = (one.numbers, other.numbers), (one.cell.array, other.cell.array), (one.pbc, other.pbc)
    return all(np.array_equal(*pair) for pair in parts)

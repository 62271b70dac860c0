"""What heads say of a structure, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .fitness import Fit, ordered


@dataclass(frozen=True, eq=False)
class HeadResult:
    """What one head says of a structure."""

    name: str
    energy: float  # eV
    reference: float  # eV, the head's own energies of the free elements, summed
    energies: np.ndarray  # (N,) eV, of atoms, without these references
    forces: np.ndarray | None  # (N, 3) eV/Å
    fit: Fit
    group: int  # heads of one group share a descriptor

    @property
    def relative(self) -> float:
        """Energy above the head's references, eV: what can be compared between heads."""
        return self.energy - self.reference


@dataclass(frozen=True, eq=False)
class HeadsEvaluation:
    """One structure by many heads.

    Attributes
    ----------
    heads
        By name, in the order of the file.
    left_out
        Heads that were not evaluated, and why.
    groups
        Names of heads that share a descriptor; one pass of the descriptor was made for each group.
    """

    heads: Mapping[str, HeadResult]
    left_out: Mapping[str, str]
    groups: tuple[tuple[str, ...], ...]
    n_atoms: int

    def __getitem__(self, name: str) -> HeadResult:
        return self.heads[name]

    @property
    def fitting(self) -> tuple[HeadResult, ...]:
        """Heads that fit the structure, the most particular first, each with its reason in ``fit``; none is chosen."""
        return tuple(self.heads[name] for name in ordered({n: h.fit for n, h in self.heads.items()}))

    def spread(self, names: Sequence[str] | None = None) -> float:
        """Standard deviation of the relative energies of some heads (all that fit), eV per atom."""
        chosen = [self.heads[name] for name in names] if names is not None else list(self.fitting)
        values = [head.relative / max(self.n_atoms, 1) for head in chosen]
        return float(np.std(values)) if values else float("nan")

    def forces_spread(self, names: Sequence[str] | None = None) -> np.ndarray:
        """Deviation of the forces of some heads (all that fit), (N,) eV/Å, as in a committee."""
        chosen = [self.heads[name] for name in names] if names is not None else list(self.fitting)
        found = [head.forces for head in chosen if head.forces is not None]
        if not found:
            raise ValueError("no forces of heads that fit; use evaluate_heads(atoms, forces=True) or name heads")
        return np.sqrt((np.std(found, axis=0) ** 2).sum(axis=-1))

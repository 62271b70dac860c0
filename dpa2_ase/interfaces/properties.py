"""Names of results, by what a model predicts; no torch needed."""

from __future__ import annotations

PROPERTIES: dict[str, tuple[str, ...]] = {
    "ener": ("energy", "free_energy", "forces", "stress", "energies", "stresses", "virial"),
    "dipole": ("dipole", "dipoles"),
    "polar": ("polarizability", "polarizabilities"),
    "dos": ("dos", "atomic_dos"),
    "property": ("property", "atomic_property"),
}
NEEDS_GRADIENT = frozenset({"forces", "stress", "stresses", "virial"})
NEEDS_CELL = frozenset({"stress", "stresses"})

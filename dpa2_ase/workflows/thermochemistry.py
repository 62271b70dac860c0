"""Free energies of molecules and adsorbates from their vibrations, by ASE's ideal gas and harmonic models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.thermochemistry import HarmonicThermo, IdealGasThermo

PASCAL_PER_BAR = 1e5
# rigid motions are taken out before; older versions of ASE select no modes
ALL_MODES: dict[str, Any] = {"vib_selection": "all"} if "vib_selection" in signature(IdealGasThermo).parameters else {}

Geometry = Literal["monatomic", "linear", "nonlinear"]


@dataclass(frozen=True)
class Thermochemistry:
    """State functions of one molecule at one temperature.

    Attributes
    ----------
    model
        ``ideal gas`` or ``harmonic``.
    temperature
        In K.
    pressure
        In bar; ``None`` for ``harmonic``.
    enthalpy
        In eV, with the potential and zero-point energy; the internal energy for ``harmonic``.
    entropy
        In eV/K.
    free_energy
        Gibbs's, in eV; Helmholtz's for ``harmonic``.
    """

    model: str
    temperature: float
    pressure: float | None
    enthalpy: float
    entropy: float
    free_energy: float


def ideal_gas(  # noqa: PLR0913  # what a molecule is to statistical mechanics
    atoms: Atoms,
    quanta: Sequence[float],
    temperature: float,
    *,
    energy: float = 0.0,
    pressure: float = 1.0,
    sigma: int | None = None,
    spin: float = 0.0,
) -> Thermochemistry:
    """Thermochemistry of a molecule as rigid rotor and harmonic oscillator in an ideal gas.

    Parameters
    ----------
    atoms
        The relaxed molecule, without periodic directions.
    quanta
        Energies of its 3N − 6 (linear: 3N − 5) vibrations, eV.
    temperature, pressure
        In K and bar.
    energy
        Potential energy, eV.
    sigma
        Symmetry number; by default that of the geometry, see `symmetry_number`.
    spin
        Total electronic spin: 0, ½ for a radical, 1 for a triplet.
    """
    sigma = symmetry_number(atoms) if sigma is None else sigma
    model = IdealGasThermo(
        vib_energies=list(quanta), geometry=geometry_of(atoms), potentialenergy=energy, atoms=atoms,
        symmetrynumber=sigma, spin=spin, **ALL_MODES,
    )  # fmt: skip
    enthalpy = float(model.get_enthalpy(temperature, verbose=False))
    entropy = float(model.get_entropy(temperature, pressure * PASCAL_PER_BAR, verbose=False))
    return Thermochemistry("ideal gas", temperature, pressure, enthalpy, entropy, enthalpy - temperature * entropy)


def harmonic(quanta: Sequence[float], temperature: float, *, energy: float = 0.0) -> Thermochemistry:
    """Thermochemistry of vibrations alone, as of an adsorbate; `quanta` and `energy` in eV, `temperature` in K."""
    if not len(quanta):
        return Thermochemistry("harmonic", temperature, None, energy, 0.0, energy)
    model = HarmonicThermo(vib_energies=list(quanta), potentialenergy=energy)
    internal = float(model.get_internal_energy(temperature, verbose=False))
    entropy = float(model.get_entropy(temperature, verbose=False))
    return Thermochemistry("harmonic", temperature, None, internal, entropy, internal - temperature * entropy)


def geometry_of(atoms: Atoms, tolerance: float = 1e-3) -> Geometry:
    """Whether a molecule is one atom, a line (to `tolerance` of its length) or neither."""
    if len(atoms) == 1:
        return "monatomic"
    extent = np.linalg.svd(atoms.positions - atoms.positions.mean(axis=0), compute_uv=False)
    return "linear" if len(extent) < 2 or extent[1] < tolerance * extent[0] else "nonlinear"


def symmetry_number(atoms: Atoms, tolerance: float = 0.05) -> int:
    """Number of rotations that carry a molecule into itself; positions may be off by `tolerance`, in Å.

    A rotation is known by where it takes two atoms that are not in line with the center; all such pairs are tried.
    """
    geometry = geometry_of(atoms)
    if geometry == "monatomic":
        return 1
    centered = atoms.positions - atoms.get_center_of_mass()
    if geometry == "linear":
        return 2 if _is_carried(atoms.numbers, centered, -np.eye(3), tolerance) else 1
    lengths = np.linalg.norm(centered, axis=1)
    first = int(np.argmax(lengths))
    across = np.linalg.norm(np.cross(centered, centered[first]), axis=1)
    second = int(np.argmax(across))
    frame = _frame(centered[first], centered[second])
    angle = centered[first] @ centered[second]
    reach = 2 * tolerance * max(lengths.max(), 1.0)
    found: list[np.ndarray] = []
    alike = [np.flatnonzero(atoms.numbers == atoms.numbers[index]) for index in (first, second)]
    for i in alike[0]:
        for j in alike[1]:
            same = abs(lengths[i] - lengths[first]) < tolerance and abs(lengths[j] - lengths[second]) < tolerance
            if i == j or not same or abs(centered[i] @ centered[j] - angle) > reach:
                continue
            rotation = _frame(centered[i], centered[j]) @ frame.T
            if _is_carried(atoms.numbers, centered, rotation, 2 * tolerance):
                found.append(rotation)
    return len(found)


def _frame(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Orthonormal axes as columns: along a, in the plane of a and b, across."""
    x = a / np.linalg.norm(a)
    z = np.cross(a, b)
    z /= np.linalg.norm(z)
    return np.column_stack([x, np.cross(z, x), z])


def _is_carried(numbers: np.ndarray, positions: np.ndarray, rotation: np.ndarray, tolerance: float) -> bool:
    turned = positions @ rotation.T
    distance = np.linalg.norm(turned[:, None] - positions[None], axis=2)
    distance[numbers[:, None] != numbers[None]] = np.inf
    return bool((distance.min(axis=1) < tolerance).all())

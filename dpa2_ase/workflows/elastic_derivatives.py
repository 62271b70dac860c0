"""Elastic constants from second derivatives of the energy, for calculators that have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.units import GPa

SOFT = 1e-4  # eV/Å²; an optical mode below gives way to any strain, or the crystal is no minimum


def has_derivatives(calc: Any) -> bool:
    """Whether `calc` has ``get_strain_derivatives(atoms)`` and ``get_hessian(atoms)``.

    The former returns the change of the stress (6, 6), eV/Å³, and of the forces (6, N, 3), eV/Å, with the six unit
    strains of Voigt's notation, engineering shears, that the atoms follow; the latter (3N, 3N), eV/Å².
    """
    return hasattr(calc, "get_strain_derivatives") and hasattr(calc, "get_hessian")


def tensors_by_derivatives(
    atoms: Atoms, calc: Any, basis: np.ndarray, *, relax_positions: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Elastic constants without a step of strain.

    .. math:: C_{ab} = \frac{\partial \sigma_a}{\partial \varepsilon_b}
              - \frac{1}{V} \Lambda_a K^{-1} \Lambda_b, \quad
              \Lambda_a = \frac{\partial F}{\partial \varepsilon_a}, \quad
              K = \frac{\partial^2 E}{\partial r\, \partial r}

    The second term is the answer of the atoms; K is inverted without the translations. See X. Wu, D. Vanderbilt and
    D. R. Hamann, https://doi.org/10.1103/PhysRevB.72.035105.

    Parameters
    ----------
    atoms
        At rest.
    basis
        Tensors that symmetry allows, orthonormal, shape (n, 6, 6).
    relax_positions
        Whether atoms answer.

    Returns
    -------
    tensor, clamped, error
        Shapes (6, 6), GPa. The error is what symmetry took away from `tensor`: noise of the derivatives.

    Raises
    ------
    ValueError
        If a displacement of atoms lowers the energy, so that they would not answer but leave.
    """
    stress_slopes, force_slopes = (np.asarray(values, dtype=float) for values in calc.get_strain_derivatives(atoms))
    clamped = stress_slopes.T / GPa
    tensor = clamped
    if relax_positions and len(atoms) > 1:
        coupling = force_slopes.reshape(6, -1)
        tensor = clamped - coupling @ _answers(atoms, calc, coupling) / atoms.get_volume() / GPa
    allowed = [np.einsum("nij,ij,nkl->kl", basis, found, basis) for found in (tensor, clamped)]
    return allowed[0], allowed[1], np.abs(tensor - allowed[0])


def _answers(atoms: Atoms, calc: Any, coupling: np.ndarray) -> np.ndarray:
    """Displacements (3N, 6) that bring the forces of strains, `coupling` (6, 3N), to zero."""
    size = 3 * len(atoms)
    hessian = np.asarray(calc.get_hessian(atoms), dtype=float).reshape(size, size)
    shifts = np.tile(np.eye(3), len(atoms)) / np.sqrt(len(atoms))  # (3, 3N)
    inner = np.linalg.svd(shifts, full_matrices=True)[2][3:]  # (3N - 3, 3N), without translations
    inner_hessian = inner @ (hessian + hessian.T) @ inner.T / 2
    lowest = float(np.linalg.eigvalsh(inner_hessian)[0])
    if lowest < SOFT:
        raise ValueError(
            f"the crystal is not a minimum: a displacement of atoms has a force constant of {lowest:.3g} eV/Å²; "
            "follow it with phonons(...).displaced and relax where it leads, or use relax_positions=False"
        )
    return inner.T @ np.linalg.solve(inner_hessian, inner @ coupling.T)

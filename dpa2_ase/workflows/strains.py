r"""Strains, stresses and the symmetry that ties elastic constants together.

Voigt's order is ASE's: xx, yy, zz, yz, xz, xy; strains 4 to 6 are engineering shears, twice the tensor's components,
so that :math:`\sigma_i = \sum_j C_{ij}\,\varepsilon_j` and the energy density is
:math:`\tfrac12 \sum_{ij} C_{ij}\,\varepsilon_i\varepsilon_j`.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from ase import Atoms
from ase.spacegroup.symmetrize import check_symmetry

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def strain_tensor(voigt: np.ndarray) -> np.ndarray:
    """Symmetric (3, 3) tensor of a strain in Voigt's notation, (6,)."""
    tensor = np.zeros((3, 3))
    for value, (i, j) in zip(voigt, VOIGT, strict=True):
        tensor[i, j] = tensor[j, i] = value if i == j else value / 2
    return tensor


def strained(atoms: Atoms, voigt: np.ndarray) -> Atoms:
    """A copy of `atoms`, without calculator, deformed by 1 + ε; atoms follow the cell."""
    copied = atoms.copy()
    copied.set_constraint()
    copied.set_cell(atoms.cell.array @ (np.eye(3) + strain_tensor(voigt)), scale_atoms=True)
    copied.set_constraint(atoms.constraints)
    return copied


def crystal_symmetry(atoms: Atoms, tolerance: float) -> Any:
    """Spglib's data set of `atoms`, with ``rotations`` and ``equivalent_atoms``; `tolerance` of positions in Å.

    Raises
    ------
    ModuleNotFoundError
        Without spglib.
    ValueError
        If spglib finds no symmetry, as with atoms on top of each other.
    """
    reason: object = "none found"  # older versions give nothing
    try:
        dataset = check_symmetry(atoms, symprec=tolerance)
    except ImportError as error:
        raise ModuleNotFoundError("symmetry needs spglib; install it with: pip install spglib") from error
    except Exception as error:  # spglib's own classes, which differ between its versions
        dataset, reason = None, error
    if dataset is None:
        raise ValueError(f"spglib finds no symmetry to {tolerance:g} Å ({reason}); look for overlapping atoms")
    return dataset


def point_group(atoms: Atoms, tolerance: float) -> np.ndarray:
    """Cartesian rotations of the space group of `atoms`, (G, 3, 3); `tolerance` of positions in Å."""
    columns = atoms.cell.array.T
    found = []
    for rotation in np.unique(crystal_symmetry(atoms, tolerance).rotations, axis=0):
        u, _, v = np.linalg.svd(columns @ rotation @ np.linalg.inv(columns))  # the nearest rotation
        found.append(u @ v)
    return np.array(found)


def stress_rotation(rotation: np.ndarray) -> np.ndarray:
    """The (6, 6) matrix that rotates a stress in Voigt's notation as `rotation` (3, 3) rotates vectors.

    Elastic constants rotate with it on both sides, C′ = M C Mᵀ (Bond's matrix).
    """
    matrix = np.zeros((6, 6))
    for column, (k, m) in enumerate(VOIGT):
        stress = np.zeros((3, 3))
        stress[k, m] = stress[m, k] = 1.0
        turned = rotation @ stress @ rotation.T
        matrix[:, column] = [turned[i, j] for i, j in VOIGT]
    return matrix


def invariant_basis(rotations: np.ndarray) -> np.ndarray:
    """Orthonormal symmetric matrices (n, 6, 6) that span all elastic tensors invariant under `rotations` (G, 3, 3).

    Three for a cubic crystal, 21 without symmetry.
    """
    matrices = [stress_rotation(rotation) for rotation in rotations]
    averaged = []
    for i in range(6):
        for j in range(i, 6):
            unit = np.zeros((6, 6))
            unit[i, j] = unit[j, i] = 1.0
            averaged.append(np.mean([m @ unit @ m.T for m in matrices], axis=0).ravel())
    _, values, vectors = np.linalg.svd(np.array(averaged))
    return vectors[: int((values > 1e-6 * values[0]).sum())].reshape(-1, 6, 6)


def needed_strains(basis: np.ndarray) -> tuple[int, ...]:
    """The fewest of the six unit strains whose stresses determine all coefficients of `basis` (n, 6, 6)."""
    for count in range(1, 7):
        for chosen in combinations(range(6), count):
            stresses = basis[:, :, list(chosen)].reshape(len(basis), -1)
            if np.linalg.matrix_rank(stresses, tol=1e-6) == len(basis):
                return chosen
    return tuple(range(6))

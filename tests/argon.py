"""Solid argon of Lennard-Jones, whose energy, pressure and dynamical matrix are sums over lattice vectors."""

from __future__ import annotations

from itertools import product

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.units import GPa, _amu, _e

EPSILON, SIGMA = 0.0104, 3.4  # eV, Å
CUTOFF = 8.7  # Å, between the fifth and the sixth shell of fcc
A0 = 5.26  # Å, near the minimum
MASS = 39.948


def calculator() -> LennardJones:
    return LennardJones(epsilon=EPSILON, sigma=SIGMA, rc=CUTOFF)


def crystal(a: float = A0, cubic: bool = False) -> Atoms:
    atoms = bulk("Ar", "fcc", a=a, cubic=cubic)
    atoms.calc = calculator()
    return atoms


def lattice_vectors(cell: np.ndarray) -> np.ndarray:
    """All but the null vector within the cutoff, (M, 3) Å."""
    indices = np.array(list(product(range(-6, 7), repeat=3)))
    vectors = indices @ np.asarray(cell)
    lengths = np.linalg.norm(vectors, axis=1)
    return vectors[(lengths > 1e-8) & (lengths < CUTOFF)]


def pair(r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energy (zero at the cutoff), first and second derivative of the pair potential at `r`."""

    def bare(r):
        return 4 * EPSILON * ((SIGMA / r) ** 12 - (SIGMA / r) ** 6)

    first = 4 * EPSILON * (-12 * SIGMA**12 / r**13 + 6 * SIGMA**6 / r**7)
    second = 4 * EPSILON * (156 * SIGMA**12 / r**14 - 42 * SIGMA**6 / r**8)
    return bare(r) - bare(CUTOFF), first, second


def energy(a: float) -> float:
    """Energy of the fcc crystal, eV per atom."""
    r = np.linalg.norm(lattice_vectors(bulk("Ar", "fcc", a=a).cell.array), axis=1)
    return pair(r)[0].sum() / 2


def stress(cell: np.ndarray) -> np.ndarray:
    """Stress (3, 3) of one atom in `cell`, GPa; minus the pressure if isotropic."""
    vectors = lattice_vectors(cell)
    r = np.linalg.norm(vectors, axis=1)
    tension = pair(r)[1] / r
    return np.einsum("v,va,vb->ab", tension, vectors, vectors) / (2 * abs(np.linalg.det(cell)) * GPa)


def frequencies(q: np.ndarray, a: float) -> np.ndarray:
    r"""Three frequencies in THz at `q`, in units of the primitive reciprocal vectors.

    .. math:: D(q) = \frac{1}{m} \sum_R \Phi(R) (1 - \cos 2\pi q \cdot n), \quad
        \Phi = \frac{u'}{r} (1 - \hat r \hat r^T) + u'' \hat r \hat r^T
    """
    cell = bulk("Ar", "fcc", a=a).cell.array
    vectors = lattice_vectors(cell)
    r = np.linalg.norm(vectors, axis=1)
    _, first, second = pair(r)
    along = vectors[:, :, None] * vectors[:, None, :] / r[:, None, None] ** 2
    phi = (first / r)[:, None, None] * (np.eye(3) - along) + second[:, None, None] * along
    phase = 1 - np.cos(2 * np.pi * np.rint(vectors @ np.linalg.inv(cell)) @ np.asarray(q))
    eigenvalues = np.linalg.eigvalsh((phi * phase[:, None, None]).sum(axis=0) / MASS)  # eV / (Å² amu)
    to_thz = np.sqrt(_e / _amu) * 1e10 / (2 * np.pi * 1e12)
    return np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * to_thz

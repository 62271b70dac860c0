r"""Positions and cell as one set of coordinates, as ASE's `FrechetCellFilter` has them, at a tenth of its time.

The cell is :math:`h_0 F^T` with :math:`F = \exp(L)`; coordinates are the positions before the deformation and
:math:`n L` with n atoms, so that both are of the same size. The derivative of the energy by L follows from
:math:`\langle D\exp(L)[E], G \rangle = \langle E, D\exp(L^T)[G] \rangle`: one Fréchet derivative in place of nine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from scipy.linalg import expm, expm_frechet, logm

CLOSE = 0.2  # spectral norm below which twelve terms of the series are exact to rounding


class CellFilter(FrechetCellFilter):
    """ASE's filter with a memory: optimizers ask it three times per step.

    Parameters
    ----------
    atoms, mask, hydrostatic_strain, constant_volume, scalar_pressure
        As for `ase.filters.FrechetCellFilter`.
    """

    def __init__(
        self,
        atoms: Atoms,
        mask: Any = None,
        *,
        hydrostatic_strain: bool = False,
        constant_volume: bool = False,
        scalar_pressure: float = 0.0,
    ) -> None:
        options = {"hydrostatic_strain": hydrostatic_strain, "constant_volume": constant_volume}
        super().__init__(atoms, mask, scalar_pressure=scalar_pressure, **options)
        self._first = atoms.cell.array.copy()
        self._mask = voigt_6_to_full_3x3_stress(np.ones(6) if mask is None else np.asarray(mask, dtype=float))
        self._hydrostatic, self._constant_volume = hydrostatic_strain, constant_volume
        self._pressure, self._scale = scalar_pressure, float(len(atoms))
        self._where: tuple[bytes, bytes] | None = None
        self._known = np.zeros((0, 3))

    def _deformation(self) -> np.ndarray:
        return np.linalg.solve(self._first, self.atoms.cell.array).T

    def get_positions(self) -> np.ndarray:
        """Coordinates (N + 3, 3), Å and no unit."""
        deformation = self._deformation()
        before = np.linalg.solve(deformation, self.atoms.positions.T).T
        return np.vstack([before, self._scale * logarithm(deformation)])

    def set_positions(  # type: ignore[override]  # ASE's own classes have two names for it
        self, new: np.ndarray, **options: Any
    ) -> None:
        """Move the atoms and the cell to coordinates (N + 3, 3)."""
        n = len(self.atoms)
        deformation = np.eye(3) + (expm(new[n:] / self._scale) - np.eye(3)).T * self._mask
        self.atoms.set_cell(self._first @ deformation, scale_atoms=True)
        self.atoms.set_positions(new[:n] @ deformation, **options)

    def get_forces(self, **options: Any) -> np.ndarray:
        """Forces (N + 3, 3), eV/Å and eV; sets `stress`, of which the constrained part is left out."""
        where = (self.atoms.positions.tobytes(), self.atoms.cell.array.tobytes())
        if options or where != self._where:
            self._known, self._where = self._forces(**options), None if options else where
        return self._known.copy()

    def _forces(self, **options: Any) -> np.ndarray:
        stress = voigt_6_to_full_3x3_stress(self.atoms.get_stress(**options)) + self._pressure * np.eye(3)
        forces = self.atoms.get_forces(**options)
        virial = -self.atoms.get_volume() * stress
        if self._hydrostatic:
            virial = np.eye(3) * virial.trace() / 3
        virial = virial * self._mask
        deformation = self._deformation()
        gradient = virial @ np.linalg.inv(deformation.T)
        pull = expm_frechet(logarithm(deformation).T, gradient, compute_expm=False)
        left = -virial / self.atoms.get_volume()
        if self._constant_volume:
            pull -= np.eye(3) * pull.trace() / 3
            left -= np.eye(3) * left.trace() / 3
        self.stress = full_3x3_to_voigt_6_stress(left)
        return np.vstack([forces @ deformation, pull / self._scale])


def logarithm(matrix: np.ndarray) -> np.ndarray:
    r"""Logarithm of a (3, 3) matrix, near 1 as :math:`2\,\mathrm{artanh}\,Z` with :math:`Z = (F - 1)(F + 1)^{-1}`."""
    off = matrix - np.eye(3)
    z = np.linalg.solve((matrix + np.eye(3)).T, off.T).T
    if np.linalg.norm(z) > CLOSE / 2:
        return np.real(logm(matrix))
    square, power, total = z @ z, z, z.copy()
    for odd in range(3, 25, 2):
        power = power @ square
        total += power / odd
    return 2 * total

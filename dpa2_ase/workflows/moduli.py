"""What an elastic tensor says: averages of Voigt, Reuss and Hill, stability, sound, Debye temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.units import _hplanck, _k

KELVIN = np.diag([1.0, 1.0, 1.0, *[np.sqrt(2.0)] * 3])  # makes a rotation of the (6, 6) matrix orthogonal


@dataclass(frozen=True)
class Moduli:
    """Elastic moduli of a polycrystal without texture.

    Attributes
    ----------
    bulk_voigt, bulk_reuss, bulk_hill, shear_voigt, shear_reuss, shear_hill
        Upper bound, lower bound and their mean, GPa.
    young
        Young's modulus of the Hill averages, GPa.
    poisson
        Poisson's ratio of the Hill averages.
    anisotropy
        Universal anisotropy index, 5 G_V/G_R + K_V/K_R − 6; zero for an isotropic crystal.
    longitudinal, transverse, mean
        Velocities of sound of the Hill averages and their mean in Debye's sense, m/s.
    debye_temperature
        Of these velocities, K.
    """

    bulk_voigt: float
    bulk_reuss: float
    bulk_hill: float
    shear_voigt: float
    shear_reuss: float
    shear_hill: float
    young: float
    poisson: float
    anisotropy: float
    longitudinal: float
    transverse: float
    mean: float
    debye_temperature: float


def stability(tensor: np.ndarray) -> np.ndarray:
    """Eigenvalues of an elastic tensor (6, 6), ascending, in its units; all are positive if the crystal is stable.

    They are those of the fourth-rank tensor (Kelvin's notation), which do not depend on the axes. Born's conditions
    of all crystal classes are that they are positive: F. Mouhat and F.-X. Coudert,
    https://doi.org/10.1103/PhysRevB.90.224104.
    """
    return np.linalg.eigvalsh(KELVIN @ tensor @ KELVIN)


def moduli_of(tensor: np.ndarray, density: float, number_density: float) -> Moduli:
    r"""Averages of an elastic tensor.

    .. math:: \theta_D = \frac{h}{k_B}\left(\frac{3n}{4\pi}\right)^{1/3} v_m, \quad
              v_m = \left[\tfrac13\left(\frac{2}{v_t^3} + \frac{1}{v_l^3}\right)\right]^{-1/3}

    Parameters
    ----------
    tensor
        Shape (6, 6), GPa.
    density
        In g/cm³.
    number_density
        :math:`n`, atoms per Å³.

    Returns
    -------
    moduli
        Not a number where the crystal is unstable.

    References
    ----------
    R. Hill, https://doi.org/10.1088/0370-1298/65/5/307; O. L. Anderson, https://doi.org/10.1016/0022-3697(63)90067-2;
    S. I. Ranganathan and M. Ostoja-Starzewski, https://doi.org/10.1103/PhysRevLett.101.055504
    """
    if not (stability(tensor) > 0).all():
        return Moduli(*[float("nan")] * 13)
    upper, lower = _averages(tensor), _averages(np.linalg.inv(tensor))
    bulk_voigt, shear_voigt = upper[0] / 9, (upper[1] + 3 * upper[2]) / 15
    bulk_reuss, shear_reuss = 1 / lower[0], 15 / (4 * lower[1] + 3 * lower[2])
    bulk, shear = (bulk_voigt + bulk_reuss) / 2, (shear_voigt + shear_reuss) / 2
    longitudinal = np.sqrt((bulk + 4 / 3 * shear) * 1e9 / (density * 1000))
    transverse = np.sqrt(shear * 1e9 / (density * 1000))
    mean = ((2 / transverse**3 + 1 / longitudinal**3) / 3) ** (-1 / 3)
    debye = _hplanck / _k * (3 * number_density * 1e30 / (4 * np.pi)) ** (1 / 3) * mean
    found = {
        "bulk_voigt": bulk_voigt,
        "bulk_reuss": bulk_reuss,
        "bulk_hill": bulk,
        "shear_voigt": shear_voigt,
        "shear_reuss": shear_reuss,
        "shear_hill": shear,
        "young": 9 * bulk * shear / (3 * bulk + shear),
        "poisson": (3 * bulk - 2 * shear) / (6 * bulk + 2 * shear),
        "anisotropy": 5 * shear_voigt / shear_reuss + bulk_voigt / bulk_reuss - 6,
        "longitudinal": longitudinal,
        "transverse": transverse,
        "mean": mean,
        "debye_temperature": debye,
    }
    return Moduli(**{name: float(value) for name, value in found.items()})


def _averages(matrix: np.ndarray) -> tuple[float, float, float]:
    """Sum of the nine axial elements, trace minus off-diagonal of these, trace of the shear part."""
    axial = matrix[:3, :3]
    diagonal, off = np.trace(axial), (axial.sum() - np.trace(axial)) / 2
    return axial.sum(), diagonal - off, np.trace(matrix[3:, 3:])

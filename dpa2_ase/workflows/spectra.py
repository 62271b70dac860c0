"""Infrared and Raman spectra from molecular dynamics: dipoles and polarizabilities in time.

Any ASE calculator with ``dipole`` (e Å) or ``polarizability`` among its results serves, beside the one that moves the
atoms: `Response` is an observer of `md`, and takes frames of a trajectory as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms

from . import plots
from .analysis import autocorrelation
from .motion import INVERSE_CM
from .results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KB_OVER_HC = 0.6950348004  # cm⁻¹/K, CODATA 2018


class Response:
    """Collects dipoles and polarizabilities at equal intervals of time.

    Parameters
    ----------
    dipole, polarizability
        Calculators that have these among their results; either may be ``None``. The structures of a simulation keep
        their own calculator.
    """

    def __init__(self, dipole: Any = None, polarizability: Any = None) -> None:
        if dipole is None and polarizability is None:
            raise ValueError("give a calculator of dipoles, of polarizabilities, or both")
        self._calculators = {"dipole": dipole, "polarizability": polarizability}
        self._series: dict[str, list[np.ndarray]] = {"dipole": [], "polarizability": []}
        self._times: list[float] = []

    def add(self, atoms: Atoms, time: float) -> None:
        """Evaluate one frame at `time` in fs."""
        copied = atoms.copy()
        for name, calculator in self._calculators.items():
            if calculator is not None:
                self._series[name].append(np.array(calculator.get_property(name, copied), dtype=float))
        self._times.append(time)

    @property
    def interval(self) -> float:
        """Time between frames, fs; raises ValueError for unequal ones."""
        gaps = np.diff(self._times)
        if not len(gaps) or not np.allclose(gaps, gaps[0], rtol=1e-6) or not gaps[0] > 0:
            raise ValueError("a spectrum needs at least two frames at equal intervals of time")
        return float(gaps[0])

    def series(self, name: str) -> np.ndarray:
        """Dipoles (T, 3) or polarizabilities (T, 3, 3) so far."""
        if self._calculators[name] is None:
            raise ValueError(f"no {name} was collected; give Response a calculator of it")
        return np.array(self._series[name])

    def infrared(self, *, width: float = 10.0) -> Infrared:
        """See `infrared`."""
        return infrared(self.series("dipole"), self.interval, width=width)

    def raman(self, temperature: float | None = None, *, width: float = 10.0, laser: float | None = None) -> Raman:
        """See `raman`."""
        return raman(self.series("polarizability"), self.interval, temperature=temperature, width=width, laser=laser)


def response_of(frames: Iterable[Atoms], *, time_step: float | None = None, **calculators: Any) -> Response:
    """Collect `frames`; `time_step` (fs) between them, by default from ``info["time"]`` of each."""
    response = Response(**calculators)
    for index, atoms in enumerate(frames):
        response.add(atoms, atoms.info.get("time", 0.0) if time_step is None else index * time_step)
    return response


@dataclass(frozen=True, eq=False, kw_only=True)
class Infrared(Result):
    """An infrared spectrum.

    Attributes
    ----------
    frequency
        (F,) cm⁻¹.
    intensity
        (F,) arbitrary unit; its integral is that of the absorption.
    """

    name: ClassVar[str] = "infrared"

    frequency: np.ndarray
    intensity: np.ndarray

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the intensity."""
        ax = plots.axes(ax)
        ax.plot(self.frequency, self.intensity, color=plots.colors()[0])
        ax.set(xlabel="wavenumber (cm⁻¹)", ylabel="infrared intensity (arb. unit)", xlim=(0, None), ylim=(0, None))
        return ax


@dataclass(frozen=True, eq=False, kw_only=True)
class Raman(Result):
    """A Raman spectrum.

    Attributes
    ----------
    frequency
        (F,) cm⁻¹.
    isotropic, anisotropic
        (F,) arbitrary unit, of the mean polarizability and of the rest.
    """

    name: ClassVar[str] = "raman"

    frequency: np.ndarray
    isotropic: np.ndarray
    anisotropic: np.ndarray

    @property
    def parallel(self) -> np.ndarray:
        """Scattered light polarized as the laser (VV), (F,)."""
        return self.isotropic + 4 / 3 * self.anisotropic

    @property
    def perpendicular(self) -> np.ndarray:
        """Scattered light polarized across (VH), (F,)."""
        return self.anisotropic

    @property
    def unpolarized(self) -> np.ndarray:
        """All scattered light, (F,)."""
        return self.parallel + self.perpendicular

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw both polarizations."""
        ax = plots.axes(ax)
        for color, label in zip(plots.colors(), ("parallel", "perpendicular"), strict=False):
            ax.plot(self.frequency, getattr(self, label), color=color, label=label)
        ax.set(xlabel="wavenumber (cm⁻¹)", ylabel="Raman intensity (arb. unit)", xlim=(0, None), ylim=(0, None))
        ax.legend()
        return ax


def infrared(dipoles: np.ndarray, time_step: float, *, width: float = 10.0) -> Infrared:
    r"""Infrared absorption from dipoles in time.

    .. math:: I(\omega) \propto \int \langle \dot M(0) \cdot \dot M(t) \rangle\, e^{-i \omega t}\, dt

    which is the classical line shape :math:`\omega^2 \int \langle M M \rangle` with the harmonic quantum correction
    :math:`\beta\hbar\omega / (1 - e^{-\beta\hbar\omega})`, with which its prefactor
    :math:`\omega\,(1 - e^{-\beta\hbar\omega})` makes :math:`\omega^2`; no temperature enters.

    Parameters
    ----------
    dipoles
        (T, 3), at equal intervals. In periodic cells the total dipole jumps by whole quanta when an atom leaves the
        cell; a model's sum of atomic dipoles does not.
    time_step
        Between dipoles, fs; should be below some 4 fs, for bonds with hydrogen below 2.
    width
        Full width at half maximum of the Gaussian that broadens lines, cm⁻¹.

    References
    ----------
    R. Ramírez et al., https://doi.org/10.1063/1.1774986
    """
    frequency, density = _spectrum(_velocities(dipoles, 1, time_step), time_step, width)
    return Infrared(frequency=frequency, intensity=density)


def raman(
    polarizabilities: np.ndarray,
    time_step: float,
    *,
    temperature: float | None = None,
    width: float = 10.0,
    laser: float | None = None,
) -> Raman:
    r"""Raman scattering from polarizabilities in time.

    .. math:: I_{iso} \propto f(\omega) \int \langle \dot{\bar\alpha}(0)\, \dot{\bar\alpha}(t) \rangle\,
              e^{-i\omega t}\, dt, \quad
              I_{aniso} \propto \tfrac{1}{10} f(\omega) \int \langle \mathrm{Tr}\, \dot\beta(0)\, \dot\beta(t) \rangle\,
              e^{-i\omega t}\, dt

    with :math:`\bar\alpha` a third of the trace and :math:`\beta = \alpha - \bar\alpha`.

    Parameters
    ----------
    polarizabilities
        (T, 3, 3), at equal intervals.
    time_step
        Between them, fs.
    temperature
        K, for the Bose factor :math:`f \propto 1 / [\omega\,(1 - e^{-\beta\hbar\omega})]`; without, :math:`f = 1`.
    width
        Full width at half maximum of the Gaussian that broadens lines, cm⁻¹.
    laser
        Wavenumber of the laser in cm⁻¹, for the factor :math:`(\omega_L - \omega)^4`; without, it is left out.

    References
    ----------
    M. Thomas et al., https://doi.org/10.1039/C3CP44302G
    """
    rates = _velocities(polarizabilities, 2, time_step)
    mean = np.trace(rates, axis1=1, axis2=2) / 3
    rest = rates - mean[:, None, None] * np.eye(3)
    frequency, isotropic = _spectrum(mean[:, None], time_step, width)
    _, anisotropic = _spectrum(rest.reshape(len(rest), 9), time_step, width)
    factor = np.ones_like(frequency)
    if temperature is not None:
        if not temperature > 0:
            raise ValueError(f"temperature should be positive, found {temperature} K")
        positive = frequency.clip(frequency[1])  # at zero the factor diverges and the spectrum has no meaning
        factor = 1 / (positive * -np.expm1(-positive / (KB_OVER_HC * temperature)))
    if laser is not None:
        factor = factor * (np.maximum(laser - frequency, 0.0) / laser) ** 4
    return Raman(frequency=frequency, isotropic=factor * isotropic, anisotropic=factor * anisotropic / 10)


def _velocities(values: np.ndarray, rank: int, time_step: float) -> np.ndarray:
    """Central differences in time, per fs, without their mean."""
    series = np.asarray(values, dtype=float)
    if series.shape[1:] != (3,) * rank or len(series) < 4:
        raise ValueError(f"at least four values of shape {(3,) * rank} are needed, found shape {series.shape}")
    if not time_step > 0:
        raise ValueError(f"time_step should be positive, found {time_step} fs")
    rates = (series[2:] - series[:-2]) / (2 * time_step)
    return rates - rates.mean(axis=0)


def _spectrum(rates: np.ndarray, time_step: float, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Power spectrum (F,) of rates (T, K) by wavenumber (F,), broadened; corrected for the central differences.

    Wavenumbers go up to two thirds of the highest: near that, central differences see nothing.
    """
    if not width > 0:
        raise ValueError(f"width should be positive, found {width} cm⁻¹")
    correlation = autocorrelation(rates).sum(axis=1)
    time = np.arange(len(correlation)) * time_step / 1000  # ps
    sigma = width / INVERSE_CM / (2 * np.sqrt(2 * np.log(2)))  # THz
    window = np.exp(-2 * (np.pi * sigma * time) ** 2)
    both_sides = np.concatenate([correlation * window, (correlation * window)[:0:-1]])
    density = np.fft.rfft(both_sides).real.clip(0.0) * time_step
    frequency = np.fft.rfftfreq(len(both_sides), time_step / 1000)  # THz
    phase = 2 * np.pi * frequency * time_step / 1000
    kept = phase < 2 * np.pi / 3
    return frequency[kept] * INVERSE_CM, density[kept] / np.sinc(phase[kept] / np.pi) ** 2

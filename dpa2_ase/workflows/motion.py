"""Motion from trajectories: mean squared displacements, diffusion, velocity correlations, vibrational spectra."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from ase import Atoms
from ase.units import fs

from . import plots
from .analysis import autocorrelation
from .results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CM2_PER_S = 1e-4  # of one Å²/ps
INVERSE_CM = 1e12 / 2.99792458e10  # of one THz


class Motion:
    """Collects positions and velocities, as an observer of `md` or from frames, at equal intervals of time.

    Positions must not jump when an atom leaves the cell; those of `md` do not. With `unwrap`, steps longer than half
    a cell are taken for such jumps and undone.
    """

    def __init__(self, *, unwrap: bool = False) -> None:
        self.unwrap = unwrap
        self._times: list[float] = []
        self._positions: list[np.ndarray] = []
        self._velocities: list[np.ndarray] = []
        self._first: Atoms | None = None

    def add(self, atoms: Atoms, time: float) -> None:
        """Store one frame at `time` in fs."""
        positions = atoms.get_positions()
        if self._first is None:
            self._first = atoms.copy()
        elif not np.array_equal(atoms.numbers, self._first.numbers):
            raise ValueError("frames have different atoms; analyse one simulation at a time")
        elif self.unwrap:
            jump = np.round(atoms.cell.scaled_positions(positions - self._positions[-1])) * atoms.pbc
            positions -= atoms.cell.cartesian_positions(jump)
        self._times.append(time)
        self._positions.append(positions)
        self._velocities.append(atoms.get_velocities() * fs * 1000)

    @property
    def interval(self) -> float:
        """Time between frames, ps.

        Raises
        ------
        ValueError
            For fewer than two frames, or unequal intervals.
        """
        gaps = np.diff(self._times)
        if not len(gaps) or not np.allclose(gaps, gaps[0], rtol=1e-6) or not gaps[0] > 0:
            raise ValueError(
                "motion needs at least two frames at equal intervals of time; frames of md carry info['time'] (fs), "
                "for others give time_step"
            )
        return float(gaps[0]) / 1000

    @property
    def masses(self) -> np.ndarray:
        """Of all atoms, (N,), u."""
        return self._structure().get_masses()

    @property
    def symbols(self) -> np.ndarray:
        """Of all atoms, (N,)."""
        return np.array(self._structure().symbols)

    def positions(self) -> np.ndarray:
        """Shape (T, N, 3), Å, relative to the center of mass of each frame."""
        return self._relative(np.array(self._positions))

    def velocities(self) -> np.ndarray:
        """Shape (T, N, 3), Å/ps, relative to the center of mass of each frame."""
        return self._relative(np.array(self._velocities))

    def _relative(self, values: np.ndarray) -> np.ndarray:
        weights = self.masses / self.masses.sum()
        return values - np.einsum("tnx,n->tx", values, weights)[:, None] if len(weights) > 1 else values

    def _structure(self) -> Atoms:
        if self._first is None:
            raise ValueError("no frames were added")
        return self._first


def motion_of(frames: Iterable[Atoms], *, time_step: float | None = None, unwrap: bool = False) -> Motion:
    """Collect `frames`; `time_step` (fs) between them, by default from ``info["time"]`` of each."""
    motion = Motion(unwrap=unwrap)
    for index, atoms in enumerate(frames):
        time = atoms.info.get("time", 0.0) if time_step is None else index * time_step
        motion.add(atoms, time)
    return motion


@dataclass(frozen=True, eq=False, kw_only=True)
class Diffusion(Result):
    r"""Mean squared displacements and diffusion coefficients.

    .. math:: \mathrm{MSD}(t) = \langle |x_i(t_0 + t) - x_i(t_0)|^2 \rangle_{i, t_0}, \quad
              D = \tfrac16\,\frac{d\,\mathrm{MSD}}{dt}

    Attributes
    ----------
    time
        Lags, shape (L,), ps.
    msd
        Element → shape (L,), Å².
    coefficient
        Element → diffusion coefficient and its standard error, cm²/s; the latter from the scatter of independent
        quarters of the trajectory, not a number if these are too short.
    fit
        First and last lag of the fit, ps.
    """

    name: ClassVar[str] = "diffusion"

    time: np.ndarray
    msd: dict[str, np.ndarray]
    coefficient: dict[str, tuple[float, float]]
    fit: tuple[float, float]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the displacements and the fits."""
        ax = plots.axes(ax)
        for color, (symbol, values) in zip(plots.colors(), self.msd.items(), strict=False):
            ax.plot(self.time, values, color=color, label=symbol)
            slope, offset = _line(self.time, values, self.fit)
            ends = np.array(self.fit)
            ax.plot(ends, slope * ends + offset, color="black", lw=1, ls="--")
        ax.set(xlabel="time (ps)", ylabel="mean squared displacement (Å²)", xlim=(0, None), ylim=(0, None))
        ax.legend()
        return ax


def msd(motion: Motion, *, fit: tuple[float, float] = (0.1, 0.5)) -> Diffusion:
    """Mean squared displacements by element over all time origins, without the motion of the center of mass.

    Parameters
    ----------
    motion
        What was seen; see `motion_of`.
    fit
        Part of the longest lag in which a line is fitted: before, motion is ballistic, after, origins are few.

    Notes
    -----
    Diffusion in a small periodic box is slower than in a large one by a term of the inverse box length; see
    I.-C. Yeh and G. Hummer, https://doi.org/10.1021/jp0477147.
    """
    if not 0 <= fit[0] < fit[1] <= 1:
        raise ValueError(f"fit should be two increasing parts of the trajectory from 0 to 1, found {fit}")
    positions, interval = motion.positions(), motion.interval
    time = np.arange(len(positions)) * interval
    window = (fit[0] * time[-1], fit[1] * time[-1])
    curves, coefficients = {}, {}
    for symbol in sorted({*motion.symbols.tolist()}):
        chosen = positions[:, motion.symbols == symbol]
        curves[symbol] = mean_squared_displacement(chosen)
        slope, _ = _line(time, curves[symbol], window)
        coefficients[symbol] = (slope / 6 * CM2_PER_S, _slope_error(chosen, interval, fit) / 6 * CM2_PER_S)
    return Diffusion(time=time, msd=curves, coefficient=coefficients, fit=window)


def mean_squared_displacement(positions: np.ndarray) -> np.ndarray:
    r"""Average over atoms and time origins for every lag: (T, N, 3) → (T,).

    .. math:: \langle |x(t_0 + t) - x(t_0)|^2 \rangle = \langle x^2(t_0 + t) + x^2(t_0) \rangle
              - 2 \langle x(t_0 + t) \cdot x(t_0) \rangle
    """
    centered = positions - positions.mean(axis=0)  # squares of large numbers would cancel
    squares = (centered**2).sum(axis=2)  # (T, N)
    below = np.cumsum(squares, axis=0)
    ahead = np.cumsum(squares[::-1], axis=0)
    pairs = np.arange(len(positions), 0, -1)[:, None]
    both = (below + ahead)[::-1] / pairs  # of the first and last T − t frames
    products = autocorrelation(centered).sum(axis=2)
    result = (both - 2 * products).mean(axis=1)
    result[0] = 0.0
    return np.maximum(result, 0.0)


def _line(time: np.ndarray, values: np.ndarray, window: tuple[float, float]) -> tuple[float, float]:
    inside = (time >= window[0] * (1 - 1e-9)) & (time <= window[1] * (1 + 1e-9))
    if inside.sum() < 2:
        return float("nan"), float("nan")
    slope, offset = np.polyfit(time[inside], values[inside], 1)
    return float(slope), float(offset)


def _slope_error(positions: np.ndarray, interval: float, fit: tuple[float, float], parts: int = 4) -> float:
    """Standard error of the slope of the whole, from independent parts."""
    slopes = []
    for part in np.array_split(positions, parts):
        time = np.arange(len(part)) * interval
        if len(part) > 1:
            window = (fit[0] * time[-1], fit[1] * time[-1])
            slopes.append(_line(time, mean_squared_displacement(part), window)[0])
    return float(np.std(slopes, ddof=1) / np.sqrt(len(slopes))) if len(slopes) == parts else float("nan")


@dataclass(frozen=True, eq=False, kw_only=True)
class VibrationalSpectrum(Result):
    r"""Velocity autocorrelation and the vibrational density of states.

    .. math:: C(t) = \frac{\langle \sum_i m_i v_i(t_0) \cdot v_i(t_0 + t) \rangle}{\langle \sum_i m_i v_i^2 \rangle},
              \quad g(\nu) \propto \int C(t)\,w(t) \cos(2\pi\nu t)\,dt

    Attributes
    ----------
    time
        Lags, shape (L,), ps.
    vacf
        Shape (L,), one at lag zero.
    frequency
        Shape (F,), THz.
    dos
        Shape (F,), 1/THz; its integral is one.
    partial
        Element → its share of `dos`.
    """

    name: ClassVar[str] = "vdos"

    time: np.ndarray
    vacf: np.ndarray
    frequency: np.ndarray
    dos: np.ndarray
    partial: dict[str, np.ndarray]

    @property
    def wavenumber(self) -> np.ndarray:
        """`frequency` in 1/cm."""
        return self.frequency * INVERSE_CM

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the density of states up to where it ends."""
        ax = plots.axes(ax)
        ax.fill_between(self.frequency, self.dos, color=plots.COLORS["gray"], alpha=0.3, lw=0, label="all")
        if len(self.partial) > 1:
            for color, (symbol, values) in zip(plots.colors(), self.partial.items(), strict=False):
                ax.plot(self.frequency, values, color=color, label=symbol)
        else:
            ax.plot(self.frequency, self.dos, color=plots.colors()[0])
        occupied = np.flatnonzero(self.dos > 1e-3 * self.dos.max())
        ax.set(xlabel="frequency (THz)", ylabel="density of states (1/THz)", ylim=(0, None))
        ax.set_xlim(0, 1.1 * self.frequency[occupied[-1]])
        ax.legend()
        return ax


def vibrational_spectrum(motion: Motion, *, longest: float | None = None) -> VibrationalSpectrum:
    """Spectrum of the velocities of `motion`, by element.

    Parameters
    ----------
    motion
        Frames every few fs: a quarter of the shortest period or less.
    longest
        Longest lag in ps, by default a quarter of the trajectory; its inverse is the resolution in THz.
        A Hann window takes the correlation to zero there.
    """
    velocities, interval = motion.velocities(), motion.interval
    lags = len(velocities) // 4 if longest is None else min(int(longest / interval), len(velocities) - 1)
    lags = max(lags, 1) + 1
    weighted = velocities * np.sqrt(motion.masses)[:, None]
    each = autocorrelation(weighted)[:lags].sum(axis=2)  # (L, N)
    total = each.sum(axis=1)
    if not total[0] > 0:
        raise ValueError("the frames have no velocities; use frames of md, or others with momenta")
    window = np.cos(np.pi / 2 * np.arange(lags) / lags) ** 2
    padded = 4 * lags
    frequency = np.fft.rfftfreq(2 * padded, interval)
    spectra = {}
    for symbol in sorted({*motion.symbols.tolist()}):
        correlation = each[:, motion.symbols == symbol].sum(axis=1) / total[0] * window
        correlation[0] /= 2  # the cosine transform counts every other lag twice
        spectra[symbol] = 4 * interval * np.fft.rfft(correlation, n=2 * padded).real
    return VibrationalSpectrum(
        time=np.arange(lags) * interval,
        vacf=total / total[0],
        frequency=frequency,
        dos=np.sum(list(spectra.values()), axis=0),
        partial=spectra,
    )

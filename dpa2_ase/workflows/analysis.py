"""Structure from trajectories: averages with honest errors, radial distributions, density profiles.

Every analysis exists as a class whose `add` takes one frame after the other, so that it can watch a running simulation
(`md`'s `observers`), and as a function of a list of frames. Motion is in `dpa2_ase.workflows.motion`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from ase.units import kg

from . import plots
from .results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRAMS_PER_CM3 = 1e24 / (kg / 1e3)  # of one atomic mass unit per Å³


def mean_with_error(values: np.ndarray) -> tuple[float, float]:
    r"""Mean of a correlated series and its standard error.

    .. math:: \sigma^2_{\bar x} = \frac{\sigma^2}{n}\,2\tau, \quad 2\tau = 1 + 2\sum_{t=1}^{W} \rho(t)

    :math:`\rho` is the normalized autocorrelation and :math:`W` the first lag at least five times :math:`\tau`.
    The error is not a number for fewer than two values, and too small for series shorter than some fifty
    :math:`\tau`.

    References
    ----------
    A. D. Sokal, Monte Carlo Methods in Statistical Mechanics (1996), section 3;
    https://doi.org/10.1007/978-1-4899-0319-8_6
    """
    series = np.asarray(values, dtype=float)
    if len(series) < 2:
        return float(series.mean()) if len(series) else float("nan"), float("nan")
    variance = series.var()
    if not variance > 0:
        return float(series.mean()), 0.0 if variance == 0 else float("nan")
    rho = autocorrelation(series - series.mean()) / variance
    doubled = 1 + 2 * np.cumsum(rho[1:])
    window = np.flatnonzero(np.arange(1, len(rho)) >= 5 * doubled / 2)
    inefficiency = max(doubled[window[0]] if len(window) else doubled[-1], 1.0)
    return float(series.mean()), float(np.sqrt(variance * inefficiency / (len(series) - 1)))


def autocorrelation(series: np.ndarray) -> np.ndarray:
    r"""Average of :math:`x(t_0)\,x(t_0 + t)` over all origins, for every lag; along the first axis, shape kept.

    Computed by fast Fourier transform of the series padded with zeros.
    """
    count = len(series)
    size = 2 ** int(np.ceil(np.log2(2 * count)))
    transform = np.fft.rfft(series, n=size, axis=0)
    total = np.fft.irfft(transform * transform.conj(), n=size, axis=0)[:count]
    return total / np.arange(count, 0, -1).reshape(-1, *[1] * (series.ndim - 1))


@dataclass(frozen=True, eq=False, kw_only=True)
class RDF(Result):
    r"""A radial distribution function.

    .. math:: g(r) = \frac{V}{N_a N_b}\,\frac{n_{ab}(r, r + \Delta r)}{\tfrac{4}{3}\pi[(r + \Delta r)^3 - r^3]},
              \quad N(r) = \frac{n_{ab}(0, r)}{N_a}

    Attributes
    ----------
    pair
        The two elements, or ``None`` for all atoms.
    r
        Middles of the bins, shape (B,), Å.
    g
        Shape (B,), no unit; averaged over frames.
    coordination
        Neighbors of one atom up to the outer edge of each bin, shape (B,).
    frames
        How many were averaged.
    """

    name: ClassVar[str] = "rdf"

    pair: tuple[str, str] | None
    r: np.ndarray
    g: np.ndarray
    coordination: np.ndarray
    frames: int

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw g(r)."""
        ax = plots.axes(ax)
        ax.plot(self.r, self.g, color=plots.colors()[0], label="–".join(self.pair or ()))
        ax.axhline(1.0, color=plots.COLORS["gray"], lw=0.8, ls="--")
        ax.set(xlabel="distance (Å)", ylabel="g(r)", xlim=(0, None), ylim=(0, None))
        if self.pair is not None:
            ax.legend()
        return ax


class RadialDistribution:
    """Collects distances frame by frame; cells may change, and images of an atom count as its neighbors.

    Parameters
    ----------
    r_max
        Largest distance in Å; any, since periodic images are found as far as needed.
    bins
        Number of bins from 0 to `r_max`.
    pair
        Distances from the first element to the second; ``None`` for all atoms.
    """

    def __init__(self, r_max: float = 8.0, bins: int = 160, pair: tuple[str, str] | None = None) -> None:
        if not (0 < r_max < np.inf and bins > 0):
            raise ValueError(f"r_max (Å) and bins should be positive, found {r_max} and {bins}")
        self.edges, self.pair = np.linspace(0.0, r_max, bins + 1), pair
        self._density, self._count, self.frames = np.zeros(bins), np.zeros(bins), 0

    def add(self, atoms: Atoms, time: float = 0.0) -> None:
        """Count the distances of one frame."""
        if not atoms.pbc.all():
            raise ValueError(f"g(r) needs a volume: three periodic directions, found pbc={atoms.pbc.tolist()}")
        first, second, distance = neighbor_list("ijd", atoms, self.edges[-1])
        center, other = np.ones((2, len(atoms)), dtype=bool)
        if self.pair is not None:
            center, other = (np.array(atoms.symbols) == symbol for symbol in self.pair)
            if not (center.any() and other.any()):
                raise ValueError(f"the structure has no pair {self.pair}; its elements are {sorted({*atoms.symbols})}")
        counts, _ = np.histogram(distance[center[first] & other[second]], bins=self.edges)
        self._count += counts / center.sum()
        self._density += counts * atoms.get_volume() / (center.sum() * other.sum())
        self.frames += 1

    def result(self) -> RDF:
        """The function so far."""
        if not self.frames:
            raise ValueError("no frames were added")
        shells = 4 / 3 * np.pi * np.diff(self.edges**3)
        return RDF(
            pair=self.pair,
            r=(self.edges[1:] + self.edges[:-1]) / 2,
            g=self._density / self.frames / shells,
            coordination=np.cumsum(self._count) / self.frames,
            frames=self.frames,
        )


def rdf(frames: Iterable[Atoms], *, r_max: float = 8.0, bins: int = 160, pair: tuple[str, str] | None = None) -> RDF:
    """Radial distribution function of all `frames`; see `RadialDistribution` for the arguments and `RDF`."""
    collector = RadialDistribution(r_max, bins, pair)
    for atoms in frames:
        collector.add(atoms)
    return collector.result()


@dataclass(frozen=True, eq=False, kw_only=True)
class Profile(Result):
    """Mass density along a lattice vector.

    Attributes
    ----------
    axis
        0, 1 or 2.
    z
        Middles of the bins, as height above the plane of the other two vectors, shape (B,), Å; of the mean cell.
    density, error
        Mean over frames and its standard error, shapes (B,), g/cm³.
    """

    name: ClassVar[str] = "density"

    axis: int
    z: np.ndarray
    density: np.ndarray
    error: np.ndarray

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the density with its error."""
        ax = plots.axes(ax)
        color = plots.colors()[0]
        ax.plot(self.z, self.density, color=color, drawstyle="steps-mid")
        ax.fill_between(
            self.z, self.density - self.error, self.density + self.error, color=color, alpha=0.25, lw=0, step="mid"
        )
        ax.set(xlabel=f"height along {'abc'[self.axis]} (Å)", ylabel="density (g/cm³)", ylim=(0, None))
        return ax


def density_profile(frames: Iterable[Atoms], *, axis: int = 2, bins: int = 100) -> Profile:
    """Mass density along lattice vector `axis` in `bins` slices of the cell, averaged over all `frames`.

    Raises
    ------
    ValueError
        Without frames, or for a cell without volume.
    """
    rows, heights = [], []
    for atoms in frames:
        volume = float(atoms.get_volume()) if atoms.cell.rank == 3 else 0.0
        if not volume > 0:
            raise ValueError("a density needs a cell with three vectors")
        place = atoms.get_scaled_positions(wrap=False)[:, axis]
        if atoms.pbc[axis]:
            place %= 1.0
        masses, _ = np.histogram(place, bins=bins, range=(0.0, 1.0), weights=atoms.get_masses())
        rows.append(masses / (volume / bins) * GRAMS_PER_CM3)
        heights.append(volume / np.linalg.norm(np.cross(*np.delete(atoms.cell.array, axis, axis=0))))
    if not rows:
        raise ValueError("no frames to average")
    pairs = np.array([mean_with_error(column) for column in np.array(rows).T])
    middles = (np.arange(bins) + 0.5) / bins * np.mean(heights)
    return Profile(axis=axis, z=middles, density=pairs[:, 0], error=pairs[:, 1])

"""What lattice dynamics gives: bands, densities of states, thermal properties, unstable modes.

Frequencies are in THz, imaginary ones negative; q-points in units of the primitive cell's reciprocal vectors.
Letters in shapes: Q q-points, B branches, F frequencies, T temperatures, N atoms of the primitive cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from ase.units import kB

from . import plots
from .files import write_csv
from .results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Bands(Result):
    """Frequencies along lines between special points."""

    name: ClassVar[str] = "bands"

    qpoints: np.ndarray  # (Q, 3)
    distances: np.ndarray  # (Q,) 1/Å, without 2π
    frequencies: np.ndarray  # (Q, B) THz
    group_velocities: np.ndarray  # (Q, B, 3) Å THz, which are 100 m/s
    ticks: np.ndarray  # distances of the special points
    labels: tuple[str, ...]  # their names; two where the path jumps
    breaks: tuple[int, ...]  # indices of q-points before which the path jumps

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the branches, imaginary frequencies below zero."""
        ax = plots.axes(ax)
        pieces = np.split(np.arange(len(self.distances)), self.breaks)
        for piece in pieces:
            ax.plot(self.distances[piece], self.frequencies[piece], color=plots.COLORS["blue"], linewidth=1.2)
        ax.set_xticks(self.ticks, self.labels)
        ax.set_xlim(self.distances[0], self.distances[-1])
        ax.axhline(0.0, color=plots.COLORS["gray"], linewidth=0.8)
        low, high = self.frequencies.min(), self.frequencies.max()
        ax.set_ylim(min(0.0, 1.05 * low) if low < -0.01 * high else 0.0, 1.05 * high)
        ax.grid(axis="y", visible=False)
        ax.set_ylabel("frequency (THz)")
        return ax

    def write(self, folder: str | Path) -> list[Path]:
        """Write what every result writes, and the branches as a table."""
        columns = {"distance_per_angstrom": self.distances.tolist()}
        columns |= {f"q{axis}": self.qpoints[:, k].tolist() for k, axis in enumerate("xyz")}
        columns |= {f"branch{b + 1}_thz": column.tolist() for b, column in enumerate(self.frequencies.T)}
        return [*super().write(folder), write_csv(Path(folder) / "bands.csv", columns)]


@dataclass(frozen=True, eq=False)
class DensityOfStates(Result):
    """Number of modes per THz of a primitive cell; its integral is 3 N."""

    name: ClassVar[str] = "dos"

    frequencies: np.ndarray  # (F,) THz
    total: np.ndarray  # (F,) 1/THz
    projected: np.ndarray  # (N, F) 1/THz, the share of every atom
    symbols: tuple[str, ...]  # (N,) of the atoms

    def of_element(self, symbol: str) -> np.ndarray:
        """Share (F,) of all atoms of an element."""
        return self.projected[[index for index, name in enumerate(self.symbols) if name == symbol]].sum(axis=0)

    def plot(self, ax: Axes | None = None, *, upright: bool = False) -> Axes:
        """Draw total and, with several elements, theirs; `upright` has the frequency as ordinate, beside bands."""
        ax = plots.axes(ax)
        elements = list(dict.fromkeys(self.symbols))
        curves = [("total", self.total, plots.COLORS["black"])]
        if len(elements) > 1:
            curves += [
                (name, self.of_element(name), color) for name, color in zip(elements, plots.colors() * 9, strict=False)
            ]
        for label, values, color in curves:
            pair = (values, self.frequencies) if upright else (self.frequencies, values)
            ax.plot(*pair, color=color, label=label)
        (ax.set_ylabel if upright else ax.set_xlabel)("frequency (THz)")
        (ax.set_xlabel if upright else ax.set_ylabel)("states per THz")
        (ax.set_xlim if upright else ax.set_ylim)(0.0)
        occupied = self.frequencies[self.total > 1e-3 * self.total.max()]
        (ax.set_ylim if upright else ax.set_xlim)(min(0.0, occupied.min()), 1.03 * occupied.max())
        if len(elements) > 1:
            ax.legend()
        return ax


@dataclass(frozen=True, eq=False)
class Thermal(Result):
    """Harmonic thermal properties of a primitive cell at constant volume; of its vibrations alone."""

    name: ClassVar[str] = "thermal"

    temperatures: np.ndarray  # (T,) K
    free_energy: np.ndarray  # (T,) eV, Helmholtz; at 0 K the zero-point energy
    entropy: np.ndarray  # (T,) eV/K
    heat_capacity: np.ndarray  # (T,) eV/K, at constant volume
    n_atoms: int

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw heat capacity and entropy in Boltzmann's constant per atom; the former tends to three."""
        ax = plots.axes(ax)
        for values, label, color in (
            (self.heat_capacity, "heat capacity", "blue"),
            (self.entropy, "entropy", "orange"),
        ):
            ax.plot(self.temperatures, values / (self.n_atoms * kB), color=plots.COLORS[color], label=label)
        ax.axhline(3.0, color=plots.COLORS["gray"], linewidth=0.8, linestyle="--")
        ax.set_xlabel("temperature (K)")
        ax.set_ylabel(r"$k_\mathrm{B}$ per atom")
        ax.legend()
        return ax

    def write(self, folder: str | Path) -> list[Path]:
        """Write what every result writes, and a table."""
        columns = {
            "temperature_k": self.temperatures.tolist(),
            "free_energy_ev": self.free_energy.tolist(),
            "entropy_ev_per_k": self.entropy.tolist(),
            "heat_capacity_ev_per_k": self.heat_capacity.tolist(),
        }
        return [*super().write(folder), write_csv(Path(folder) / "thermal.csv", columns)]


@dataclass(frozen=True, eq=False)
class ImaginaryModes(Result):
    """Modes along which the crystal lowers its energy.

    At q-points that fit into the supercell frequencies are those of the model; between them they are interpolated, and
    an imaginary one may come from too small a supercell.
    """

    name: ClassVar[str] = "imaginary"

    tolerance: float  # THz; what is above minus this counts as real
    lowest: float  # THz, of all q-points looked at
    lowest_qpoint: tuple[float, float, float]
    exact_qpoints: np.ndarray  # (Q, 3) that fit into the supercell and have an imaginary mode
    exact_frequencies: np.ndarray  # (Q,) THz, their lowest
    fraction: float  # of the modes of the mesh that are imaginary

    @property
    def is_stable(self) -> bool:
        """Whether there is none."""
        return self.lowest >= -self.tolerance

    def __str__(self) -> str:
        if self.is_stable:
            return f"no imaginary modes (lowest {self.lowest:.3f} THz)"
        where = ", ".join(f"{q:.3f}" for q in self.lowest_qpoint)
        text = f"imaginary modes: lowest {-self.lowest:.3f}i THz at q = ({where}), {self.fraction:.1%} of the mesh"
        if not len(self.exact_qpoints):
            return text + "; none at q-points that fit into the supercell: a larger supercell may remove them"
        return text + f"; {len(self.exact_qpoints)} q-points that fit into the supercell have one"

"""The result of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms

from . import plots
from .analysis import mean_with_error
from .ensembles import Ensemble
from .files import write_csv
from .md_files import COLUMNS, HEADER, THERMO, read_frames
from .results import Result, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Simulation(Result):
    """A finished simulation.

    Attributes
    ----------
    atoms
        The last frame with its velocities, the constraints of the input and the calculator.
    steps
        From the very beginning, those before a restart included.
    ensemble
        What was held constant.
    thermo
        Columns of samples: ``step``, ``time`` (fs), ``temperature`` (K), ``potential_energy``, ``kinetic_energy``,
        ``total_energy``, ``conserved_energy`` (eV), ``pressure`` (GPa), ``volume`` (Å³), ``density`` (g/cm³), and the
        lattice ``a``, ``b``, ``c`` (Å), ``alpha``, ``beta``, ``gamma`` (degrees).
        What does not exist, such as the pressure of a molecule, is not a number.
    folder
        Where the trajectory is, if it was written.
    """

    name: ClassVar[str] = "md"

    atoms: Atoms
    steps: int
    ensemble: Ensemble
    thermo: dict[str, np.ndarray]
    folder: Path | None = None
    _frames: tuple[Atoms, ...] = field(default=(), repr=False)

    def frames(self) -> list[Atoms]:
        """All frames kept, with velocities and results; read from the folder if there is one."""
        return list(self._frames) if self.folder is None else read_frames(self.folder)

    def average(self, column: str, *, skip: float = 0.2) -> tuple[float, float]:
        """Mean of a column of `thermo` and its standard error, without the first part `skip` of the samples.

        The error is that of correlated data; see `dpa2_ase.workflows.analysis.mean_with_error`.
        """
        values = self.thermo[column]
        return mean_with_error(values[int(skip * len(values)) :])

    def drift(self) -> float:
        """Slope of the conserved energy, eV per atom and ps; what a wrong force or too long a step does to it."""
        time, energy = self.thermo["time"] / 1000, self.thermo["conserved_energy"]
        return float(np.polyfit(time, energy, 1)[0]) / len(self.atoms) if len(time) > 1 else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Averages with errors in place of the samples, which are in the table."""
        averages = {name: self.average(name) for name in COLUMNS if name not in ("step", "time")}
        fields = {"atoms": self.atoms, "steps": self.steps, "ensemble": self.ensemble, "averages": averages}
        fields["drift"] = self.drift()
        return {"workflow": self.name} | {key: plain(value) for key, value in fields.items()} | {
            "provenance": plain(self.provenance)
        }  # fmt: skip

    def write(self, folder: str | Path) -> list[Path]:
        """As every result, and the table of samples; trajectory and restart file stay where the run wrote them."""
        paths = super().write(folder)
        if self.folder is None or self.folder.resolve() != Path(folder).resolve():
            columns = {title: self.thermo[name].tolist() for title, name in zip(HEADER, COLUMNS, strict=True)}
            paths.append(write_csv(Path(folder) / THERMO, columns))
        return paths

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the temperature into `ax`; without one, temperature, energies and pressure (or volume) in one figure."""
        if ax is not None:
            return _draw(ax, self.thermo, ["temperature"], "temperature (K)")
        thermo = dict(self.thermo)
        for name in ("potential_energy", "total_energy", "conserved_energy"):
            thermo[name] = (thermo[name] - thermo[name][0]) / max(len(self.atoms), 1) * 1000
        last = ("volume", "volume (Å³)") if self.ensemble.has_barostat else ("pressure", "pressure (GPa)")
        rows = plots.subplots(2 if np.isnan(thermo[last[0]]).all() else 3, 1, (4.8, 5.4), sharex=True)
        _draw(rows[0], thermo, ["temperature"], "temperature (K)")
        energies = ["potential_energy", "total_energy", *["conserved_energy"] * self.ensemble.has_thermostat]
        _draw(rows[1], thermo, energies, "ΔE (meV/atom)")
        rows[1].legend(loc="lower left", bbox_to_anchor=(0.0, 0.98), ncols=3, borderpad=0.1)
        for axes in rows[2:]:
            _draw(axes, thermo, [last[0]], last[1])
        for axes in rows[:-1]:
            axes.set_xlabel("")
        return rows[0]


def _draw(ax: Axes, thermo: dict[str, np.ndarray], names: Sequence[str], label: str) -> Axes:
    for color, name in zip(plots.colors(), names, strict=False):
        if not np.isnan(thermo[name]).all():
            ax.plot(thermo["time"] / 1000, thermo[name], color=color, lw=1, label=name.partition("_")[0])
    ax.set(xlabel="time (ps)", ylabel=label)
    return ax

"""Thermal expansion of crystals by the quasi-harmonic approximation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.eos import EquationOfState
from ase.units import GPa

from . import plots
from .batch import evaluate
from .files import write_csv
from .gruneisen import at_volumes
from .phonons import (
    TEMPERATURES,
    RelaxFirst,
    Source,
    add_force_constants,
    bridge,
    choose_source,
    crystal_at_rest,
    supercell_matrix,
)
from .results import Result, provenance_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .phonon_results import Thermal

VOLUMES = tuple(np.linspace(0.95, 1.07, 7).round(10).tolist())


@dataclass(frozen=True, eq=False)
class QuasiHarmonic(Result):
    """Properties of a crystal at given temperature and pressure, per primitive cell.

    Letters in shapes: V volumes of the scan, T temperatures.
    """

    name: ClassVar[str] = "quasi-harmonic"

    pressure: float  # GPa
    scan_volumes: np.ndarray  # (V,) Å³
    static_energies: np.ndarray  # (V,) eV, without vibrations
    lowest_frequencies: np.ndarray  # (V,) THz, negative where the crystal is unstable and the rest is wrong
    helmholtz: np.ndarray  # (T, V) eV, static and vibrational free energy
    temperatures: np.ndarray  # (T,) K
    volumes: np.ndarray  # (T,) Å³
    gibbs: np.ndarray  # (T,) eV
    bulk_moduli: np.ndarray  # (T,) GPa, isothermal
    thermal_expansion: np.ndarray  # (T,) 1/K, of the volume; a third of it for lengths of a cubic crystal
    heat_capacities: np.ndarray  # (T,) eV/K at constant pressure
    gruneisen: np.ndarray  # (T,) thermodynamic parameter; NaN at 0 K
    static_volume: float  # Å³, without vibrations at zero pressure
    static_bulk_modulus: float  # GPa

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the thermal expansion of the volume against temperature."""
        ax = plots.axes(ax)
        ax.plot(self.temperatures, 1e6 * self.thermal_expansion, color=plots.COLORS["blue"])
        ax.set_xlabel("temperature (K)")
        ax.set_ylabel(r"volume expansion (10$^{-6}$/K)")
        return ax

    def plot_free_energies(self, ax: Axes | None = None, curves: int = 6) -> Axes:
        """Draw free energies against the volume for some temperatures, and where their minima lie."""
        ax = plots.axes(ax)
        chosen = np.linspace(0, len(self.temperatures) - 1, min(curves, len(self.temperatures))).round().astype(int)
        for index, color in zip(chosen, plots.colors() * 9, strict=False):
            label = f"{self.temperatures[index]:g} K"
            ax.plot(self.scan_volumes, self.helmholtz[index], "o-", color=color, label=label)
        minima = self.gibbs - self.pressure * GPa * self.volumes
        ax.plot(self.volumes, minima, color=plots.COLORS["black"], linestyle="--", label="equilibrium")
        ax.set_xlabel("volume (Å³)")
        ax.set_ylabel("free energy (eV)")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return ax

    def write(self, folder: str | Path) -> list[Path]:
        """Write what every result writes, the picture of free energies, and a table over temperature."""
        base = Path(folder)
        columns = {
            "temperature_k": self.temperatures.tolist(),
            "volume_angstrom3": self.volumes.tolist(),
            "gibbs_ev": self.gibbs.tolist(),
            "bulk_modulus_gpa": self.bulk_moduli.tolist(),
            "thermal_expansion_per_k": self.thermal_expansion.tolist(),
            "heat_capacity_p_ev_per_k": self.heat_capacities.tolist(),
            "gruneisen": self.gruneisen.tolist(),
        }
        pictures = plots.save(self.plot_free_energies, base / "free-energies")
        return [*super().write(base), *pictures, write_csv(base / "quasi-harmonic.csv", columns)]


def quasi_harmonic(  # noqa: PLR0913  # the choices of a calculation
    atoms: Atoms,
    *,
    volumes: Sequence[float] = VOLUMES,
    temperatures: Sequence[float] | np.ndarray = TEMPERATURES,
    pressure: float = 0.0,
    eos: str = "vinet",
    supercell: Sequence[int] | np.ndarray | None = None,
    min_length: float = 10.0,
    relax_first: RelaxFirst = "full",
    fmax: float = 1e-4,
    source: Source = "auto",
    distance: float = 0.01,
    symprec: float = 1e-5,
    mesh: float = 100.0,
) -> QuasiHarmonic:
    """Return properties of the crystal `atoms` over temperature; `atoms` is left as it was.

    Phonons at several volumes add their free energies to the static energy; at every temperature an equation of state
    through the sum gives volume, Gibbs energy and bulk modulus.

    Parameters
    ----------
    volumes
        Multiples of the volume at rest, five at least; they have to enclose the volumes of all temperatures.
    temperatures
        In K, ascending; the expansion is their difference quotient.
    pressure
        In GPa.
    eos
        ASE's name of an equation of state: ``vinet``, ``birchmurnaghan``, ...
    mesh
        q-points lie 2π / `mesh` apart, in Å.
    atoms, supercell, min_length, relax_first, fmax, source, distance, symprec
        As for `phonons`. At every volume shape and positions relax, unless ``relax_first="none"``.

    Raises
    ------
    ValueError
        If the scan of volumes has fewer than five points or does not reach; as `phonons` besides.
    ModuleNotFoundError
        Without phonopy.
    """
    ratios, kelvin = sorted(map(float, volumes)), np.array(temperatures, dtype=float)
    if len(ratios) < 5 or ratios[0] <= 0:
        raise ValueError(f"a scan takes at least five multiples of the volume, found {list(volumes)}")
    if len(kelvin) < 3 or (np.diff(kelvin) <= 0).any() or kelvin[0] < 0:
        raise ValueError("temperatures should be at least three, ascending and not negative, in K")
    resting, _ = crystal_at_rest(atoms, relax_first, fmax)
    crystals = at_volumes(resting, ratios, relax_first=relax_first, fmax=fmax)
    matrix = supercell_matrix(resting, supercell, min_length).T
    phonons = [bridge().make(crystal, matrix, symprec) for crystal in crystals]
    add_force_constants(phonons, atoms.calc, choose_source(atoms.calc, source), distance)
    share = len(phonons[0].primitive) / len(resting)
    energies = [results["energy"] * share for results in evaluate(crystals, atoms.calc, ["energy"])]
    settings = {"relax_first": relax_first, "fmax": fmax, "eos": eos, "distance": distance, "mesh": mesh}
    return _combine(
        np.array([phonon.primitive.volume for phonon in phonons]),
        np.array(energies),
        [bridge().thermal(phonon, mesh, kelvin) for phonon in phonons],
        lowest=np.array([bridge().mesh(phonon, mesh)[2].min() for phonon in phonons]),
        pressure=pressure,
        eos=eos,
        provenance=provenance_of(atoms.calc, **settings),
    )


def _combine(  # noqa: PLR0913  # what was calculated
    volumes: np.ndarray,
    energies: np.ndarray,
    thermals: Sequence[Thermal],
    *,
    lowest: np.ndarray,
    pressure: float,
    eos: str,
    provenance: dict[str, Any],
) -> QuasiHarmonic:
    """Minimize the Gibbs energy at every temperature."""
    kelvin = thermals[0].temperatures
    helmholtz = energies + np.array([thermal.free_energy for thermal in thermals]).T
    fits = [
        _minimum(volumes, row + pressure * GPa * volumes, eos, f"{temperature:g} K")
        for temperature, row in zip(kelvin, helmholtz, strict=True)
    ]
    at_rest, gibbs, moduli = np.array(fits).T
    expansion = np.gradient(at_rest, kelvin, edge_order=2) / at_rest
    expansion[kelvin == 0] = 0.0  # the third law; a one-sided difference quotient would miss it
    capacities = np.array([thermal.heat_capacity for thermal in thermals])  # (V, T)
    fixed = np.array(
        [
            np.polyval(np.polyfit(volumes / volumes.mean(), column, 2), volume / volumes.mean())
            for column, volume in zip(capacities.T, at_rest, strict=True)
        ]
    )
    static = _minimum(volumes, energies, eos, "rest")
    with np.errstate(invalid="ignore", divide="ignore"):
        parameter = np.where(fixed > 0, expansion * moduli * at_rest / fixed, np.nan)
    return QuasiHarmonic(
        pressure=pressure,
        scan_volumes=volumes,
        static_energies=energies,
        lowest_frequencies=lowest,
        helmholtz=helmholtz,
        temperatures=kelvin,
        volumes=at_rest,
        gibbs=gibbs,
        bulk_moduli=moduli / GPa,
        thermal_expansion=expansion,
        heat_capacities=fixed + expansion**2 * moduli * at_rest * kelvin,
        gruneisen=parameter,
        static_volume=float(static[0]),
        static_bulk_modulus=float(static[2]) / GPa,
        provenance=provenance,
    )


def _minimum(volumes: np.ndarray, energies: np.ndarray, eos: str, where: str) -> tuple[float, float, float]:
    """Volume (Å³), energy (eV) and bulk modulus (eV/Å³) at the minimum of an equation of state through the points."""
    try:
        volume, energy, modulus = EquationOfState(volumes, energies, eos=eos).fit(warn=False)
    except (ValueError, RuntimeError):
        volume, energy, modulus = np.nan, np.nan, np.nan
    if not volumes[0] <= volume <= volumes[-1]:
        found = f"found {volume:.3f}" if np.isfinite(volume) else f"no {eos} curve goes through the points"
        raise ValueError(
            f"at {where} the crystal has no minimum between {volumes[0]:.3f} and {volumes[-1]:.3f} Å³ per primitive "
            f"cell ({found}); widen the scan of volumes or stay at lower temperatures and pressures"
        )
    return float(volume), float(energy), float(modulus)

"""Uncertainties of many structures in one table, per structure and per atom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms

from ..interfaces.rigidity import NAMES, ON_REQUEST
from ..workflows import plots
from ..workflows.files import write_csv
from ..workflows.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OF_ATOMS = (*NAMES[1:], ON_REQUEST)  # names of results with a value for each atom
UNITS = {"energy_uncertainty": "eV", "energies_uncertainty": "eV", ON_REQUEST: "eV/Å"}
USUAL, UNUSUAL, UNKNOWN = "usual", "unusual", "unknown"  # below what warns, below what stops, above


@dataclass(frozen=True, eq=False, kw_only=True)
class Uncertainties(Result):
    """How far a model trusts itself; letters in shapes: S structures, N atoms of one of them.

    Attributes
    ----------
    names
        Of the structures.
    symbols
        Elements of their atoms.
    energy
        Standard deviation of the energies, (S,) eV.
    atoms
        By name of the result, an array for each structure: ``energies_uncertainty`` (N,) eV,
        ``representation_distance`` (N,) in units of what is usual, ``forces_uncertainty`` (N, 3) eV/Å if known.
    thresholds
        By name of a result, where its largest value warns and where it stops.
    quality
        How actual errors of energies compare with these, where labels are known; see `quality.Quality`.
    """

    name: ClassVar[str] = "uncertainty"

    names: tuple[str, ...]
    symbols: tuple[tuple[str, ...], ...]
    energy: np.ndarray
    atoms: dict[str, tuple[np.ndarray, ...]]
    thresholds: dict[str, tuple[float, float]]
    quality: dict[str, float] | None = None

    def largest(self, name: str) -> np.ndarray:
        """Largest value of any atom, (S,); of forces the norm."""
        sizes = [np.linalg.norm(v, axis=1) if v.ndim > 1 else v for v in self.atoms[name]]
        return np.array([float(size.max(initial=0.0)) for size in sizes])

    def judge(self) -> list[str]:
        """`USUAL`, `UNUSUAL` or `UNKNOWN` for each structure, by the thresholds of the calibration."""
        level = np.zeros(len(self.names), int)
        for name, (warn, stop) in self.thresholds.items():
            value = self.largest(name)
            level = np.maximum(level, (~(value <= warn)).astype(int) + ~(value <= stop))
        return [(USUAL, UNUSUAL, UNKNOWN)[found] for found in level]

    def columns(self) -> dict[str, list[Any]]:
        """Of a table with a row for each structure."""
        found: dict[str, list[Any]] = {"energy uncertainty / eV": self.energy.tolist()}
        for name in self.atoms:
            unit = f" / {UNITS[name]}" if name in UNITS else ""
            found[f"largest {name.replace('_', ' ')}{unit}"] = self.largest(name).tolist()
        return found | {"environments": self.judge()}

    def to_dict(self) -> dict[str, Any]:
        """One entry for each structure, with what is known of its atoms."""
        data = super().to_dict()
        for field in ("names", "symbols", "energy", "atoms"):
            del data[field]
        judged = self.judge()
        data["structures"] = [
            {"structure": name, "environments": judged[row], "energy_uncertainty": float(self.energy[row])}
            | {"symbols": list(self.symbols[row])}
            | {kind: values[row].tolist() for kind, values in self.atoms.items()}
            for row, name in enumerate(self.names)
        ]
        return data | {"units": UNITS}

    def write(self, folder: str | Path) -> list[Path]:
        """Write what every result writes, and a table with a row for each atom."""
        sizes = [len(symbols) for symbols in self.symbols]
        table: dict[str, Sequence[Any]] = {
            "structure": [_quoted(n) for n, size in zip(self.names, sizes, strict=True) for _ in range(size)],
            "atom": [index for size in sizes for index in range(size)],
            "element": [symbol for symbols in self.symbols for symbol in symbols],
        }
        for name, values in self.atoms.items():
            rows = np.concatenate(values)
            if rows.ndim == 1:
                table[name] = rows.tolist()
            else:
                table |= {f"{name}_{axis}": rows[:, k].tolist() for k, axis in enumerate("xyz")}
        return [*super().write(folder), write_csv(Path(folder) / "uncertainty.csv", table)]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the uncertainty of every atom's energy against its distance to known environments."""
        ax = plots.axes(ax)
        distances, energies = (np.concatenate(self.atoms[name]) for name in (NAMES[2], NAMES[1]))
        shown = np.isfinite(distances)
        ax.plot(distances[shown], energies[shown], ".", color=plots.COLORS["blue"], ms=4, alpha=0.6, mew=0)
        for name, mark in ((NAMES[2], ax.axvline), (NAMES[1], ax.axhline)):
            for value, style in zip(self.thresholds.get(name, ()), ("--", "-"), strict=False):
                mark(value, color=plots.COLORS["gray"], lw=0.8, ls=style)
        ax.set(xlabel="distance to known environments (1: usual)", ylabel="uncertainty of an atom's energy (eV)")
        return ax


def uncertainties(
    names: Sequence[str],
    structures: Sequence[Atoms],
    results: Sequence[Mapping[str, Any]],
    thresholds: Mapping[str, tuple[float, float]],
    provenance: dict[str, Any],
) -> Uncertainties:
    """What a calculator with ``uncertainty=True`` said of structures, as one result.

    Parameters
    ----------
    results
        As `DPA2Calculator.evaluate` gives them, with ``energy_uncertainty`` and its companions among them.
    thresholds
        Of the calibration.
    """
    known = [name for name in OF_ATOMS if results and name in results[0]]
    return Uncertainties(
        names=tuple(names),
        symbols=tuple(tuple(atoms.get_chemical_symbols()) for atoms in structures),
        energy=np.array([float(found["energy_uncertainty"]) for found in results]),
        atoms={name: tuple(np.asarray(found[name], dtype=float) for found in results) for name in known},
        thresholds=dict(thresholds),
        provenance=provenance,
    )


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"\n') else text

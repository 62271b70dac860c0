"""How frequencies of a crystal change with its volume: mode Grüneisen parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.units import _e, _hplanck, kB

from . import plots
from .at_rest import all_at_rest
from .phonon_results import Bands
from .phonons import RelaxFirst, Source, add_force_constants, bridge, choose_source, crystal_at_rest, supercell_matrix
from .results import Result, provenance_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THZ = _hplanck * 1e12 / _e  # eV, energy of a quantum of 1 THz
STILL = 0.01  # THz; below, modes are translations and have no parameter
DEGENERATE = 1e-4  # THz


@dataclass(frozen=True, eq=False)
class Gruneisen(Result):
    r"""Mode Grüneisen parameters, :math:`\gamma = -\partial \ln \omega / \partial \ln V`.

    Letters in shapes: Q q-points of the mesh, K of the bands, B branches. Translations at Γ have NaN.
    """

    name: ClassVar[str] = "gruneisen"

    volumes: np.ndarray  # (3,) Å³ of the primitive cell: compressed, at rest, expanded
    qpoints: np.ndarray  # (Q, 3), irreducible
    weights: np.ndarray  # (Q,)
    frequencies: np.ndarray  # (Q, B) THz
    parameters: np.ndarray  # (Q, B)
    bands: Bands
    band_parameters: np.ndarray  # (K, B)

    def average(self, temperatures: Sequence[float] | np.ndarray) -> np.ndarray:
        """Parameter (T,) of the crystal at temperatures in K: mean over modes, weighted by their heat capacities."""
        real = np.isfinite(self.parameters) & (self.frequencies > STILL)
        weights = np.where(real, self.weights[:, None], 0.0)
        energy = THZ * np.where(real, self.frequencies, 1.0)
        values = []
        for temperature in np.maximum(np.asarray(temperatures, dtype=float), 1e-3):
            half = np.minimum(energy / (2 * kB * temperature), 300.0)
            capacity = weights * (half / np.sinh(half)) ** 2
            values.append((capacity * np.where(real, self.parameters, 0.0)).sum() / max(capacity.sum(), 1e-300))
        return np.array(values)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the parameters of all modes of the mesh against their frequencies."""
        ax = plots.axes(ax)
        ax.plot(self.frequencies.ravel(), self.parameters.ravel(), ".", color=plots.COLORS["blue"], markersize=3)
        ax.axhline(0.0, color=plots.COLORS["gray"], linewidth=0.8)
        ax.set_xlabel("frequency (THz)")
        ax.set_ylabel("Grüneisen parameter")
        return ax


def gruneisen(  # noqa: PLR0913  # the choices of a calculation
    atoms: Atoms,
    *,
    strain: float = 0.01,
    supercell: Sequence[int] | np.ndarray | None = None,
    min_length: float = 10.0,
    relax_first: RelaxFirst = "full",
    fmax: float = 1e-4,
    source: Source = "auto",
    distance: float = 0.01,
    symprec: float = 1e-5,
    mesh: float = 60.0,
    points: int = 51,
) -> Gruneisen:
    """Return mode Grüneisen parameters of the crystal `atoms`, which is left as it was.

    The derivative is central, between two volumes. Degenerate modes are told apart by how the change of volume splits
    them.

    Parameters
    ----------
    strain
        Relative change of volume, up and down.
    mesh
        q-points lie 2π / `mesh` apart, in Å.
    points
        On the longest line of the bands.
    atoms, supercell, min_length, relax_first, fmax, source, distance, symprec
        As for `phonons`. At the other volumes positions and shape relax too, unless ``relax_first="none"``.

    Raises
    ------
    ValueError, ModuleNotFoundError
        As `phonons`.
    """
    if not 0 < strain < 0.2:
        raise ValueError(f"strain should be between 0 and 0.2 of the volume, found {strain}")
    resting, _ = crystal_at_rest(atoms, relax_first, fmax)
    crystals = at_volumes(resting, [1 - strain, 1.0, 1 + strain], relax_first=relax_first, fmax=fmax)
    matrix = supercell_matrix(resting, supercell, min_length).T
    phonons = [bridge().make(crystal, matrix, symprec) for crystal in crystals]
    add_force_constants(phonons, atoms.calc, choose_source(atoms.calc, source), distance)
    qpoints, weights, _ = bridge().mesh(phonons[1], mesh)
    bands = bridge().bands(phonons[1], points)
    frequencies, parameters = _parameters(phonons, qpoints)
    return Gruneisen(
        volumes=np.array([phonon.primitive.volume for phonon in phonons]),
        qpoints=qpoints,
        weights=weights,
        frequencies=frequencies,
        parameters=parameters,
        bands=bands,
        band_parameters=_parameters(phonons, bands.qpoints)[1],
        provenance=provenance_of(atoms.calc, strain=strain, relax_first=relax_first, fmax=fmax, distance=distance),
    )


def at_volumes(resting: Atoms, ratios: Sequence[float], *, relax_first: RelaxFirst, fmax: float) -> list[Atoms]:
    """Copies of a crystal at multiples of its volume, with relaxed shape and positions; one batch per step."""
    scaled = []
    for ratio in ratios:
        scaled.append(resting.copy())
        scaled[-1].set_cell(resting.cell * ratio ** (1 / 3), scale_atoms=True)
    if relax_first == "none":
        return scaled
    cell: Any = "shape" if relax_first in ("full", "shape") else False
    names = [f"the crystal at {ratio:g} times its volume" for ratio in ratios]
    runs = all_at_rest(scaled, names, resting.calc, fmax=fmax, cell=cell, symmetry=True, optimizer="bfgs")
    return [run.atoms for run in runs]


def _parameters(phonons: Sequence[Any], qpoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Frequencies (Q, B) and :math:`\gamma = -\frac{V}{2 \omega^2} e^\dagger \frac{\Delta D}{\Delta V} e` (Q, B)."""
    smaller, resting, larger = phonons
    change = bridge().dynamical_matrices(larger, qpoints) - bridge().dynamical_matrices(smaller, qpoints)
    change *= resting.primitive.volume / (larger.primitive.volume - smaller.primitive.volume)
    frequencies = bridge().frequencies(resting, qpoints)
    parameters = np.full(frequencies.shape, np.nan)
    for q, matrix in enumerate(bridge().dynamical_matrices(resting, qpoints)):
        squares, modes = np.linalg.eigh(matrix)
        edges = np.flatnonzero(np.diff(frequencies[q]) > DEGENERATE) + 1
        for group in np.split(np.arange(len(squares)), edges):
            if (np.abs(frequencies[q, group]) > STILL).all():
                within = modes[:, group].conj().T @ change[q] @ modes[:, group]
                parameters[q, group] = -np.linalg.eigvalsh(within) / (2 * squares[group])
    return frequencies, parameters

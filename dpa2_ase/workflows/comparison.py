"""Several calculators on the same structures, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.units import GPa

from . import plots
from .batch import evaluate
from .eos import eos as fit_eos
from .relax_many import relax_many
from .results import Result, describe_calculator, provenance_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(Result):
    """What calculators say of structures; letters in shapes: M calculators, S structures.

    Attributes
    ----------
    models
        Names of the calculators, (M).
    names
        Of the structures, (S).
    references
        For every structure, the index of the first one of the same composition; relative energies count from it.
    energies
        eV/atom, (M, S); those of different calculators may count from different zeros.
    relative
        Energies above that of the reference, meV/atom, (M, S); these compare.
    force_differences
        Root mean square difference of all force components of two calculators, meV/Å, (M, M).
    largest_differences
        Largest length of the difference of two forces on one atom, meV/Å, (M, M).
    pressures
        GPa, (M, S); NaN for molecules.
    relaxed_volumes, relaxed_relative
        Å³/atom and meV/atom after each calculator relaxed the structures, (M, S); empty unless asked for. Volumes of
        structures that are not periodic in three directions are NaN.
    eos_volumes, bulk_moduli
        Å³/atom and GPa of equations of state, (M, S); as above.
    """

    name: ClassVar[str] = "comparison"

    models: tuple[str, ...]
    names: tuple[str, ...]
    references: tuple[int, ...]
    energies: np.ndarray
    relative: np.ndarray
    force_differences: np.ndarray
    largest_differences: np.ndarray
    pressures: np.ndarray
    relaxed_volumes: np.ndarray
    relaxed_relative: np.ndarray
    eos_volumes: np.ndarray
    bulk_moduli: np.ndarray

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw force differences of all pairs as a table; without given axes, relative energies beside it if any."""
        if ax is not None:
            return self._plot_forces(ax)
        if not self.relative.any():
            return self._plot_forces(plots.axes(None, (4.6, 4.0)))
        left, right = plots.subplots(1, 2, (8.4, 3.8))
        markers = "osD^vP*X"
        for index, (model, row) in enumerate(zip(self.models, self.relative, strict=True)):
            color, marker = plots.colors()[index % 8], markers[index % 8]
            right.plot(row, linestyle="none", marker=marker, color=color, label=model, alpha=0.8)
        right.set_xticks(range(len(self.names)), self.names, rotation=60, ha="right", fontsize=8)
        right.set_ylabel("energy above the first (meV/atom)")
        right.legend()
        self._plot_forces(left)
        return left

    def _plot_forces(self, ax: Axes) -> Axes:
        size = max(float(self.force_differences.max()), 1e-12)
        ax.imshow(self.force_differences, cmap="Blues", vmin=0.0, vmax=size)
        for i, j in np.ndindex(self.force_differences.shape):
            color = "white" if self.force_differences[i, j] > 0.6 * size else "black"
            ax.text(j, i, f"{self.force_differences[i, j]:.3g}", ha="center", va="center", fontsize=9, color=color)
        ax.set_xticks(range(len(self.models)), self.models, rotation=30, ha="right")
        ax.set_yticks(range(len(self.models)), self.models)
        ax.grid(False)
        ax.set_title("difference of forces, RMS (meV/Å)")
        return ax


def compare(  # noqa: PLR0913  # the choices of a comparison
    structures: Sequence[Atoms],
    calculators: Mapping[str, Any],
    *,
    names: Sequence[str] | None = None,
    relax: bool = False,
    eos: bool = False,
    fmax: float = 0.01,
    on_model: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare calculators on structures, which are left as they were.

    Parameters
    ----------
    structures
        Any sizes and compositions; calculators they may have are not used.
    calculators
        By the names they shall have.
    names
        Of the structures; by default their formulas.
    relax
        Let every calculator relax the structures as well, crystals with their cells.
    eos
        Let every calculator have an equation of state of every crystal, at fixed shape and positions.
    fmax
        Of relaxations, eV/Å.
    on_model
        Called with the name of a calculator before its turn.

    Raises
    ------
    ValueError
        Without structures or calculators, or if an equation of state finds no minimum.
    """
    frames = [atoms.copy() for atoms in structures]
    if not frames or not calculators:
        raise ValueError("a comparison takes one structure and one calculator at least")
    references = _references(frames)
    sizes = np.array([len(atoms) for atoms in frames])
    energies, forces, pressures = [], [], []
    relaxed: list[np.ndarray] = []
    equations: list[np.ndarray] = []
    for model, calc in calculators.items():
        if on_model is not None:
            on_model(model)
        found = evaluate(frames, calc, ["energy", "forces", "stress"], optional=["stress"])
        energies.append([row["energy"] for row in found] / sizes)
        forces.append(np.concatenate([row["forces"] for row in found]))
        pressures.append([-row["stress"][:3].mean() / GPa if "stress" in row else np.nan for row in found])
        if relax:
            relaxed.append(_relaxed(frames, calc, fmax))
        if eos:
            equations.append(np.array([_equation(atoms, calc) for atoms in frames]))
    nothing = np.zeros((len(calculators), 0))
    energy, differences = np.array(energies), np.array(forces)[:, None] - np.array(forces)[None]  # (M, M, N, 3)
    return Comparison(
        models=tuple(calculators),
        names=tuple(names if names is not None else [atoms.get_chemical_formula() for atoms in frames]),
        references=references,
        energies=energy,
        relative=1000 * (energy - energy[:, list(references)]),
        force_differences=1000 * np.sqrt((differences**2).mean(axis=(2, 3))),
        largest_differences=1000 * np.linalg.norm(differences, axis=3).max(axis=2),
        pressures=np.array(pressures, dtype=float),
        relaxed_volumes=np.array([pair[0] for pair in relaxed]) if relax else nothing,
        relaxed_relative=np.array([1000 * (p[1] - p[1][list(references)]) for p in relaxed]) if relax else nothing,
        eos_volumes=np.array([pair[:, 0] for pair in equations]) if eos else nothing,
        bulk_moduli=np.array([pair[:, 1] for pair in equations]) if eos else nothing,
        provenance=provenance_of(next(iter(calculators.values())), relax=relax, eos=eos, fmax=fmax)
        | {"calculators": {name: describe_calculator(calc) for name, calc in calculators.items()}},
    )


def _references(frames: Sequence[Atoms]) -> tuple[int, ...]:
    first: dict[str, int] = {}
    formulas = [atoms.symbols.formula.reduce()[0].format("hill") for atoms in frames]
    return tuple(first.setdefault(formula, index) for index, formula in enumerate(formulas))


def _relaxed(frames: Sequence[Atoms], calc: Any, fmax: float) -> np.ndarray:
    """Volume (Å³/atom, NaN for what is no crystal) and energy (eV/atom) of relaxed structures, (2, S)."""
    result = np.full((2, len(frames)), np.nan)
    for cell in (True, False):
        chosen = [index for index, atoms in enumerate(frames) if bool(atoms.pbc.all()) == cell]
        runs = relax_many([frames[index] for index in chosen], calc, fmax=fmax, cell=cell)
        for index, run in zip(chosen, runs, strict=True):
            if run.converged:
                size = len(run.atoms)
                result[:, index] = run.atoms.get_volume() / size if cell else np.nan, run.final.energy / size
    return result


def _equation(atoms: Atoms, calc: Any) -> tuple[float, float]:
    """Volume (Å³/atom) and bulk modulus (GPa) at the minimum of the energy; NaN for what is no crystal."""
    if not atoms.pbc.all():
        return np.nan, np.nan
    own = atoms.copy()
    own.calc = calc
    found = fit_eos(own, points=7).fit
    return found.v0 / len(atoms), found.b0

"""Elastic constants from stresses of strained cells, or from second derivatives of the energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.units import GPa

from . import plots
from .analysis import GRAMS_PER_CM3
from .at_rest import all_at_rest, at_rest
from .batch import evaluate
from .elastic_derivatives import has_derivatives, tensors_by_derivatives
from .moduli import Moduli, moduli_of, stability
from .results import Result, provenance_of, with_calculator
from .strains import invariant_basis, needed_strains, point_group, strained

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Source = Literal["auto", "derivatives", "stress"]
STEPS = (-1.0, -0.5, 0.5, 1.0)  # parts of the largest strain; the structure itself is the fifth point


@dataclass(frozen=True, eq=False, kw_only=True)
class Elastic(Result):
    """Elastic constants of a crystal.

    Attributes
    ----------
    tensor
        Shape (6, 6), GPa, in Voigt's order xx, yy, zz, yz, xz, xy and the axes of `atoms`; with relaxed positions
        unless that was declined.
    error
        Of `tensor`, shape (6, 6), GPa: standard errors by the scatter around the fits of stresses; of derivatives what
        symmetry took away.
    clamped
        The same tensor with atoms that follow the strain, shape (6, 6), GPa.
    independent
        Number of independent constants by symmetry.
    source
        ``derivatives`` or ``stress``.
    strains
        The unit strains that were applied, 0 to 5 in Voigt's order.
    eigenvalues
        Of the tensor, GPa, ascending; see `dpa2_ase.workflows.moduli.stability`.
    stable
        Born's conditions: all eigenvalues are positive.
    moduli
        Averages for polycrystals, Debye temperature.
    pressure
        Of the structure that was strained, GPa; the constants are those of stress against strain there.
    atoms
        That structure.
    """

    name: ClassVar[str] = "elastic"

    tensor: np.ndarray
    error: np.ndarray
    clamped: np.ndarray
    independent: int
    source: str
    strains: tuple[int, ...]
    eigenvalues: np.ndarray
    stable: bool
    moduli: Moduli
    pressure: float
    atoms: Atoms

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the tensor as a table of numbers, colored by size."""
        ax = plots.axes(ax, (4.6, 4.2))
        size = np.abs(self.tensor).max()
        ax.imshow(self.tensor, cmap="RdBu", vmin=-size, vmax=size)
        for i, j in np.ndindex(6, 6):
            color = "white" if abs(self.tensor[i, j]) > 0.6 * size else "black"
            text = f"{self.tensor[i, j]:.1f}" if abs(self.tensor[i, j]) > 1e-4 * size else "0"
            ax.text(j, i, text, ha="center", va="center", fontsize=9, color=color)
        labels = ("xx", "yy", "zz", "yz", "xz", "xy")
        ax.set(xticks=range(6), yticks=range(6), xticklabels=labels, yticklabels=labels)
        ax.grid(False)
        ax.set_title(
            f"elastic constants (GPa); K = {self.moduli.bulk_hill:.1f}, G = {self.moduli.shear_hill:.1f} GPa (Hill)"
        )
        return ax


def elastic(  # noqa: PLR0913  # the choices of the method
    atoms: Atoms,
    *,
    source: Source = "auto",
    strain: float = 0.005,
    relax_first: bool = True,
    relax_positions: bool = True,
    fmax: float = 1e-4,
    symmetry: bool = True,
    symmetry_tolerance: float = 1e-3,
    max_steps: int = 1000,
    on_result: Callable[[int, int], None] | None = None,
) -> Elastic:
    """Elastic constants of a crystal; the input is left as it was.

    By stresses, only the strains that symmetry does not repeat are applied, each in four steps; stresses are fitted by
    parabolas, and all slopes together by the tensors that symmetry allows.

    Parameters
    ----------
    atoms
        A crystal with a calculator that has stresses.
    source
        ``stress``: of strained cells, with any calculator. ``derivatives``: second derivatives of the energy by strain
        and position, without strained cells and their relaxations, where the calculator has
        ``get_strain_derivatives(atoms)`` and ``get_hessian(atoms)``. ``auto``: the second if it can.
    strain
        The largest one, without unit; for ``stress``.
    relax_first
        Relax positions and cell to `fmax` before; a cell under stress has other constants.
    relax_positions
        Relax the positions in every strained cell; otherwise they follow the strain (``clamped``).
    fmax
        Convergence in eV/Å; loose relaxations are the commonest error here.
    symmetry
        Use the crystal's symmetry, found by spglib to `symmetry_tolerance` (Å); otherwise 21 constants are fitted.
    max_steps
        Of relaxations.
    on_result
        Called with the number of clamped stresses done and their total.

    Raises
    ------
    ValueError
        Without a full lattice, or when a relaxation does not converge.
    """
    if not 0 < strain < 0.1:
        raise ValueError(f"strain should be between 0 and 0.1, found {strain}")
    if not atoms.pbc.all():
        raise ValueError(f"elastic constants need three periodic directions, found pbc={atoms.pbc.tolist()}")
    start = with_calculator(atoms)
    chosen_source = _choose_source(start, source)
    if relax_first:
        start = at_rest(start, cell=True, fmax=fmax, max_steps=max_steps)
    rotations = point_group(start, symmetry_tolerance) if symmetry else np.eye(3)[None]
    basis = invariant_basis(rotations)
    if chosen_source == "derivatives":
        chosen: tuple[int, ...] = tuple(range(6))
        tensor, clamped, error = tensors_by_derivatives(start, atoms.calc, basis, relax_positions=relax_positions)
    else:
        chosen = needed_strains(basis)
        relaxation = {"fmax": fmax, "max_steps": max_steps} if relax_positions else None
        tensor, clamped, error = _tensors_by_stress(start, atoms.calc, basis, chosen, strain, relaxation, on_result)
    volume = start.get_volume()
    density = start.get_masses().sum() / volume * GRAMS_PER_CM3
    eigenvalues = stability(tensor)
    return Elastic(
        tensor=tensor,
        error=error,
        clamped=clamped,
        independent=len(basis),
        source=chosen_source,
        strains=chosen,
        eigenvalues=eigenvalues,
        stable=bool((eigenvalues > 0).all()),
        moduli=moduli_of(tensor, density, len(start) / volume),
        pressure=-float(_stresses([start], atoms.calc, None)[0, :3].mean()),
        atoms=start,
        provenance=provenance_of(
            atoms.calc, source=chosen_source, strain=strain, relax_first=relax_first, relax_positions=relax_positions,
            fmax=fmax, symmetry=symmetry, symmetry_tolerance=symmetry_tolerance,
        ),
    )  # fmt: skip


def _choose_source(atoms: Atoms, source: Source) -> str:
    """``derivatives`` or ``stress``."""
    if source not in ("auto", "derivatives", "stress"):
        raise ValueError(f"source {source!r} is not one of auto, derivatives, stress")
    if source == "auto":
        return "derivatives" if has_derivatives(atoms.calc) and not atoms.constraints else "stress"
    if source == "derivatives" and not has_derivatives(atoms.calc):
        raise ValueError(
            f"{type(atoms.calc).__name__} has no get_strain_derivatives and get_hessian; use source='stress'"
        )
    if source == "derivatives" and atoms.constraints:
        raise ValueError("second derivatives know no constraints; remove them or use source='stress'")
    return source


def _tensors_by_stress(  # noqa: PLR0913  # a private piece of `elastic`
    start: Atoms,
    calc: Any,
    basis: np.ndarray,
    chosen: tuple[int, ...],
    strain: float,
    relaxation: dict[str, Any] | None,
    on_result: Callable[[int, int], None] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tensor, the one of clamped positions, and the error of the former, (6, 6) in GPa."""
    steps = strain * np.array(STEPS)
    structures = [start, *(strained(start, step * np.eye(6)[axis]) for axis in chosen for step in steps)]
    clamped, error = fit_tensor(_stresses(structures, calc, on_result), steps, chosen, basis)
    if relaxation is not None:
        names = [f"the cell strained by {step:+g} along {axis + 1}" for axis in chosen for step in steps]
        runs = all_at_rest(structures[1:], names, calc, optimizer="bfgs", **relaxation)
        if any(run.steps for run in runs):
            relaxed = _stresses([start, *(run.atoms for run in runs)], calc, None)
            tensor, error = fit_tensor(relaxed, steps, chosen, basis)
            return tensor, clamped, error
    return clamped, clamped, error


def _stresses(structures: list[Atoms], calc: Any, on_result: Callable[[int, int], None] | None) -> np.ndarray:
    """In GPa, (S, 6)."""
    results = evaluate(structures, calc, ["stress"], on_result=on_result)
    return np.array([result["stress"] for result in results]) / GPa


def fit_tensor(
    stresses: np.ndarray, steps: np.ndarray, chosen: tuple[int, ...], basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The tensor within `basis` that fits stresses best, and its standard error.

    Parameters
    ----------
    stresses
        Of the structure itself and of every step of every chosen strain, shape (1 + len(chosen)·len(steps), 6).
    steps
        Strains applied.
    chosen
        Which of the six.
    basis
        Allowed tensors, shape (n, 6, 6).

    Returns
    -------
    tensor, error
        Shapes (6, 6), units of the stresses.
    """
    x = np.array([0.0, *steps])
    design = np.vander(x, 3)  # x², x, 1
    rows, slopes, variances = [], [], []
    for number, axis in enumerate(chosen):
        measured = np.vstack([stresses[:1], stresses[1 + number * len(steps) :][: len(steps)]])  # (P, 6)
        fitted, *_ = np.linalg.lstsq(design, measured, rcond=None)
        rest = ((measured - design @ fitted) ** 2).sum(axis=0) / (len(x) - 3)
        slopes.append(fitted[1])
        variances.append(rest * np.linalg.inv(design.T @ design)[1, 1])
        rows.append(basis[:, :, axis].T)  # (6, n)
    matrix, slope = np.vstack(rows), np.concatenate(slopes)
    inverse = np.linalg.pinv(matrix)  # (n, M)
    tensor = np.einsum("n,nij->ij", inverse @ slope, basis)
    covariance = (inverse * np.concatenate(variances)) @ inverse.T
    error = np.sqrt(np.maximum(np.einsum("nij,nm,mij->ij", basis, covariance, basis), 0.0))
    return tensor, error

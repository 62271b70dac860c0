"""Vibrations of molecules and adsorbates, and their thermochemistry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.units import _amu, _c, _e, _hbar

from . import plots
from .at_rest import at_rest
from .batch import evaluate
from .results import Result, provenance_of, with_calculator
from .thermochemistry import Thermochemistry, geometry_of, harmonic, ideal_gas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Method = Literal["auto", "hessian", "displacements"]
FREQUENCY = np.sqrt(_e * 1e20 / _amu)  # rad/s of one sqrt(eV/Å²/u)
RIGID = {"monatomic": 3, "linear": 5, "nonlinear": 6}  # motions of a molecule in open space
WAVENUMBER = FREQUENCY / (2 * np.pi * _c * 100)  # 1/cm of the same
QUANTUM = FREQUENCY * _hbar / _e  # eV of the same


@dataclass(frozen=True, eq=False, kw_only=True)
class Vibrations(Result):
    """Normal modes.

    Attributes
    ----------
    atoms
        The structure they belong to, relaxed unless that was declined.
    energy
        Its potential energy, eV.
    wavenumbers
        Of all vibrations, ascending, shape (M,), 1/cm; imaginary ones are negative. Rigid motions are not among them.
    modes
        Displacements of all atoms in each mode, shape (M, N, 3), of unit norm when weighted by the square root of
        the masses.
    rigid
        Largest wavenumber (1/cm) that the second derivatives gave to the rigid motions before these were taken out;
        far below the vibrations if forces and relaxation are good. Zero where there are none.
    zero_point_energy
        Half a quantum of every real vibration, eV.
    hessian
        Second derivatives of the moving atoms, shape (3F, 3F), eV/Å².
    moving
        Indices of these atoms, shape (F,).
    method
        ``hessian`` of the calculator or ``displacements``.
    thermochemistry
        At every temperature asked for; empty if there are imaginary modes that were not to be left out.
    """

    name: ClassVar[str] = "vibrations"

    atoms: Atoms
    energy: float
    wavenumbers: np.ndarray
    modes: np.ndarray
    rigid: float
    zero_point_energy: float
    hessian: np.ndarray
    moving: np.ndarray
    method: str
    thermochemistry: tuple[Thermochemistry, ...]

    @property
    def imaginary(self) -> np.ndarray:
        """Sizes of the imaginary wavenumbers, 1/cm; a minimum has none, a transition state one."""
        return -self.wavenumbers[self.wavenumbers < 0]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw a line at every wavenumber, imaginary ones to the left of zero."""
        ax = plots.axes(ax, (4.8, 2.4))
        for sign, color, label in ((1, "blue", "real"), (-1, "orange", "imaginary")):
            chosen = self.wavenumbers[np.sign(self.wavenumbers + 1e-12) == sign]
            if len(chosen):
                ax.vlines(chosen, 0, 1, color=plots.COLORS[color], lw=1.6, label=f"{len(chosen)} {label}")
        ax.set(xlabel="wavenumber (1/cm), imaginary ones negative", ylim=(0, 1.25), yticks=[])
        ax.set_title(f"zero-point energy {self.zero_point_energy:.3f} eV")
        if ax.get_legend_handles_labels()[0]:  # an atom has no modes
            ax.legend(loc="upper right", ncols=2)
        return ax


def vibrations(  # noqa: PLR0913  # the choices of the method
    atoms: Atoms,
    *,
    method: Method = "auto",
    delta: float = 0.01,
    relax_first: bool = True,
    fmax: float = 1e-3,
    max_steps: int = 1000,
    temperatures: Sequence[float] = (298.15,),
    pressure: float = 1.0,
    sigma: int | None = None,
    spin: float = 0.0,
    leave_out_imaginary: bool = False,
    on_result: Callable[[int, int], None] | None = None,
) -> Vibrations:
    """Normal modes and thermochemistry; the input is left as it was.

    Translations, and rotations of molecules, are projected out if no atom is fixed. Molecules in open space get the
    thermochemistry of an ideal gas, everything else that of its vibrations alone. Atoms of `FixAtoms` do not move.

    Parameters
    ----------
    atoms
        A structure with a calculator.
    method
        ``hessian`` asks the calculator's ``get_hessian(atoms)`` for (3N, 3N) second derivatives in eV/Å²,
        ``displacements`` takes central differences of forces; ``auto`` the former where it exists.
    delta
        Displacement in Å.
    relax_first, fmax, max_steps
        Relax to `fmax` (eV/Å) before; frequencies away from a stationary point mean nothing.
        Turn it off for a transition state.
    temperatures, pressure, sigma, spin
        K, bar and the molecule's symmetry number (by default found) and spin; see `thermochemistry.ideal_gas`.
    leave_out_imaginary
        Do the thermochemistry with imaginary modes left out, as of a transition state.
    on_result
        Called with the number of displacements done and their total.

    Raises
    ------
    ValueError
        For choices that cannot be, or a relaxation that does not converge.
    """
    if method not in ("auto", "hessian", "displacements"):
        raise ValueError(f"method {method!r} is not one of auto, hessian, displacements")
    if not delta > 0 or any(not temperature > 0 for temperature in temperatures) or not pressure > 0:
        raise ValueError(f"delta (Å), temperatures (K) and pressure (bar) should be positive, found {delta}, "
                         f"{list(temperatures)}, {pressure}")  # fmt: skip
    start = with_calculator(atoms)
    if relax_first:
        start = at_rest(start, cell=False, fmax=fmax, max_steps=max_steps)
    moving = moving_atoms(start)
    chosen = method if method != "auto" else "hessian" if hasattr(atoms.calc, "get_hessian") else "displacements"
    hessian = _hessian(start, atoms.calc, moving, chosen, delta, on_result)
    squares, modes, rigid = normal_modes(start, hessian, moving)
    scale = np.sign(squares) * np.sqrt(np.abs(squares))
    energy, quanta = float(start.get_potential_energy()), scale[scale > 0] * QUANTUM
    thermo: tuple[Thermochemistry, ...] = ()
    if leave_out_imaginary or (scale > 0).all():
        if start.pbc.any() or len(moving) < len(start):
            thermo = tuple(harmonic(quanta, float(t), energy=energy) for t in temperatures)
        else:
            thermo = tuple(
                ideal_gas(start, quanta, float(t), energy=energy, pressure=pressure, sigma=sigma, spin=spin)
                for t in temperatures
            )
    return Vibrations(
        atoms=start,
        energy=energy,
        wavenumbers=scale * WAVENUMBER,
        modes=modes,
        rigid=rigid * WAVENUMBER,
        zero_point_energy=float(quanta.sum() / 2),
        hessian=hessian,
        moving=moving,
        method=chosen,
        thermochemistry=thermo,
        provenance=provenance_of(atoms.calc, method=chosen, delta=delta, fmax=fmax if relax_first else None),
    )


def moving_atoms(atoms: Atoms) -> np.ndarray:
    """Indices of atoms that no `FixAtoms` holds; other constraints are refused, since modes cannot respect them."""
    fixed: set[int] = set()
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise ValueError(f"vibrations know only FixAtoms, found {type(constraint).__name__}; remove it before")
        fixed |= {int(index) for index in constraint.get_indices()}
    if len(fixed) == len(atoms):
        raise ValueError("no atom can move; fix fewer")
    return np.array([index for index in range(len(atoms)) if index not in fixed])


def _hessian(  # noqa: PLR0913  # a private piece of `vibrations`
    atoms: Atoms, calc: Any, moving: np.ndarray, method: str, delta: float, on_result: Callable[[int, int], None] | None
) -> np.ndarray:
    if method == "hessian":
        full = np.asarray(calc.get_hessian(atoms), dtype=float).reshape(3 * len(atoms), 3 * len(atoms))
        rows = (3 * moving[:, None] + np.arange(3)).ravel()
        hessian = full[np.ix_(rows, rows)]
    else:
        structures = []
        for atom in moving:
            for axis in range(3):
                for sign in (1, -1):
                    moved = atoms.copy()
                    moved.positions[atom, axis] += sign * delta
                    structures.append(moved)
        forces = np.array([result["forces"] for result in evaluate(structures, calc, ["forces"], on_result=on_result)])
        hessian = -(forces[::2] - forces[1::2])[:, moving].reshape(3 * len(moving), -1) / (2 * delta)
    return (hessian + hessian.T) / 2


def normal_modes(atoms: Atoms, hessian: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Squared frequencies, displacements, and the largest frequency of what is projected out.

    Parameters
    ----------
    atoms
        Masses and geometry.
    hessian
        Shape (3F, 3F), eV/Å², of the atoms `moving`.
    moving
        Shape (F,).

    Returns
    -------
    squares
        Ascending, shape (M,), eV/Å²/u.
    modes
        Shape (M, N, 3), 1/sqrt(u).
    rigid
        Square root of eV/Å²/u.
    """
    roots = np.sqrt(np.repeat(atoms.get_masses()[moving], 3))
    weighted = hessian / np.outer(roots, roots)
    rigid = _rigid_motions(atoms) if len(moving) == len(atoms) else np.zeros((0, len(roots)))
    left = np.abs(np.linalg.eigvalsh(rigid @ weighted @ rigid.T)).max(initial=0.0)
    _, _, vectors = np.linalg.svd(rigid, full_matrices=True) if len(rigid) else (None, None, np.eye(len(roots)))
    inner = vectors[len(rigid) :]  # (M, 3F), orthogonal to the rigid motions
    squares, mixing = np.linalg.eigh(inner @ weighted @ inner.T)
    modes = np.zeros((len(squares), len(atoms), 3))
    modes[:, moving] = ((mixing.T @ inner) / roots).reshape(len(squares), len(moving), 3)
    return squares, modes, float(np.sqrt(left))


def _rigid_motions(atoms: Atoms) -> np.ndarray:
    """Orthonormal mass-weighted translations, and rotations of molecules, (R, 3N)."""
    roots = np.sqrt(atoms.get_masses())[:, None]
    motions = [(roots * axis).ravel() for axis in np.eye(3)]
    if not atoms.pbc.any():
        arms = atoms.positions - atoms.get_center_of_mass()
        motions += [(roots * np.cross(axis, arms)).ravel() for axis in np.eye(3)]
    _, _, vectors = np.linalg.svd(np.array(motions), full_matrices=False)
    return vectors[: 3 if atoms.pbc.any() else RIGID[geometry_of(atoms)]]

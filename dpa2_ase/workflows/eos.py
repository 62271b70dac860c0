"""Equation of state: energy against volume, all of ASE's forms."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.eos import EquationOfState, eos_names
from ase.units import GPa

from . import plots
from .at_rest import all_at_rest
from .batch import evaluate
from .results import Result, provenance_of, with_calculator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMS = tuple(name for name in eos_names if name != "antonschmidt")  # of older ASE, without the minimum's energy
CENTERED = 0.35  # of the scanned range: a minimum farther from its middle is scanned again around itself
MAX_SCANS = 6

Relaxed = Literal["none", "positions", "shape"]


@dataclass(frozen=True)
class Fit:
    """One form fitted to energies and volumes."""

    v0: float  # Å³
    e0: float  # eV
    b0: float  # GPa, the bulk modulus at v0
    b0_prime: float  # its derivative by pressure, no unit
    residual: float  # eV, root mean square


@dataclass(frozen=True, eq=False, kw_only=True)
class EOS(Result):
    """An equation of state.

    Attributes
    ----------
    form
        The form of `fit`.
    fit
        Volume (Å³) and energy (eV) of the minimum, bulk modulus (GPa) and its pressure derivative.
    fits
        The same of all forms that fit; their spread tells what the choice of a form is worth.
    volumes, energies
        What was calculated, shapes (P,), Å³ and eV, of the whole cell and in the order of the volumes.
    curve_volumes, curve_energies
        The fit on a fine grid, to draw.
    atoms
        The structure scaled to the volume of the minimum, not relaxed there.
    """

    name: ClassVar[str] = "eos"

    form: str
    fit: Fit
    fits: dict[str, Fit]
    volumes: np.ndarray
    energies: np.ndarray
    curve_volumes: np.ndarray
    curve_energies: np.ndarray
    atoms: Atoms

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw energies per atom above the minimum, and the fit."""
        ax, n = plots.axes(ax), len(self.atoms)
        blue, orange = plots.colors()[:2]
        ax.plot(self.curve_volumes / n, (self.curve_energies - self.fit.e0) / n * 1000, color=blue, label=self.form)
        ax.plot(self.volumes / n, (self.energies - self.fit.e0) / n * 1000, "o", color=orange, label="calculated")
        ax.axvline(self.fit.v0 / n, color=plots.COLORS["gray"], lw=0.8, ls="--")
        ax.set(xlabel="volume (Å³/atom)", ylabel="energy above the minimum (meV/atom)")
        ax.set_title(f"V₀ = {self.fit.v0 / n:.3f} Å³/atom, B₀ = {self.fit.b0:.1f} GPa, B₀′ = {self.fit.b0_prime:.2f}")
        ax.legend(loc="upper center")
        return ax


def eos(  # noqa: PLR0913  # the choices of a scan
    atoms: Atoms,
    *,
    form: str = "birchmurnaghan",
    strain: float = 0.06,
    points: int = 11,
    relaxed: Relaxed = "none",
    fmax: float = 0.005,
    on_result: Callable[[int, int], None] | None = None,
) -> EOS:
    """Scan the volume and fit an equation of state; the input is left as it was.

    A scan whose minimum is not near its middle is repeated around the minimum, so that the input need not be near
    equilibrium. All volumes are evaluated as one batch where the calculator can.

    Parameters
    ----------
    atoms
        A structure with three periodic directions and a calculator.
    form
        One of ASE's, `FORMS`.
    strain
        Volumes from V(1 − strain) to V(1 + strain).
    points
        Number of volumes, at least five.
    relaxed
        At every volume: ``none``, the ``positions``, or with them the ``shape`` of the cell.
    fmax
        Convergence of these relaxations in eV/Å.
    on_result
        Called with the number of volumes done and their total, in every scan; not for relaxations.

    Raises
    ------
    ValueError
        For choices that cannot be, or energies without a minimum.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is not one of {list(FORMS)}")
    if not 0 < strain < 0.5 or points < 5:
        raise ValueError(f"strain should be between 0 and 0.5 and points at least 5, found {strain} and {points}")
    if relaxed not in ("none", "positions", "shape"):
        raise ValueError(f"relaxed={relaxed!r} is not one of none, positions, shape")
    if not atoms.pbc.all():
        raise ValueError(f"an equation of state needs three periodic directions, found pbc={atoms.pbc.tolist()}")
    copied = with_calculator(atoms)
    center = copied.get_volume()
    for _ in range(MAX_SCANS):
        volumes = center * np.linspace(1 - strain, 1 + strain, points)
        structures = [scaled(copied, volume) for volume in volumes]
        if relaxed == "none":
            results = evaluate(structures, atoms.calc, ["energy"], on_result=on_result)
            energies = np.array([result["energy"] for result in results])
        else:
            energies = _relaxed_energies(structures, atoms, relaxed, fmax)
        minimum = _rough_minimum(volumes, energies)
        if abs(minimum / center - 1) <= CENTERED * strain:
            break
        center *= np.clip(minimum / center, 1 - strain, 1 + strain)
    else:
        raise ValueError(
            f"no minimum of the energy found after {MAX_SCANS} scans, last around {center:.4g} Å³; relax the cell first"
        )
    found, fits = fit_all(volumes, energies, form)
    fine = np.linspace(volumes[0], volumes[-1], 200)
    return EOS(
        form=form,
        fit=fits[form],
        fits=fits,
        volumes=volumes,
        energies=energies,
        curve_volumes=fine,
        curve_energies=_curve(found, fine) + energies.min(),
        atoms=scaled(copied, fits[form].v0),
        provenance=provenance_of(atoms.calc, form=form, strain=strain, points=points, relaxed=relaxed, fmax=fmax),
    )


def scaled(atoms: Atoms, volume: float) -> Atoms:
    """A copy of `atoms` with its cell and positions scaled to `volume`, in Å³, and its calculator."""
    copied = atoms.copy()
    copied.set_cell(atoms.cell.array * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    copied.calc = atoms.calc
    return copied


def _relaxed_energies(structures: list[Atoms], atoms: Atoms, relaxed: Relaxed, fmax: float) -> np.ndarray:
    names = [f"volume {number} of the scan" for number in range(len(structures))]
    cell = "shape" if relaxed == "shape" else False
    runs = all_at_rest(structures, names, atoms.calc, fmax=fmax, cell=cell)
    return np.array([run.final.energy for run in runs])


def _rough_minimum(volumes: np.ndarray, energies: np.ndarray) -> float:
    """Minimum of a parabola through the lowest points; where there is none, the lowest volume."""
    low = np.argsort(energies)[: max(5, len(volumes) // 2)]
    middle = volumes.mean()
    a, b, _ = np.polyfit(volumes[low] - middle, energies[low], 2)
    return float(middle - b / (2 * a)) if a > 0 else float(volumes[np.argmin(energies)])


def fit_all(volumes: np.ndarray, energies: np.ndarray, form: str) -> tuple[EquationOfState, dict[str, Fit]]:
    """Fit all of ASE's forms to volumes (Å³) and energies (eV); returns ASE's fit of `form` and all numbers.

    Energies are fitted relative to their minimum, since rounding of large total energies would disturb the fit.

    Raises
    ------
    ValueError
        If `form` cannot be fitted; the other ones may fail.
    """
    fits, equations = {}, {}
    lowest = energies.min()
    for name in FORMS:
        equation = EquationOfState(volumes, energies - lowest, eos=name)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):  # of forms that fail
                warnings.simplefilter("ignore")
                v0, e0, b0 = equation.fit()
            if not (volumes[0] < v0 < volumes[-1] and b0 > 0):
                raise ValueError(f"minimum at {v0:.4g} Å³ with a bulk modulus of {b0 / GPa:.4g} GPa")
        except (ValueError, RuntimeError) as error:  # no minimum, no convergence
            if name == form:
                raise ValueError(f"the form {form} does not fit these energies ({error}); try another one") from error
            continue
        residual = float(np.sqrt(np.mean((_curve(equation, volumes) - energies + lowest) ** 2)))
        fits[name] = Fit(float(v0), float(e0 + lowest), float(b0 / GPa), _pressure_derivative(equation), residual)
        equations[name] = equation
    return equations[form], fits


def _curve(equation: EquationOfState, volumes: np.ndarray) -> np.ndarray:
    if equation.eos_string == "sj":
        return equation.fit0(volumes ** (-1 / 3))
    return equation.func(volumes, *equation.eos_parameters)


def _pressure_derivative(equation: EquationOfState) -> float:
    r"""B′ = dB/dP = −1 − V E‴/E″ at the minimum; the parameter itself where the form has it."""
    v0, form = equation.v0, equation.eos_string
    if form == "sj":  # E(t), t = V^(−1/3)
        t = v0 ** (-1 / 3)
        second, third = equation.fit0.deriv(2)(t), equation.fit0.deriv(3)(t)
        return float(3 + t * third / (3 * second))
    if form == "taylor":
        _, beta, alpha, _ = equation.eos_parameters
        return float(-1 - v0 * alpha / beta)
    if form == "p3":
        _, _, c2, c3 = equation.eos_parameters
        return float(-1 - v0 * 6 * c3 / (2 * c2 + 6 * c3 * v0))
    return float(equation.eos_parameters[2])

"""Whether predicted errors are the actual ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from scipy.stats import norm, spearmanr

from ..workflows import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..interfaces.ase import DPA2Calculator

LEVELS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class Quality:
    r"""Actual errors beside predicted standard deviations.

    Attributes
    ----------
    errors, sigmas
        (K,) each, same unit.
    scale
        Root mean square of errors over sigmas: one when errors are as large as predicted, above when they are larger.
    miscalibration
        Area between the part of errors within a Gaussian's central interval and the part that should be, over all
        intervals: 0 is perfect, 0.5 the worst.
    correlation
        Spearman's, of absolute errors with sigmas: whether large errors are where they are predicted. Errors drawn
        from the predicted Gaussians themselves reach far less than one.

    References
    ----------
    K. Tran et al., https://doi.org/10.1088/2632-2153/ab7e1a
    """

    errors: np.ndarray
    sigmas: np.ndarray
    scale: float
    miscalibration: float
    correlation: float

    def numbers(self) -> dict[str, float]:
        """What is said of all errors together, by words for a table."""
        return {
            "errors": len(self.errors),
            "actual / predicted": self.scale,
            "miscalibration": self.miscalibration,
            "correlation": self.correlation,
        }

    def coverage(self) -> np.ndarray:
        """Part of the errors within the central interval of each of `LEVELS`, (101,)."""
        return _coverage(self.errors, self.sigmas)

    def plot(self, ax: Axes | None = None, *, label: str = "", color: str | None = None) -> Axes:
        """Draw absolute errors against sigmas, with one, two and three sigma."""
        ax = plots.axes(ax)
        floor = 1e-3 * float(np.median(self.sigmas))
        shown = np.abs(self.errors).clip(floor)
        ax.loglog(self.sigmas, shown, ".", ms=5, color=color or plots.colors()[0], label=label or None)
        ends = np.array([self.sigmas.min() / 2, self.sigmas.max() * 2])  # sigmas may be nearly alike
        for times, style in ((1, "-"), (2, "--"), (3, ":")):
            ax.plot(ends, times * ends, color=plots.COLORS["gray"], lw=0.8, ls=style, zorder=0)
        ax.set(xlabel="predicted standard deviation", ylabel="absolute error")
        return ax


def quality(errors: np.ndarray, sigmas: np.ndarray) -> Quality:
    """Compare errors (K,) with predicted standard deviations (K,) of the same unit."""
    errors, sigmas = np.asarray(errors, float), np.asarray(sigmas, float)
    if errors.shape != sigmas.shape or not len(errors):
        raise ValueError(f"errors and sigmas should be as many, and some, found {errors.shape} and {sigmas.shape}")
    differs = len(errors) > 2 and np.ptp(sigmas) > 0 and np.ptp(np.abs(errors)) > 0
    return Quality(
        errors=errors,
        sigmas=sigmas,
        scale=float(np.sqrt(np.mean((errors / sigmas) ** 2))),
        miscalibration=float(np.trapezoid(np.abs(_coverage(errors, sigmas) - LEVELS), LEVELS)),
        correlation=float(spearmanr(np.abs(errors), sigmas).statistic) if differs else float("nan"),
    )


def _coverage(errors: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    within = norm.ppf((1 + LEVELS) / 2)  # in units of sigma; infinite for all
    return (np.abs(errors / sigmas)[:, None] <= within).mean(axis=0)


def check_uncertainty(calc: DPA2Calculator, frames: Iterable[Atoms], shifts: dict[str, float] | None = None) -> Quality:
    """Energies per atom (eV) of labelled frames against the uncertainties that `calc` predicts.

    Parameters
    ----------
    calc
        With ``uncertainty=True``, or a committee.
    frames
        With energies as results of their calculators.
    shifts
        Energy of an atom of each element, eV, to be taken off the errors, for labels of another zero.
    """
    structures = list(frames)
    name = "energy_uncertainty" if "energy_uncertainty" in calc.implemented_properties else "energy_std"
    found = calc.evaluate(structures, ["energy", name])
    errors, sigmas = [], []
    for atoms, result in zip(structures, found, strict=True):
        assert atoms.calc is not None  # labelled
        zero = sum((shifts or {}).get(symbol, 0.0) for symbol in atoms.get_chemical_symbols())
        errors.append((result["energy"] - zero - atoms.calc.results["energy"]) / len(atoms))
        sigmas.append(result[name] / len(atoms))
    return quality(np.array(errors), np.array(sigmas))

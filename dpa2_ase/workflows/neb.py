"""Minimum-energy paths by the nudged elastic band, all images evaluated together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic
from ase.mep import NEB
from ase.utils.forcecurve import fit_images

from . import plots
from .files import write_csv, write_structures
from .lockstep import in_lockstep
from .relax import OPTIMIZERS, max_force
from .relax_many import TOGETHER, relax_many
from .results import Result, provenance_of, with_calculator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = ("improvedtangent", "aseneb", "eb", "spline", "string")
INTERPOLATIONS = ("idpp", "linear")
CLIMB_BELOW = 0.5  # eV/Å; climbing from a bad path leads astray


@dataclass(frozen=True, eq=False)
class Band(Result):
    """A path between two minima; M images, ends included."""

    name: ClassVar[str] = "neb"

    images: tuple[Atoms, ...]  # (M), with energies and forces
    converged: bool
    steps: int
    distances: np.ndarray  # (M,) Å along the path
    energies: np.ndarray  # (M,) eV above the first image
    max_forces: np.ndarray  # (M,) eV/Å: of the band on inner images, of the model on the ends
    curve_distances: np.ndarray  # (20 (M - 1) + 1,) Å
    curve_energies: np.ndarray  # eV, piecewise cubic through energies and forces along the path
    barrier: float  # eV, highest point of the curve above the first image
    reverse_barrier: float  # eV, the same above the last image
    reaction_energy: float  # eV, last image less first

    @property
    def highest(self) -> int:
        """Index of the image with the highest energy; after climbing, the saddle point."""
        return int(np.argmax(self.energies))

    def structures(self) -> dict[str, Atoms]:
        """The ends and the highest image."""
        return {"initial": self.images[0], "highest": self.images[self.highest], "final": self.images[-1]}

    def write(self, folder: str | Path) -> list[Path]:
        """Write what every result writes, all images in one file, and the fitted curve as a table."""
        base = Path(folder)
        curve = {"distance_angstrom": self.curve_distances.tolist(), "energy_ev": self.curve_energies.tolist()}
        images = write_structures(base / "neb-images.extxyz", list(self.images))
        return [*super().write(folder), images, write_csv(base / "neb-curve.csv", curve)]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw energies (eV) along the path (Å)."""
        ax = plots.axes(ax)
        ax.plot(self.curve_distances, self.curve_energies, color=plots.COLORS["blue"])
        ax.plot(self.distances, self.energies, "o", color=plots.COLORS["blue"])
        ax.set_xlabel("path (Å)")
        ax.set_ylabel("energy (eV)")
        ax.set_title(f"barrier {self.barrier:.3f} eV, back {self.reverse_barrier:.3f} eV")
        return ax


def neb(  # noqa: PLR0913  # the choices of a band
    initial: Atoms,
    final: Atoms,
    *,
    images: int = 5,
    guess: Sequence[Atoms] | None = None,
    interpolation: str = "idpp",
    method: str = "improvedtangent",
    climb: bool = True,
    spring: float | Sequence[float] = 0.1,
    relax_ends: bool = False,
    fmax: float = 0.05,
    optimizer: str = "fire",
    max_steps: int = 500,
    trajectory: str | Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Band:
    """Return the minimum-energy path from `initial` to `final`; both are left as they were.

    ASE's band and optimizers, with one batch of all inner images per step where the calculator has
    ``evaluate(structures, properties)``. A band that climbs begins to when forces are below 0.5 eV/Å.

    Parameters
    ----------
    initial, final
        Minima with the same atoms in the same order and the same cell; the calculator is that of `initial`.
    images
        Number of inner images.
    guess
        The inner images themselves, in place of an interpolation.
    interpolation
        ``idpp`` (https://doi.org/10.1063/1.4878664) or ``linear``, each atom to the nearest image of its end.
    method
        ``improvedtangent`` (https://doi.org/10.1063/1.1323224), ``aseneb``, ``eb``, ``spline`` or ``string``.
    climb
        Drive the highest image up to the saddle point (https://doi.org/10.1063/1.1329672).
    spring
        Spring constant in eV/Å², or one for each of the ``images + 1`` springs.
    relax_ends
        Relax `initial` and `final` to `fmax` first.
    fmax
        Converged when no atom of an inner image feels a larger force of the band, in eV/Å.
    optimizer
        ``fire``, ``fire2``, ``bfgs`` or ``lbfgs``.
    max_steps
        Stop after so many steps even if not converged.
    trajectory
        File for all images of every step, in ASE's ``.traj`` format; its last inner images are a `guess` to go on with.
    on_step
        Called with the number of the step and the largest force of the band, eV/Å.

    Raises
    ------
    ValueError
        For unknown choices, ends that do not belong together, or no calculator.
    """
    _check(method, interpolation, optimizer)
    if not 0 < fmax < np.inf or max_steps < 0 or (images < 1 and guess is None):
        raise ValueError(
            f"fmax should be positive (eV/Å), images at least 1 and max_steps not negative, "
            f"found {fmax}, {images} and {max_steps}"
        )
    calc = with_calculator(initial).calc
    ends = [initial.copy(), final.copy()]
    if relax_ends:
        runs = relax_many(ends, calc, fmax=fmax, optimizer="bfgs", max_steps=max_steps)
        ends = [run.atoms.copy() for run in runs]
    inner = [ends[0].copy() for _ in range(images)] if guess is None else [atoms.copy() for atoms in guess]
    path = [ends[0], *inner, ends[1]]
    band = NEB(
        path,
        k=spring if isinstance(spring, int | float) else list(spring),
        method=method,
        remove_rotation_and_translation=not initial.pbc.any() and not initial.constraints,
    )
    if guess is None:
        _unwrap([path[0], path[-1]])
        band.interpolate(interpolation, mic=bool(initial.pbc.any()))
    else:
        _unwrap(path)
    in_lockstep(path, calc)
    steps, converged = _optimize(
        band, climb=climb, fmax=fmax, optimizer=optimizer, max_steps=max_steps, on_step=on_step, trajectory=trajectory
    )
    settings = {"method": method, "climb": climb, "spring": spring, "fmax": fmax, "optimizer": optimizer}
    settings |= {"interpolation": None if guess else interpolation, "relax_ends": relax_ends}
    return _measure(band, converged, steps, provenance_of(calc, **settings))


def _check(method: str, interpolation: str, optimizer: str) -> None:
    for name, value, known in (
        ("method", method, METHODS),
        ("interpolation", interpolation, INTERPOLATIONS),
        ("optimizer", optimizer.lower(), TOGETHER),
    ):
        if value not in known:
            raise ValueError(f"{name} {value!r} is not one of {list(known)}")


def _unwrap(path: Sequence[Atoms]) -> None:
    """Shift atoms by lattice vectors such that none jumps from one image to the next."""
    for before, after in pairwise(path):
        if after.pbc.any():
            step, _ = find_mic(after.positions - before.positions, after.cell, after.pbc)
            after.set_positions(before.positions + step, apply_constraint=False)


def _optimize(  # noqa: PLR0913  # as `neb`
    band: NEB,
    *,
    climb: bool,
    fmax: float,
    optimizer: str,
    max_steps: int,
    on_step: Callable[[int, float], None] | None,
    trajectory: str | Path | None,
) -> tuple[int, bool]:
    """Number of steps taken, and whether the band is converged."""
    steps, converged = 0, False
    stages = [(False, max(fmax, CLIMB_BELOW)), (True, fmax)] if climb else [(False, fmax)]
    for band.climb, goal in stages:
        files = {"trajectory": trajectory, "append_trajectory": steps > 0}
        with OPTIMIZERS[optimizer.lower()](band, logfile=None, **files) as run:
            if on_step is not None:
                run.attach(_report, 1, run, steps, on_step)
            converged = bool(run.run(fmax=goal, steps=max_steps - steps))
            steps += run.nsteps
        if not converged:
            break
    return steps, converged


def _report(run: Any, before: int, on_step: Callable[[int, float], None]) -> None:
    forces = np.linalg.norm(run.optimizable.get_gradient().reshape(-1, 3), axis=1)
    on_step(before + run.nsteps, float(forces.max(initial=0.0)))


def _measure(band: NEB, converged: bool, steps: int, provenance: dict[str, Any]) -> Band:
    forces = np.linalg.norm(band.get_forces().reshape(len(band.images) - 2, -1, 3), axis=2).max(axis=1)
    images = []
    for atoms in band.images:
        images.append(atoms.copy())
        images[-1].calc = SinglePointCalculator(images[-1], **atoms.calc.results)
    curve = fit_images(images)
    energies = np.array(curve.energies)
    barrier = float(max(np.max(curve.fit_energies), np.max(energies)))
    return Band(
        images=tuple(images),
        converged=converged,
        steps=steps,
        distances=np.array(curve.path),
        energies=energies,
        max_forces=np.array([max_force(images[0]), *forces, max_force(images[-1])]),
        curve_distances=curve.fit_path,
        curve_energies=curve.fit_energies,
        barrier=barrier,
        reverse_barrier=barrier - float(energies[-1]),
        reaction_energy=float(energies[-1]),
        provenance=provenance,
    )

"""Phonons of crystals, with force constants by displacements or by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from ase import Atoms

from . import plots
from .at_rest import all_at_rest
from .batch import evaluate
from .phonon_results import Bands, DensityOfStates, ImaginaryModes, Thermal
from .relax import Relaxation
from .results import Result, plain, provenance_of, with_calculator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Source = Literal["auto", "derivatives", "displacements"]
RelaxFirst = Literal["full", "volume", "shape", "positions", "none"]
TEMPERATURES = np.arange(0.0, 1001.0, 10.0)


@dataclass(frozen=True, eq=False)
class Phonons(Result):
    """Harmonic vibrations of a crystal; methods compute what is asked for.

    q-points are in units of the reciprocal vectors of `primitive`, frequencies in THz with imaginary ones negative.
    """

    name: ClassVar[str] = "phonons"

    atoms: Atoms  # at rest, with the calculator
    primitive: Atoms
    supercell: np.ndarray  # (3, 3) whole numbers; its rows say how often each vector of `atoms` is repeated
    source: str  # of the force constants: "derivatives" or "displacements"
    n_displacements: int  # displaced supercells or products with the Hessian
    relaxation: Relaxation | None
    phonopy: Any  # the Phonopy object, for everything else that phonopy can do

    @property
    def force_constants(self) -> np.ndarray:
        """Second derivatives of the supercell's energy (N, N, 3, 3), eV/Å², in phonopy's order of atoms."""
        return np.array(self.phonopy.force_constants)

    def frequencies(self, qpoints: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
        """Frequencies (Q, B) in THz at q-points (Q, 3), ascending."""
        return bridge().frequencies(self.phonopy, np.asarray(qpoints, dtype=float))

    def displaced(self, qpoint: Sequence[float], branch: int = 0, amplitude: float = 0.1) -> Atoms:
        """The smallest supercell that holds a mode, displaced along it by at most `amplitude` (Å); no calculator.

        Branches count from zero, the lowest. Relaxed, the displacement along an imaginary mode leads to the structure
        the crystal would rather have.
        """
        return bridge().displaced_along(self.phonopy, np.asarray(qpoint, dtype=float), branch, amplitude)

    @cached_property
    def _bands(self) -> Bands:
        return self.bands()

    @cached_property
    def _dos(self) -> DensityOfStates:
        return self.dos()

    def bands(self, points: int = 101) -> Bands:
        """Bands with group velocities along the special lines of the lattice, `points` on the longest line."""
        return bridge().bands(self.phonopy, points)

    def dos(self, mesh: float = 50.0) -> DensityOfStates:
        """Density of states, total and of every atom; q-points lie 2π / `mesh` apart, in Å."""
        return bridge().density_of_states(self.phonopy, mesh)

    def thermal(self, temperatures: Sequence[float] | np.ndarray = TEMPERATURES, mesh: float = 100.0) -> Thermal:
        """Free energy, entropy and heat capacity at temperatures in K; imaginary modes are left out."""
        return bridge().thermal(self.phonopy, mesh, np.asarray(temperatures, dtype=float))

    def imaginary(self, tolerance: float = 0.05, mesh: float = 60.0) -> ImaginaryModes:
        """Report modes below -`tolerance` (THz), at q-points that fit into the supercell and on a mesh."""
        exact = bridge().commensurate_points(self.phonopy)
        at_exact = self.frequencies(exact)
        qpoints, weights, on_mesh = bridge().mesh(self.phonopy, mesh)
        every, lowest = np.concatenate([exact, qpoints]), np.concatenate([at_exact[:, 0], on_mesh[:, 0]])
        unstable = at_exact[:, 0] < -tolerance
        return ImaginaryModes(
            tolerance=tolerance,
            lowest=float(lowest.min()),
            lowest_qpoint=tuple(map(float, every[lowest.argmin()])),  # type: ignore[arg-type]  # three of them
            exact_qpoints=exact[unstable],
            exact_frequencies=at_exact[unstable, 0],
            fraction=float(weights @ (on_mesh < -tolerance).mean(axis=1) / weights.sum()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Structures, settings, stability, highest frequency, and thermal properties at room temperature."""
        room = self.thermal([300.0])
        summary = {
            "imaginary": self.imaginary(),
            "at_300_kelvin": {name: getattr(room, name)[0] for name in ("free_energy", "entropy", "heat_capacity")},
            "gamma_frequencies": self.frequencies([[0.0, 0.0, 0.0]])[0],
        }
        names = ("atoms", "primitive", "supercell", "source", "n_displacements", "provenance")
        return {"workflow": self.name} | plain({name: getattr(self, name) for name in names} | summary)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the bands, and without given axes the density of states beside them."""
        if ax is not None:
            return self._bands.plot(ax)
        left, right = plots.subplots(1, 2, (6.4, 3.6), sharey=True, width_ratios=[3, 1])
        self._dos.plot(right, upright=True)
        right.set_ylabel("")
        return self._bands.plot(left)

    def write(self, folder: str | Path) -> list[Path]:
        """Write bands, densities of states and thermal properties as JSON, tables and pictures, and phonopy's files.

        ``phonopy-load phonopy.yaml`` opens them.
        """
        base = Path(folder)
        written = super().write(base)
        for result in (self._bands, self._dos, self.thermal()):
            written += result.write(base)
        return written + bridge().save(self.phonopy, base, with_forces=self.source == "displacements")


def phonons(  # noqa: PLR0913  # the choices of a calculation
    atoms: Atoms,
    *,
    supercell: Sequence[int] | np.ndarray | None = None,
    min_length: float = 10.0,
    relax_first: RelaxFirst = "full",
    fmax: float = 1e-4,
    source: Source = "auto",
    distance: float = 0.01,
    symprec: float = 1e-5,
    born: str | Path | None = None,
    on_result: Callable[[int, int], None] | None = None,
) -> Phonons:
    """Return the phonons of the crystal `atoms`, which is left as it was.

    Parameters
    ----------
    atoms
        A crystal with three periodic directions and a calculator; best one with errors of forces below 1e-6 eV/Å.
    supercell
        Repetitions of the cell's vectors, three numbers or a matrix (rows are the new vectors in terms of the old).
    min_length
        Without `supercell`, as many repetitions as bring opposite faces at least so far apart, in Å.
    relax_first
        Bring the crystal to rest: lattice and positions (``full``), with the ``volume`` or ``shape`` of the lattice
        alone, ``positions`` alone, or ``none``. Symmetry is kept. Phonons of a structure that is not at rest mean
        little.
    fmax
        Of that relaxation, in eV/Å.
    source
        ``displacements``: forces of displaced supercells, as one batch where the calculator has ``evaluate``.
        ``derivatives``: products of the energy's second derivatives with phonopy's displacements, exact and as few,
        where it has ``get_hessian_products(vectors, atoms)`` or ``get_hessian(atoms)``; takes several times the memory
        of forces. ``auto``: the second if it can.
    distance
        Of displacements, in Å.
    symprec
        To which symmetry is found, in Å.
    born
        File of Born charges and dielectric constant in phonopy's BORN format, from elsewhere: no short-ranged model
        splits the longitudinal from the transverse optical modes of a polar crystal.
    on_result
        Called with the number of displaced supercells done and their total.

    Raises
    ------
    ModuleNotFoundError
        Without phonopy.
    ValueError
        For unknown choices, no calculator, a structure that is no crystal, or a relaxation that does not converge.
    """
    resting, relaxation = crystal_at_rest(atoms, relax_first, fmax)
    matrix = supercell_matrix(resting, supercell, min_length)
    phonon = bridge().make(resting, matrix.T, symprec)
    chosen = choose_source(resting.calc, source)
    (count,) = add_force_constants([phonon], resting.calc, chosen, distance, on_result)
    if born is not None:
        bridge().set_born(phonon, born)
    return Phonons(
        atoms=resting,
        primitive=bridge().as_atoms(phonon.primitive),
        supercell=matrix,
        source=chosen,
        n_displacements=count,
        relaxation=relaxation,
        phonopy=phonon,
        provenance=provenance_of(atoms.calc, relax_first=relax_first, fmax=fmax, distance=distance, symprec=symprec),
    )


def bridge() -> ModuleType:
    """The file that knows phonopy, imported when first needed."""
    try:
        from . import phonopy_bridge
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "phonopy":
            raise
        raise ModuleNotFoundError("phonons need phonopy; install it with: pip install phonopy") from error
    return phonopy_bridge


def crystal_at_rest(atoms: Atoms, relax_first: RelaxFirst, fmax: float) -> tuple[Atoms, Relaxation | None]:
    """A relaxed copy of the crystal without its constraints, and how it was relaxed."""
    resting = with_calculator(atoms)
    if not resting.pbc.all() or not len(resting):
        raise ValueError(
            f"phonons need a crystal, found {len(resting)} atoms with pbc={resting.pbc.tolist()}; "
            "for a layer set all of pbc and relax_first='positions', for a molecule use vibrations"
        )
    resting.set_constraint()
    if relax_first not in ("full", "volume", "shape", "positions", "none"):
        raise ValueError(f"relax_first {relax_first!r} is not one of full, volume, shape, positions, none")
    if relax_first == "none":
        return resting, None
    cell: Any = relax_first if relax_first != "positions" else False
    (relaxation,) = all_at_rest(
        [resting], ["the crystal"], atoms.calc, fmax=fmax, cell=cell, symmetry=True, optimizer="bfgs"
    )
    relaxed = relaxation.atoms.copy()
    relaxed.calc = atoms.calc
    return relaxed, relaxation


def supercell_matrix(atoms: Atoms, supercell: Sequence[int] | np.ndarray | None, min_length: float) -> np.ndarray:
    """Supercell vectors (3, 3) in terms of the cell's, as rows."""
    if supercell is None:
        heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)  # between opposite faces
        return np.diag(np.maximum(1, np.ceil(min_length / heights - 1e-6)).astype(int))
    given = np.array(supercell)
    matrix = np.diag(given) if given.shape == (3,) else given
    whole = np.rint(matrix).astype(int)
    if matrix.shape != (3, 3) or not np.array_equal(whole, matrix) or round(np.linalg.det(whole)) < 1:
        raise ValueError(f"supercell should be three whole numbers or a 3 by 3 matrix of them, found {supercell}")
    return whole


def choose_source(calc: Any, source: Source) -> str:
    """``derivatives`` or ``displacements``."""
    can = hasattr(calc, "get_hessian_products") or hasattr(calc, "get_hessian")
    if source == "auto":
        return "derivatives" if can else "displacements"
    if source not in ("derivatives", "displacements"):
        raise ValueError(f"source {source!r} is not one of auto, derivatives, displacements")
    if source == "derivatives" and not can:
        raise ValueError(f"{type(calc).__name__} has no get_hessian_products or get_hessian; use displacements")
    return source


def add_force_constants(
    phonons: Sequence[Any],
    calc: Any,
    source: str,
    distance: float,
    on_result: Callable[[int, int], None] | None = None,
) -> list[int]:
    """Give every phonopy its force constants, all displaced supercells in one batch; returns how many each took."""
    api = bridge()
    both_ways = source == "displacements"  # removes terms of third order
    displacements = [api.displace(phonon, distance, both_ways=both_ways) for phonon in phonons]
    if source == "displacements":
        found = iter(evaluate(api.supercells(phonons), calc, ["forces"], on_result=on_result))
        forces = [np.array([next(found)["forces"] for _ in rows]) for rows in displacements]
    else:
        pairs = zip(phonons, displacements, strict=True)
        forces = [-_hessian_products(calc, api.as_atoms(phonon.supercell), rows) for phonon, rows in pairs]
    for phonon, values in zip(phonons, forces, strict=True):
        api.set_forces(phonon, values)
    return [len(rows) for rows in displacements]


def _hessian_products(calc: Any, atoms: Atoms, vectors: np.ndarray) -> np.ndarray:
    if hasattr(calc, "get_hessian_products"):
        return calc.get_hessian_products(vectors, atoms)
    hessian = np.asarray(calc.get_hessian(atoms)).reshape(3 * len(atoms), 3 * len(atoms))
    return (vectors.reshape(len(vectors), -1) @ hessian).reshape(vectors.shape)

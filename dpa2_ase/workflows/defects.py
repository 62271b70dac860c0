"""Formation energies of substitutional and interstitial atoms; for vacancies see `dpa2_ase.workflows.vacancy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atom, Atoms
from scipy.spatial import Voronoi, cKDTree

from . import plots
from .at_rest import at_rest, energies_at_rest
from .results import Result, provenance_of, with_calculator
from .strains import crystal_symmetry
from .vacancy import repeats_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Void:
    """A place between atoms that is as far from all its neighbors as it can be."""

    place: tuple[float, float, float]  # in units of the cell's vectors
    radius: float  # Å, distance of the nearest atoms
    multiplicity: int  # equivalent ones in the cell


@dataclass(frozen=True)
class Defect:
    """One kind of defect."""

    added: str
    removed: str | None  # None of an interstitial
    place: tuple[float, float, float]  # in units of the vectors of the cell given
    multiplicity: int  # equivalent places in that cell
    unrelaxed: float  # eV, formation energy without relaxing its surroundings
    formation_energy: float  # eV

    def __str__(self) -> str:
        return f"{self.added}_{self.removed or 'i'}"  # Kröger and Vink's notation


@dataclass(frozen=True, eq=False, kw_only=True)
class Defects(Result):
    """Formation energies of defects.

    Attributes
    ----------
    sites
        All kinds, substitutions first.
    chemical_potentials
        Element → energy of an atom in its reservoir, eV.
    crystal
        The cell, relaxed unless that was declined.
    repeats
        Of the cell, to the supercell that holds one defect.
    cells
        The supercells with their defects, in the order of `sites`.
    """

    name: ClassVar[str] = "defects"

    sites: tuple[Defect, ...]
    chemical_potentials: dict[str, float]
    crystal: Atoms
    repeats: tuple[int, int, int]
    cells: tuple[Atoms, ...]

    def structures(self) -> dict[str, Atoms]:
        """The crystal and every supercell."""
        names = [f"{number}-{site}" for number, site in enumerate(self.sites)]
        return {"crystal": self.crystal} | dict(zip(names, self.cells, strict=True))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the formation energies."""
        ax = plots.axes(ax)
        before, after = ([getattr(site, name) for site in self.sites] for name in ("unrelaxed", "formation_energy"))
        plots.before_and_after(ax, before, after, [str(site) for site in self.sites])
        ax.axhline(0.0, color=plots.COLORS["black"], lw=0.8)
        ax.set(ylabel="formation energy (eV)")
        ax.legend()
        return ax


def defects(  # noqa: PLR0913  # the choices of the method
    atoms: Atoms,
    *,
    substitutions: Sequence[tuple[str, str]] = (),
    interstitials: Sequence[str] = (),
    chemical_potentials: Mapping[str, float] | None = None,
    repeats: tuple[int, int, int] | None = None,
    shortest: float = 10.0,
    relax_first: bool = True,
    relax_positions: bool = True,
    fmax: float = 0.01,
    max_steps: int = 1000,
    smallest_void: float = 1.2,
    symmetry_tolerance: float = 1e-3,
) -> Defects:
    r"""Formation energies of neutral defects on all sites that symmetry tells apart; the input is left as it was.

    .. math:: E_f = E_\mathrm{defect} - E_\mathrm{crystal} - \sum_i \Delta n_i\, \mu_i

    All defects are relaxed in one batch, at the volume of the crystal.

    Parameters
    ----------
    atoms
        A crystal with a calculator.
    substitutions
        Pairs of an element of the crystal and the one that takes its place.
    interstitials
        Elements that go into every kind of void, see `voids`.
    chemical_potentials
        Element → energy of an atom in its reservoir, eV, for every element that comes or goes. That of the only element
        of a crystal is the crystal's if not given.
    repeats, shortest, relax_first, relax_positions, fmax, max_steps, symmetry_tolerance
        As for `vacancy`.
    smallest_void
        Distance (Å) an interstitial needs from the atoms around it, before relaxing.

    Raises
    ------
    ValueError
        For choices that cannot be, or a relaxation that does not converge.
    """
    if not atoms.pbc.all():
        raise ValueError(f"defects need a crystal with three periodic directions, found pbc={atoms.pbc.tolist()}")
    if not substitutions and not interstitials:
        raise ValueError("no defects asked for; give substitutions=[('Cu', 'Ni')] or interstitials=['H']")
    start = with_calculator(atoms)
    if relax_first:
        start = at_rest(start, cell=True, fmax=fmax / 10, max_steps=max_steps)
    energy = float(start.get_potential_energy())
    potentials = _potentials(start, energy, chemical_potentials, substitutions, interstitials)
    repeats = repeats or repeats_of(start, shortest)
    perfect = start.repeat(repeats)
    cells, kinds = [], []
    for place, multiplicity, removed, added, index in _places(
        start, substitutions, interstitials, smallest_void, symmetry_tolerance
    ):
        cell = perfect.copy()
        if index is None:
            cell.append(Atom(added, position=place @ start.cell.array))
        else:
            cell.symbols[index] = added  # the first copy is the cell itself
        cells.append(cell)
        x, y, z = map(float, place)
        kinds.append((added, removed, (x, y, z), multiplicity))
    names = [f"the defect of {added} at {place}" for added, _, place, _ in kinds]
    cells, before, after = energies_at_rest(
        cells, names, atoms.calc, relax_positions=relax_positions, fmax=fmax, max_steps=max_steps
    )
    sites = []
    for kind, old, new in zip(kinds, before, after, strict=True):
        added, removed = kind[:2]
        shift = energy * np.prod(repeats) + potentials[added] - (potentials[removed] if removed else 0.0)
        sites.append(Defect(*kind, unrelaxed=float(old - shift), formation_energy=float(new - shift)))
    return Defects(
        sites=tuple(sites),
        chemical_potentials=potentials,
        crystal=start,
        repeats=repeats,
        cells=tuple(cells),
        provenance=provenance_of(
            atoms.calc, repeats=repeats, relax_first=relax_first, relax_positions=relax_positions, fmax=fmax,
            smallest_void=smallest_void,
        ),
    )  # fmt: skip


def voids(atoms: Atoms, tolerance: float = 1e-3) -> list[Void]:
    """Corners of the Voronoi cells of a crystal that symmetry tells apart, the largest first; `tolerance` in Å."""
    cell = atoms.cell.array
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    reach = np.ceil(2 * heights.max() / heights).astype(int)
    shifts = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach]), -1).reshape(-1, 3) @ cell
    images = (atoms.get_positions(wrap=True)[None] + shifts[:, None]).reshape(-1, 3)
    corners = Voronoi(images).vertices
    scaled = corners @ np.linalg.inv(cell)
    inside = (scaled > -1e-6).all(axis=1) & (scaled < 1 - 1e-6).all(axis=1)
    radii = cKDTree(images).query(corners[inside])[0]
    symmetry = crystal_symmetry(atoms, tolerance)
    found: list[Void] = []
    taken = np.zeros((0, 3))
    for place, radius in sorted(zip(scaled[inside].tolist(), radii, strict=True), key=lambda pair: -pair[1]):
        if len(taken) and _distance(taken - place, cell).min() < 10 * tolerance:
            continue
        orbit = symmetry.rotations @ np.array(place) + symmetry.translations
        own = [i for i, one in enumerate(orbit) if _distance(orbit[:i] - one, cell).min(initial=1.0) > 10 * tolerance]
        taken = np.vstack([taken, orbit[own]])
        x, y, z = place
        found.append(Void((x, y, z), float(radius), len(own)))
    return found


def _distance(scaled: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Lengths (M,) Å of differences (M, 3) that are nearly lattice vectors, less these."""
    return np.linalg.norm((scaled - np.rint(scaled)) @ cell, axis=-1)


def _places(
    atoms: Atoms,
    substitutions: Sequence[tuple[str, str]],
    interstitials: Sequence[str],
    smallest_void: float,
    tolerance: float,
) -> list[tuple[np.ndarray, int, str | None, str, int | None]]:
    """Place, multiplicity, element that goes, element that comes, index of the atom."""
    found: list[tuple[np.ndarray, int, str | None, str, int | None]] = []
    equal = crystal_symmetry(atoms, tolerance).equivalent_atoms
    scaled = atoms.get_scaled_positions()
    for removed, added in substitutions:
        for index in np.unique(equal[atoms.symbols == removed]):
            found.append((scaled[index], int((equal == index).sum()), removed, added, int(index)))
    large = [void for void in voids(atoms, tolerance) if void.radius > smallest_void] if interstitials else []
    if interstitials and not large:
        raise ValueError(f"no void has a radius above smallest_void={smallest_void} Å")
    found += [(np.array(void.place), void.multiplicity, None, added, None) for added in interstitials for void in large]
    return found


def _potentials(
    atoms: Atoms,
    energy: float,
    given: Mapping[str, float] | None,
    substitutions: Sequence[tuple[str, str]],
    interstitials: Sequence[str],
) -> dict[str, float]:
    elements = {*atoms.symbols}
    missing = sorted({old for old, _ in substitutions} - elements)
    if missing:
        raise ValueError(f"{missing} cannot be replaced; the crystal has {sorted(elements)}")
    known: dict[str, Any] = {next(iter(elements)): energy / len(atoms)} if len(elements) == 1 else {}
    known |= given or {}
    needed = {symbol for pair in substitutions for symbol in pair} | {*interstitials}
    if needed - known.keys():
        raise ValueError(
            f"where do atoms of {sorted(needed - known.keys())} come from or go to? Give their chemical_potentials, "
            "such as energies per atom of the elements' crystals"
        )
    return {symbol: float(known[symbol]) for symbol in sorted(needed)}

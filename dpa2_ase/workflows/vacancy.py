"""Formation energies of vacancies at every kind of site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from ase import Atoms

from . import plots
from .at_rest import at_rest, energies_at_rest
from .results import Result, provenance_of, with_calculator
from .strains import crystal_symmetry

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Site:
    """A vacancy at one kind of site."""

    index: int  # of the atom in the crystal that was given
    symbol: str
    multiplicity: int  # equal sites in that cell
    unrelaxed: float  # formation energy with all other atoms in place, eV
    formation_energy: float  # eV; relaxed unless that was declined


@dataclass(frozen=True, eq=False, kw_only=True)
class Vacancies(Result):
    """Vacancies of a crystal.

    Attributes
    ----------
    sites
        One per kind of site, in the order of the atoms.
    chemical_potentials
        Of the removed elements, eV.
    crystal
        The cell that was repeated, relaxed unless that was declined.
    repeats
        How often, along each vector.
    defects
        The cells with vacancies, in the order of `sites`, with their results.
    """

    name: ClassVar[str] = "vacancy"

    sites: tuple[Site, ...]
    chemical_potentials: dict[str, float]
    crystal: Atoms
    repeats: tuple[int, int, int]
    defects: tuple[Atoms, ...]

    def structures(self) -> dict[str, Atoms]:
        """The crystal, and the vacancies by site."""
        found = {f"{site.symbol}{site.index}": atoms for site, atoms in zip(self.sites, self.defects, strict=True)}
        return {"crystal": self.crystal} | found

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the formation energies."""
        ax = plots.axes(ax)
        before, after = ([getattr(site, name) for site in self.sites] for name in ("unrelaxed", "formation_energy"))
        plots.before_and_after(ax, before, after, [f"{site.symbol} ({site.index})" for site in self.sites])
        ax.set(ylabel="vacancy formation energy (eV)", xlim=(-1, len(self.sites)))
        ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return ax


def vacancy(  # noqa: PLR0913  # the choices of the method
    atoms: Atoms,
    *,
    repeats: tuple[int, int, int] | None = None,
    shortest: float = 10.0,
    chemical_potentials: Mapping[str, float] | None = None,
    relax_first: bool = True,
    relax_positions: bool = True,
    fmax: float = 0.01,
    max_steps: int = 1000,
    symmetry_tolerance: float = 1e-3,
) -> Vacancies:
    r"""Formation energies of all vacancies that symmetry tells apart; the input is left as it was.

    .. math:: E_f = E[N - 1] - E[N] + \mu

    All vacancies are relaxed in one batch, at the volume of the crystal.

    Parameters
    ----------
    atoms
        A crystal with a calculator.
    repeats
        Of the cell; by default as often as brings opposite faces `shortest` (Å) apart.
    chemical_potentials
        Element → energy of an atom in its reservoir, eV. Of a crystal of one element it is the crystal's by default;
        for compounds it must be given for every element that shall be removed, and only these are.
    relax_first
        Relax cell and positions of the crystal before, ten times as tightly as `fmax`.
    relax_positions
        Relax the atoms around the vacancy to `fmax`, in eV/Å.
    symmetry_tolerance
        In Å.

    Raises
    ------
    ValueError
        For choices that cannot be, or a relaxation that does not converge.
    """
    if not atoms.pbc.all():
        raise ValueError(f"a vacancy needs a crystal with three periodic directions, found pbc={atoms.pbc.tolist()}")
    start = with_calculator(atoms)
    if relax_first:
        start = at_rest(start, cell=True, fmax=fmax / 10, max_steps=max_steps)
    energy = float(start.get_potential_energy()) / len(start)
    potentials = _potentials(start, energy, chemical_potentials)
    equal = crystal_symmetry(start, symmetry_tolerance).equivalent_atoms
    kinds = [int(index) for index in np.unique(equal) if start.symbols[index] in potentials]
    if repeats is None:
        repeats = repeats_of(start, shortest)
    perfect = start.repeat(repeats)
    defects = [perfect[np.arange(len(perfect)) != index] for index in kinds]  # the first copy is the cell itself
    names = [f"the vacancy of atom {index}" for index in kinds]
    defects, before, after = energies_at_rest(
        defects, names, atoms.calc, relax_positions=relax_positions, fmax=fmax, max_steps=max_steps
    )
    sites = []
    for index, old, new in zip(kinds, before, after, strict=True):
        symbol = start.symbols[index]
        shift = potentials[symbol] - energy * len(perfect)
        sites.append(Site(index, symbol, int((equal == index).sum()), float(old + shift), float(new + shift)))
    return Vacancies(
        sites=tuple(sites),
        chemical_potentials=potentials,
        crystal=start,
        repeats=repeats,
        defects=tuple(defects),
        provenance=provenance_of(
            atoms.calc, repeats=repeats, relax_first=relax_first, relax_positions=relax_positions, fmax=fmax
        ),
    )


def repeats_of(atoms: Atoms, shortest: float) -> tuple[int, int, int]:
    """How often to repeat each vector so that opposite faces of the cell are at least `shortest` (Å) apart."""
    if not 0 < shortest < np.inf:
        raise ValueError(f"the shortest distance should be positive (Å), found {shortest}")
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    a, b, c = (int(np.ceil(shortest / height - 1e-6)) for height in heights)
    return max(a, 1), max(b, 1), max(c, 1)


def _potentials(atoms: Atoms, energy: float, given: Mapping[str, float] | None) -> dict[str, float]:
    elements = sorted({*atoms.symbols})
    if given is None:
        if len(elements) > 1:
            raise ValueError(
                f"the energy of a vacancy in a compound of {elements} depends on where the atom goes; give "
                "chemical_potentials, such as the energies per atom of the elements' crystals"
            )
        return {elements[0]: energy}
    unknown = sorted({*given} - {*elements})
    if unknown or not given:
        raise ValueError(f"chemical potentials of {unknown or 'no elements'}; the crystal has {elements}")
    return {symbol: float(value) for symbol, value in given.items()}

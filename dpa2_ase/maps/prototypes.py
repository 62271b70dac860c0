"""Structures that show a model all its elements in several surroundings, built without any data file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.collections import g2
from ase.data import atomic_numbers, covalent_radii, reference_states

from .elements import is_metal

KIND = "kind"  # entry of `atoms.info`: element, compound, molecule or surface
ADSORBATES = ("H", "C", "N", "O", "S", "Si")
LATTICES = ("fcc", "bcc", "sc", "diamond")
# nearest-neighbor distance over that in fcc, for equal radii: fewer neighbors are nearer (Goldschmidt's contraction)
_CONTRACTION = {"fcc": 1.0, "bcc": 0.97, "sc": 0.93, "diamond": 0.88}
_NEIGHBOR = {"fcc": 2**-0.5, "bcc": 3**0.5 / 2, "sc": 1.0, "diamond": 3**0.5 / 4}  # in units of the cubic cell's edge
_COMPOUNDS = {"rocksalt": 0.5, "cesiumchloride": 3**0.5 / 2, "zincblende": 3**0.5 / 4}
RATTLE = 0.04  # standard deviation of displacements over the nearest-neighbor distance


def prototypes(
    elements: Sequence[str], *, copies: int = 3, partners: int = 4, seed: int = 0, supercell: int = 2
) -> Iterator[Atoms]:
    """Rattled elemental crystals, binary compounds, molecules, and metal surfaces with an adsorbate.

    Parameters
    ----------
    elements
        Symbols; molecules and surfaces appear where these contain what they are made of.
    copies
        Rattled versions of each.
    partners
        Binary compounds of every element, with partners drawn at random.
    seed
        For displacements and partners.
    supercell
        Repeats of the primitive cell of an elemental crystal.
    """
    rng, known = np.random.default_rng(seed), set(elements)
    perfect = [*_elemental(elements, supercell), *_compounds(elements, partners, rng), *_surfaces(elements)]
    perfect += [_named(molecule(name), "molecule") for name in g2.names if set(_symbols(molecule(name))) <= known]
    for atoms in perfect:
        shortest = _shortest(atoms)
        for _ in range(copies):
            moved = atoms.copy()
            moved.positions += rng.normal(0.0, RATTLE * shortest, moved.positions.shape)
            if moved.pbc.all():
                moved.set_cell(moved.cell.array * rng.uniform(0.96, 1.04), scale_atoms=True)
            yield moved


def _elemental(elements: Sequence[str], supercell: int) -> list[Atoms]:
    found = []
    for symbol in elements:
        for lattice in LATTICES:
            a = _bond(symbol, symbol) * _CONTRACTION[lattice] / _NEIGHBOR[lattice]
            found.append(_named(bulk(symbol, lattice, a=a) * supercell, "element"))
    return found


def _compounds(elements: Sequence[str], partners: int, rng: np.random.Generator) -> list[Atoms]:
    found = []
    for symbol in elements:
        others = [other for other in elements if other != symbol]
        for other in rng.permutation(others)[:partners]:
            lattice = str(rng.choice(sorted(_COMPOUNDS)))
            a = _bond(symbol, str(other)) / _COMPOUNDS[lattice]
            found.append(_named(bulk(f"{symbol}{other}", lattice, a=a) * 2, "compound"))
    return found


def _surfaces(elements: Sequence[str]) -> list[Atoms]:
    """Slabs of fcc metals, with and without one atom of a non-metal on them."""
    adsorbates = [symbol for symbol in ADSORBATES if symbol in elements]
    metals = [symbol for symbol in elements if is_metal(atomic_numbers[symbol]) and _is_fcc(symbol)]
    return [surface(metal, adsorbate) for metal in metals for adsorbate in [None, *adsorbates]]


def surface(metal: str, adsorbate: str | None = None, size: tuple[int, int, int] = (3, 3, 4)) -> Atoms:
    """A close-packed slab of a metal, with an atom in a hollow on one side if asked for."""
    slab = fcc111(metal, size, a=_bond(metal, metal) * 2**0.5, vacuum=6.0)
    slab.info.clear()  # names of sites
    if adsorbate is not None:
        top, side = slab.positions[:, 2].max(), float(np.linalg.norm(slab.cell[0])) / size[0]
        corner = slab.positions[slab.positions[:, 2] > top - 0.1][0]
        height = max(_bond(metal, adsorbate) ** 2 - side**2 / 3, 0.8**2) ** 0.5
        slab.append(adsorbate)
        slab.positions[-1] = corner + np.array([side / 2, side / 12**0.5, height])
    return _named(slab, "surface")


def _is_fcc(symbol: str) -> bool:
    state = reference_states[atomic_numbers[symbol]]
    return state is not None and state.get("symmetry") == "fcc"


def _bond(a: str, b: str) -> float:
    """Distance of neighbors in a solid, Å: covalent radii, metals with the wider bonds of many neighbors."""
    radii = [float(covalent_radii[atomic_numbers[s]]) for s in (a, b)]
    metals = [is_metal(atomic_numbers[s]) for s in (a, b)]
    return sum(radii) * (1.08 if all(metals) else 1.0)


def _shortest(atoms: Atoms) -> float:
    if len(atoms) == 1 and not atoms.pbc.any():
        return 1.0
    repeated = atoms * [2 if periodic else 1 for periodic in atoms.pbc]
    distances = repeated.get_all_distances(mic=True)
    return float(distances[distances > 1e-6].min(initial=4.0))


def _symbols(atoms: Atoms) -> list[str]:
    return atoms.get_chemical_symbols()


def _named(atoms: Atoms, kind: str) -> Atoms:
    atoms.info[KIND] = kind
    return atoms

"""What surrounds atoms, and whether representations know it: questions of the tutorial on maps."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from ase.neighborlist import neighbor_list

from dpa2_ase.maps import Environments
from dpa2_ase.maps.analysis import Score
from dpa2_ase.maps.distances import nearest
from dpa2_ase.maps.elements import is_metal

NEIGHBORS = 5  # nearest representations that are asked
SHUFFLES = 50
FEWEST = 5  # compounds of each kind; of fewer, nothing can be said
BOND = 1.2  # in sums of covalent radii
METALS = frozenset(symbol for symbol in chemical_symbols[1:] if is_metal(atomic_numbers[symbol]))
OTHERS = frozenset(chemical_symbols[1:]) - METALS
QUESTIONS: dict[str, tuple[Set[str], Set[str]]] = {  # an element, and two kinds of nearest neighbors
    "S": ({"P"}, {"Si", "Ge", "Sn"}),
    "C": ({"H", "C", "N", "O"}, METALS),
    "Al": (METALS, OTHERS),
    "H": (METALS, OTHERS),
    "Cu": (METALS, OTHERS),
}


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Of N atoms: the symbol of the nearest neighbor, and an atom's own with those of its bonds ("C-CHHH")."""

    near: np.ndarray  # (N,)
    bonds: np.ndarray  # (N,)


def by_structure(found: Environments) -> tuple[np.ndarray, np.ndarray]:
    """Mean representation (K, C) of the atoms of every element in every structure, and their atomic numbers (K,)."""
    means, first = means_of(found.vectors(), found.structure, found.numbers)
    return means, found.numbers[first]


def means_of(vectors: np.ndarray, *labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (K, C) of the vectors (N, C) that agree in all labels (N,), and the first row (K,) that each is of."""
    numbered = np.stack([np.unique(label, return_inverse=True)[1] for label in labels])
    _, first, index, counts = np.unique(numbered, axis=1, return_index=True, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(sums, index, vectors)
    return sums / counts[:, None], first


def surroundings(structures: Iterable[Atoms]) -> Surroundings:
    """Of all atoms, structure by structure; nearest neighbors are looked for within 4.5 Å."""
    near, bonds = [], []
    for atoms in structures:
        i, j, d = neighbor_list("ijd", atoms, 4.5)
        symbols, radii = np.array(atoms.get_chemical_symbols()), covalent_radii[atoms.numbers]
        is_bond = d < BOND * (radii[i] + radii[j])
        for index, symbol in enumerate(symbols):
            own = i == index
            near.append(str(symbols[j[own][d[own].argmin()]]) if own.any() else "")
            bonds.append(f"{symbol}-{''.join(sorted(symbols[j[own & is_bond]]))}")
    return Surroundings(np.array(near), np.array(bonds))


def company(vectors: np.ndarray, near: np.ndarray, home: np.ndarray, kinds: tuple[Set[str], Set[str]]) -> Score | None:
    """Share of the nearest atoms of other compounds whose nearest neighbor is of the same kind.

    Parameters
    ----------
    vectors, near, home
        Of atoms of one element: representations (n, C), symbols of their nearest neighbors (n,), compounds (n,).
    kinds
        Two sets of symbols; atoms near others are left out. Both kinds count alike, and so do the compounds of a kind.
        Chance deals the kinds out to the compounds anew.

    Returns
    -------
    score
        ``None`` for too few compounds of one kind.
    """
    sides = np.array([0 if s in kinds[0] else 1 if s in kinds[1] else -1 for s in near])
    known = sides >= 0
    vectors, sides, (_, home) = vectors[known], sides[known], np.unique(home[known], return_inverse=True)
    if any(len(np.unique(home[sides == side])) < FEWEST for side in (0, 1)):
        return None
    _, index = nearest(vectors, vectors, NEIGHBORS, forbidden=(home, home))

    def share(labels: np.ndarray) -> float:
        same = (labels[index] == labels[:, None]).mean(1)
        groups, group = np.unique(2 * home + labels, return_inverse=True)
        of_compounds = np.bincount(group, same) / np.bincount(group)
        return float(np.mean([of_compounds[groups % 2 == side].mean() for side in np.unique(labels)]))

    rng = np.random.default_rng(0)
    of_home = np.array([round(sides[home == number].mean()) for number in range(home.max() + 1)])
    chance = [share(rng.permutation(of_home)[home]) for _ in range(SHUFFLES)]
    return Score(share(sides), float(np.mean(chance)), float(np.std(chance)), len(sides))


def same_bonds(vectors: np.ndarray, bonds: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Share of nearest atoms in another data set that have the same bonds, beside the share by chance.

    Parameters
    ----------
    vectors, bonds
        Of all atoms, shape (N, C) and (N,).
    first, second
        Masks (N,) of two data sets. Every atom of one whose bonds occur in the other is asked for the nearest atoms of
        its element there; chance draws these at random.
    """
    shares, chances = [], []
    for query, reference in ((first, second), (second, first)):
        for symbol in {b.partition("-")[0] for b in bonds[query]}:
            others = reference & np.char.startswith(bonds, f"{symbol}-")
            own = query & np.char.startswith(bonds, f"{symbol}-") & np.isin(bonds, bonds[others])
            if not own.any():
                continue
            _, index = nearest(vectors[own], vectors[others], min(NEIGHBORS, int(others.sum())))
            shares += [(bonds[others][index] == bonds[own][:, None]).mean(1)]
            chances += [np.array([(bonds[others] == bond).mean() for bond in bonds[own]])]
    return float(np.concatenate(shares).mean()), float(np.concatenate(chances).mean())

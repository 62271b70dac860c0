"""`AtomMap`: points of a data set on a map, with all that is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from .labels import ENERGY, energies_above_elements
from .projection import Method, Projection, project
from .thinning import thin

if TYPE_CHECKING:
    from .store import Environments

Per = Literal["atom", "structure"]
PERS: tuple[str, ...] = get_args(Per)
MOST_POINTS = 5000


@dataclass(frozen=True, eq=False)
class AtomMap:
    """M points, which are environments or whole structures."""

    environments: Environments
    per: Per
    rows: np.ndarray  # (M,) numbers of environments, or of structures
    coordinates: np.ndarray  # (M, 2)
    projection: Projection

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self) -> np.ndarray:
        """Representations of the points (M, C)."""
        return self.environments.vectors(self.rows) if self.per == "atom" else self.environments.pooled()[self.rows]

    @property
    def structures(self) -> np.ndarray:
        """Structure of every point (M,)."""
        return self.environments.structure[self.rows] if self.per == "atom" else self.rows

    @property
    def atoms(self) -> np.ndarray:
        """Number of the atom in its structure (M,); −1 for points that are structures."""
        return self.environments.atom[self.rows] if self.per == "atom" else np.full(len(self), -1)

    @property
    def numbers(self) -> np.ndarray | None:
        """Atomic numbers of the points (M,); ``None`` for structures."""
        return self.environments.numbers[self.rows] if self.per == "atom" else None

    def label(self, name: str) -> np.ndarray:
        """Values of a label (M,); energies are those above the elements, see `labels.energies_above_elements`."""
        if name == ENERGY and ENERGY in self.environments.structure_labels:
            return energies_above_elements(self.environments)[self.structures]
        if self.per == "structure":
            return self.environments.label_of_structures(name)[self.rows]
        return self.environments.label(name)[self.rows]

    @property
    def background(self) -> np.ndarray | None:
        """Points (K, 2) of the map that these were put on; ``None`` if they are its own."""
        return None if self.coordinates is self.projection.coordinates else self.projection.coordinates

    @property
    def axes(self) -> tuple[str, str]:
        """What the two coordinates are called."""
        if self.projection.method == "pca":
            first, second = (*self.projection.components.explained[:2], 0.0)[:2]
            return f"PC 1 ({first:.0%})", f"PC 2 ({second:.0%})"
        name = {"tsne": "t-SNE", "umap": "UMAP"}[self.projection.method]
        return f"{name} 1", f"{name} 2"


def make_map(  # noqa: PLR0913  # each is a choice of the user's
    environments: Environments,
    method: Method = "tsne",
    *,
    per: Per = "atom",
    points: int = MOST_POINTS,
    only: int | None = None,
    include: np.ndarray | None = None,
    onto: Projection | str | Path | None = None,
    perplexity: float | None = None,
    seed: int = 0,
) -> AtomMap:
    """Lay environments, or structures, out in two dimensions.

    Parameters
    ----------
    environments
        What `describe` gave.
    method
        ``"tsne"``, ``"pca"`` or ``"umap"``; without meaning for `onto`.
    per
        A point for every atom, or for every structure (the mean of its atoms).
    points
        At most so many, drawn so that rare elements keep all their atoms.
    only
        Atomic number of the only atoms to show.
    include
        Numbers of environments (or structures) that must be there.
    onto
        An existing map (or its file) to put the points on.
    perplexity, seed
        As for `project`.

    Raises
    ------
    ValueError
        For too few points, and for a map made of another model or layer.
    """
    if per not in PERS:
        raise ValueError(f"a point is per {' or per '.join(PERS)}, not per {per!r}")
    if per == "atom":
        pool = np.arange(len(environments)) if only is None else np.flatnonzero(environments.numbers == only)
        if not len(pool):
            raise ValueError("no atoms of that element among the structures")
        rows = _with(pool[thin(environments.numbers[pool], points, seed)], include)
        vectors = environments.vectors(rows)
    else:
        rows = _with(thin(np.zeros(environments.n_structures), points, seed), include)
        vectors = environments.pooled()[rows]
    if onto is None:
        projection = project(vectors, method, perplexity=perplexity, seed=seed)
        projection.about.update(environments.about)
        return AtomMap(environments, per, rows, projection.coordinates, projection)
    projection = onto if isinstance(onto, Projection) else Projection.load(onto)
    _check_same(projection.about, environments.about)
    return AtomMap(environments, per, rows, projection.transform(vectors), projection)


def _with(rows: np.ndarray, include: np.ndarray | None) -> np.ndarray:
    return rows if include is None else np.union1d(rows, include)


def _check_same(of_map: dict[str, str], of_points: dict[str, str]) -> None:
    for name in of_map.keys() & of_points.keys():
        if of_map[name] != of_points[name]:
            raise ValueError(
                f"the map was made with {name} {of_map[name]}, the points have {of_points[name]}; "
                "their representations cannot be compared"
            )

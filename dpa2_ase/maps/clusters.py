"""Whether the atoms of one element are of two kinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .analysis import need, silhouette
from .distances import centered, nearest, squared_distances
from .elements import is_metal

OUTLIER = -1  # cluster of points that are set aside


@dataclass(frozen=True, eq=False)
class Split:
    """Two clusters of the atoms of one element, and who lives near each."""

    cluster: np.ndarray  # (n,) 0 or 1; 1 is the one nearer to metals; -1 for outliers
    silhouette: float  # of the two clusters
    metal_neighbors: tuple[float, float]  # share of metals among the nearest atoms of other elements, per cluster
    agreement: float | None  # with two given classes: 0.5 is chance, 1 identical

    def __str__(self) -> str:
        near = ", ".join(
            f"{(self.cluster == side).sum()} with {share:.0%} metals nearby"
            for side, share in enumerate(self.metal_neighbors)
        )
        outliers = int((self.cluster == OUTLIER).sum())
        apart = f", {outliers} set aside" if outliers else ""
        agreement = "" if self.agreement is None else f", agreement with the classes {self.agreement:.3f}"
        return f"{near}{apart}; silhouette {self.silhouette:.3f}{agreement}"


def split(  # noqa: PLR0913  # points, which of them, and how they are compared
    vectors: np.ndarray,
    numbers: np.ndarray,
    element: int,
    *,
    classes: np.ndarray | None = None,
    fewest: float = 0.05,
    k: int = 10,
    seed: int = 0,
) -> Split:
    """Divide the atoms of an element into two clusters (2-means) and look at their neighbors of other elements.

    Parameters
    ----------
    vectors, numbers
        Of all points.
    element
        Atomic number; 1 asks whether hydrogen splits into a molecular and a metal- or water-like kind.
    classes
        Two kinds of the points, e.g. from which data they are; compared with the clusters, each class counting half.
    fewest
        Part of the points that makes a cluster. A smaller one is a few strange atoms, which are set aside before the
        rest is divided again.
    """
    chosen = numbers == element
    need(int(chosen.sum()), 4)
    own, others = np.asarray(vectors)[chosen], np.asarray(vectors)[~chosen]
    cluster = _without_outliers(own, fewest, seed)
    shares = [0.0, 0.0]
    if len(others):
        _, index = nearest(own, others, min(k, len(others)))
        metals = np.array([is_metal(int(z)) for z in numbers[~chosen]])
        shares = [float(metals[index[cluster == side]].mean()) for side in (0, 1)]
        if shares[0] > shares[1]:
            cluster, shares = np.where(cluster == OUTLIER, OUTLIER, 1 - cluster), shares[::-1]
    usual, agreement = cluster != OUTLIER, None
    if classes is not None and len(kinds := np.unique(classes[chosen][usual])) == 2:
        is_second, side = classes[chosen][usual] == kinds[1], cluster[usual]
        rate = (side[is_second].mean() + 1 - side[~is_second].mean()) / 2
        agreement = float(max(rate, 1 - rate))
    return Split(cluster, silhouette(own[usual], cluster[usual]), (shares[0], shares[1]), agreement)


def _without_outliers(vectors: np.ndarray, fewest: float, seed: int) -> np.ndarray:
    """Clusters (n,) of 0 and 1, each of the part `fewest` of the points at least, and `OUTLIER`."""
    cluster, usual = np.full(len(vectors), OUTLIER), np.arange(len(vectors))
    while True:
        found = two_means(vectors[usual], seed=seed)
        sizes = np.bincount(found, minlength=2)
        if sizes.min() >= fewest * len(usual):
            cluster[usual] = found
            return cluster
        usual = usual[found == sizes.argmax()]


def two_means(vectors: np.ndarray, *, seed: int = 0, starts: int = 8, steps: int = 100) -> np.ndarray:
    """Two clusters (N,) of 0 and 1 with the least squared distance to their means, the best of several starts."""
    (points,) = centered(vectors)
    rng, best, labels = np.random.default_rng(seed), np.inf, np.zeros(len(points), dtype=np.int64)
    for _ in range(starts):
        first = points[rng.integers(len(points))]
        far = points[((points - first) ** 2).sum(1).argmax()]
        centers = np.stack([first, far])
        for _ in range(steps):
            squared = squared_distances(points, centers)
            found = squared.argmin(1)
            if len(np.unique(found)) < 2:
                break
            moved = np.stack([points[found == side].mean(0) for side in (0, 1)])
            if np.allclose(moved, centers):
                break
            centers = moved
        cost = squared.min(1).sum()
        if len(np.unique(found)) == 2 and cost < best:
            best, labels = cost, found
    if not np.isfinite(best):
        raise ValueError("all these environments are equal; there is nothing to divide")
    return labels

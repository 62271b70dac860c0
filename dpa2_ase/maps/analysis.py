"""What a representation knows, as numbers: purity, silhouettes, distances of elements, gradients, overlap.

Everything is measured in the representation itself, never on a two-dimensional map, and beside what chance gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .distances import blocks, centered, nearest, nearest_others, squared_distances
from .elements import groups_of, symbols_of


@dataclass(frozen=True)
class Score:
    """A number beside what it would be if labels had nothing to do with positions."""

    value: float
    baseline: float  # mean over shuffled labels
    spread: float  # standard deviation over shuffled labels
    n: int  # points, or elements where these are shuffled

    @property
    def sigmas(self) -> float:
        """How many standard deviations of chance lie between value and baseline."""
        return (self.value - self.baseline) / self.spread if self.spread else float("inf")

    def __str__(self) -> str:
        return f"{self.value:.3f} (chance {self.baseline:.3f} ± {self.spread:.3f})"


def purity(vectors: np.ndarray, labels: np.ndarray, *, k: int = 10, shuffles: int = 20, seed: int = 0) -> Score:
    """Fraction of the k nearest neighbors that have a point's own label, mean over points.

    Parameters
    ----------
    vectors, labels
        Shape (N, C) and (N,).
    k
        Neighbors per point.
    shuffles
        Random permutations of the labels for the baseline.
    """
    need(len(vectors), k + 1)
    _, index = nearest_others(vectors, k)
    codes = np.unique(labels, return_inverse=True)[1]

    def score(c: np.ndarray) -> float:
        return float((c[index] == c[:, None]).mean())

    return _against_chance(score, codes, shuffles, seed, len(vectors))


def group_purity(vectors: np.ndarray, numbers: np.ndarray, *, k: int = 10, shuffles: int = 200, seed: int = 0) -> Score:
    """Fraction of the k nearest atoms *of other elements* that are of the same group of the periodic table.

    Neighbors of the same element would make any purity by group look good. Every element counts once; only elements
    with another one of their group among the points count. The baseline deals the groups out to the elements anew.
    """
    distance, index = nearest(vectors, vectors, k, forbidden=(numbers, numbers))
    kinds, codes = np.unique(numbers, return_inverse=True)
    if len(kinds) < 2:
        raise ValueError("purity by group needs two elements or more")
    found = np.zeros((len(kinds), len(kinds)))  # how often an element is among the neighbors of another
    allowed = np.isfinite(distance)
    np.add.at(found, (np.repeat(codes, allowed.sum(1)), codes[index[allowed]]), 1.0)
    found /= found.sum(1, keepdims=True).clip(1.0)

    def score(groups: np.ndarray) -> float:
        same = groups[:, None] == groups[None]
        with_mate = same.sum(1) > 1
        return float((found * same).sum(1)[with_mate].mean()) if with_mate.any() else float("nan")

    return _against_chance(score, np.unique(groups_of(kinds), return_inverse=True)[1], shuffles, seed, len(kinds))


def silhouette(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette (−1 to 1): how much nearer points are to their own label than to the nearest other one.

    Points alone with their label count zero.

    References
    ----------
    Rousseeuw, J. Comput. Appl. Math. 20, 53 (1987), https://doi.org/10.1016/0377-0427(87)90125-7
    """
    kinds, codes = np.unique(labels, return_inverse=True)
    if len(kinds) < 2:
        raise ValueError("a silhouette needs two labels or more")
    (shifted,) = centered(vectors)
    one_hot = np.eye(len(kinds))[codes]
    counts = one_hot.sum(0)
    total = 0.0
    for rows in blocks(len(shifted)):
        own = codes[rows]
        here = np.arange(len(own))
        squared = squared_distances(shifted[rows], shifted)
        squared[here, rows.start + here] = 0.0  # not only to rounding, whose root is large
        sums = np.sqrt(squared) @ one_hot  # (n, L)
        inside = sums[here, own] / (counts[own] - 1).clip(1)
        means = sums / counts
        means[here, own] = np.inf
        outside = means.min(1)
        larger = np.maximum(inside, outside)
        value = np.divide(outside - inside, larger, out=np.zeros_like(larger), where=larger > 0)
        total += value[counts[own] > 1].sum()
    return float(total / len(shifted))


@dataclass(frozen=True, eq=False)
class ElementDistances:
    """How far elements are from each other."""

    symbols: tuple[str, ...]
    distances: np.ndarray  # (T, T) between the mean representations

    def nearest(self, symbol: str, among: Sequence[str] | None = None) -> list[tuple[str, float]]:
        """Other elements (of `among`) with their distances, nearest first."""
        row = self.distances[self._index(symbol)]
        chosen = [s for s in (self.symbols if among is None else among) if s != symbol]
        return sorted(((s, float(row[self._index(s)])) for s in chosen), key=lambda pair: pair[1])

    def rank(self, symbol: str, to: str, among: Sequence[str]) -> float:
        """Where `symbol` stands among the elements nearest to `to`: 0 is nearest, 1 farthest, 0.5 what chance gives."""
        order = [s for s, _ in self.nearest(to, sorted({*among, symbol} - {to}))]
        return order.index(symbol) / max(len(order) - 1, 1)

    def _index(self, symbol: str) -> int:
        if symbol not in self.symbols:
            raise ValueError(f"no atoms of {symbol!r} among the points; there are {' '.join(self.symbols)}")
        return self.symbols.index(symbol)


def element_distances(vectors: np.ndarray, numbers: np.ndarray) -> ElementDistances:
    """Distances between the mean representations of all elements present."""
    kinds = np.unique(numbers)
    (means,) = centered(np.stack([np.asarray(vectors)[numbers == kind].mean(0, dtype=np.float64) for kind in kinds]))
    return ElementDistances(tuple(symbols_of(kinds)), np.sqrt(squared_distances(means, means)))


def gradient(vectors: np.ndarray, reference: np.ndarray, distance: np.ndarray) -> float:
    """Spearman's rank correlation of how unlike `reference` environments are, and how far something is.

    Parameters
    ----------
    vectors
        Environments (N, C), e.g. of Al in a slab with an adsorbate.
    reference
        Undisturbed environments (R, C), e.g. of Al in pure Al; unlikeness is the distance to the nearest of them.
    distance
        To the adsorbate (N,), Å. A representation that feels it less the farther it is gives a number near −1.
    """
    from scipy.stats import spearmanr

    usable = np.isfinite(distance)
    need(int(usable.sum()), 4)
    unlike = nearest(np.asarray(vectors)[usable], reference, 1)[0][:, 0]
    return float(spearmanr(unlike, distance[usable]).statistic)


def overlap(a: np.ndarray, b: np.ndarray, *, k: int = 10, shuffles: int = 20, seed: int = 0) -> Score:
    """How well two sets of environments mix: neighbors from the other set, relative to a perfect mixture.

    1 means that one cannot tell them apart, 0 that they are separate; the baseline shuffles who belongs where and is 1
    by construction. Sets of equal sizes are compared (the larger one is thinned).
    """
    rng, size = np.random.default_rng(seed), min(len(a), len(b))
    need(size, k + 1)
    thinned = [np.asarray(x)[np.sort(rng.choice(len(x), size, replace=False))] for x in (a, b)]
    _, index = nearest_others(np.concatenate(thinned), k)
    side = np.repeat([0, 1], size)
    expected = size / (2 * size - 1)

    def score(s: np.ndarray) -> float:
        return float((s[index] != s[:, None]).mean() / expected)

    return _against_chance(score, side, shuffles, seed, 2 * size)


def same_environments(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance between representations of the same atoms, row by row, relative to their spread.

    Zero for two heads of one model: the heads share the descriptor, and labels never enter it. This is how the model is
    made, not a finding; what can be learnt from data labelled with two functionals is their `overlap`.
    """
    spread = float(np.sqrt(np.asarray(a, np.float64).var(0).sum()))
    return float(np.linalg.norm(np.asarray(a, np.float64) - b, axis=1).max() / (spread or 1.0))


def summary(vectors: np.ndarray, numbers: np.ndarray, *, k: int = 10, seed: int = 0) -> Mapping[str, float | Score]:
    """Purities and silhouettes by element and by group."""
    found: dict[str, float | Score] = {
        "purity by element": purity(vectors, numbers, k=k, seed=seed),
        "purity by group": purity(vectors, groups_of(numbers), k=k, seed=seed),
        "purity by group, other elements only": group_purity(vectors, numbers, k=k, seed=seed),
        "silhouette by element": silhouette(vectors, numbers),
    }
    if len(np.unique(groups_of(numbers))) > 1:
        found["silhouette by group"] = silhouette(vectors, groups_of(numbers))
    return found


def _against_chance(score: Callable[[np.ndarray], float], codes: np.ndarray, shuffles: int, seed: int, n: int) -> Score:
    rng = np.random.default_rng(seed)
    chance = np.array([score(rng.permutation(codes)) for _ in range(shuffles)])
    return Score(score(codes), float(chance.mean()), float(chance.std()), n)


def need(found: int, needed: int) -> None:
    """Raise where there are too few environments to say anything."""
    if found < needed:
        raise ValueError(f"{needed} environments or more are needed here, found {found}; add structures or lower k")

"""Which structures cover a data set, which stand outside it, and which atoms are alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from .distances import blocks, centered, nearest, nearest_others, squared_distances
from .elements import symbols_of
from .store import Environments

MIN_REFERENCE = 8  # environments of an element that say what is usual for it


@dataclass(frozen=True, eq=False)
class Selection:
    """Structures (or environments) in order of choice, each with a score and the reason."""

    what: str  # what was asked for
    chosen: np.ndarray  # (n,) numbers
    scores: np.ndarray  # (n,)
    score_name: str
    reasons: tuple[str, ...]
    of_atoms: bool = False  # whether the numbers are those of environments

    def __len__(self) -> int:
        return len(self.chosen)

    def structures(self, environments: Environments) -> np.ndarray:
        """Numbers of the structures (n,), in order of choice."""
        return environments.structure[self.chosen] if self.of_atoms else self.chosen

    def table(self, environments: Environments) -> dict[str, np.ndarray]:
        """Rank, structure, where it comes from, score and reason, (n,) each."""
        structures = self.structures(environments)
        found = {"rank": np.arange(1, len(self) + 1), "structure": structures}
        if self.of_atoms:
            found |= {"atom": environments.atom[self.chosen], "element": environments.elements[self.chosen]}
        found |= {name: values[structures] for name, values in environments.structure_labels.items()}
        return found | {"score": self.scores, "reason": np.array(self.reasons, dtype=np.str_)}

    def labelled(self, environments: Environments, structures: Mapping[int, Atoms]) -> list[Atoms]:
        """Copies of the chosen structures with rank, score and reason in ``info``; see `sources.pick`."""
        found = []
        for rank, number in enumerate(self.structures(environments)):
            atoms = structures[int(number)].copy()
            atoms.calc = structures[int(number)].calc
            entries = {
                "by": self.what,
                "rank": rank + 1,
                "score": float(self.scores[rank]),
                "reason": self.reasons[rank],
            }
            if self.of_atoms:
                entries["atom"] = int(environments.atom[self.chosen[rank]])
            atoms.info |= {f"select_{name}": value for name, value in entries.items()}
            found.append(atoms)
        return found


def farthest_points(
    vectors: np.ndarray, count: int, known: np.ndarray | None = None, start: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Points each of which is as far as possible from all chosen before it.

    Parameters
    ----------
    vectors
        Candidates (S, C).
    count
        How many; fewer are returned where all others coincide with chosen ones.
    known
        Points (K, C) that are covered already.
    start
        The first one; by default the farthest from `known`, or without any the nearest to the mean.

    Returns
    -------
    chosen, distance
        Numbers, and how far each was from everything before it (inf for a first one without `known`).

    References
    ----------
    Gonzalez, Theor. Comput. Sci. 38, 293 (1985): the largest remaining distance is at most twice the best possible.
    """
    if known is not None and len(known):
        points, covered = centered(vectors, known)
        gaps = nearest(points, covered, 1)[0][:, 0] ** 2
        first = int(gaps.argmax()) if start is None else start
    else:
        (points,) = centered(vectors)
        gaps = np.full(len(points), np.inf)
        first = int((points**2).sum(1).argmin()) if start is None else start
    chosen: list[int] = []
    distances: list[float] = []
    scale = float((points**2).sum(1).max(initial=0.0))
    for _ in range(min(count, len(points))):
        best = int(gaps.argmax()) if chosen else first
        if gaps[best] <= 1e-14 * scale:  # rounding of what coincides
            break
        chosen.append(best)
        distances.append(np.sqrt(gaps[best]))
        gaps = np.minimum(gaps, squared_distances(points[best : best + 1], points)[0])
        gaps[best] = 0.0
    return np.array(chosen, dtype=np.int64), np.array(distances)


def select_farthest(environments: Environments, count: int, known: Environments | None = None) -> Selection:
    """Structures that cover a data set with as few as possible, by their pooled representations."""
    _check_count(count)
    chosen, gaps = farthest_points(environments.pooled(), count, None if known is None else known.pooled())
    reasons = [
        "the most typical structure, to begin with" if np.isinf(gap) else f"{gap:.4g} from all chosen before it"
        for gap in gaps
    ]
    if known is not None:
        reasons = [f"{gap:.4g} from all known and all chosen before it" for gap in gaps]
    return Selection("coverage", chosen, gaps, "distance", tuple(reasons))


def sparsity(vectors: np.ndarray, k: int = 10) -> np.ndarray:
    """Mean distance (N,) to the k nearest other points: small where points are dense."""
    return nearest_others(vectors, min(k, max(len(vectors) - 1, 1)))[0].mean(1)


def select_by_density(environments: Environments, count: int, k: int = 10, seed: int = 0) -> Selection:
    """Structures drawn at random so that dense and sparse regions of a data set get equal shares.

    The chance of a structure grows with its mean distance to its k nearest: what an MD trajectory repeats a thousand
    times is drawn as rarely as what occurs once. Unlike the farthest points, these are no collection of outliers.
    """
    _check_count(count)
    sparse = sparsity(environments.pooled(), k)
    weights = np.maximum(sparse, 1e-12 * max(float(sparse.max()), 1e-300))
    count = min(count, len(weights))
    # Efraimidis and Spirakis, Inf. Process. Lett. 97, 181 (2006): the largest of u^(1/w), drawn without replacement
    keys = np.log(np.random.default_rng(seed).random(len(weights))) / weights
    chosen = np.argsort(keys)[::-1][:count]
    median = float(np.median(sparse))
    reasons = [f"{sparse[i] / median if median else 1.0:.2f} times the usual distance to its neighbors" for i in chosen]
    return Selection("density", chosen, sparse[chosen], "distance to neighbors", tuple(reasons))


def environment_novelty(
    environments: Environments, known: Environments | None = None, k: int = 5, most: int = 5000, seed: int = 0
) -> np.ndarray:
    """How unusual every environment is for its element (N,): 1 is usual, 2 is twice as far from its neighbors.

    The mean distance to the k nearest environments of the same element, over the median of that distance among the
    known ones themselves. Elements with fewer than 8 known environments give inf: nothing is known about them.

    Parameters
    ----------
    environments
        What to judge.
    known
        The data set to judge by; by default `environments` themselves, where no atom is compared with atoms of its own
        structure.
    most
        Known environments per element that are looked at, drawn at random.
    """
    base = environments if known is None else known
    rng, novelty = np.random.default_rng(seed), np.full(len(environments), np.inf)
    for number in np.unique(environments.numbers):
        rows = np.flatnonzero(environments.numbers == number)
        pool = np.flatnonzero(base.numbers == number)
        pool = np.sort(rng.choice(pool, min(most, len(pool)), replace=False))
        if len(pool) < MIN_REFERENCE:
            continue
        reference, owner = base.vectors(pool), base.structure[pool]
        usual = _mean_finite(nearest(reference, reference, k, forbidden=(owner, owner))[0])
        typical = float(np.median(usual[np.isfinite(usual)])) if np.isfinite(usual).any() else 0.0
        for part in blocks(len(rows)):
            own = environments.structure[rows[part]] if known is None else np.full(len(rows[part]), -1)
            far = _mean_finite(nearest(environments.vectors(rows[part]), reference, k, forbidden=(own, owner))[0])
            novelty[rows[part]] = np.divide(far, typical) if typical else np.where(far > 0, np.inf, 1.0)
    return novelty


def _mean_finite(distances: np.ndarray) -> np.ndarray:
    """Mean over the neighbors there are; inf where there is none."""
    known = np.isfinite(distances)
    total = np.where(known, distances, 0.0).sum(1)
    return np.where(known.any(1), total / known.sum(1).clip(1), np.inf)


def select_outliers(
    environments: Environments, count: int, known: Environments | None = None, threshold: float = 0.0
) -> Selection:
    """Structures with the most unusual atom, most unusual first; see `environment_novelty`.

    Parameters
    ----------
    environments
        Candidates; beside `known` they are what the data set does not cover, alone they are its odd ones.
    count
        At most so many.
    threshold
        Leave out structures whose atoms are all less unusual.
    """
    _check_count(count)
    novelty = environment_novelty(environments, known)
    worst = np.full(environments.n_structures, -np.inf)
    np.maximum.at(worst, environments.structure, novelty)
    order = np.argsort(-worst, kind="stable")[:count]
    order = order[worst[order] >= max(threshold, 0.0)]
    first = environments.first
    reasons = []
    for s in order:
        atom = int(novelty[first[s] : first[s] + environments.sizes[s]].argmax())
        symbol = symbols_of(environments.numbers[first[s] + atom])
        reasons.append(
            f"atom {atom} ({symbol}) is {worst[s]:.3g} times as far from the nearest {symbol} as usual"
            if np.isfinite(worst[s])
            else f"atom {atom}: too few environments of {symbol} are known to compare with"
        )
    return Selection("outliers", order, worst[order], "novelty", tuple(reasons))


def find_like(
    environments: Environments, query: np.ndarray, count: int, number: int | None = None, *, one_each: bool = True
) -> Selection:
    """The environments of a data set nearest to one environment; one pass over the chunks.

    Parameters
    ----------
    environments
        Where to look.
    query
        A representation (C,) of the same model and layer.
    count
        How many.
    number
        Atomic number to look at; ``None`` takes all elements.
    one_each
        Only the nearest environment of every structure.
    """
    _check_count(count)
    query = np.asarray(query, np.float64)
    if query.shape != (environments.width,):
        raise ValueError(
            f"the query should have {environments.width} numbers, found shape {query.shape}; use one layer"
        )
    distance = np.full(len(environments), np.inf, dtype=np.float32)
    for rows, block in environments.blocks():
        distance[rows] = np.linalg.norm(np.asarray(block, np.float64) - query, axis=1)
    if number is not None:
        distance[environments.numbers != number] = np.inf
    order = np.argsort(distance, kind="stable")
    if one_each:
        _, first = np.unique(environments.structure[order], return_index=True)
        order = order[np.sort(first)]
    order = order[np.isfinite(distance[order])][:count]
    reasons = tuple(
        f"atom {atom} ({symbol}) is {distance[i]:.4g} from the query"
        for i, atom, symbol in zip(order, environments.atom[order], environments.elements[order], strict=True)
    )
    return Selection("like", order, distance[order].astype(float), "distance", reasons, of_atoms=True)


def uncovered(environments: Environments, known: Environments, threshold: float = 2.0) -> np.ndarray:
    """Structures (S,) with an atom that is `threshold` times as unusual as `known` ones are among themselves."""
    worst = np.full(environments.n_structures, -np.inf)
    np.maximum.at(worst, environments.structure, environment_novelty(environments, known))
    return worst > threshold


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"the number to select should be 1 or more, found {count}")

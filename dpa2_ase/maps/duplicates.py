"""Structures of a data set that say the same twice."""

from __future__ import annotations

import numpy as np

from .selection import Selection
from .store import Environments


def find_duplicates(environments: Environments, tolerance: float = 1e-3) -> Selection:
    """Structures that say what an earlier one says: the same atoms in the same environments.

    Two structures are duplicates if they have the same elements in the same numbers and their atoms can be paired so
    that no two representations of a pair are farther apart than `tolerance` times the spread of all representations.
    Rotated, shifted, mirrored and renumbered copies are found. A structure and its supercell are not: they differ in
    the number of atoms.
    """
    pooled = environments.pooled().astype(np.float64)
    scale = _spread(environments)
    kinds: dict[bytes, list[int]] = {}
    for s, start in enumerate(environments.first):
        composition = np.sort(environments.numbers[start : start + environments.sizes[s]]).tobytes()
        kinds.setdefault(composition, []).append(s)
    found: list[tuple[int, int, float]] = []
    for members in kinds.values():
        found += _duplicates_of_one_composition(environments, np.array(members), pooled, tolerance * scale)
    found.sort()
    chosen, scores = [s for s, _, _ in found], [distance / scale if scale else 0.0 for _, _, distance in found]
    reasons = tuple(f"same as {environments.name(original)}" for _, original, _ in found)
    return Selection("duplicates", np.array(chosen, dtype=np.int64), np.array(scores), "relative distance", reasons)


def _duplicates_of_one_composition(
    environments: Environments, members: np.ndarray, pooled: np.ndarray, limit: float
) -> list[tuple[int, int, float]]:
    """Duplicates, their originals and distances; means of atoms differ by no more than the atoms do."""
    from scipy.spatial import cKDTree

    kept: list[int] = []
    found: list[tuple[int, int, float]] = []
    near = cKDTree(pooled[members]).query_ball_point(pooled[members], limit + 1e-12) if len(members) > 1 else [[0]]
    is_original = np.zeros(len(members), dtype=bool)
    for i, candidates in enumerate(near):
        for j in sorted(c for c in candidates if c < i and is_original[c]):
            distance = _matched_distance(environments, int(members[i]), int(members[j]))
            if distance <= limit:
                found.append((int(members[i]), int(members[j]), distance))
                break
        else:
            is_original[i] = True
            kept.append(i)
    return found


def _matched_distance(environments: Environments, a: int, b: int) -> float:
    """Largest distance of a pair when atoms of two structures are paired as well as possible, element by element."""
    from scipy.optimize import linear_sum_assignment

    rows = [environments.first[s] + np.arange(environments.sizes[s]) for s in (a, b)]
    numbers, vectors = [environments.numbers[r] for r in rows], [environments.vectors(r) for r in rows]
    largest = 0.0
    for number in np.unique(numbers[0]):
        x, y = vectors[0][numbers[0] == number].astype(float), vectors[1][numbers[1] == number].astype(float)
        distance = np.linalg.norm(x[:, None] - y[None], axis=2)
        largest = max(largest, float(distance[linear_sum_assignment(distance**2)].max()))
    return largest


def _spread(environments: Environments) -> float:
    """Root mean square distance of environments from their mean."""
    total, squares = np.zeros(environments.width), 0.0
    for _, block in environments.blocks():
        values = np.asarray(block, np.float64)
        total, squares = total + values.sum(0), squares + float((values**2).sum())
    mean = total / len(environments)
    return float(np.sqrt(max(squares / len(environments) - float(mean @ mean), 0.0)))

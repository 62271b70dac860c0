"""Euclidean distances in representation space, block by block, so that no table of all pairs is made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

ROWS = 1024  # rows of a block


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (A, B) of rows, float64: in float32 near neighbors would drown in the rounding of norms."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
    return np.maximum(squared, 0.0)


def centered(*sets: np.ndarray) -> list[np.ndarray]:
    """Sets of vectors in float64, shifted by the mean of the first: distances lose fewer digits near the origin."""
    origin = np.asarray(sets[0], np.float64).mean(0) if len(sets[0]) else 0.0
    return [np.asarray(values, np.float64) - origin for values in sets]


def blocks(n_rows: int) -> Iterator[slice]:
    """Runs of `ROWS` rows."""
    for start in range(0, n_rows, ROWS):
        yield slice(start, min(start + ROWS, n_rows))


def nearest(
    query: np.ndarray, reference: np.ndarray, k: int, forbidden: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of `reference` for every row of `query`.

    Parameters
    ----------
    query, reference
        Shape (Q, C) and (R, C).
    k
        How many.
    forbidden
        Classes (Q,) and (R,): rows of the same class are no neighbors of each other. Numbers of the rows themselves
        leave out only the row itself; elements ask for the nearest neighbor of another element.

    Returns
    -------
    distance, index
        Shape (Q, k), nearest first; where fewer than k are allowed, distances are inf and indices -1.
    """
    query, reference = centered(query, reference)
    k_found = min(k, len(reference))
    distance, index = np.full((len(query), k), np.inf), np.full((len(query), k), -1, dtype=np.int64)
    for rows in blocks(len(query) if k_found else 0):
        squared = squared_distances(query[rows], reference)
        if forbidden is not None:
            squared[forbidden[0][rows, None] == forbidden[1][None]] = np.inf
        found = np.argpartition(squared, k_found - 1, axis=1)[:, :k_found]
        values = np.take_along_axis(squared, found, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        values = np.take_along_axis(values, order, axis=1)
        distance[rows, :k_found] = np.sqrt(values)
        index[rows, :k_found] = np.where(np.isinf(values), -1, np.take_along_axis(found, order, axis=1))
    return distance, index


def nearest_others(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest other rows of every row, as `nearest` gives them."""
    own = np.arange(len(vectors))
    return nearest(vectors, vectors, k, forbidden=(own, own))

"""A few points of many, rare ones kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def thin(labels: Sequence[str] | np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """At most `count` points, drawn so that rare labels keep all of theirs; their numbers, ascending."""
    kinds, codes = np.unique(np.asarray(labels), return_inverse=True)
    sizes = np.bincount(codes)
    if sizes.sum() <= count:
        return np.arange(len(codes))
    quota, rng = _quotas(sizes, count), np.random.default_rng(seed)
    drawn = [rng.choice(np.flatnonzero(codes == c), quota[c], replace=False) for c in range(len(kinds))]
    return np.sort(np.concatenate(drawn))


def _quotas(sizes: np.ndarray, count: int) -> np.ndarray:
    """Shares of `count`: all of the small ones, the rest evenly among the large ones."""
    quota, left = np.zeros_like(sizes), count
    order = np.argsort(sizes)
    for position, index in enumerate(order):
        quota[index] = min(sizes[index], left // (len(order) - position))
        left -= quota[index]
    return quota

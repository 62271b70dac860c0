"""Principal components of any number of vectors, in one pass and a matrix of C × C numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """A linear map to the K directions of largest variance."""

    mean: np.ndarray  # (C,)
    directions: np.ndarray  # (K, C), orthonormal, largest variance first
    variances: np.ndarray  # (K,)
    total: float  # variance of all directions together

    @property
    def explained(self) -> np.ndarray:
        """Fraction (K,) of the variance along each direction."""
        return self.variances / self.total if self.total else np.zeros_like(self.variances)

    def transform(self, vectors: np.ndarray) -> np.ndarray:
        """Coordinates (N, K) of vectors (N, C)."""
        return (np.asarray(vectors, np.float64) - self.mean) @ self.directions.T


def principal_components(blocks: Iterable[np.ndarray], n_components: int) -> PrincipalComponents:
    """Principal components of vectors that come in blocks (n, C).

    The sign of a direction is such that its largest component is positive, so that equal data give equal maps.

    Raises
    ------
    ValueError
        For fewer than two vectors.
    """
    count, origin, total, products = 0, np.zeros(0), np.zeros(0), np.zeros((0, 0))
    for block in blocks:
        values = np.asarray(block, np.float64)
        if not len(values):
            continue
        if not count:
            origin, total = values.mean(0), np.zeros(values.shape[1])  # a shift near the mean keeps digits
            products = np.zeros((values.shape[1], values.shape[1]))
        shifted = values - origin
        count, total, products = count + len(values), total + shifted.sum(0), products + shifted.T @ shifted
    if count < 2:
        raise ValueError(f"principal components need two vectors or more, found {count}")
    shift = total / count
    covariance = products / count - np.outer(shift, shift)
    variances, directions = np.linalg.eigh(covariance)
    order = np.argsort(variances)[::-1][:n_components]
    chosen = directions[:, order].T
    signs = np.sign(chosen[np.arange(len(chosen)), np.abs(chosen).argmax(1)])
    return PrincipalComponents(
        origin + shift, chosen * signs[:, None], variances[order].clip(0), float(variances.clip(0).sum())
    )

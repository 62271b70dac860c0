"""UMAP by umap-learn, rebuilt from arrays alone as `tsne` does."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

MIN_DISTANCE = 0.1


def embed(vectors: np.ndarray, *, neighbors: int, seed: int) -> np.ndarray:
    """Coordinates (N, 2) of vectors (N, C).

    References
    ----------
    McInnes, Healy and Melville, https://arxiv.org/abs/1802.03426
    """
    return np.asarray(_model(neighbors, seed).fit_transform(vectors), dtype=np.float64)


def place(
    vectors: np.ndarray, reference: np.ndarray, coordinates: np.ndarray, *, neighbors: int, seed: int
) -> np.ndarray:
    """Coordinates (K, 2) of new vectors (K, C) on the map of `reference` (N, C), which stays as it is."""
    model = _model(neighbors, seed, n_epochs=0).fit(reference)  # the graph of neighbors; its layout is known
    model.embedding_ = np.asarray(coordinates, dtype=np.float32)
    model.n_epochs = None
    return np.asarray(model.transform(vectors), dtype=np.float64)


def _model(neighbors: int, seed: int, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of compilers and of a missing tensorflow, which is not needed
        from umap import UMAP
    return UMAP(n_neighbors=neighbors, min_dist=MIN_DISTANCE, random_state=seed, n_jobs=1, **options)

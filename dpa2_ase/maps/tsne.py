"""t-SNE by openTSNE, rebuilt from arrays alone: a stored map needs no pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from openTSNE import TSNEEmbedding

EXACT_BELOW = 3000  # points; nearest neighbors are found exactly below, approximately above
NEW_PERPLEXITY = 5  # neighbors that place a new point on a map, openTSNE's choice


def embed(vectors: np.ndarray, *, perplexity: float, seed: int) -> np.ndarray:
    """Coordinates (N, 2) of vectors (N, C).

    References
    ----------
    van der Maaten and Hinton, J. Mach. Learn. Res. 9, 2579 (2008); openTSNE, https://doi.org/10.18637/jss.v109.i03
    """
    from openTSNE import TSNE

    model = TSNE(perplexity=perplexity, random_state=seed, n_jobs=1, neighbors=_search(vectors), initialization="pca")
    return np.array(model.fit(np.ascontiguousarray(vectors, dtype=np.float64)))


def place(
    vectors: np.ndarray, reference: np.ndarray, coordinates: np.ndarray, *, perplexity: float, seed: int
) -> np.ndarray:
    """Coordinates (K, 2) of new vectors (K, C) on the map of `reference` (N, C), which stays as it is."""
    embedding = _rebuilt(reference, coordinates, perplexity, seed)
    new = np.ascontiguousarray(vectors, dtype=np.float64)
    return np.array(embedding.transform(new, perplexity=min(NEW_PERPLEXITY, (len(reference) - 1) / 3)))


def _rebuilt(reference: np.ndarray, coordinates: np.ndarray, perplexity: float, seed: int) -> TSNEEmbedding:
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN

    affinities = PerplexityBasedNN(
        np.ascontiguousarray(reference, dtype=np.float64),
        perplexity=perplexity,
        method=_search(reference),
        random_state=seed,
        n_jobs=1,
    )
    return TSNEEmbedding(np.array(coordinates, dtype=np.float64), affinities, random_state=seed, n_jobs=1)


def _search(vectors: np.ndarray) -> str:
    return "exact" if len(vectors) < EXACT_BELOW else "annoy"

"""`Environments` of given vectors, for tests of what is done with them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from dpa2_ase.maps import Environments
from dpa2_ase.maps.store import write_chunk


def environments(folder: Path, vectors, numbers, sizes=None, chunk: int = 7, **structure_labels) -> Environments:
    """In chunks of `chunk` rows; structures of one atom where no `sizes` are given."""
    vectors = np.asarray(vectors, np.float32)
    edges = [*range(0, len(vectors), chunk), len(vectors)]
    folder.mkdir(exist_ok=True)
    for start, stop in pairwise(edges):
        write_chunk(folder / f"{start}.npy", vectors[start:stop])
    return Environments(
        folder=folder,
        chunks=tuple(f"{start}.npy" for start in edges[:-1]),
        starts=np.array(edges),
        width=vectors.shape[1],
        numbers=np.asarray(numbers, np.uint8),
        sizes=np.asarray(sizes if sizes is not None else np.ones(len(vectors)), np.int32),
        structure_labels={name: np.asarray(values) for name, values in structure_labels.items()},
    )

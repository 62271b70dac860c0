"""Points of a map as ``.csv`` and ``.npz``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoint.writing import replacing

if TYPE_CHECKING:
    from .atom_map import AtomMap


def columns(atom_map: AtomMap, labels: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Coordinates, where points come from, and labels, (M,) each."""
    found: dict[str, np.ndarray] = {"x": atom_map.coordinates[:, 0], "y": atom_map.coordinates[:, 1]}
    found["structure"] = atom_map.structures
    if atom_map.per == "atom":
        found["atom"] = atom_map.atoms
        labels = ["element", "group", *labels]
    for name in dict.fromkeys([*labels, *atom_map.environments.structure_labels, *atom_map.environments.labels]):
        if name not in found:
            found[name] = atom_map.label(name)
    return found


def write_csv(path: str | Path, values: dict[str, np.ndarray]) -> Path:
    """A table with the names of the columns in its first line."""
    path = Path(path)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(values)
        writer.writerows(zip(*(v.tolist() for v in values.values()), strict=True))
    return path

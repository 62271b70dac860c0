"""Model deviations of trajectories, as DP-GEN takes them to choose what to label next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from .interfaces.ase import DPA2Calculator

COLUMNS = ("max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f", "devi_e")


@dataclass(frozen=True, eq=False)
class ModelDeviation:
    """How much models disagree along a trajectory.

    Attributes
    ----------
    steps
        Number of every frame (F,).
    values
        Columns `COLUMNS` (F, 7): virial per atom (eV), forces (eV/Å), energy per atom (eV).
    """

    steps: np.ndarray
    values: np.ndarray

    def __getitem__(self, column: str) -> np.ndarray:
        return self.values[:, COLUMNS.index(column)]

    def candidates(self, low: float, high: float) -> np.ndarray:
        """Steps worth labelling: largest deviation of forces within [low, high), eV/Å.

        Below, the models know the structure; above, it is likely to be none that occurs.
        """
        largest = self["max_devi_f"]
        return self.steps[(largest >= low) & (largest < high)]

    def write(self, path: str | Path, label: str = "") -> Path:
        """Write the table as ``dp model-devi`` does; DP-GEN and dpdata read it."""
        path = Path(path)
        path.write_text(self.text(label))
        return path

    def text(self, label: str = "") -> str:
        """The table; `label` is its first line."""
        header = "# {:10s}".format("step") + "".join(f"{name:19s}" for name in COLUMNS)
        rows = [f"{step:12d}" + "".join(f"{x:19.6e}" for x in row) for step, row in self._rows()]
        return "\n".join([f"# {label}", header, *rows]) + "\n"

    def _rows(self) -> Iterable[tuple[int, np.ndarray]]:
        return zip(self.steps.tolist(), self.values, strict=True)


def model_deviation(
    models: DPA2Calculator | Sequence[str | Path], structures: Iterable[Atoms], *, frequency: int = 1, **options: Any
) -> ModelDeviation:
    """Evaluate all models on all structures, some at once.

    Parameters
    ----------
    models
        Files of at least two models, or their committee, ``DPA2Calculator([a, b])``.
    structures
        Frames, which may be read as they are needed.
    frequency
        Steps between two frames; only numbers them.
    options
        As for `DPA2Calculator`.
    """
    calc = models if isinstance(models, DPA2Calculator) else DPA2Calculator([*models], **options)
    rows = []
    for part in _portions(structures):
        rows += [[found[name] for name in COLUMNS] for found in calc.evaluate(part, COLUMNS)]
    values = np.array(rows).reshape(-1, len(COLUMNS))
    return ModelDeviation(frequency * np.arange(len(values)), values)


FRAMES_AT_ONCE = 64


def _portions(structures: Iterable[Atoms]) -> Iterable[list[Atoms]]:
    remaining = iter(structures)
    return iter(lambda: list(islice(remaining, FRAMES_AT_ONCE)), [])

"""Errors of predictions, summed up over batches."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..model import Prediction
from .frameset import Batch

QUANTITIES = ("energy", "forces", "virial")  # eV/atom, eV/Å, eV/atom


@dataclass
class Errors:
    """Root mean square and mean absolute errors of energies per atom, force components and virials per atom."""

    counts: dict[str, int] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)
    absolutes: dict[str, float] = field(default_factory=dict)

    def add(self, prediction: Prediction, batch: Batch) -> None:
        """Count the structures of a batch."""
        n_atoms, labels = batch.n_atoms, batch.labels
        pairs: dict[str, tuple[Tensor | None, Tensor | None, Tensor | None]] = {
            "energy": (prediction.energy, labels.energy, n_atoms),
            "forces": (prediction.forces, labels.forces, None),
            "virial": (prediction.virial, labels.virial, n_atoms[:, None, None]),
        }
        for name, (found, wanted, size) in pairs.items():
            if found is None or wanted is None:
                continue
            error = found.detach() - wanted if size is None else (found.detach() - wanted) / size
            error = error[torch.isfinite(error)]
            self.counts[name] = self.counts.get(name, 0) + error.numel()
            self.squares[name] = self.squares.get(name, 0.0) + float((error**2).sum())
            self.absolutes[name] = self.absolutes.get(name, 0.0) + float(error.abs().sum())

    def rmse(self, name: str) -> float | None:
        """Root mean square error; ``None`` without labels."""
        count = self.counts.get(name, 0)
        return (self.squares[name] / count) ** 0.5 if count else None

    def mae(self, name: str) -> float | None:
        """Mean absolute error; ``None`` without labels."""
        count = self.counts.get(name, 0)
        return self.absolutes[name] / count if count else None

    def table(self) -> dict[str, float]:
        """All that is known: ``energy_rmse``, ``energy_mae`` and so on."""
        values = {f"{name}_{kind.__name__}": kind(name) for name in QUANTITIES for kind in (self.rmse, self.mae)}
        return {name: value for name, value in values.items() if value is not None}

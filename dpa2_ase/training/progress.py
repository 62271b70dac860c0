"""What was learned since the last report: losses of the steps and errors of their batches, by head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..model import Prediction
from .frameset import Batch
from .metrics import QUANTITIES, Errors


class Progress:
    """Losses and errors of some heads, from one report to the next."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.errors: dict[str, Errors] = {}
        self.losses: dict[str, list[float]] = {}
        self._begin()

    def _begin(self) -> None:
        self.errors = {name: Errors() for name in self.names}
        self.losses = {name: [] for name in self.names}

    def add(self, name: str, loss: float, prediction: Prediction, batch: Batch) -> None:
        """Count one step."""
        self.errors[name].add(prediction, batch)
        self.losses[name].append(loss)

    def columns(self) -> list[str]:
        """Names of all numbers a report may have, those of validation frames with them."""
        parts = [
            f"{part}/{quantity}_{kind}"
            for part in ("train", "valid")
            for quantity in QUANTITIES
            for kind in ("rmse", "mae")
        ]
        return [f"{name}/{column}" for name in self.names for column in ("loss", *parts)]

    def report(self) -> dict[str, float]:
        """Mean losses and errors since the last report."""
        values = {}
        for name in self.names:
            if self.losses[name]:
                values[f"{name}/loss"] = float(np.mean(self.losses[name]))
            values |= {f"{name}/train/{key}": value for key, value in self.errors[name].table().items()}
        self._begin()
        return values

    def state(self) -> dict[str, Any]:
        """All there is to go on with, as plain values."""
        return {name: {"losses": self.losses[name], "errors": asdict(self.errors[name])} for name in self.names}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a stored `state`."""
        for name, stored in state.items():
            self.losses[name], self.errors[name] = list(stored["losses"]), Errors(**stored["errors"])

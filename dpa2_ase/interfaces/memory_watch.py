"""Know what an evaluation takes before it is begun, and refuse what cannot fit."""

from __future__ import annotations

import warnings

import torch

from ..config import AnyModelConfig
from ..kernels import Engine
from ..memory import evaluation_bytes, evaluation_terms
from ..neighbors import NeighborList, Pairs
from .plan import GIB, Plan, available_memory, largest_copies

FAR_TOO_MUCH = 1.3  # predictions are right within a fifth; a little swapping is the user's choice


class MemoryWatch:
    """Predictions for one model on one device.

    Parameters
    ----------
    config, engine
        The model and what computes it.
    device
        Where.
    asked
        Precision of the nets that was asked for, by name; ``None`` for the model's own.
    dtype
        What it came to.
    """

    def __init__(
        self, config: AnyModelConfig, engine: Engine, device: torch.device, asked: str | None, dtype: str
    ) -> None:
        self._config, self._engine, self._device = config, engine, device
        self._asked, self._dtype = asked, dtype
        self._proven = 0.0  # bytes of the largest structure that was checked; freed memory may not look available

    def plan(self, neighbors: NeighborList, memory: float | None = None) -> Plan:
        """What energy, forces and stress of a structure will need; `memory` in bytes, by default what is available."""
        pairs = Pairs(neighbors)
        memory = available_memory(self._device) if memory is None else memory

        def peak(copies: int) -> float:
            return self._bytes(pairs.times(copies))

        return Plan(
            n_atoms=pairs.n_atoms,
            n_edges=int(pairs.edges(self._config.rcut, pairs.n_listed)),
            mode=self._engine.mode,
            dtype=self._dtype,
            terms=evaluation_terms(self._config, pairs, self._engine.paths, self._asked),
            memory=memory,
            copies=None if memory is None else largest_copies(peak, memory),
        )

    def check(self, neighbors: NeighborList) -> float:
        """Predicted peak memory of a structure, bytes.

        Raises
        ------
        MemoryError
            If it is far more than there is, so that the system would end the process in the middle of the work.
        """
        needed = self._bytes(Pairs(neighbors))
        if self._device.type != "cpu" or needed <= self._proven:  # other devices refuse without harm
            return needed
        available = available_memory(self._device)
        if available is not None and needed > available:
            message = self._too_large(needed, available, len(neighbors.positions))
            if needed > FAR_TOO_MUCH * available:
                raise MemoryError(message)
            warnings.warn(message, UserWarning, stacklevel=2)
        self._proven = needed
        return needed

    def _bytes(self, pairs: Pairs) -> float:
        return evaluation_bytes(self._config, pairs, self._engine.paths, self._asked)

    def _too_large(self, needed: float, available: float, n_atoms: int) -> str:
        options = [f"dtype='float32' (now {self._dtype})"] * (self._dtype == "float64")
        options += ["mode='auto'"] * (self._engine.mode == "reference") + ["fewer atoms"]
        return (
            f"{n_atoms} atoms need about {needed / GIB:.1f} GiB, and {available / GIB:.1f} GiB are available; use "
            f"{', '.join(options)} or a larger machine; calc.plan(atoms) or dpa2 plan tells what fits"
        )

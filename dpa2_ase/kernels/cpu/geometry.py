"""The environment matrix and its derivative, compiled."""

from __future__ import annotations

from ctypes import byref

import torch
from torch import Tensor

from ...graph import AtomicGraph
from ...nn.environment import Environment
from .library import Library
from .structures import EnvironmentOptions, fill


class Geometry:
    """Rows (E, 4) and switches (E,) of `Environment` for a run in `dtype`, computed in float64.

    Parameters
    ----------
    environment
        The reference; its statistics are read once.
    """

    def __init__(self, environment: Environment, dtype: torch.dtype, library: Library) -> None:
        self.dtype, self.library = dtype, library
        self._keep: list[Tensor] = []
        self.options = fill(
            EnvironmentOptions(),
            self._keep,
            onset=environment.onset,
            cutoff=environment.cutoff,
            protection=environment.protection,
            mean=environment.mean.detach().double().contiguous(),
            inverse_std=(1 / environment.std.detach().double()).contiguous(),
        )

    def forward(self, graph: AtomicGraph, vectors: Tensor, argument: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rows and switches of the edges with `vectors` (E, 3), float64.

        `argument` (E,), float64, receives the first column of the rows before it is rounded.
        """
        rows = torch.empty(graph.n_edges, 4, dtype=self.dtype, device="cpu")
        weight = torch.empty(graph.n_edges, dtype=self.dtype, device="cpu")
        self.library["environment", self.dtype](
            *self._edges(graph, vectors), byref(self.options), rows.data_ptr(), weight.data_ptr(),
            None if argument is None else argument.data_ptr(),
        )  # fmt: skip
        return rows, weight

    def backward(self, graph: AtomicGraph, vectors: Tensor, d_rows: Tensor, d_weight: Tensor) -> Tensor:
        """Gradient by `vectors` (E, 3), float64."""
        gradient = torch.zeros_like(vectors)
        self.library["environment_backward", self.dtype](
            *self._edges(graph, vectors), byref(self.options), d_rows.data_ptr(), d_weight.data_ptr(),
            gradient.data_ptr(),
        )  # fmt: skip
        return gradient

    @staticmethod
    def _edges(graph: AtomicGraph, vectors: Tensor) -> tuple[int, int, int, int]:
        if vectors.dtype != torch.float64 or not vectors.is_contiguous():
            raise TypeError("edge vectors should be contiguous float64")
        return graph.n_atoms, graph.offsets.data_ptr(), graph.types.data_ptr(), vectors.data_ptr()

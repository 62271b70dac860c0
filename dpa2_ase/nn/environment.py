"""The environment matrix: what a block sees of the geometry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..graph import AtomicGraph
from ..ops import smooth_switch


@dataclass(frozen=True)
class EdgeEnvironment:
    """Geometry of every edge as a block of the model sees it."""

    env: Tensor  # (E, 4) normalized rows
    switch: Tensor  # (E,) from one to zero
    amplitude: Tensor  # (E,) switch / distance, not normalized, 1/Å
    distances: Tensor  # (E,) Å, with the protection added


class Environment(nn.Module):
    r"""Describe every edge by its smooth inverse distance and direction.

    .. math:: \tilde R_{ij} = (s, s\,x_{ij}/r_{ij}, s\,y_{ij}/r_{ij}, s\,z_{ij}/r_{ij}), \quad s = w(r_{ij}) / r_{ij}

    normalized as :math:`R = (\tilde R - \mu_t) / \sigma_t` with the statistics of the center's type t.

    Parameters
    ----------
    n_types
        Number of types T; the buffers `mean` and `std` have shape (T, 4).
    onset, cutoff
        Radii where the switch w leaves one and reaches zero, Å.
    protection
        Added to every distance that divides, Å.

    References
    ----------
    DPA-1, https://doi.org/10.1038/s41524-024-01278-7
    """

    mean: Tensor
    std: Tensor

    def __init__(self, n_types: int, onset: float, cutoff: float, protection: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_types, 4))
        self.register_buffer("std", torch.ones(n_types, 4))
        self.onset, self.cutoff, self.protection = onset, cutoff, protection

    def forward(self, graph: AtomicGraph) -> EdgeEnvironment:
        """Rows of all edges of `graph`, computed in the precision of its vectors and given in that of the block."""
        types = graph.types[graph.center]
        switch = smooth_switch(graph.distances, self.onset, self.cutoff)
        distances = graph.distances + self.protection
        amplitude = switch / distances
        rows = torch.cat([amplitude[:, None], (amplitude / distances)[:, None] * graph.vectors], dim=1)
        rows = (rows - self.mean[types]) / self.std[types]
        dtype = self.mean.dtype
        return EdgeEnvironment(rows.to(dtype), switch.to(dtype), amplitude.to(dtype), distances.to(dtype))

    def of_empty_slot(self, types: Tensor) -> Tensor:
        """What the padded training code sees in a slot without neighbor, (N, 4); zero for a zero mean."""
        return -self.mean[types] / self.std[types]

"""From gradients on edges to forces and virials, compiled: what every step of a simulation ends with."""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph import AtomicGraph
from .library import require


def pull_back(gradient: Tensor, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
    """Twin of `dpa2_ase.derivatives.pull_back` on the CPU, not to be differentiated again."""
    n_atoms, n_structures, gradient = graph.n_atoms, graph.n_structures, gradient.detach().contiguous()
    forces = torch.empty(n_atoms, 3, dtype=torch.float64, device="cpu")
    virials = torch.empty(n_structures, 3, 3, dtype=torch.float64, device="cpu")
    arrays = graph.offsets, graph.neighbor, graph.structure, graph.vectors, gradient, forces, virials
    require()["pull_back", None](n_atoms, n_structures, *(array.data_ptr() for array in arrays))
    return forces, virials

"""Second derivatives of the energy with respect to positions, by automatic differentiation."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms

from .. import derivatives
from ..model import differentiable
from .context import autograd
from .evaluator import Evaluator


def hessian(evaluator: Evaluator, atoms: Atoms) -> np.ndarray:
    """Second derivatives (3N, 3N) of the energy, eV/Å²; symmetrized."""
    size = 3 * len(atoms)
    products = hessian_products(evaluator, atoms, np.eye(size).reshape(size, len(atoms), 3)).reshape(size, size)
    return (products + products.T) / 2


@autograd()
def hessian_products(evaluator: Evaluator, atoms: Atoms, vectors: np.ndarray, *, rows_at_once: int = 16) -> np.ndarray:
    """Products (V, N, 3) of the energy's second derivatives with `vectors` (V, N, 3), eV/Å² times their unit."""
    inputs = evaluator.reader.read([atoms], [evaluator.reader.neighbor_list(atoms, 0.0)])
    if not inputs.graph.n_edges or not len(vectors):
        return np.zeros(vectors.shape)
    graph = differentiable(inputs.graph)
    energy = evaluator.reference(graph, inputs.fparam, inputs.aparam)
    gradient = derivatives.edge_gradient(energy, graph, create_graph=True)
    forces = derivatives.forces(gradient, graph)
    rows = []
    for chosen in torch.as_tensor(vectors, dtype=forces.dtype, device=forces.device).split(rows_at_once):
        (second,) = torch.autograd.grad(forces, graph.vectors, chosen, retain_graph=True, is_grads_batched=True)
        rows += [derivatives.forces(row, graph) for row in second]
    return torch.stack(rows).detach().cpu().numpy()

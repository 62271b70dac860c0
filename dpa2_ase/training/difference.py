r"""Gradients of losses of forces and virials from first derivatives of the energy alone.

With the derivatives of the loss by the energies, forces and virials, :math:`\bar E, \bar F, \bar W`, the gradient is
that of a sum of energies, and its change along a direction u of the edges d (Pearlmutter's product, by a central
difference):

.. math::
    \frac{dL}{d\theta} = \frac{\partial}{\partial\theta} \Big[ \bar E E(d)
        + \frac{E(d + h u) - E(d - h u)}{2 h} \Big], \qquad
    u_{ij} = \bar F_i - \bar F_j - \bar W d_{ij}

An evaluation of two copies of the batch that needs no second derivatives replaces one that does, so that compiled
kernels can be used.

References
----------
B. A. Pearlmutter, Neural Computation 6, 147 (1994), https://doi.org/10.1162/neco.1994.6.1.147
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from ..graph import AtomicGraph
from ..model import Potential, Prediction
from .frameset import Batch

# Å, largest change of an edge. The error of the difference is of second order in it, that of rounding inversely
# proportional; measured in tests/test_training_difference.py
STEP = {torch.float64: 1e-4, torch.float32: 2e-2}


def obstacle(potential: Potential) -> str | None:
    """Why a difference would not be a derivative; ``None`` where it is."""
    return None if potential.is_smooth else "the energy jumps where a neighbor crosses a cutoff (smooth = false)"


def is_truncated(potential: Potential, batch: Batch) -> bool:
    """Whether an atom has more neighbors than a block of the model looks at: then a small step may exchange them."""
    graph = batch.graph
    for _, cutoff, nsel in potential.neighbor_limits:
        near = graph.center[graph.lengths <= cutoff]
        if len(near) and int(torch.bincount(near).max()) > nsel:
            return True
    return False


def leaves(prediction: Prediction) -> Prediction:
    """The same numbers as the variables of a loss."""
    values = {f.name: getattr(prediction, f.name) for f in fields(prediction)}
    return Prediction(**{n: None if v is None else v.detach().requires_grad_() for n, v in values.items()})


def add_gradients(potential: Potential, batch: Batch, variables: Prediction, step: float) -> None:
    """Add the gradient of a loss to the parameters of `potential`.

    Parameters
    ----------
    potential
        Once differentiable by its parameters.
    variables
        Energies, forces, virials and atomic energies that hold the derivatives of the loss in ``grad``.
    step
        Largest change of an edge of every structure, Å.
    """
    graph = batch.graph
    weight = _gradient(variables.atomic_energies, graph.n_atoms)  # (N,) of the atomic energies
    weight = weight + _gradient(variables.energy, graph.n_structures)[graph.structure]
    direction = _direction(batch, variables)
    if direction is None:
        _backward(potential, batch, graph.vectors.detach(), weight)
        return
    owner = graph.structure[graph.center]
    largest = torch.zeros(graph.n_structures, dtype=torch.float64, device=owner.device)
    largest = largest.scatter_reduce(0, owner, direction.norm(dim=1), "amax")
    scale = torch.where(largest > 0, step / largest, 0.0)  # (S,) how far to go
    rate = torch.where(largest > 0, largest / (2 * step), 0.0)[graph.structure]  # (N,) of the difference
    change, vectors = scale[owner][:, None] * direction, graph.vectors.detach()
    _backward(
        potential, _twice(batch), torch.cat([vectors + change, vectors - change]),
        torch.cat([weight / 2 + rate, weight / 2 - rate]),
    )  # fmt: skip


def _twice(batch: Batch) -> Batch:
    """Two copies of the structures as one batch without labels: one pass has half the overhead of two."""
    graph = batch.graph
    both = AtomicGraph(
        types=graph.types.repeat(2),
        center=torch.cat([graph.center, graph.center + graph.n_atoms]),
        neighbor=torch.cat([graph.neighbor, graph.neighbor + graph.n_atoms]),
        vectors=graph.vectors.repeat(2, 1),
        structure=torch.cat([graph.structure, graph.structure + graph.n_structures]),
        slot=None if graph.slot is None else graph.slot.repeat(2),
        n_structures=2 * graph.n_structures,
        cutoff=graph.cutoff,
    )
    repeated = {
        name: None if value is None else torch.cat([value, value])
        for name in ("fparam", "aparam")
        for value in [getattr(batch, name)]
    }
    return Batch(graph=both, labels=Prediction(), n_atoms=batch.n_atoms.repeat(2), force_weights=None, **repeated)


def _gradient(variable: Tensor | None, count: int) -> Tensor:
    if variable is None or variable.grad is None:
        return torch.zeros(count, dtype=torch.float64, device=None if variable is None else variable.device)
    return variable.grad


def _direction(batch: Batch, variables: Prediction) -> Tensor | None:
    """How the edges change, (E, 3); ``None`` without derivatives by forces or virials."""
    graph, direction = batch.graph, None
    if variables.forces is not None and variables.forces.grad is not None:
        pull = variables.forces.grad
        direction = pull[graph.center] - pull[graph.neighbor]
    if variables.virial is not None and variables.virial.grad is not None:
        strain = variables.virial.grad[graph.structure[graph.center]]
        of_strain = -(strain @ graph.vectors.detach()[:, :, None]).squeeze(-1)
        direction = of_strain if direction is None else direction + of_strain
    return direction


def _backward(potential: Potential, batch: Batch, vectors: Tensor, weight: Tensor) -> None:
    with torch.enable_grad():
        atomic = potential.atomic(replace(batch.graph, vectors=vectors), batch.fparam, batch.aparam)
        (weight * atomic).sum().backward()

"""Second derivatives that involve the cell, by automatic differentiation."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from torch import Tensor

from .. import derivatives
from ..model import Potential, differentiable
from .context import autograd
from .evaluator import VOIGT, Evaluator, stress_volume
from .reader import Inputs

TRACES = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])  # of the unit strains


def strain_derivatives(evaluator: Evaluator, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    r"""Change of stress (6, 6), eV/Å³, and of forces (6, N, 3), eV/Å, with unit strains that the atoms follow.

    .. math:: \delta \sigma = -\delta W / V + W / V\, \mathrm{tr}\, \varepsilon

    Rows are strains in Voigt's order with engineering shears.

    Raises
    ------
    PropertyNotImplementedError
        For what is no crystal.
    """
    if not atoms.pbc.all():
        raise PropertyNotImplementedError(f"strain derivatives need a crystal, found pbc={atoms.pbc.tolist()}")
    inputs = evaluator.reader.read([atoms], [evaluator.reader.neighbor_list(atoms, 0.0)])
    virial, slopes, forces = (
        tensor.detach().cpu().numpy() for tensor in virial_derivatives(evaluator.reference, inputs)
    )
    stresses = (TRACES[:, None, None] * virial - slopes) / stress_volume(atoms)
    return ((stresses + stresses.swapaxes(1, 2)) / 2)[:, *VOIGT], forces


@autograd()
def virial_derivatives(potential: Potential, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    r"""Virial, and the change of virial and forces with strains that the atoms follow.

    With edges :math:`d`, gradient :math:`g = \partial E / \partial d` and a strain that changes every edge by
    :math:`\delta d = \varepsilon d`, the gradient changes by :math:`\delta g = \partial^2 E / \partial d^2\, \delta d`
    and the virial by :math:`\delta W = -\sum (\delta g \otimes d + g \otimes \delta d)`.

    Parameters
    ----------
    potential
        Twice differentiable.
    inputs
        Of one structure.

    Returns
    -------
    virial, virial_slopes, force_slopes
        (3, 3) and (6, 3, 3) eV, (6, N, 3) eV/Å.
    """
    graph = differentiable(inputs.graph)
    zeros = graph.vectors.new_zeros
    if not graph.n_edges:
        return zeros(3, 3), zeros(6, 3, 3), zeros(6, graph.n_atoms, 3)
    energy = potential(graph, inputs.fparam, inputs.aparam)
    gradient = derivatives.edge_gradient(energy, graph, create_graph=True)
    vectors = graph.vectors.detach()
    changes = vectors @ _unit_strains(vectors)  # (6, E, 3); strains are symmetric
    (bent,) = torch.autograd.grad(gradient, graph.vectors, changes, is_grads_batched=True)
    gradient = gradient.detach()
    virial = -gradient.mT @ vectors
    virial_slopes = -(bent.mT @ vectors + gradient.mT @ changes)
    return virial, virial_slopes, torch.stack([derivatives.forces(row, graph) for row in bent])


def _unit_strains(like: Tensor) -> Tensor:
    """The six unit strains in Voigt's order, (6, 3, 3)."""
    strains = like.new_zeros(6, 3, 3)
    for row, (i, j) in enumerate(zip(*VOIGT, strict=True)):
        strains[row, i, j] += 0.5
        strains[row, j, i] += 0.5
    return strains

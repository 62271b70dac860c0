"""From gradients on edges to forces and virials."""

from __future__ import annotations

import torch
from torch import Tensor

from .graph import AtomicGraph
from .ops import segment_sum


def edge_gradient(energy: Tensor, graph: AtomicGraph, *, create_graph: bool = False) -> Tensor:
    """Derivative of the summed `energy` with respect to `graph.vectors`, (E, 3) eV/Å.

    `create_graph` keeps what a second derivative needs (training on forces).
    """
    _require_autograd(graph)
    (gradient,) = torch.autograd.grad(energy.sum(), graph.vectors, create_graph=create_graph, retain_graph=create_graph)
    return gradient


def _require_autograd(graph: AtomicGraph) -> None:
    """Refuse to call gradients zero that were only not recorded."""
    if not graph.vectors.requires_grad:
        raise RuntimeError("the energy was computed without recording gradients; use dpa2_ase.model.differentiable")


def forces(gradient: Tensor, graph: AtomicGraph) -> Tensor:
    """Forces (N, 3) eV/Å from the edge gradient (E, 3); images act on their home atoms."""
    if gradient.requires_grad or not graph.n_edges:
        pull = segment_sum(gradient, graph.center, graph.n_atoms)
    else:  # twice as fast, but not to be differentiated twice
        pull = torch.segment_reduce(gradient, "sum", offsets=graph.offsets, axis=0)
    return pull - segment_sum(gradient, graph.neighbor, graph.n_atoms)


def virial(gradient: Tensor, graph: AtomicGraph) -> Tensor:
    r"""Virials (S, 3, 3) eV, :math:`W_{ab} = -\sum_{edges} \partial E / \partial d_a\, d_b`; stress is -W / volume."""
    vectors = graph.vectors.detach()
    if graph.n_structures == 1:
        return -(gradient.mT @ vectors)[None]
    structure = graph.structure[graph.center]
    rows = [segment_sum(-g[:, None] * vectors, structure, graph.n_structures) for g in gradient.unbind(1)]
    return torch.stack(rows, dim=1)


def pull_back(gradient: Tensor, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
    """Forces (N, 3) eV/Å and virials (S, 3, 3) eV from the edge gradient (E, 3), these symmetric to the last digit."""
    virials = virial(gradient, graph)
    return forces(gradient, graph), (virials + virials.mT) / 2


def atomic_virials(atomic_energies: Tensor, graph: AtomicGraph, positions: Tensor) -> Tensor:
    r"""Virials of atoms (N, 3, 3) eV in DeePMD-kit's convention; their sum is the virial.

    .. math:: W_{k,ab} = \sum_l \frac{\partial e_l}{\partial r_{k,a}} (r_{l,b} - r_{k,b})

    with k over atoms and images, folded onto home atoms, and l over the centers of atomic energies.

    Parameters
    ----------
    atomic_energies
        (N,) eV, with an autograd graph to ``graph.vectors``.
    positions
        (N, 3) Å, as given. Where messages pass through images, the split among atoms depends on the image a position
        stands for; the total does not.
    """
    _require_autograd(graph)
    weights = [torch.ones_like(atomic_energies), *positions.unbind(1)]
    gradients = [
        torch.autograd.grad(atomic_energies, graph.vectors, weight, retain_graph=True)[0] for weight in weights
    ]
    plain, weighted = gradients[0][:, :, None], torch.stack(gradients[1:], dim=-1)  # (E, 3, 1), (E, a, b)
    center = positions[graph.center]
    at_neighbor = weighted - plain * (center + graph.vectors.detach())[:, None, :]
    at_center = weighted - plain * center[:, None, :]
    return segment_sum(at_neighbor, graph.neighbor, graph.n_atoms) - segment_sum(at_center, graph.center, graph.n_atoms)

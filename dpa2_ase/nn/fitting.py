"""Fitting nets: from the representation of an atom to what it contributes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import FittingConfig
from ..graph import AtomicGraph
from .layers import fitting_net
from .se_atten import BlockOutput


class Fitting(nn.Module):
    """One net for all types; its input is the representation and, where the model has them, parameters.

    Parameters
    ----------
    config
        Options of the net.
    width, equivariant_width
        Channels of the descriptor's two outputs.
    n_types
        Number of types T.
    """

    bias_atom_e: Tensor
    fparam_avg: Tensor
    fparam_inv_std: Tensor
    aparam_avg: Tensor
    aparam_inv_std: Tensor
    case_embd: Tensor

    def __init__(self, config: FittingConfig, width: int, equivariant_width: int, n_types: int) -> None:
        super().__init__()
        self.config = config
        self.n_aparam = 0 if config.use_aparam_as_mask else config.numb_aparam
        n_in = width + config.numb_fparam + self.n_aparam + config.dim_case_embd
        n_out = self._n_out(equivariant_width)
        self.net = fitting_net(n_in, config.neuron, n_out, config.activation_function, config.resnet_dt)
        self.register_buffer("bias_atom_e", torch.zeros(n_types, n_out))
        for name, size in (("fparam", config.numb_fparam), ("aparam", config.numb_aparam)):
            self.register_buffer(f"{name}_avg", torch.zeros(size))
            self.register_buffer(f"{name}_inv_std", torch.ones(size))
        self.register_buffer("case_embd", torch.zeros(config.dim_case_embd))

    def _n_out(self, equivariant_width: int) -> int:
        if self.config.type == "polar":
            return equivariant_width if self.config.fit_diag else equivariant_width**2
        sizes = {"ener": 1, "dos": self.config.numb_dos, "property": self.config.task_dim, "dipole": equivariant_width}
        return sizes[self.config.type]

    def forward(
        self, descriptor: BlockOutput, graph: AtomicGraph, fparam: Tensor | None, aparam: Tensor | None
    ) -> Tensor:
        """Net outputs of all atoms, (N, n_out), in float64.

        Parameters
        ----------
        fparam
            Parameters of the structures, (S, numb_fparam); ``None`` takes the default stored in the model.
        aparam
            Parameters of the atoms, (N, numb_aparam).
        """
        return self.values(descriptor.node, self.parameter_inputs(graph, fparam, aparam), graph.types)

    def values(self, node: Tensor, others: list[Tensor], types: Tensor) -> Tensor:
        """Net outputs (N, n_out) in float64 of atoms with representations (N, C), other inputs and types (N,)."""
        node = node.to(self.bias_atom_e.dtype)
        value = self.net(torch.cat([node, *others], dim=1))
        if self.config.subtracts_vacuum:
            value = value - self.net(torch.cat([torch.zeros_like(node), *others], dim=1))
        return (value + self.bias_atom_e[types]).double()

    def parameter_inputs(self, graph: AtomicGraph, fparam: Tensor | None, aparam: Tensor | None) -> list[Tensor]:
        """Normalized parameters of all atoms, the other inputs of the net."""
        parts = []
        if self.config.numb_fparam:
            if fparam is None:
                default = self.fparam_avg.new_tensor(self.config.default_fparam, dtype=torch.float64)
                fparam = default.expand(graph.n_structures, -1)
            normalized = (fparam.to(self.fparam_avg) - self.fparam_avg) * self.fparam_inv_std
            parts.append(normalized[graph.structure])
        if self.n_aparam:
            assert aparam is not None  # checked where the user's data comes in
            parts.append((aparam.to(self.aparam_avg) - self.aparam_avg) * self.aparam_inv_std)
        if self.config.dim_case_embd:
            parts.append(self.case_embd.expand(graph.n_atoms, -1))
        return parts


def dipole(weights: Tensor, equivariant: Tensor) -> Tensor:
    """Atomic dipoles (N, 3) from net outputs (N, M) and equivariant vectors (N, M, 3)."""
    return torch.einsum("nc,nca->na", weights, equivariant)


def polarizability(weights: Tensor, equivariant: Tensor) -> Tensor:
    """Atomic polarizabilities (N, 3, 3) from net outputs (N, M) or (N, M²) and equivariant vectors (N, M, 3)."""
    n_atoms, width, _ = equivariant.shape
    if weights.shape[1] == width:
        return torch.einsum("nca,nc,ncb->nab", equivariant, weights, equivariant)
    square = weights.view(n_atoms, width, width)
    return torch.einsum("nca,ncd,ndb->nab", equivariant, (square + square.mT) / 2, equivariant)

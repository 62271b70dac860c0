"""The fitting net of energies, differentiated while its activations are at hand."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..graph import AtomicGraph
from ..nn.fitting import Fitting
from ..nn.se_atten import BlockOutput
from .backward import first_derivatives

ATOMS_AT_ONCE = 2048


class EagerFitting(nn.Module):
    """Twin of `Fitting` for one output per atom: keeps derivatives, a row per atom, instead of activations.

    Atoms are independent of each other, so their derivatives follow without waiting for what the energies are used
    for. Pieces of the structure are finished one after the other; memory for activations is that of one piece.
    """

    def __init__(self, reference: Fitting) -> None:
        super().__init__()
        self.reference = reference

    @classmethod
    def obstacle(cls, reference: Fitting) -> str | None:
        """Why this twin cannot stand in for `reference`; ``None`` if it can."""
        return None if reference.config.type == "ener" else f"fitting of {reference.config.type}: several outputs"

    @classmethod
    def from_reference(cls, reference: Fitting, dtype: torch.dtype) -> EagerFitting:
        """The twin with nets in `dtype`; shares tensors that are in it already."""
        same = all(tensor.dtype == dtype for tensor in (*reference.parameters(), *reference.buffers()))
        return cls(reference if same else copy.deepcopy(reference).to(dtype))

    def forward(
        self, descriptor: BlockOutput, graph: AtomicGraph, fparam: Tensor | None, aparam: Tensor | None
    ) -> Tensor:
        """Net outputs of all atoms, (N, 1), in float64; parameters as in `Fitting`."""
        return _Values.apply(descriptor.node, self.reference, graph, fparam, aparam)


class _Values(torch.autograd.Function):
    """Outputs (N, 1) from representations (N, C)."""

    @staticmethod
    def forward(  # noqa: PLR0913  # the arguments of `Fitting`
        ctx: Any, node: Tensor, fitting: Fitting, graph: AtomicGraph, fparam: Tensor | None, aparam: Tensor | None
    ) -> Tensor:
        others = fitting.parameter_inputs(graph, fparam, aparam)
        values, slopes = [], []
        for start in range(0, len(node), ATOMS_AT_ONCE):
            part = slice(start, start + ATOMS_AT_ONCE)
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                here = node[part].detach().requires_grad_(ctx.needs_input_grad[0])
                value = fitting.values(here, [other[part] for other in others], graph.types[part])
                if ctx.needs_input_grad[0]:
                    slopes.append(torch.autograd.grad(value.sum(), here)[0])
            values.append(value.detach())
        ctx.slope = torch.cat(slopes) if slopes else None
        return torch.cat(values) if values else node.new_zeros(0, 1, dtype=torch.float64)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        d_node = None if ctx.slope is None else ctx.slope * gradient.to(ctx.slope)
        return d_node, None, None, None, None

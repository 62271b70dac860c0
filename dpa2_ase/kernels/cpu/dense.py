"""Dense layers and the fitting net in compiled kernels."""

from __future__ import annotations

from ctypes import byref
from typing import Any

import torch
from torch import Tensor, nn

from ...graph import AtomicGraph
from ...nn.fitting import Fitting
from ...nn.layers import Dense
from ...nn.se_atten import BlockOutput
from ..backward import first_derivatives
from ..fitting import ATOMS_AT_ONCE, EagerFitting
from .library import Library, require
from .structures import DenseWeights, fill

NARROW = 64  # input channels below which a layer is not worth a call


class Layer:
    """One dense layer in `dtype`: tanh or linear, once differentiable."""

    def __init__(self, reference: Dense, dtype: torch.dtype, library: Library) -> None:
        self.dtype, self.library = dtype, library
        self.width = reference.weight.shape[1]
        self._keep: list[Tensor] = []
        weight = reference.weight.detach().to(dtype).contiguous()
        self._weights = fill(
            DenseWeights(),
            self._keep,
            n_in=len(weight),
            n_out=self.width,
            is_tanh=reference.activation is torch.tanh,
            copies=reference.copies,
            weight=weight,
            weight_t=weight.T.contiguous(),
            bias=_optional(reference.bias, dtype),
            timestep=_optional(reference.timestep, dtype),
        )

    def forward(self, x: Tensor, *, keep: bool) -> tuple[Tensor, Tensor | None]:
        """Output (N, O) of `x` (N, I), contiguous, and what `backward` needs, if it is to be kept."""
        out = torch.empty(len(x), self.width, dtype=self.dtype, device="cpu")
        active = torch.empty_like(out) if keep and self._weights.is_tanh else None
        self.write(len(x), x, out, active)
        return out, active

    def write(self, n_rows: int, x: Tensor, out: Tensor, active: Tensor | None = None) -> None:
        """Fill the memory of `out` with (N, O) from that of `x`, (N, I); the shapes of these tensors do not matter."""
        self.library["dense", self.dtype](
            n_rows, byref(self._weights), x.data_ptr(), None if active is None else active.data_ptr(), out.data_ptr()
        )

    def backward(self, active: Tensor | None, d_out: Tensor) -> Tensor:
        """Gradient (N, I) by the input from that by the output, contiguous."""
        d_x = torch.empty(len(d_out), self._weights.n_in, dtype=self.dtype, device="cpu")
        self.library["dense_backward", self.dtype](
            len(d_out), byref(self._weights), None if active is None else active.data_ptr(), d_out.data_ptr(),
            d_x.data_ptr(),
        )  # fmt: skip
        return d_x


def _optional(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.detach().to(dtype).contiguous()


def _unknown_activation(layer: Dense) -> bool:
    linear = layer.activation(torch.tensor([-2.0, 0.5], device="cpu")).tolist() == [-2.0, 0.5]
    return not linear and layer.activation is not torch.tanh


class CompiledDense(nn.Module):
    """Twin of a wide `Dense`."""

    def __init__(self, reference: Dense, dtype: torch.dtype, library: Library) -> None:
        super().__init__()
        self.layer = Layer(reference, dtype, library)

    @classmethod
    def obstacle(cls, reference: Dense) -> str | None:
        """Why this twin cannot stand in for `reference`, empty for a narrow layer; ``None`` if it can."""
        if len(reference.weight) < NARROW:
            return ""  # not worth a call
        return "its activation" if _unknown_activation(reference) else None

    @classmethod
    def from_reference(cls, reference: Dense, dtype: torch.dtype) -> CompiledDense:
        """The twin for a run in `dtype`."""
        return cls(reference, dtype, require())

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        return _Apply.apply(x.flatten(0, -2), self.layer).reshape(*x.shape[:-1], self.layer.width)


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer) -> Tensor:
        ctx.layer = layer
        out, ctx.active = layer.forward(x.detach().to(layer.dtype).contiguous(), keep=ctx.needs_input_grad[0])
        return out

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.backward(ctx.active, d_out.to(ctx.layer.dtype).contiguous()), None


class CompiledFitting(nn.Module):
    """Twin of `Fitting` for energies: as `EagerFitting`, with its net in compiled kernels."""

    def __init__(self, reference: Fitting, dtype: torch.dtype, library: Library) -> None:
        super().__init__()
        self.reference, self.dtype = EagerFitting.from_reference(reference, dtype).reference, dtype
        self.layers = [Layer(layer, dtype, library) for layer in reference.net if isinstance(layer, Dense)]

    @classmethod
    def obstacle(cls, reference: Fitting) -> str | None:
        """Why this twin cannot stand in for `reference`; ``None`` if it can."""
        if any(_unknown_activation(layer) for layer in reference.net if isinstance(layer, Dense)):
            return f"activation {reference.config.activation_function}"
        return EagerFitting.obstacle(reference)

    @classmethod
    def from_reference(cls, reference: Fitting, dtype: torch.dtype) -> CompiledFitting:
        """The twin for a run in `dtype`."""
        return cls(reference, dtype, require())

    def forward(
        self, descriptor: BlockOutput, graph: AtomicGraph, fparam: Tensor | None, aparam: Tensor | None
    ) -> Tensor:
        """Net outputs of all atoms, (N, 1), in float64; parameters as in `Fitting`."""
        node = descriptor.node.to(self.dtype)
        parts = self.reference.parameter_inputs(graph, fparam, aparam)
        others = torch.cat(parts, dim=1) if parts else None
        value = _Values.apply(node, self.layers, others)
        if self.reference.config.subtracts_vacuum:
            value = value - _Values.apply(torch.zeros_like(node), self.layers, others)
        return (value + self.reference.bias_atom_e[graph.types]).double()


class _Values(torch.autograd.Function):
    """Outputs (N, 1) of a net from representations (N, C) and other inputs (N, X); keeps derivatives (N, C)."""

    @staticmethod
    def forward(ctx: Any, node: Tensor, layers: list[Layer], others: Tensor | None) -> Tensor:
        values, slopes = [node.new_zeros(0, 1)], [node.new_zeros(0, node.shape[1])]
        for start in range(0, len(node), ATOMS_AT_ONCE):
            part = slice(start, start + ATOMS_AT_ONCE)
            x = node[part].detach()
            x = (x if others is None else torch.cat([x, others[part]], dim=1)).contiguous()
            kept = []
            for layer in layers:
                x, active = layer.forward(x, keep=ctx.needs_input_grad[0])
                kept.append(active)
            values.append(x)
            if ctx.needs_input_grad[0]:
                slope = torch.ones_like(x)
                for layer, active in zip(reversed(layers), reversed(kept), strict=True):
                    slope = layer.backward(active, slope)
                slopes.append(slope[:, : node.shape[1]])
        ctx.slope = torch.cat(slopes) if ctx.needs_input_grad[0] else None
        return torch.cat(values)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        return ctx.slope * gradient, None, None

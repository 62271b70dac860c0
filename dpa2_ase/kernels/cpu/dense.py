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
from ..fitting import EagerFitting
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
        self.weights: DenseWeights = fill(
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
        active = torch.empty_like(out) if keep and self.weights.is_tanh else None
        self.write(len(x), x, out, active)
        return out, active

    def write(self, n_rows: int, x: Tensor, out: Tensor, active: Tensor | None = None) -> None:
        """Fill the memory of `out` with (N, O) from that of `x`, (N, I); the shapes of these tensors do not matter."""
        self.library["dense", self.dtype](
            n_rows, byref(self.weights), x.data_ptr(), None if active is None else active.data_ptr(), out.data_ptr()
        )

    def backward(self, active: Tensor | None, d_out: Tensor) -> Tensor:
        """Gradient (N, I) by the input from that by the output, contiguous."""
        d_x = torch.empty(len(d_out), self.weights.n_in, dtype=self.dtype, device="cpu")
        self.library["dense_backward", self.dtype](
            len(d_out), byref(self.weights), None if active is None else active.data_ptr(), d_out.data_ptr(),
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
        self._net = _Net(self.layers)

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
        value = _Values.apply(node, self._net, others)
        if self.reference.config.subtracts_vacuum:
            value = value - _Values.apply(torch.zeros_like(node), self._net, others)
        return (value + self.reference.bias_atom_e.index_select(0, graph.types)).double()


class _Net:
    """Layers as one array of C structures."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers, self.last = layers, layers[-1]
        self._weights = (DenseWeights * len(layers))(*[layer.weights for layer in layers])

    def write(self, x: Tensor, out: Tensor, slope: Tensor | None) -> None:
        """Outputs (N, O) for `x` (N, I), and the derivatives (N, I) of their sum over O, if they are wanted."""
        self.last.library["net", self.last.dtype](
            len(x), len(self.layers), self._weights, x.data_ptr(), out.data_ptr(),
            None if slope is None else slope.data_ptr(),
        )  # fmt: skip


class _Values(torch.autograd.Function):
    """Outputs (N, 1) of a net from representations (N, C) and other inputs (N, X); keeps derivatives (N, C)."""

    @staticmethod
    def forward(ctx: Any, node: Tensor, net: _Net, others: Tensor | None) -> Tensor:
        x = node.detach()
        x = (x if others is None else torch.cat([x, others], dim=1)).contiguous()
        value, slope = x.new_empty(len(x), 1), torch.empty_like(x) if ctx.needs_input_grad[0] else None
        net.write(x, value, slope)
        ctx.slope = None if slope is None else slope[:, : node.shape[1]]
        return value

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        return ctx.slope * gradient, None, None

"""The environment matrix with its derivative by hand: a third of the operations that autograd records for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph import AtomicGraph, norms
from ..nn.environment import EdgeEnvironment, Environment
from ..ops import smooth_switch
from .backward import first_derivatives


def edge_environment(environment: Environment, graph: AtomicGraph) -> EdgeEnvironment:
    """What `environment` says of the edges of `graph`; once differentiable."""
    found = _Rows.apply(graph.vectors, environment, graph.types[graph.center])
    return EdgeEnvironment(*(part.to(environment.mean.dtype) for part in found))


class _Rows(torch.autograd.Function):
    r"""The parts of an `EdgeEnvironment` in its order, from vectors (E, 3) and the types of centers (E,).

    With distances :math:`\rho = r + p` for the protection p, amplitudes :math:`s = w / \rho` and :math:`q = s / \rho`:

    .. math:: s' = (w' - s) / \rho, \quad q' = (s' - q) / \rho
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, environment: Environment, types: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        lengths = norms(vectors)
        switch = smooth_switch(lengths, environment.onset, environment.cutoff)
        protected = lengths + environment.protection
        amplitude = switch / protected
        ratio = amplitude / protected
        rows = torch.cat([amplitude[:, None], ratio[:, None] * vectors], dim=1)
        std = environment.std[types]
        ctx.save_for_backward(vectors, lengths, protected, amplitude, ratio, std)
        ctx.environment = environment
        return (rows - environment.mean[types]).div_(std), switch, amplitude, protected

    @staticmethod
    @first_derivatives
    def backward(
        ctx: Any, d_rows: Tensor | None, d_switch: Tensor | None, d_amplitude: Tensor | None, d_distances: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        vectors, lengths, protected, amplitude, ratio, std = ctx.saved_tensors
        switch_slope = _switch_slope(lengths, ctx.environment.onset, ctx.environment.cutoff)
        amplitude_slope = (switch_slope - amplitude).div_(protected)
        along = torch.zeros_like(lengths)  # derivative by the length
        direct: Tensor | None = None
        if d_rows is not None:
            d_rows = d_rows / std
            direct = d_rows[:, 1:]
            ratio_slope = (amplitude_slope - ratio).div_(protected)
            along.addcmul_(d_rows[:, 0], amplitude_slope).addcmul_((direct * vectors).sum(1), ratio_slope)
        if d_switch is not None:
            along.addcmul_(d_switch, switch_slope)
        if d_amplitude is not None:
            along.addcmul_(d_amplitude, amplitude_slope)
        if d_distances is not None:
            along.add_(d_distances)
        gradient = along.div_(lengths)[:, None] * vectors
        if direct is not None:
            gradient.addcmul_(ratio[:, None], direct)
        return gradient, None, None


def _switch_slope(lengths: Tensor, onset: float, cutoff: float) -> Tensor:
    """Derivative (E,) of `smooth_switch`, -30 v² (1 - v)² / (r_c - r_s)."""
    v = ((cutoff - lengths) / (cutoff - onset)).clamp_(0, 1)
    product = v.mul_(1 - v)
    return product.mul_(product).mul_(-30 / (cutoff - onset))

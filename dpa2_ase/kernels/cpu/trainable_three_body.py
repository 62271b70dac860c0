"""The three-body block for training: compiled kernels, and derivatives by all its parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...graph import AtomicGraph, neighborhood
from ...nn.three_body import ThreeBody
from ..backward import first_derivatives
from .geometry import Geometry
from .library import Library, require
from .tables import edges_of
from .trainable_tables import TOLERANCE, Kernel, TypePairs, in_float64, lanes_of, shared_table, trainable_obstacle

WIDTH = {torch.float64: 1 / 32, torch.float32: 1 / 8}  # of the cells of most nets, in the units of u
SMALLEST_BEND = 8.0


class TrainableThreeBody(nn.Module):
    """Twin of `ThreeBody`, once differentiable by vectors, parameters and type embedding.

    Its net is tabulated in every pass, over the products c of that pass. The variable of the table is
    :math:`u = c / (1 + |c| / b)`, since most of them are small, and the nets are steep there; zero, where it is not
    smooth, is between two cells. Where that takes too many cells to pay, the reference answers.
    """

    def __init__(self, reference: ThreeBody, dtype: torch.dtype, library: Library) -> None:
        super().__init__()
        self.reference, self.dtype, self.library = reference, dtype, library

    @classmethod
    def obstacle(cls, reference: ThreeBody) -> str | None:
        """Why this twin cannot stand in for `reference`; ``None`` if it can."""
        if reference.sees_empty_slots:
            return "empty neighbor slots contribute (angular mean of the training not zero)"
        return trainable_obstacle(reference.features, reference.config.activation_function)

    @classmethod
    def from_reference(cls, reference: ThreeBody, dtype: torch.dtype) -> TrainableThreeBody:
        """The twin for a run in `dtype`; has the parameters of `reference`."""
        return cls(reference, dtype, require())

    def forward(self, graph: AtomicGraph, type_embedding: Tensor) -> Tensor:
        """Invariants (N, C)."""
        block = self.reference
        type_embedding = type_embedding.to(block.environment.mean.dtype)
        hood = neighborhood(graph, block.config.rcut, block.config.nsel, block.excluded)
        sums = self._sums(hood.graph, type_embedding) if hood.graph.n_edges else None
        return block(graph, type_embedding).to(self.dtype) if sums is None else sums

    def _sums(self, graph: AtomicGraph, type_embedding: Tensor) -> Tensor | None:
        """Invariants (N, C); ``None`` without a table."""
        features, vectors = self.reference.features, graph.vectors.detach()
        geometry = Geometry(self.reference.environment, self.dtype, self.library)
        rows, weight = geometry.forward(graph, vectors)
        if not self.reference.config.smooth:
            weight = torch.ones_like(weight)
        largest = (rows[:, 1:].double() ** 2).sum(1).amax().item() * (1 + 1e-12)  # rounding of the products
        if not math.isfinite(largest):
            return None
        # the end of the range, at 8/9 of the bend or before, stays clear of it: there c is infinite
        bend = max(SMALLEST_BEND, 2.0 ** math.ceil(math.log2(max(largest, 1) / 8)))
        upper = largest / (1 + largest / bend)
        net = in_float64(features.net)
        # the table holds the sum over both orders of a pair
        table = shared_table(
            lambda u: 2 * net(u / (1 - u.abs() / bend)), -upper, upper, WIDTH[self.dtype], TOLERANCE[self.dtype]
        )
        if table is None:
            return None
        assert features.type_net is not None  # see `obstacle`
        pairs = TypePairs.of(graph, len(type_embedding))
        values = features.type_net(features.type_rows(pairs.first, pairs.second, type_embedding))
        factor = (values + values.index_select(0, pairs.number[pairs.second, pairs.first])) / 2
        lanes = lanes_of(self.library, self.dtype) // 2
        kernel = Kernel(table, factor.to(self.dtype), pairs, lanes, bend)
        sums: Tensor = _Sums.apply(
            graph.vectors, kernel.coefficients, kernel.factor, self, graph, geometry, kernel, (rows, weight)
        )
        return sums


class _Sums(torch.autograd.Function):
    """Invariants (N, C) from edge vectors (E, 3), coefficients of the table (n_cells, 6, R) and factors (K, R)."""

    @staticmethod
    def forward(  # noqa: PLR0913  # the last five are no variables
        ctx: Any, vectors: Tensor, coefficients: Tensor, factor: Tensor, twin: TrainableThreeBody, graph: AtomicGraph,
        geometry: Geometry, kernel: Kernel, arrays: tuple[Tensor, Tensor],
    ) -> Tensor:  # fmt: skip
        sums = torch.empty(graph.n_atoms, kernel.channels, dtype=twin.dtype, device="cpu")
        twin.library["shared_three_body", twin.dtype](*_given(twin, graph, kernel, arrays), sums.data_ptr())
        ctx.vectors, ctx.twin, ctx.graph, ctx.geometry = vectors.detach(), twin, graph, geometry
        ctx.kernel, ctx.arrays = kernel, arrays
        return sums

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_sums: Tensor) -> Any:
        twin, graph, kernel, (rows, weight) = ctx.twin, ctx.graph, ctx.kernel, ctx.arrays
        d_sums = d_sums.to(twin.dtype).contiguous()
        given = [*_given(twin, graph, kernel, ctx.arrays), d_sums.data_ptr()]
        d_vectors = d_coefficients = d_factor = None
        if ctx.needs_input_grad[0]:
            d_rows, d_weight = torch.zeros_like(rows), torch.empty_like(weight)
            twin.library["shared_three_body_backward", twin.dtype](*given, _angular(d_rows), d_weight.data_ptr())
            if not twin.reference.config.smooth:
                d_weight.zero_()
            d_vectors = ctx.geometry.backward(graph, ctx.vectors, d_rows, d_weight)
        if any(ctx.needs_input_grad[1:3]):
            run = twin.library["shared_three_body_by_table", twin.dtype]
            d_coefficients, d_factor = kernel.gradients(graph.n_atoms, lambda sums: run(*given, sums))
        return d_vectors, d_coefficients, d_factor, None, None, None, None, None


def _given(
    twin: TrainableThreeBody, graph: AtomicGraph, kernel: Kernel, arrays: tuple[Tensor, Tensor]
) -> tuple[Any, ...]:
    """The arguments that all three kernels share."""
    rows, weight = arrays
    scale = float(twin.reference.config.nsel) ** -2
    return *edges_of(graph), kernel.features, _angular(rows), 4, weight.data_ptr(), scale


def _angular(rows: Tensor) -> int:
    """Address of the second column of rows (radial, angular)."""
    return rows.data_ptr() + rows.element_size()

"""The three-body block for training: compiled kernels, and derivatives by all its parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...graph import AtomicGraph, neighborhood
from ...nn.three_body import ThreeBody
from ..backward import first_derivatives
from .geometry import Geometry
from .tables import edges_of
from .trainable_tables import Kernel, TableTwin, TypedFunctions, TypePairs, lanes_of, trainable_obstacle

WIDTH = {torch.float64: 1 / 32, torch.float32: 1 / 8}  # of the cells of most nets, in the units of u
SMALLEST_BEND = 8.0


class TrainableThreeBody(TableTwin):
    """Twin of `ThreeBody`, once differentiable by vectors, parameters and type embedding.

    Its net is tabulated in every pass, over the products c of that pass. The variable of the tables is
    :math:`u = c / (1 + |c| / b)`, since most of them are small, and the nets are steep there; zero, where it is not
    smooth, is between two cells. Where that takes too many cells to pay, or too many pairs of types meet, the reference
    answers; see `NODES_PER_ROW`.
    """

    reference: ThreeBody

    @classmethod
    def obstacle(cls, reference: ThreeBody) -> str | None:
        """Why this twin cannot stand in for `reference`; ``None`` if it can."""
        if reference.sees_empty_slots:
            return "empty neighbor slots contribute (angular mean of the training not zero)"
        return trainable_obstacle(reference.features, reference.config.activation_function)

    def forward(self, graph: AtomicGraph, type_embedding: Tensor) -> Tensor:
        """Invariants (N, C)."""
        block = self.reference
        type_embedding = type_embedding.to(block.environment.mean.dtype)
        hood = neighborhood(graph, block.config.rcut, block.config.nsel, block.excluded)
        sums = self._sums(hood.graph, type_embedding) if hood.graph.n_edges else None
        return block(graph, type_embedding).to(self.dtype) if sums is None else sums

    def _sums(self, graph: AtomicGraph, type_embedding: Tensor) -> Tensor | None:
        """Invariants (N, C); ``None`` without a table."""
        vectors = graph.vectors.detach()
        geometry = Geometry(self.reference.environment, self.dtype, self.library)
        rows, weight = geometry.forward(graph, vectors)
        if not self.reference.config.smooth:
            weight = torch.ones_like(weight)
        pairs = TypePairs.of(graph, len(type_embedding), ordered=False)
        largest = _largest_products(rows, graph, pairs)
        highest = largest.amax().item()
        if not math.isfinite(highest):
            return None
        # the end of the range, at 8/9 of the bend or before, stays clear of it: there c is infinite
        bend = max(SMALLEST_BEND, 2.0 ** math.ceil(math.log2(max(highest, 1) / 8)))
        upper = largest / (1 + largest / bend)
        # the tables hold the sum over both orders of a pair
        orders = [(pairs.first, pairs.second), (pairs.second, pairs.first)]
        functions = TypedFunctions(self.reference.features, type_embedding, orders, lambda u: u / (1 - u.abs() / bend))
        n_rows = int((graph.degree**2).sum())
        tables = functions.tabulated((-upper, upper), self.dtype, WIDTH[self.dtype], n_rows)
        if tables is None:
            return None
        lanes = lanes_of(self.library, self.dtype) // 2
        kernel = Kernel(tables, functions.factor(), pairs, self.dtype, lanes, bend)
        sums: Tensor = _Sums.apply(
            graph.vectors, kernel.coefficients, kernel.factor, self, graph, geometry, kernel, (rows, weight)
        )
        return sums


def _largest_products(rows: Tensor, graph: AtomicGraph, pairs: TypePairs) -> Tensor:
    """Limits (K,) of the products of the angular rows of two neighbors with the types of every pair."""
    square = (rows[:, 1:].double() ** 2).sum(1)
    largest = square.new_zeros(len(pairs.number)).scatter_reduce(0, graph.types[graph.neighbor], square, "amax").sqrt()
    return largest[pairs.first] * largest[pairs.second] * (1 + 1e-12)  # rounding of the products


class _Sums(torch.autograd.Function):
    """Invariants (N, C) from edge vectors (E, 3), coefficients of tables (M, 6, R) and factors (K, R), if any."""

    @staticmethod
    def forward(  # noqa: PLR0913  # the last five are no variables
        ctx: Any, vectors: Tensor, coefficients: Tensor, factor: Tensor | None, twin: TrainableThreeBody,
        graph: AtomicGraph, geometry: Geometry, kernel: Kernel, arrays: tuple[Tensor, Tensor],
    ) -> Tensor:  # fmt: skip
        sums = torch.empty(graph.n_atoms, kernel.channels, dtype=twin.dtype, device="cpu")
        twin.library["trained_three_body", twin.dtype](*_given(twin, graph, kernel, arrays), sums.data_ptr())
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
            twin.library["trained_three_body_backward", twin.dtype](*given, _angular(d_rows), d_weight.data_ptr())
            if not twin.reference.config.smooth:
                d_weight.zero_()
            d_vectors = ctx.geometry.backward(graph, ctx.vectors, d_rows, d_weight)
        if any(ctx.needs_input_grad[1:3]):
            run = twin.library["trained_three_body_by_table", twin.dtype]
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

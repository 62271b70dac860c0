"""The ``se_atten`` block without attention for training: compiled kernels, and derivatives by all its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...graph import AtomicGraph, neighborhood
from ...nn.se_atten import BlockOutput, SeAtten
from ..backward import first_derivatives
from .geometry import Geometry
from .tables import edges_of
from .trainable_tables import Kernel, TableTwin, TypedFunctions, TypePairs, lanes_of, trainable_obstacle

WIDTH = {
    torch.float64: 0.125,
    torch.float32: 0.25,
}  # of the cells for most nets; a standard deviation is one


class TrainableSeAtten(TableTwin):
    """Twin of `SeAtten` without attention layers, once differentiable by vectors, parameters and type embedding.

    Its net is tabulated in every pass, over the arguments of that pass. Where they are so many cells apart, or of so
    many pairs of types, that no table pays, the reference answers; see `NODES_PER_ROW`.
    """

    reference: SeAtten

    @classmethod
    def obstacle(cls, reference: SeAtten) -> str | None:
        """Why this twin cannot stand in for `reference`; ``None`` if it can."""
        if reference.config.attn_layer:
            return "its attention layers mix the features of neighbors"
        if reference.config.lmax > 1:
            return "the compiled tables do not know lmax > 1"
        return trainable_obstacle(reference.features, reference.config.activation_function)

    def forward(self, graph: AtomicGraph, type_embedding: Tensor) -> BlockOutput:
        """Invariants (N, C·A) and the equivariant part (N, C, 3) of the moment."""
        block = self.reference
        type_embedding = type_embedding.to(block.environment.mean.dtype)
        hood = neighborhood(graph, block.config.rcut, block.config.nsel, block.excluded)
        moment = self._moment(hood.graph, type_embedding) if hood.graph.n_edges else None
        if moment is None:
            output = block(graph, type_embedding)
            return BlockOutput(output.node.to(self.dtype), output.equivariant.to(self.dtype))
        return block.output(moment, hood, type_embedding)

    def _moment(self, graph: AtomicGraph, type_embedding: Tensor) -> Tensor | None:
        """Sum of rows and features over neighbors (N, 4, C); ``None`` without a table."""
        vectors = graph.vectors.detach()
        geometry = Geometry(self.reference.environment, self.dtype, self.library)
        argument = torch.empty(graph.n_edges, dtype=torch.float64, device="cpu")
        rows, weight = geometry.forward(graph, vectors, argument)
        if not self.reference.config.smooth:
            weight = torch.ones_like(weight)
        pairs = TypePairs.of(graph, len(type_embedding), ordered=True)
        number = pairs.number[graph.types[graph.center], graph.types[graph.neighbor]]
        nothing = torch.zeros(len(pairs.first), dtype=torch.float64, device="cpu")
        lower = nothing.scatter_reduce(0, number, argument, "amin", include_self=False)
        upper = nothing.scatter_reduce(0, number, argument, "amax", include_self=False)
        functions = TypedFunctions(self.reference.features, type_embedding, [(pairs.second, pairs.first)])
        tables = functions.tabulated((lower, upper), self.dtype, WIDTH[self.dtype], graph.n_edges)
        if tables is None:
            return None
        kernel = Kernel(tables, functions.factor(), pairs, self.dtype, lanes_of(self.library, self.dtype))
        arrays = rows, argument, weight
        moment: Tensor = _Moments.apply(
            graph.vectors, kernel.coefficients, kernel.factor, self, graph, geometry, kernel, arrays
        )
        return moment


class _Moments(torch.autograd.Function):
    """Moments (N, 4, C) from edge vectors (E, 3), coefficients of tables (M, 6, R) and factors (K, R), if any."""

    @staticmethod
    def forward(  # noqa: PLR0913  # the last five are no variables
        ctx: Any, vectors: Tensor, coefficients: Tensor, factor: Tensor | None, twin: TrainableSeAtten,
        graph: AtomicGraph, geometry: Geometry, kernel: Kernel, arrays: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:  # fmt: skip
        moment = torch.empty(graph.n_atoms, 4, kernel.channels, dtype=twin.dtype, device="cpu")
        addresses = [array.data_ptr() for array in arrays]
        twin.library["trained_moments", twin.dtype](*edges_of(graph), kernel.features, *addresses, moment.data_ptr())
        ctx.vectors, ctx.twin, ctx.graph, ctx.geometry = vectors.detach(), twin, graph, geometry
        ctx.kernel, ctx.arrays = kernel, arrays
        return moment

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_moment: Tensor) -> Any:
        twin, graph, kernel = ctx.twin, ctx.graph, ctx.kernel
        d_moment = d_moment.to(twin.dtype).contiguous()
        given = [*edges_of(graph), kernel.features, *(array.data_ptr() for array in ctx.arrays), d_moment.data_ptr()]
        d_vectors = d_coefficients = d_factor = None
        if ctx.needs_input_grad[0]:
            rows, _, weight = ctx.arrays
            d_rows, d_weight = torch.empty_like(rows), torch.empty_like(weight)
            twin.library["trained_moments_backward", twin.dtype](*given, d_rows.data_ptr(), d_weight.data_ptr())
            if not twin.reference.config.smooth:
                d_weight.zero_()
            d_vectors = ctx.geometry.backward(graph, ctx.vectors, d_rows, d_weight)
        if any(ctx.needs_input_grad[1:3]):
            run = twin.library["trained_moments_by_table", twin.dtype]
            d_coefficients, d_factor = kernel.gradients(graph.n_atoms, lambda sums: run(*given, sums))
        return d_vectors, d_coefficients, d_factor, None, None, None, None, None

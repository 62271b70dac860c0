"""The ``se_atten`` block in compiled kernels."""

from __future__ import annotations

from ctypes import byref, c_int64
from typing import Any

import torch
from torch import Tensor, nn

from ...graph import AtomicGraph, neighborhood
from ...nn.se_atten import BlockOutput, SeAtten
from ..backward import first_derivatives
from ..se_atten import PairPlan, TabulatedSeAtten
from ..tabulation import table_obstacle
from .attention import CompiledNeighborAttention
from .attentive import attended_moments
from .geometry import Geometry
from .library import Library, require
from .structures import Features, fill
from .tables import c_table, edges_of, padded_to


class CompiledSeAtten(nn.Module):
    """Twin of `SeAtten`: the tables of `TabulatedSeAtten`, in compiled kernels; attention layers between, if any.

    Where a neighbor is closer than the tables reach, `TabulatedSeAtten` itself answers, or the exact nets if there is
    attention.
    """

    def __init__(self, reference: SeAtten, dtype: torch.dtype, library: Library) -> None:
        super().__init__()
        self.reference, self.dtype, self.library = reference, dtype, library
        self.tabulated = TabulatedSeAtten.from_reference(reference, dtype)
        self.geometry = Geometry(reference.environment, dtype, library)
        self.layers = [CompiledNeighborAttention(layer, dtype, library) for layer in reference.attention]
        self._latest: PlanOfKernels | None = None  # `tabulated` remembers the costly part of others

    @classmethod
    def obstacle(cls, reference: SeAtten) -> str | None:
        """Why this twin cannot stand in for `reference`; ``None`` if it can."""
        if reference.config.lmax > 1:
            return "the compiled tables do not know lmax > 1"
        return table_obstacle(reference.features, reference.config.activation_function)

    @classmethod
    def from_reference(cls, reference: SeAtten, dtype: torch.dtype) -> CompiledSeAtten:
        """The twin for a run in `dtype`."""
        return cls(reference, dtype, require())

    def forward(self, graph: AtomicGraph, type_embedding: Tensor) -> BlockOutput:
        """Invariants (N, C·A) and the equivariant part (N, C, 3) of the moment."""
        block = self.reference
        type_embedding = type_embedding.to(block.environment.mean.dtype)
        hood = neighborhood(graph, block.config.rcut, block.config.nsel, block.excluded)
        plan = self.plan(graph.types, type_embedding)
        if self.layers:
            attended = attended_moments(self, hood, plan, type_embedding)
            if attended is None:
                return self(graph, type_embedding)
            return block.output(attended, hood, type_embedding)
        moment, outside = _Moments.apply(hood.graph.vectors, self, hood.graph, plan)
        if outside:
            return self.tabulated(graph, type_embedding)
        return block.output(moment, hood, type_embedding)

    def plan(self, types: Tensor, type_embedding: Tensor) -> PlanOfKernels:
        """Tables for the elements among `types` (N,); built when they first appear."""
        plan = self.tabulated.plan(types, type_embedding)
        if self._latest is None or self._latest.plan is not plan:
            self._latest = PlanOfKernels(plan, self.library.vector_bytes // self.dtype.itemsize)
        return self._latest


class PlanOfKernels:
    """The C structure of a plan and the tensors it points to."""

    def __init__(self, plan: PairPlan, lanes: int) -> None:
        self.plan = plan
        self.keep: list[Tensor] = []
        basis = padded_to(plan.tables.basis, lanes, 1)
        self.channels = basis.shape[2]
        self.features = fill(
            Features(),
            self.keep,
            table=c_table(plan.tables, lanes, self.keep),
            channels=self.channels,
            basis=basis,
            basis_t=basis.mT.contiguous(),
            factor=None if plan.factor is None else plan.factor.contiguous(),
        )


class _Moments(torch.autograd.Function):
    """Moments (N, 4, C) from edge vectors (E, 3), and the number of edges that are outside of the tables."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, twin: CompiledSeAtten, graph: AtomicGraph, plan: PlanOfKernels) -> Any:
        vectors = vectors.detach()
        argument = torch.empty(graph.n_edges, dtype=torch.float64, device="cpu")
        rows, weight = twin.geometry.forward(graph, vectors, argument)
        switch = weight if twin.reference.config.smooth else torch.ones_like(weight)
        moment = torch.empty(graph.n_atoms, 4, plan.channels, dtype=twin.dtype, device="cpu")
        outside = c_int64()
        twin.library["moments", twin.dtype](
            *edges_of(graph), byref(plan.features), 4, rows.data_ptr(), argument.data_ptr(), switch.data_ptr(), 1.0,
            moment.data_ptr(), byref(outside),
        )  # fmt: skip
        ctx.arrays, ctx.twin, ctx.graph, ctx.plan = (vectors, argument, rows, switch), twin, graph, plan
        return moment, outside.value

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_moment: Tensor, _: None) -> Any:
        twin, graph, (vectors, argument, rows, switch) = ctx.twin, ctx.graph, ctx.arrays
        d_moment = d_moment.to(twin.dtype).contiguous()
        d_rows, d_weight = torch.empty_like(rows), torch.zeros_like(switch)
        twin.library["moments_backward", twin.dtype](
            *edges_of(graph), byref(ctx.plan.features), 4, rows.data_ptr(), argument.data_ptr(), switch.data_ptr(), 1.0,
            d_moment.data_ptr(), d_rows.data_ptr(), d_weight.data_ptr(),
        )  # fmt: skip
        if not twin.reference.config.smooth:
            d_weight.zero_()
        return twin.geometry.backward(graph, vectors, d_rows, d_weight), None, None, None

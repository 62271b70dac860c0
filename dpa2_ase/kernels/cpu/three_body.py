"""The three-body block in compiled kernels."""

from __future__ import annotations

from ctypes import byref, c_int64
from typing import Any

import torch
from torch import Tensor, nn

from ...graph import AtomicGraph, neighborhood
from ...nn.three_body import ThreeBody
from ..backward import first_derivatives
from ..three_body import TabulatedThreeBody, TriplePlan
from .geometry import Geometry
from .library import Library, require
from .structures import ThreeBodyOptions, fill
from .tables import c_table, edges_of, padded_to


class CompiledThreeBody(nn.Module):
    """Twin of `ThreeBody`: the tables of `TabulatedThreeBody`, summed in compiled kernels.

    Where two neighbors are closer than the tables reach, `TabulatedThreeBody` itself answers.
    """

    def __init__(self, reference: ThreeBody, dtype: torch.dtype, library: Library) -> None:
        super().__init__()
        self.reference, self.dtype, self.library = reference, dtype, library
        self.tabulated = TabulatedThreeBody.from_reference(reference, dtype)
        self.geometry = Geometry(reference.environment, dtype, library)
        self._latest: TriplePlans | None = None  # `tabulated` remembers the costly part of others

    @classmethod
    def obstacle(cls, reference: ThreeBody) -> str | None:
        """Why this twin cannot stand in for `reference`; ``None`` if it can."""
        if reference.sees_empty_slots:
            return "empty neighbor slots contribute (angular mean of the training not zero)"
        return TabulatedThreeBody.obstacle(reference)

    @classmethod
    def from_reference(cls, reference: ThreeBody, dtype: torch.dtype) -> CompiledThreeBody:
        """The twin for a run in `dtype`."""
        return cls(reference, dtype, require())

    def forward(self, graph: AtomicGraph, type_embedding: Tensor) -> Tensor:
        """Invariants (N, C)."""
        block = self.reference
        type_embedding = type_embedding.to(block.environment.mean.dtype)
        hood = neighborhood(graph, block.config.rcut, block.config.nsel, block.excluded)
        plan = self.plan(graph.types, type_embedding)
        sums, outside = _Sums.apply(hood.graph.vectors, self, hood.graph, plan)
        return self.tabulated(graph, type_embedding) if outside else sums[:, : block.width]

    def plan(self, types: Tensor, type_embedding: Tensor) -> TriplePlans:
        """Tables for the elements among `types` (N,); built when they first appear."""
        plan = self.tabulated.plan(types, type_embedding)
        if self._latest is None or self._latest.plan is not plan:
            self._latest = TriplePlans(plan, self.library.vector_bytes // self.dtype.itemsize // 2)
        return self._latest


class TriplePlans:
    """The C structure of a plan and the tensors it points to; `lanes` of a half vector."""

    def __init__(self, plan: TriplePlan, lanes: int) -> None:
        self.plan = plan
        self.keep: list[Tensor] = []
        table = c_table(plan.tables, lanes, self.keep)
        self.width = table.n_functions
        factor = None if plan.factor is None else padded_to(plan.factor, lanes, -1)
        self.options = fill(ThreeBodyOptions(), self.keep, table=table, bend=plan.bend, factor=factor)


class _Sums(torch.autograd.Function):
    """Sums over pairs (N, R) from edge vectors (E, 3), and the number of pairs that are outside of the tables."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, twin: CompiledThreeBody, graph: AtomicGraph, plan: TriplePlans) -> Any:
        vectors = vectors.detach()
        rows, weight = twin.geometry.forward(graph, vectors)
        switch = weight if twin.reference.config.smooth else torch.ones_like(weight)
        sums = torch.empty(graph.n_atoms, plan.width, dtype=twin.dtype, device="cpu")
        outside = c_int64()
        angular = rows.data_ptr() + rows.element_size()  # rows are (radial, angular): stride 4
        twin.library["three_body", twin.dtype](
            *edges_of(graph), byref(plan.options), angular, 4, switch.data_ptr(), _scale(twin), sums.data_ptr(),
            byref(outside),
        )  # fmt: skip
        ctx.arrays, ctx.twin, ctx.graph, ctx.plan = (vectors, rows, switch), twin, graph, plan
        return sums, outside.value

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_sums: Tensor, _: None) -> Any:
        twin, graph, (vectors, rows, switch) = ctx.twin, ctx.graph, ctx.arrays
        d_sums = d_sums.to(twin.dtype).contiguous()
        d_rows, d_weight = torch.zeros_like(rows), torch.zeros_like(switch)
        offset = rows.element_size()
        twin.library["three_body_backward", twin.dtype](
            *edges_of(graph), byref(ctx.plan.options), rows.data_ptr() + offset, 4, switch.data_ptr(), _scale(twin),
            d_sums.data_ptr(), d_rows.data_ptr() + offset, d_weight.data_ptr(),
        )  # fmt: skip
        if not twin.reference.config.smooth:
            d_weight.zero_()
        return twin.geometry.backward(graph, vectors, d_rows, d_weight), None, None, None


def _scale(twin: CompiledThreeBody) -> float:
    return float(twin.reference.config.nsel) ** -2

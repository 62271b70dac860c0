"""Steps of a ``se_atten`` block with attention in compiled kernels, each once differentiable."""

from __future__ import annotations

from ctypes import byref, c_int64
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's usual name

from ...graph import AtomicGraph, Neighborhood
from ..backward import first_derivatives
from .repformer import FRUGAL_FROM
from .tables import edges_of

if TYPE_CHECKING:
    from .se_atten import CompiledSeAtten, PlanOfKernels


MOST_KEPT = 6 << 30  # bytes of features kept for the backward pass; beyond, it computes them again for some centers
CENTERS_AT_ONCE = 512  # then


def attended_moments(
    twin: CompiledSeAtten, hood: Neighborhood, plan: PlanOfKernels, embedding: Tensor
) -> Tensor | None:
    """Moments (N, 4, C) of the features after all attention layers; ``None``: wider tables would cover more edges."""
    if kept_bytes(hood.graph.n_edges, plan.channels, len(twin.layers), twin.dtype.itemsize) <= MOST_KEPT:
        return _moments(twin, hood, plan, embedding)
    moment, complete = _InChunks.apply(hood.graph.vectors, twin, hood, plan, embedding)
    return moment if complete else None


def kept_bytes(n_edges: float, width: int, n_layers: int, size: int) -> float:
    """Peak memory of all features, in bytes: before and after every layer, what it normalized, and two gradients."""
    kept = 1 if n_edges >= FRUGAL_FROM else 2
    return size * n_edges * (width * (kept * n_layers + 3) + 9 * n_layers)


def _moments(twin: CompiledSeAtten, hood: Neighborhood, plan: PlanOfKernels, embedding: Tensor) -> Tensor | None:
    graph, config = hood.graph, twin.reference.config
    rows, switch, argument = _Geometry.apply(graph.vectors, twin, graph)
    weight = switch if config.smooth else torch.ones_like(switch)
    feature, outside = _Features.apply(argument, weight, twin, graph, plan)
    if outside:
        reach = twin.tabulated.reach
        twin.tabulated.widen(twin.reference.environment(graph).amplitude.detach().amax().item())
        if twin.tabulated.reach > reach:
            return None
        feature = twin.reference.features(
            argument, graph.types[graph.neighbor], graph.types[graph.center], embedding, weight.double()
        ).to(twin.dtype)
    direction = F.normalize(rows[:, 1:4], dim=-1)
    for layer in twin.layers:
        feature = layer.attend(feature, direction, switch, hood)
    return _Moments.apply(rows, feature, twin, graph)


def _of_centers(hood: Neighborhood, vectors: Tensor, first: int, n_types: int) -> tuple[Neighborhood, slice, slice]:
    """The neighborhoods of some centers, and which centers and edges they are.

    All that matters of a neighbor is its type: an atom of every type, without edges, stands for all of it.
    """
    graph = hood.graph
    atoms = slice(first, min(first + CENTERS_AT_ONCE, graph.n_atoms))
    edges = slice(int(graph.offsets[atoms.start]), int(graph.offsets[atoms.stop]))
    n_atoms = atoms.stop - first
    types = torch.cat([graph.types[atoms], torch.arange(n_types, device="cpu")])
    nothing = torch.zeros(n_types, dtype=torch.int64, device="cpu")
    part = AtomicGraph(
        types, graph.center[edges] - first, n_atoms + graph.types[graph.neighbor[edges]], vectors[edges],
        torch.zeros_like(types), None, 1, graph.cutoff,
    )  # fmt: skip
    counts = (torch.cat([count[atoms], nothing]) for count in (hood.n_empty, hood.n_dead))
    return Neighborhood(part, hood.nsel, *counts), atoms, edges


class _InChunks(torch.autograd.Function):
    """Moments (N, 4, C) from vectors (E, 3), some centers at a time, and whether the tables are wide enough."""

    @staticmethod
    def forward(  # noqa: PLR0913  # the inputs of the block
        ctx: Any, vectors: Tensor, twin: CompiledSeAtten, hood: Neighborhood, plan: PlanOfKernels, embedding: Tensor
    ) -> Any:
        vectors = vectors.detach()
        ctx.parts = vectors, twin, hood, plan, embedding.detach()
        moment = torch.empty(hood.graph.n_atoms, 4, plan.channels, dtype=twin.dtype, device="cpu")
        for first in range(0, len(moment), CENTERS_AT_ONCE):
            part, atoms, _ = _of_centers(hood, vectors, first, len(embedding))
            found = _moments(twin, part, plan, embedding)
            if found is None:
                return moment, False
            moment[atoms] = found[: atoms.stop - first]
        return moment, True

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_moment: Tensor, _: None) -> Any:
        vectors, twin, hood, plan, embedding = ctx.parts
        gradient = torch.empty_like(vectors)
        for first in range(0, len(d_moment), CENTERS_AT_ONCE):
            part, atoms, edges = _of_centers(hood, vectors, first, len(embedding))
            if edges.start == edges.stop:
                continue
            here = part.graph.vectors.requires_grad_()
            with torch.enable_grad():
                found = _moments(twin, part, plan, embedding)
                assert found is not None  # as in the forward pass
                (gradient[edges],) = torch.autograd.grad(found[: atoms.stop - first], here, d_moment[atoms])
        return gradient, None, None, None, None


class _Geometry(torch.autograd.Function):
    """Rows (E, 4), switches (E,) and the first column of the rows in float64, from vectors (E, 3)."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, twin: CompiledSeAtten, graph: AtomicGraph) -> tuple[Tensor, ...]:
        vectors = vectors.detach()
        argument = torch.empty(graph.n_edges, dtype=torch.float64, device="cpu")
        ctx.parts = twin.geometry, graph, vectors
        return *twin.geometry.forward(graph, vectors, argument), argument

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_rows: Tensor, d_switch: Tensor, d_argument: Tensor) -> Any:
        geometry, graph, vectors = ctx.parts
        d_rows = d_rows.clone(memory_format=torch.contiguous_format)
        d_rows[:, 0] += d_argument
        return geometry.backward(graph, vectors, d_rows, d_switch.contiguous()), None, None


class _Features(torch.autograd.Function):
    """Features (E, C) from arguments (E,) and switches (E,), and the number of edges outside of the tables."""

    @staticmethod
    def forward(  # noqa: PLR0913  # the inputs of the step
        ctx: Any, argument: Tensor, weight: Tensor, twin: CompiledSeAtten, graph: AtomicGraph, plan: PlanOfKernels
    ) -> Any:
        argument, weight = argument.detach(), weight.detach()
        feature = torch.empty(graph.n_edges, plan.channels, dtype=twin.dtype, device="cpu")
        outside = c_int64()
        twin.library["pair_features", twin.dtype](
            *edges_of(graph), byref(plan.features), argument.data_ptr(), weight.data_ptr(), feature.data_ptr(),
            byref(outside),
        )  # fmt: skip
        ctx.parts = argument, weight, twin, graph, plan
        return feature, outside.value

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_feature: Tensor, _: None) -> Any:
        argument, weight, twin, graph, plan = ctx.parts
        d_feature = d_feature.contiguous()
        d_argument, d_weight = torch.empty_like(weight), torch.empty_like(weight)
        twin.library["pair_features_backward", twin.dtype](
            *edges_of(graph), byref(plan.features), argument.data_ptr(), weight.data_ptr(), d_feature.data_ptr(),
            d_argument.data_ptr(), d_weight.data_ptr(),
        )  # fmt: skip
        return d_argument.double(), d_weight, None, None, None


class _Moments(torch.autograd.Function):
    """Moments (N, 4, C) from rows (E, 4) and features (E, C)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, feature: Tensor, twin: CompiledSeAtten, graph: AtomicGraph) -> Tensor:
        rows, feature = rows.detach(), feature.detach()
        moment = torch.empty(graph.n_atoms, 4, feature.shape[1], dtype=twin.dtype, device="cpu")
        twin.library["edge_moments", twin.dtype](
            *edges_of(graph)[:2], feature.shape[1], rows.data_ptr(), feature.data_ptr(), moment.data_ptr()
        )
        ctx.parts = rows, feature, twin, graph
        return moment

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_moment: Tensor) -> Any:
        rows, feature, twin, graph = ctx.parts
        d_rows, d_feature, d_moment = torch.empty_like(rows), torch.empty_like(feature), d_moment.contiguous()
        twin.library["edge_moments_backward", twin.dtype](
            *edges_of(graph)[:2], feature.shape[1], rows.data_ptr(), feature.data_ptr(), d_moment.data_ptr(),
            d_rows.data_ptr(), d_feature.data_ptr(),
        )  # fmt: skip
        return d_rows, d_feature, None, None

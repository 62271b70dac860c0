"""DPA-2's representation in compiled kernels: one call for all blocks, one back, nothing recorded in between.

In a structure of a few dozen atoms the steps between the kernels of single blocks would take as long as the kernels.
"""

from __future__ import annotations

from ctypes import byref, c_int64, pointer
from typing import Any

import torch
from torch import Tensor, nn

from ...graph import AtomicGraph
from ...nn.descriptors import DPA2
from ...nn.layers import Dense
from ...nn.se_atten import BlockOutput
from ...ops import has_nonzero
from ..backward import first_derivatives
from . import repformer
from .dense import CompiledDense, Layer
from .passes import Pass, edges_view
from .repformer import CompiledRepformer, Keep
from .se_atten import CompiledSeAtten
from .structures import DescriptorEdges, InitializerWeights, fill
from .three_body import CompiledThreeBody


class CompiledDPA2(DPA2):
    """A descriptor whose blocks are compiled twins, run as one; see `obstacle` for what it does not cover.

    Where a neighbor is closer than the tables reach, the blocks answer one by one.
    """

    repinit: CompiledSeAtten  # type: ignore[assignment]  # twins have the `forward` of what they stand in for
    three_body: CompiledThreeBody | None  # type: ignore[assignment]  # likewise
    repformer: CompiledRepformer  # type: ignore[assignment]  # likewise

    def __init__(self, blocks: DPA2) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(blocks))
        plan = self.repformer.plan
        to_node = self.to_node
        assert to_node is not None  # see `obstacle`
        self.dense = to_node.layer if isinstance(to_node, CompiledDense) else Layer(to_node, plan.dtype, plan.library)
        with torch.no_grad():  # the weights are constants
            self.type_rows = self.type_embedding()  # (T, C)
            added = None if self.type_to_node is None else self.type_to_node(self.type_rows)
        self.rows_of_types = None if added is None else added.to(plan.dtype).contiguous()  # (T, G), for `to_node`
        self._latest: _Initializer | None = None

    @classmethod
    def obstacle(cls, descriptor: DPA2) -> str | None:
        """Why the blocks have to run one by one; ``None`` if they need not."""
        repinit, three_body, blocks = descriptor.repinit, descriptor.three_body, descriptor.repformer
        if not isinstance(repinit, CompiledSeAtten) or not isinstance(blocks, CompiledRepformer):
            return "a block is not compiled"
        if three_body is not None and not isinstance(three_body, CompiledThreeBody):
            return "three-body terms are not compiled"
        if not isinstance(descriptor.to_node, Dense | CompiledDense):
            return "repinit is as wide as the repformer"
        tabulated = [part.reference for part in (repinit, three_body) if part is not None]
        if any(has_nonzero(block.excluded) for block in (*tabulated, blocks.reference)):
            return "pairs of types are excluded"
        if repinit.layers or repinit.reference.sees_empty_slots:
            return "attention in repinit, or empty slots that contribute"
        return None if all(block.config.smooth for block in tabulated) else "smooth_type_embedding = false"

    def forward(self, graph: AtomicGraph) -> BlockOutput:
        """Representation (N, C) and equivariant vectors (N, M, 3)."""
        node, moment, outside = _Represent.apply(graph.vectors, self, graph)
        if outside:
            self._latest = None  # wider tables may come of it
            del node, moment  # and with them what the pass kept
            return super().forward(graph)
        return BlockOutput(node, moment.mT)

    def initializer_of(self, types: Tensor) -> _Initializer:
        """Repinit and three-body terms for the elements among `types` (N,), as the kernels read them."""
        known = self._latest
        if known is None or not torch.equal(known.types, types):
            self._latest = known = _Initializer(self, types)
        return known


class _Initializer:
    """The C structure of the blocks before the repformer, with tables for the elements among `types` (N,)."""

    def __init__(self, twin: CompiledDPA2, types: Tensor) -> None:
        self.types = types
        embedding = twin.type_rows.to(twin.repinit.reference.environment.mean.dtype)
        of_pairs = twin.repinit.plan(types, embedding)
        of_triples = None if twin.three_body is None else twin.three_body.plan(types, embedding)
        self._keep = of_pairs, of_triples
        block, three = twin.config.block, twin.config.three_body
        self.weights = fill(
            InitializerWeights(), [], n_slots=block.nsel, axis=block.axis_neuron,
            environment=twin.repinit.geometry.options, features=of_pairs.features, to_node=twin.dense.weights,
            type_rows=twin.rows_of_types,
        )  # fmt: skip
        if twin.three_body is not None and of_triples is not None and three is not None:
            fill(
                self.weights, [], n_triple=three.neuron[-1], three_slots=three.nsel,
                three_environment=twin.three_body.geometry.options, three_body=of_triples.options,
            )  # fmt: skip


class _Run:
    """One pass through all blocks for a graph with `vectors` (E, 3), there and back."""

    def __init__(self, twin: CompiledDPA2, graph: AtomicGraph, vectors: Tensor, *, gradient: bool) -> None:
        self._twin, self._types, self._vectors = twin, graph.types, vectors
        config, plan = twin.config, twin.repformer.plan
        self.n_channels = config.repformer.g1_dim
        blocks = config.block, config.three_body or config.block, config.repformer
        self._cuts = [graph.cut(block.rcut, block.nsel) for block in blocks]  # kept, as their memory is used
        self._initializer = twin.initializer_of(graph.types)
        views = [
            edges_view(cut, vectors if index is None else cut.vectors, index)  # all edges, or chosen ones
            for index, cut in self._cuts
        ]
        edges = DescriptorEdges(*[pointer(view) for view in views])
        keep = Keep.for_inference(self._cuts[2][1].n_edges, gradient=gradient)
        self._pass = Pass(
            plan.library, "descriptor", plan.dtype, byref(edges), byref(self._initializer.weights),
            byref(plan.weights), keep,
        )  # fmt: skip

    def forward(self) -> tuple[Tensor, Tensor, int]:
        """Representation (N, C), moment (N, 3, P), and the number of edges and pairs of them outside of the tables."""
        config, dtype, n_atoms = self._twin.config, self._twin.repformer.plan.dtype, len(self._types)
        node = torch.empty(n_atoms, self.n_channels, dtype=dtype, device="cpu")
        moment = torch.empty(n_atoms, 3, config.repformer.g2_dim, dtype=dtype, device="cpu")
        outside = c_int64()
        self._pass.there(node.data_ptr(), moment.data_ptr(), byref(outside))
        if config.concat_output_tebd:
            node = torch.cat([node, self._twin.type_rows.index_select(0, self._types)], dim=1)
        return node, moment, outside.value

    def backward(self, d_node: Tensor, d_moment: Tensor | None) -> Tensor:
        """Gradient by the edge vectors (E, 3), float64."""
        plan = self._twin.repformer.plan
        d_node = d_node[:, : self.n_channels].to(plan.dtype).contiguous()
        if d_moment is not None:
            d_moment = d_moment.to(plan.dtype).contiguous()
        gradient = torch.zeros_like(self._vectors)
        self._pass.back(
            d_node.data_ptr(), None if d_moment is None else d_moment.data_ptr(), gradient.data_ptr(),
            repformer.ATOMS_PER_CHUNK,
        )  # fmt: skip
        return gradient


class _Represent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, twin: CompiledDPA2, graph: AtomicGraph) -> Any:
        run = _Run(twin, graph, vectors.detach(), gradient=ctx.needs_input_grad[0])
        ctx.run = run if ctx.needs_input_grad[0] else None
        ctx.set_materialize_grads(False)
        return run.forward()

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_node: Tensor | None, d_moment: Tensor | None, _: None) -> Any:
        if d_node is None:  # only the moment was used
            assert d_moment is not None
            d_node = d_moment.new_zeros(len(d_moment), ctx.run.n_channels)
        return ctx.run.backward(d_node, d_moment), None, None

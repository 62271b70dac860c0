"""The repformer in compiled kernels: folded weights, one autograd node for the whole block, nothing recorded inside.

Backward goes through the layers in step: the gradient of the pair channel is one array that every layer changes in
place, and messages to neighbors exist for a chunk of centers at a time. So memory is what the layers keep (pair
channel, moments, activations) and little else.
"""

from __future__ import annotations

from ctypes import byref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...graph import AtomicGraph, Neighborhood, neighborhood
from ...nn.repformer import Repformer
from ...nn.se_atten import BlockOutput
from ..backward import first_derivatives
from ..folding import constants
from .library import Library, require
from .repformer_plan import LayerWeights, Plan
from .structures import EdgeArrays, PairWeights, Receivers, fill

ATOMS_PER_CHUNK = 64  # whose messages exist at a time; fixed, as sums depend on it in their last digits
FRUGAL_FROM = 400_000  # edges; from there on the backward pass computes some intermediates again to save memory


class CompiledRepformer(nn.Module):
    """Twin of `Repformer` for the structure of the official models; see `obstacle` for what it does not cover."""

    def __init__(self, reference: Repformer, dtype: torch.dtype, library: Library) -> None:
        super().__init__()
        self.reference, self.config = reference, reference.config
        self.plan = Plan(reference, constants(reference, dtype), library)

    @classmethod
    def obstacle(cls, reference: Repformer) -> str | None:
        """Why this twin cannot stand in for `reference`; ``None`` if it can."""
        config = reference.config
        reasons = {
            "g1_out_mlp = false": not config.g1_out_mlp,
            "g1_out_conv = false": config.update_g1_has_conv and not config.g1_out_conv,
            "update_g1_has_attn": config.update_g1_has_attn,
            "update_g2_has_g1g1": config.update_g2_has_g1g1,
            "update_h2": config.update_h2,
            "direct_dist": config.direct_dist,
            "smooth = false": not reference.smooth,
            f"activation_function {config.activation_function}": config.activation_function.lower() != "tanh",
            "no moments": not (config.update_g1_has_grrg or config.update_g1_has_drrd),
        }
        found = [name for name, applies in reasons.items() if applies]
        return f"the compiled repformer does not know {', '.join(found)}" if found else None

    @classmethod
    def from_reference(cls, reference: Repformer, dtype: torch.dtype) -> CompiledRepformer:
        """Fold the weights of `reference` for a run in `dtype`."""
        return cls(reference, dtype, require())

    def forward(self, graph: AtomicGraph, node: Tensor) -> BlockOutput:
        """Refine `node` (N, G); the equivariant output is the moment of the pair channel, (N, P, 3)."""
        reference = self.reference
        hood = neighborhood(graph, reference.config.rcut, reference.config.nsel, reference.excluded)
        start = reference.activation(node.to(self.plan.dtype))
        final, moment = _Block.apply(hood.graph.vectors, start, self.plan, hood)
        return BlockOutput(final, moment.mT)


@dataclass
class Kept:
    """What one layer leaves for the backward pass."""

    edge: Tensor | None  # (E, P); None in the first layer of an inference, where it is quickly made again
    node: Tensor  # (N, G)
    node_moment: Tensor  # (N, 3, G)
    edge_moment: Tensor  # (N, 3, P)
    update: Tensor | None = None  # (N, G); like all that follow, None where memory is short
    own: Tensor | None = None  # (N, G)
    normalized: Tensor | None = None  # (E, P)
    deviation: Tensor | None = None  # (E,)
    conv: Tensor | None = None  # (N, G), for gradients of weights


class Run:
    """One pass through the block: arrays in the precision of the run and the kernels that work on them."""

    def __init__(self, plan: Plan, hood: Neighborhood, vectors: Tensor, *, training: bool = False) -> None:
        self.plan, self.graph, self.vectors = plan, hood.graph, vectors
        self.config, self.dtype, self.training = plan.config, plan.dtype, training
        self.rows, self.weight = plan.geometry.forward(hood.graph, vectors)
        self.mean = torch.full((hood.graph.n_atoms,), 1 / hood.nsel, dtype=self.dtype, device="cpu")
        self.moment = self.mean.sqrt() if self.config.use_sqrt_nnei else self.mean
        self.n_dead = hood.n_dead.to(self.dtype)
        size = self.rows.element_size()
        self.direction = self.rows.data_ptr() + size  # rows are (x, h): stride 4
        self.csr = (self.graph.n_atoms, self.graph.offsets.data_ptr(), self.graph.neighbor.data_ptr())
        self._edges = fill(
            EdgeArrays(), [], direction=self.direction, stride=4, weight=self.weight, mean=self.mean, moment=self.moment
        )

    def kernel(self, name: str, *arguments: Any) -> None:
        """Run a kernel; tensors stand for their addresses."""
        self.plan.library[name, self.dtype](*[a.data_ptr() if isinstance(a, Tensor) else a for a in arguments])

    def new(self, *shape: int) -> Tensor:
        """An array of the run."""
        return torch.empty(shape, dtype=self.dtype, device="cpu")

    def edges(self, edge: Tensor) -> EdgeArrays:
        """The C view of the edges with pair channel `edge`, until it is asked for that of another."""
        self._edges.g = edge.data_ptr()
        return self._edges

    def embed(self) -> Tensor:
        """The first pair channel (E, P)."""
        folded = self.plan.folded
        edge = self.new(self.graph.n_edges, self.config.g2_dim)
        self.kernel("embed", *edge.shape, self.rows, 4, folded.embedding_weight, folded.embedding_bias, edge)
        return edge

    def layers(self, node: Tensor, *, keep: bool) -> tuple[Tensor, Tensor, list[Kept]]:
        """Final node channel, final moment of the pair channel (N, 3, P), and what to `keep` of every layer."""
        edge, kept = self.embed(), []
        for weights in self.plan.layers:
            saved, edge, node = self.layer(weights, edge, node)
            moment = saved.edge_moment
            if keep:
                kept.append(saved)
        if kept and not self.training:
            kept[0].edge = None
        return node, moment.clone(), kept

    def layer(self, weights: LayerWeights, edge: Tensor, node: Tensor) -> tuple[Kept, Tensor, Tensor]:
        """What the layer keeps, and the next pair and node channels."""
        (n_atoms, G), P = node.shape, self.config.g2_dim
        kept = Kept(edge, node, self.new(n_atoms, 3, G), self.new(n_atoms, 3, P))
        frugal = len(edge) >= FRUGAL_FROM and not self.training
        if not frugal:
            kept.update, kept.own = self.new(n_atoms, G), self.new(n_atoms, G)
        conv = None if weights.conv is None else self.new(n_atoms, G)
        self.kernel(
            "aggregate", *self.csr, P, G, byref(self.edges(edge)), node, weights.conv, conv, kept.node_moment,
            kept.edge_moment,
        )  # fmt: skip
        if self.training:
            kept.conv = conv
        new_node = self.new(n_atoms, G)
        self.kernel(
            "node_update", n_atoms, byref(weights.node), node, conv, kept.edge_moment, kept.node_moment, kept.update,
            kept.own, new_node,
        )  # fmt: skip
        if weights.pair is None:
            return kept, edge, new_node
        new_edge = torch.empty_like(edge)
        if weights.pair.heads and not frugal:
            kept.normalized, kept.deviation = torch.empty_like(edge), self.new(len(edge))
        self.kernel(
            "pair_update", *self.csr[:2], byref(weights.pair), edge, self.direction, 4, self.weight, self.n_dead,
            new_edge, kept.normalized, kept.deviation,
        )  # fmt: skip
        return kept, new_edge, new_node


class Gradients:
    """The backward pass of a run: gradients that the layers change in place, last layer first."""

    def __init__(self, run: Run, d_node: Tensor, d_moment: Tensor, *, by_geometry: bool = True) -> None:
        self.run = run
        n_atoms, n_edges, P, G = run.graph.n_atoms, run.graph.n_edges, run.config.g2_dim, run.config.g1_dim
        self.node = d_node.to(run.dtype, copy=True).contiguous()
        self.edge = torch.zeros(n_edges, P, dtype=run.dtype, device="cpu")
        self.rows, self.weight, self.direction = None, None, None
        if by_geometry:
            self.rows, self.weight = torch.zeros_like(run.rows), torch.zeros_like(run.weight)
            self.direction = self.rows.data_ptr() + self.rows.element_size()
        self.node_moment, self.edge_moment = run.new(n_atoms, 3, G), run.new(n_atoms, 3, P)
        self.extra_moment: Tensor | None = d_moment.to(run.dtype).contiguous()  # of the last layer, from elsewhere
        self.conv = run.new(n_atoms, G)
        self._find_receivers()

    def _find_receivers(self) -> None:
        run, graph = self.run, self.run.graph
        self.chunk = ATOMS_PER_CHUNK
        n_chunks = -(-graph.n_atoms // self.chunk)
        sizes = graph.n_edges, graph.n_edges, graph.n_edges + n_chunks, n_chunks
        self._receivers = [torch.empty(size, dtype=torch.int64, device="cpu") for size in sizes]
        self.receivers = fill(
            Receivers(), [], **dict(zip(("order", "target", "first", "count"), self._receivers, strict=True))
        )
        run.plan.library["find_receivers", None](*run.csr, self.chunk, byref(self.receivers))
        most = min(graph.n_edges, self.chunk * graph.max_degree)  # what is not written takes no memory
        self.messages = run.new(most, run.config.g1_dim)

    def layers(self, kept: list[Kept]) -> Tensor:
        """Go back through all layers; returns the first pair channel."""
        for index in reversed(range(len(kept))):
            saved, weights = kept[index], self.run.plan.layers[index]
            edge = self.run.embed() if saved.edge is None else saved.edge
            if weights.pair is not None:
                self.pair_update(index, weights.pair, saved, edge)
            self.node_update(index, weights, saved)
            self.sums(index, weights, saved, edge)
        return edge

    def pair_update(self, index: int, pair: PairWeights, kept: Kept, edge: Tensor) -> None:
        """Go back through the update of the pair channel `edge` in layer `index`."""
        run = self.run
        run.kernel(
            "pair_update_backward", *run.csr[:2], byref(pair), edge, run.direction, 4, run.weight,
            run.n_dead, kept.normalized, kept.deviation, self.edge, self.direction, self.weight,
        )  # fmt: skip

    def node_update(self, index: int, weights: LayerWeights, kept: Kept) -> None:
        """Go back through the update of the node channel in layer `index`."""
        run, config = self.run, self.run.config
        if not config.update_g1_has_grrg:
            self.edge_moment.zero_()
        if not config.update_g1_has_drrd:
            self.node_moment.zero_()
        run.kernel(
            "node_update_backward", run.graph.n_atoms, byref(weights.node), kept.node, kept.edge_moment,
            kept.node_moment, kept.update, kept.own, self.node, None if weights.conv is None else self.conv,
            self.edge_moment, self.node_moment,
        )  # fmt: skip
        if self.extra_moment is not None:
            self.edge_moment += self.extra_moment
            self.extra_moment = None

    def sums(self, index: int, weights: LayerWeights, kept: Kept, edge: Tensor) -> None:
        """Go back through the sums over neighbors in layer `index`."""
        run = self.run
        run.kernel(
            "aggregate_backward", *run.csr, run.config.g2_dim, run.config.g1_dim, byref(run.edges(edge)), kept.node,
            weights.conv, weights.conv_t, None if weights.conv is None else self.conv, self.node_moment,
            self.edge_moment, self.chunk, byref(self.receivers), self.messages, self.edge, self.direction, self.weight,
            self.node,
        )  # fmt: skip

    def geometry(self, first_edge: Tensor) -> Tensor:
        """Gradient by the edge vectors (E, 3), float64."""
        run = self.run
        weight = run.plan.folded.embedding_weight
        run.kernel("embed_backward", *first_edge.shape, first_edge, self.edge, weight, self.rows, 4)
        assert self.rows is not None
        assert self.weight is not None
        return run.plan.geometry.backward(run.graph, run.vectors, self.rows, self.weight)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, node: Tensor, plan: Plan, hood: Neighborhood) -> Any:
        run = Run(plan, hood, vectors.detach())
        final, moment, kept = run.layers(node.detach().contiguous(), keep=any(ctx.needs_input_grad[:2]))
        ctx.run, ctx.kept = (run, kept) if kept else (None, None)
        return final, moment

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_node: Tensor, d_moment: Tensor) -> Any:
        gradients = Gradients(ctx.run, d_node, d_moment)
        first_edge = gradients.layers(ctx.kept)
        return gradients.geometry(first_edge), gradients.node, None, None

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
from ..folding import FoldedLayer, FoldedRepformer, fold_repformer
from .geometry import Geometry
from .library import Library, require
from .structures import EdgeArrays, NodeWeights, PairWeights, Receivers, fill

ATOMS_PER_CHUNK = 64  # whose messages exist at a time; fixed, as sums depend on it in their last digits
FRUGAL_FROM = 400_000  # edges; from there on the backward pass computes some intermediates again to save memory


class CompiledRepformer(nn.Module):
    """Twin of `Repformer` for the structure of the official models; see `obstacle` for what it does not cover."""

    def __init__(self, reference: Repformer, dtype: torch.dtype, library: Library) -> None:
        super().__init__()
        self.reference, self.dtype, self.library = reference, dtype, library
        self.config = reference.config
        self.folded = fold_repformer(reference, dtype)
        self.geometry = Geometry(reference.environment, dtype, library)
        self.weights = [_LayerWeights(reference, layer) for layer in self.folded.layers]

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
        start = reference.activation(node.to(self.dtype))
        final, moment = _Block.apply(hood.graph.vectors, start, self, hood)
        return BlockOutput(final, moment.mT)


class _LayerWeights:
    """The C structures of one layer and the tensors they point to."""

    def __init__(self, reference: Repformer, layer: FoldedLayer) -> None:
        config = reference.config
        self.keep: list[Tensor] = []
        self.conv = layer.conv
        self.conv_t = _transposed(layer.conv)
        self.node = fill(
            NodeWeights(), self.keep,
            pair_channels=config.g2_dim, channels=config.g1_dim, axis=config.axis_neuron,
            has_edge_moment=config.update_g1_has_grrg, has_node_moment=config.update_g1_has_drrd,
            old_scale=layer.node_old, weight=layer.node_weight, weight_t=_transposed(layer.node_weight),
            bias=layer.node_bias, scale=layer.node_scale, self_weight=layer.self_weight,
            self_weight_t=_transposed(layer.self_weight), self_bias=layer.self_bias, self_scale=layer.self_scale,
            conv_scale=layer.conv_scale,
        )  # fmt: skip
        self.pair = None if layer.edge_weight is None else fill(
            PairWeights(), self.keep,
            channels=config.g2_dim, heads=layer.n_heads, gate=config.attn2_has_gate,
            old_scale=layer.edge_old, eps=layer.norm_eps, weight=layer.edge_weight,
            weight_t=_transposed(layer.edge_weight), bias=layer.edge_bias, scale=layer.edge_scale,
            query_key=layer.query_key, query_key_t=_transposed(layer.query_key), value_output=layer.value_output,
            value_output_t=_transposed(layer.value_output), output_bias=layer.output_bias,
            norm_scale=layer.norm_scale, norm_shift=layer.norm_shift,
        )  # fmt: skip


def _transposed(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.T.contiguous()


@dataclass
class _Kept:
    """What one layer leaves for the backward pass."""

    edge: Tensor | None  # (E, P); None in the first layer, where it is quickly made again
    node: Tensor  # (N, G)
    node_moment: Tensor  # (N, 3, G)
    edge_moment: Tensor  # (N, 3, P)
    update: Tensor | None = None  # (N, G); like all that follow, None where memory is short
    own: Tensor | None = None  # (N, G)
    normalized: Tensor | None = None  # (E, P)
    deviation: Tensor | None = None  # (E,)


class _Run:
    """One pass through the block: arrays in the precision of the run and the kernels that work on them."""

    def __init__(self, twin: CompiledRepformer, hood: Neighborhood, vectors: Tensor) -> None:
        self.twin, self.graph, self.vectors = twin, hood.graph, vectors
        self.config, self.dtype = twin.reference.config, twin.dtype
        self.rows, self.weight = twin.geometry.forward(hood.graph, vectors)
        ones = torch.ones(hood.graph.n_atoms, dtype=self.dtype, device="cpu")
        self.mean = ones / hood.nsel
        self.moment = self.mean.sqrt() if self.config.use_sqrt_nnei else self.mean
        self.n_dead = hood.n_dead.to(self.dtype)
        size = self.rows.element_size()
        self.direction = self.rows.data_ptr() + size  # rows are (x, h): stride 4
        self.csr = (self.graph.n_atoms, self.graph.offsets.data_ptr(), self.graph.neighbor.data_ptr())

    def kernel(self, name: str, *arguments: Any) -> None:
        """Run a kernel; tensors stand for their addresses."""
        values = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
        self.twin.library[name, self.dtype](*values)

    def new(self, *shape: int) -> Tensor:
        """An array of the run."""
        return torch.empty(shape, dtype=self.dtype, device="cpu")

    def edges(self, edge: Tensor) -> EdgeArrays:
        """The C view of the edges with pair channel `edge`."""
        return fill(
            EdgeArrays(), [], g=edge, direction=self.direction, stride=4, weight=self.weight, mean=self.mean,
            moment=self.moment,
        )  # fmt: skip

    def embed(self, folded: FoldedRepformer) -> Tensor:
        """The first pair channel (E, P)."""
        edge = self.new(self.graph.n_edges, self.config.g2_dim)
        self.kernel("embed", *edge.shape, self.rows, 4, folded.embedding_weight, folded.embedding_bias, edge)
        return edge

    def layer(self, weights: _LayerWeights, edge: Tensor, node: Tensor) -> tuple[_Kept, Tensor, Tensor]:
        """What the layer keeps, and the next pair and node channels."""
        (n_atoms, G), P = node.shape, self.config.g2_dim
        kept = _Kept(edge, node, self.new(n_atoms, 3, G), self.new(n_atoms, 3, P))
        frugal = len(edge) >= FRUGAL_FROM
        if not frugal:
            kept.update, kept.own = self.new(n_atoms, G), self.new(n_atoms, G)
        conv = None if weights.conv is None else self.new(n_atoms, G)
        self.kernel(
            "aggregate", *self.csr, P, G, byref(self.edges(edge)), node, weights.conv, conv, kept.node_moment,
            kept.edge_moment,
        )  # fmt: skip
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


class _Gradients:
    """The backward pass of a run: gradients that the layers change in place, last layer first."""

    def __init__(self, run: _Run, d_node: Tensor) -> None:
        self.run = run
        n_atoms, n_edges, P, G = run.graph.n_atoms, run.graph.n_edges, run.config.g2_dim, run.config.g1_dim
        self.node = d_node.to(run.dtype, copy=True).contiguous()
        self.edge = torch.zeros(n_edges, P, dtype=run.dtype, device="cpu")
        self.rows, self.weight = torch.zeros_like(run.rows), torch.zeros_like(run.weight)
        self.direction = self.rows.data_ptr() + self.rows.element_size()
        self.node_moment, self.edge_moment = run.new(n_atoms, 3, G), run.new(n_atoms, 3, P)
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
        run.twin.library["find_receivers", None](*run.csr, self.chunk, byref(self.receivers))
        starts = graph.offsets[torch.arange(n_chunks + 1, device="cpu").mul_(self.chunk).clamp_(max=graph.n_atoms)]
        most = int(starts.diff().max()) if n_chunks else 0
        self.messages = run.new(most, run.config.g1_dim)

    def layer(self, weights: _LayerWeights, kept: _Kept, edge: Tensor, extra_moment: Tensor | None) -> None:
        """Go back through one layer; `extra_moment` is a gradient of its pair moment from elsewhere."""
        run, (P, G) = self.run, (self.run.config.g2_dim, self.run.config.g1_dim)
        if weights.pair is not None:
            run.kernel(
                "pair_update_backward", *run.csr[:2], byref(weights.pair), edge, run.direction, 4, run.weight,
                run.n_dead, kept.normalized, kept.deviation, self.edge, self.direction, self.weight,
            )  # fmt: skip
        config = run.config
        if not config.update_g1_has_grrg:
            self.edge_moment.zero_()
        if not config.update_g1_has_drrd:
            self.node_moment.zero_()
        conv = None if weights.conv is None else self.conv
        run.kernel(
            "node_update_backward", run.graph.n_atoms, byref(weights.node), kept.node, kept.edge_moment,
            kept.node_moment, kept.update, kept.own, self.node, conv, self.edge_moment, self.node_moment,
        )  # fmt: skip
        if extra_moment is not None:
            self.edge_moment += extra_moment
        run.kernel(
            "aggregate_backward", *run.csr, P, G, byref(run.edges(edge)), kept.node, weights.conv,
            weights.conv_t, conv, self.node_moment, self.edge_moment, self.chunk, byref(self.receivers),
            self.messages, self.edge, self.direction, self.weight, self.node,
        )  # fmt: skip

    def geometry(self, folded: FoldedRepformer, first_edge: Tensor) -> Tensor:
        """Gradient by the edge vectors (E, 3), float64."""
        run = self.run
        run.kernel("embed_backward", *first_edge.shape, first_edge, self.edge, folded.embedding_weight, self.rows, 4)
        return run.twin.geometry.backward(run.graph, run.vectors, self.rows, self.weight)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, node: Tensor, twin: CompiledRepformer, hood: Neighborhood) -> Any:
        run = _Run(twin, hood, vectors.detach())
        edge, node = run.embed(twin.folded), node.detach().contiguous()
        with_gradient = any(ctx.needs_input_grad[:2])
        layers = []
        for weights in twin.weights:
            kept, edge, node = run.layer(weights, edge, node)
            moment = kept.edge_moment
            if with_gradient:
                layers.append(kept)
        if layers:
            layers[0].edge = None
        ctx.run, ctx.layers = (run, layers) if with_gradient else (None, None)
        return node, moment.clone()

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_node: Tensor, d_moment: Tensor) -> Any:
        run, twin = ctx.run, ctx.run.twin
        gradients = _Gradients(run, d_node)
        extra: Tensor | None = d_moment.to(run.dtype).contiguous()
        for weights, kept in zip(reversed(twin.weights), reversed(ctx.layers), strict=True):
            edge = run.embed(twin.folded) if kept.edge is None else kept.edge
            gradients.layer(weights, kept, edge, extra)
            extra = None
        return gradients.geometry(twin.folded, edge), gradients.node, None, None

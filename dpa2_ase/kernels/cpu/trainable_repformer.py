"""The compiled repformer for training: once differentiable by geometry, input and all parameters.

The weights are folded anew at every call, by autograd; the kernels give the gradients of the folded ones. Each pass
computes what is asked for: without a gradient by the edge vectors nothing of the geometry, with frozen parameters
nothing of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from typing import Any

import torch
from torch import Tensor, nn

from ...graph import AtomicGraph, Neighborhood, neighborhood
from ...nn.repformer import Repformer
from ...nn.se_atten import BlockOutput
from ..backward import first_derivatives
from ..folding import fold_repformer
from .library import Library, require
from .repformer import CompiledRepformer, Gradients, Kept, Run
from .repformer_plan import LayerWeights, Plan
from .structures import BlockSums, NodeWeightGradients, PairArrays, PairWeights, fill

BLOCKS = 16  # of atoms or edges, summed each by one thread; fixed, as sums depend on it in their last digits
# folded tensors of a layer in the order of the kernels
OF_PAIRS = "edge_weight", "edge_bias", "edge_scale"
OF_ATTENTION = "query_key", "value_output", "output_bias", "norm_scale", "norm_shift"
OF_NODES = "node_weight", "self_weight", "node_bias", "node_scale", "self_bias", "self_scale"


class TrainableRepformer(nn.Module):
    """Twin of `Repformer` that follows its parameters; see `obstacle` for what it does not cover."""

    def __init__(self, reference: Repformer, dtype: torch.dtype, library: Library) -> None:
        super().__init__()
        self.reference, self.config = reference, reference.config
        self.dtype, self.library = dtype, library

    @classmethod
    def obstacle(cls, reference: Repformer) -> str | None:
        """Why this twin cannot stand in for `reference`; ``None`` if it can."""
        return CompiledRepformer.obstacle(reference)

    @classmethod
    def from_reference(cls, reference: Repformer, dtype: torch.dtype) -> TrainableRepformer:
        """The twin with the parameters of `reference`, for a run in `dtype`."""
        return cls(reference, dtype, require())

    def forward(self, graph: AtomicGraph, node: Tensor) -> BlockOutput:
        """Refine `node` (N, G); the equivariant output is the moment of the pair channel, (N, P, 3)."""
        reference = self.reference
        hood = neighborhood(graph, reference.config.rcut, reference.config.nsel, reference.excluded)
        start = reference.activation(node.to(self.dtype))
        folded = fold_repformer(reference, self.dtype)
        plan = Plan(reference, folded.apply(Tensor.detach), self.library)
        final, moment = _Block.apply(hood.graph.vectors, start, plan, hood, *folded.tensors.values())
        return BlockOutput(final, moment.mT)


class WeightGradients(Gradients):
    """The backward pass of a run that also collects gradients by the folded weights, under their names."""

    def __init__(self, run: Run, d_node: Tensor, d_moment: Tensor, *, by_geometry: bool) -> None:
        super().__init__(run, d_node, d_moment, by_geometry=by_geometry)
        self.found: dict[str, Tensor] = {}

    def pair_update(self, index: int, pair: PairWeights, kept: Kept, edge: Tensor) -> None:
        """As in `Gradients`."""
        run = self.run
        arrays = fill(
            PairArrays(), [], g=edge, direction=run.direction, stride=4, weight=run.weight, n_dead=run.n_dead,
            kept_z=kept.normalized, kept_rstd=kept.deviation, d=self.edge, d_direction=self.direction,
            d_weight=self.weight,
        )  # fmt: skip
        names = [*OF_PAIRS, *OF_ATTENTION] if pair.heads else OF_PAIRS
        sums = self._sums_of(index, names)
        run.kernel("pair_update_weights", *run.csr[:2], byref(pair), byref(arrays), byref(sums))

    def node_update(self, index: int, weights: LayerWeights, kept: Kept) -> None:
        """As in `Gradients`."""
        run, folded = self.run, weights.folded
        n_atoms, channels = self.node.shape
        found = {name: torch.empty_like(getattr(folded, name)) for name in OF_NODES}
        found["conv_scale"] = run.new(channels)
        fields = {name.removeprefix("node_"): gradient for name, gradient in found.items()}
        work = {"z": run.new(n_atoms, len(folded.node_weight)), "d_t": run.new(n_atoms, channels)}
        work["d_s"] = torch.empty_like(work["d_t"])
        target = fill(NodeWeightGradients(), [], **fields, **work)
        run.kernel(
            "node_update_weights", n_atoms, byref(weights.node), kept.node, kept.conv, kept.edge_moment,
            kept.node_moment, kept.update, kept.own, self.node, byref(target),
        )  # fmt: skip
        self.found |= {f"{index}.{name}": gradient for name, gradient in found.items()}
        super().node_update(index, weights, kept)

    def sums(self, index: int, weights: LayerWeights, kept: Kept, edge: Tensor) -> None:
        """As in `Gradients`."""
        run = self.run
        if weights.conv is not None:
            sums = self._sums_of(index, ["conv"])
            run.kernel(
                "conv_weights", *run.csr, run.config.g2_dim, run.config.g1_dim, byref(run.edges(edge)), kept.node,
                self.conv, byref(sums),
            )  # fmt: skip
        super().sums(index, weights, kept, edge)

    def embedding(self, first_edge: Tensor) -> None:
        """The gradients of the first layer, by `self.edge`."""
        run, total = self.run, self.run.new(2, first_edge.shape[1])
        sums = self._block_sums(total)
        run.kernel("embed_weights", *first_edge.shape, run.rows, 4, first_edge, self.edge, byref(sums))
        self.found["embedding_weight"], self.found["embedding_bias"] = total

    def _sums_of(self, index: int, names: Sequence[str]) -> BlockSums:
        """Room for the gradients of some tensors of a layer, side by side."""
        like: list[Tensor] = [getattr(self.run.plan.folded.layers[index], name) for name in names]
        sizes = [tensor.numel() for tensor in like]
        total = self.run.new(sum(sizes))
        for name, tensor, part in zip(names, like, total.split(sizes), strict=True):
            self.found[f"{index}.{name}"] = part.view_as(tensor)
        return self._block_sums(total)

    def _block_sums(self, total: Tensor) -> BlockSums:
        self._blocks = self.run.new(BLOCKS, total.numel())
        return fill(BlockSums(), [], n_blocks=BLOCKS, blocks=self._blocks, total=total)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, node: Tensor, plan: Plan, hood: Neighborhood, *_weights: Tensor) -> Any:
        run = Run(plan, hood, vectors.detach(), training=any(ctx.needs_input_grad[4:]))
        final, moment, kept = run.layers(node.detach().contiguous(), keep=any(ctx.needs_input_grad))
        ctx.run, ctx.kept = (run, kept) if kept else (None, None)
        return final, moment

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_node: Tensor, d_moment: Tensor) -> Any:
        run, by_geometry = ctx.run, ctx.needs_input_grad[0]
        kind = WeightGradients if run.training else Gradients
        gradients = kind(run, d_node, d_moment, by_geometry=by_geometry)
        first_edge = gradients.layers(ctx.kept)
        d_vectors = gradients.geometry(first_edge) if by_geometry else None
        if not isinstance(gradients, WeightGradients):
            return d_vectors, gradients.node, None, None, *[None] * len(ctx.needs_input_grad[4:])
        gradients.embedding(first_edge)
        return d_vectors, gradients.node, None, None, *(gradients.found[name] for name in run.plan.folded.tensors)

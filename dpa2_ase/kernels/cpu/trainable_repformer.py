"""The compiled repformer for training: once differentiable by geometry, input and all parameters.

The weights are folded anew at every call, by autograd; the kernels give the gradients of the folded ones. Each pass
computes what is asked for: without a gradient by the edge vectors nothing of the geometry, with frozen parameters
nothing of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...graph import AtomicGraph, neighborhood
from ...nn.repformer import Repformer
from ...nn.se_atten import BlockOutput
from ..backward import first_derivatives
from ..folding import fold_repformer
from .library import Library, require
from .repformer import CompiledRepformer, Keep, Run
from .repformer_plan import Plan
from .structures import BlockSums, LayerGradients, NodeWeightGradients, fill

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
        folded = fold_repformer(reference, self.dtype)
        plan = Plan(reference, folded.apply(Tensor.detach), self.library)
        final, moment = _Block.apply(
            hood.graph.vectors, node.to(self.dtype), plan, hood.graph, *folded.tensors.values()
        )
        return BlockOutput(final, moment.mT)


class WeightGradients:
    """Room for the gradients by the folded weights, under their names and as the kernels fill it."""

    def __init__(self, run: Run) -> None:
        self._run, self._folded = run, run.plan.folded
        self.found: dict[str, Tensor] = {}
        self._work: list[Tensor] = []  # of one layer after the other
        sizes = [sum(tensor.numel() for tensor in layer.tensors.values()) for layer in self._folded.layers]
        self._blocks = run.new(BLOCKS, max(*sizes, 2 * len(self._folded.embedding_weight)))
        layers = [self._of_layer(index) for index in range(len(self._folded.layers))]
        self.layers = (LayerGradients * len(layers))(*layers)
        total = run.new(2, len(self._folded.embedding_weight))
        self.embedding = self._block_sums(total)
        self.found["embedding_weight"], self.found["embedding_bias"] = total

    def _of_layer(self, index: int) -> LayerGradients:
        layer = self._folded.layers[index]
        pairs = () if layer.edge_weight is None else (*OF_PAIRS, *(OF_ATTENTION if layer.n_heads else ()))
        return fill(
            LayerGradients(), [], pair=self._sums_of(index, pairs), node=self._nodes(index),
            conv=self._sums_of(index, () if layer.conv is None else ("conv",)),
        )  # fmt: skip

    def _nodes(self, index: int) -> NodeWeightGradients:
        layer, n_atoms, channels = self._folded.layers[index], self._run.graph.n_atoms, self._run.plan.config.g1_dim
        found = {name: torch.empty_like(getattr(layer, name)) for name in OF_NODES}
        found["conv_scale"] = self._run.new(channels)
        self.found |= {f"{index}.{name}": gradient for name, gradient in found.items()}
        if not self._work:
            self._work = [self._run.new(n_atoms, width) for width in (len(layer.node_weight), channels, channels)]
        fields = {name.removeprefix("node_"): gradient for name, gradient in found.items()}
        return fill(NodeWeightGradients(), [], **fields, **dict(zip(("z", "d_t", "d_s"), self._work, strict=True)))

    def _sums_of(self, index: int, names: Sequence[str]) -> BlockSums:
        """Room for the gradients of some tensors of a layer, side by side."""
        like: list[Tensor] = [getattr(self._folded.layers[index], name) for name in names]
        sizes = [tensor.numel() for tensor in like]
        total = self._run.new(sum(sizes))
        for name, tensor, part in zip(names, like, total.split(sizes), strict=True):
            self.found[f"{index}.{name}"] = part.view_as(tensor)
        return self._block_sums(total)

    def _block_sums(self, total: Tensor) -> BlockSums:
        return fill(BlockSums(), [], n_blocks=BLOCKS, blocks=self._blocks, total=total)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, node: Tensor, plan: Plan, graph: AtomicGraph, *_weights: Tensor) -> Any:
        by_weights = any(ctx.needs_input_grad[4:])
        keep = Keep.for_inference(graph.n_edges, gradient=any(ctx.needs_input_grad))
        run = Run(plan, graph, vectors.detach(), Keep.TRAINING if by_weights else keep)
        ctx.run = run if keep else None
        return run.forward(node.detach())

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_node: Tensor, d_moment: Tensor) -> Any:
        run, by_geometry, n_weights = ctx.run, ctx.needs_input_grad[0], len(ctx.needs_input_grad[4:])
        if not any(ctx.needs_input_grad[4:]):
            return *run.backward(d_node, d_moment, by_geometry=by_geometry), None, None, *[None] * n_weights
        to = WeightGradients(run)
        found = run.backward(d_node, d_moment, by_geometry=by_geometry, layers=to.layers, embedding=to.embedding)
        return *found, None, None, *(to.found[name] for name in run.plan.folded.tensors)

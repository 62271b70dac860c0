"""The repformer in compiled kernels: folded weights, one call there and one back, nothing recorded inside."""

from __future__ import annotations

from ctypes import byref, c_void_p, cast
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn

from ...graph import AtomicGraph, neighborhood
from ...nn.repformer import Repformer
from ...nn.se_atten import BlockOutput
from ..backward import first_derivatives
from ..folding import constants
from .library import Library, require
from .passes import Pass, edges_view
from .repformer_plan import Plan
from .structures import BlockSums, RepformerGradients, fill

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
        final, moment = _Block.apply(hood.graph.vectors, node.to(self.plan.dtype), self.plan, hood.graph)
        return BlockOutput(final, moment.mT)


class Keep(IntEnum):
    """What a pass keeps for the way back; repformer.hpp."""

    NOTHING = 0
    LITTLE = 1  # some intermediates are computed again
    INFERENCE = 2
    TRAINING = 3

    @classmethod
    def for_inference(cls, n_edges: int, *, gradient: bool) -> Keep:
        """What pays for a number of edges."""
        if not gradient:
            return cls.NOTHING
        return cls.LITTLE if n_edges >= FRUGAL_FROM else cls.INFERENCE


class Run:
    """One pass through the block, there and back."""

    def __init__(self, plan: Plan, graph: AtomicGraph, vectors: Tensor, keep: Keep) -> None:
        self.plan, self.graph, self.vectors = plan, graph, vectors
        edges = byref(edges_view(graph, vectors))
        self._pass = Pass(plan.library, "repformer", plan.dtype, edges, byref(plan.weights), keep)

    def new(self, *shape: int) -> Tensor:
        """An array in the precision of the run."""
        return torch.empty(shape, dtype=self.plan.dtype, device="cpu")

    def forward(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Final node channel (N, G) and final moment of the pair channel (N, 3, P)."""
        start, config = start.contiguous(), self.plan.config
        node, moment = torch.empty_like(start), self.new(len(start), 3, config.g2_dim)
        self._pass.there(start.data_ptr(), node.data_ptr(), moment.data_ptr())
        return node, moment

    def backward(
        self, d_node: Tensor, d_moment: Tensor, *, by_geometry: bool = True, layers: Any = None, embedding: Any = None
    ) -> tuple[Tensor | None, Tensor]:
        """Gradients by the edge vectors (E, 3), float64, and by `start`.

        `layers` (an array of `LayerGradients`) and `embedding` (`BlockSums`) receive those by the weights.
        """
        d_node, d_moment = (d.to(self.plan.dtype).contiguous() for d in (d_node, d_moment))
        d_start, d_vectors = torch.empty_like(d_node), torch.zeros_like(self.vectors) if by_geometry else None
        gradients = fill(
            RepformerGradients(), [], d_node=d_node, d_moment=d_moment, d_start=d_start, vectors=d_vectors,
            layers=None if layers is None else cast(layers, c_void_p),
            embedding=BlockSums() if embedding is None else embedding,
        )  # fmt: skip
        self._pass.back(byref(gradients), ATOMS_PER_CHUNK)
        return d_vectors, d_start


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, node: Tensor, plan: Plan, graph: AtomicGraph) -> Any:
        keep = Keep.for_inference(graph.n_edges, gradient=any(ctx.needs_input_grad[:2]))
        run = Run(plan, graph, vectors.detach(), keep)
        ctx.run = run if keep else None
        return run.forward(node.detach())

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_node: Tensor, d_moment: Tensor) -> Any:
        return *ctx.run.backward(d_node, d_moment), None, None

"""The attention among neighbors (DPA-1) in compiled kernels."""

from __future__ import annotations

from ctypes import byref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's usual name

from ...graph import Neighborhood
from ...nn.environment import EdgeEnvironment
from ...nn.se_atten import NeighborAttention
from ..backward import first_derivatives
from .library import Library, require
from .repformer import FRUGAL_FROM
from .structures import AttentionArrays, AttentionGradients, AttentionWeights, fill
from .tables import padded_to

MULTIPLE = 8  # of which columns of folded weights are a whole number: half a vector at least


class CompiledNeighborAttention(nn.Module):
    """Twin of `NeighborAttention`; queries, keys and values are folded away and exist as lengths only.

    With x = [g, 1], the products of queries and keys are x M xᵀ, the update is B x O, and the squared lengths that
    normalize are x S xᵀ with S = L Lᵀ. All centers are independent of each other, and their intermediates exist for one
    at a time.
    """

    def __init__(self, reference: NeighborAttention, dtype: torch.dtype, library: Library) -> None:
        super().__init__()
        self.reference, self.dtype, self.library = reference, dtype, library
        self._keep: list[Tensor] = []
        config = reference.config
        folded = {name: tensor.to(dtype).contiguous() for name, tensor in fold(reference).items()}
        self._weights = fill(
            AttentionWeights(), self._keep,
            channels=config.neuron[-1], columns=folded["query_key"].shape[1], rank=folded["roots"].shape[2],
            normalize=config.normalize, smooth=config.smooth, dotr=config.attn_dotr, eps=reference.norm.eps, **folded,
        )  # fmt: skip

    @classmethod
    def obstacle(cls, reference: NeighborAttention) -> str | None:
        """Why this twin cannot stand in for `reference`: there is no such reason."""
        return None

    @classmethod
    def from_reference(cls, reference: NeighborAttention, dtype: torch.dtype) -> CompiledNeighborAttention:
        """Fold the weights of `reference` for a run in `dtype`."""
        return cls(reference, dtype, require())

    def forward(self, feature: Tensor, env: EdgeEnvironment, hood: Neighborhood) -> Tensor:
        """New features (E, C)."""
        if not hood.graph.n_edges:
            return feature
        direction = F.normalize(env.env[:, 1:4], dim=-1)
        new = self.attend(feature.to(self.dtype), direction.to(self.dtype), env.switch.to(self.dtype), hood)
        return new.to(feature.dtype)

    def attend(self, feature: Tensor, direction: Tensor, switch: Tensor, hood: Neighborhood) -> Tensor:
        """New features (E, C) from old ones, unit vectors (E, 3) and switches (E,), all in the twin's precision."""
        return _Layer.apply(feature, direction, switch, self, hood)

    def of_empty_slot(self, feature: Tensor) -> Tensor:
        """Features of a slot without neighbor, as in the reference."""
        return self.reference.of_empty_slot(feature.to(self.reference.output.weight)).to(feature)

    def kernel(self, name: str, hood: Neighborhood, arrays: AttentionArrays, last: Any) -> None:
        """Run a kernel on all centers."""
        graph = hood.graph
        self.library[name, self.dtype](
            graph.n_atoms, graph.offsets.data_ptr(), byref(self._weights), byref(arrays), last
        )


def fold(reference: NeighborAttention) -> dict[str, Tensor]:
    """The matrices of the class, float64, with zeros up to a whole number of columns."""
    first, last, norm = reference.query_key_value, reference.output, reference.norm
    assert first.bias is not None  # all layers of the reference have a bias
    assert last.bias is not None
    whole = torch.cat([first.weight, first.bias[None]]).detach().double()  # (C + 1, 3D)
    parts = query, key, value = whole.chunk(3, dim=1)
    matrices = {"query_key": reference.scale * query @ key.T, "value_output": value @ last.weight.detach().double()}
    rows = len(whole) + -len(whole) % MULTIPLE
    found: dict[str, Tensor] = {}
    for name, matrix in matrices.items():
        square = padded_to(F.pad(matrix, (0, rows - matrix.shape[1])), MULTIPLE, 0)
        found |= {name: square, f"{name}_t": square.T}
    roots = torch.stack([torch.linalg.qr(part.T, mode="r").R.T for part in parts])  # (3, C + 1, rank), triangular
    squares = torch.stack([part @ part.T for part in parts])
    found["roots"] = padded_to(padded_to(roots, MULTIPLE, 1), MULTIPLE, 2)
    found["squares"] = padded_to(padded_to(squares, MULTIPLE, 1), MULTIPLE, 2)
    vectors = {"output_bias": last.bias, "norm_scale": norm.weight, "norm_shift": norm.bias}
    return found | {name: vector.detach().double() for name, vector in vectors.items()}


class _Layer(torch.autograd.Function):
    """One layer; inputs feature (E, C), unit direction (E, 3), switch (E,)."""

    @staticmethod
    def forward(  # noqa: PLR0913  # the inputs of the layer
        ctx: Any,
        feature: Tensor,
        direction: Tensor,
        switch: Tensor,
        twin: CompiledNeighborAttention,
        hood: Neighborhood,
    ) -> Tensor:
        inputs = [x.detach().contiguous() for x in (feature, direction, switch, hood.n_dead.to(twin.dtype))]
        feature, out = inputs[0], torch.empty_like(inputs[0])
        normalized, deviation, inverse = _kept(feature, any(ctx.needs_input_grad))
        ctx.keep = []  # of what the addresses are of
        ctx.arrays = fill(
            AttentionArrays(), ctx.keep, **dict(zip(("g", "direction", "weight", "n_dead"), inputs, strict=True)),
            kept_z=normalized, kept_rstd=deviation, inverse=inverse,
        )  # fmt: skip
        twin.kernel("attend_neighbors", hood, ctx.arrays, out.data_ptr())
        ctx.inputs, ctx.twin, ctx.hood = inputs, twin, hood
        return out

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [torch.empty_like(x) for x in ctx.inputs[:3]]
        keep = [gradient.contiguous()]
        c_gradients = fill(
            AttentionGradients(), keep, d_out=keep[0],
            **dict(zip(("d_g", "d_direction", "d_weight"), gradients, strict=True)),
        )  # fmt: skip
        ctx.twin.kernel("attend_neighbors_backward", ctx.hood, ctx.arrays, byref(c_gradients))
        return *gradients, None, None


def _kept(feature: Tensor, needed: bool) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Arrays for what the backward pass needs: normalized features, their deviations, lengths."""
    if not needed:
        return None, None, None
    inverse = feature.new_empty(len(feature), 3)
    if len(feature) >= FRUGAL_FROM:
        return None, None, inverse
    return torch.empty_like(feature), feature.new_empty(len(feature)), inverse

"""A fast twin of the attention among neighbors (DPA-1): neighborhoods in tiles, derivatives by hand.

Letters as in `pair_weights`, with one head; C channels of features, D of queries, keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's usual name

from ..graph import Neighborhood
from ..nn.environment import EdgeEnvironment
from ..nn.se_atten import NeighborAttention
from .backward import first_derivatives
from .pair_weights import LOG2_E, AttentionForm, PairWeights
from .scratch import Scratch
from .tiles import Tile, Tiling, make_tiling, of_tile, pairs_per_tile

TINY = 1e-12  # the least length a vector is divided by in `torch.nn.functional.normalize`
KEPT_BYTES = 1 << 27  # queries, keys and values of all edges are kept for the way back if they are not larger


@dataclass(frozen=True)
class Weights:
    """The parameters of one layer in the precision of the twin, in the order of the arithmetic."""

    query_key_value: Tensor  # (C, 3D)
    bias: Tensor  # (3D,)
    output: Tensor  # (D, C)
    output_bias: Tensor  # (C,)
    norm_scale: Tensor  # (C,)
    norm_shift: Tensor  # (C,)


@dataclass(frozen=True)
class Projection:
    """Queries, keys and values of a tile, or the gradients of them."""

    thirds: Tensor  # (B·n, 3, D); queries have the scale and log₂e in them
    factor: Tensor  # (B·n, 3) what they were multiplied by

    def by_kind(self, tile: Tile) -> Tensor:
        """The same numbers as (3, B, n, D)."""
        return self.thirds.view(tile.n_atoms, tile.width, 3, -1).movedim(2, 0)


class FusedNeighborAttention(nn.Module):
    """One attention layer among neighbors; `forward` as in `NeighborAttention`, first derivatives only."""

    def __init__(self, reference: NeighborAttention, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.scale = reference.config, reference.scale
        self.reference = reference  # a ghost row goes through its few operations
        first, last, norm = reference.query_key_value, reference.output, reference.norm
        parameters = first.weight, first.bias, last.weight, last.bias, norm.weight, norm.bias
        for field, tensor in zip(fields(Weights), parameters, strict=True):
            assert tensor is not None  # all layers of the reference have a bias
            self.register_buffer(f"folded_{field.name}", tensor.detach().to(dtype, copy=True), persistent=False)

    @classmethod
    def obstacle(cls, reference: NeighborAttention) -> str | None:
        """Why this layer cannot have this twin: there is no such reason."""
        return None

    @classmethod
    def from_reference(cls, reference: NeighborAttention, dtype: torch.dtype) -> FusedNeighborAttention:
        """Copy the weights of `reference`; the twin computes in `dtype`."""
        return cls(reference, dtype)

    @property
    def weights(self) -> Weights:
        """The parameters; read anew because they move with the module."""
        return Weights(**{field.name: self.get_buffer(f"folded_{field.name}") for field in fields(Weights)})

    def forward(self, feature: Tensor, env: EdgeEnvironment, hood: Neighborhood) -> Tensor:
        """New features (E, C)."""
        if not hood.graph.n_edges:
            return feature
        dtype = self.get_buffer("folded_bias").dtype
        direction = F.normalize(env.env[:, 1:4], dim=-1)
        inputs = (x.to(dtype) for x in (feature, direction, env.switch))
        return _Layer.apply(*inputs, self, hood).to(feature.dtype)

    def of_empty_slot(self, feature: Tensor) -> Tensor:
        """Features of a slot without neighbor, as in the reference."""
        return self.reference.of_empty_slot(feature.to(self.reference.output.weight)).to(feature)


class _Call:
    """One call of a layer: its tiles, the geometry in slots, and the arithmetic of a tile."""

    def __init__(self, twin: FusedNeighborAttention, hood: Neighborhood, direction: Tensor, switch: Tensor) -> None:
        config = twin.config
        self.weights, self._normalize = twin.weights, config.normalize
        self._scale, self._norm_eps = twin.scale * LOG2_E, twin.reference.norm.eps
        self.scratch = Scratch(direction)
        self.form = AttentionForm(1, False, config.attn_dotr, config.smooth, hood.nsel)
        self.tiling: Tiling = make_tiling(hood.graph, pairs_per_tile(direction, 1))
        self.direction = self.tiling.spread(direction)
        self.weight = self.tiling.spread(switch if config.smooth else torch.ones_like(switch))
        size = self.tiling.n_slots * len(self.weights.bias) * direction.element_size()
        self._kept: dict[int, Projection] | None = {} if size <= KEPT_BYTES else None

    def pair_weights(self, tile: Tile) -> PairWeights:
        """Factors of the attention in one tile."""
        return PairWeights(self.form, of_tile(self.direction, tile), of_tile(self.weight, tile), self.scratch)

    def project(self, tile: Tile, rows: Tensor) -> Projection:
        """Queries, keys and values of a tile; kept for a second call where there is room."""
        if self._kept is not None and tile.slots.start in self._kept:
            return self._kept[tile.slots.start]
        weights, shape = self.weights, (len(rows), len(self.weights.bias))
        projected = self.scratch("projected", *shape) if self._kept is None else rows.new_empty(shape)
        torch.addmm(weights.bias, rows, weights.query_key_value, out=projected)
        thirds = projected.view(len(rows), 3, -1)
        factor = rows.new_ones(len(rows), 3)
        if self._normalize:
            factor = torch.linalg.vector_norm(thirds, dim=-1).clamp_min_(TINY).reciprocal_()
        factor[:, 0] *= self._scale
        found = Projection(thirds.mul_(factor[:, :, None]), factor)
        if self._kept is not None:
            self._kept[tile.slots.start] = found
        return found

    def attend(self, three: Tensor, pairs: PairWeights) -> tuple[Tensor, Tensor]:
        """Products of queries and keys, and their softmax, (B, n, n)."""
        query, key, _ = three
        batch, n, _ = query.shape
        raw = torch.bmm(query, key.mT, out=self.scratch("raw", batch, n, n))
        return raw, pairs.softmax(raw, self.scratch("softmax", batch, n, n))

    def forward(self, tile: Tile, rows: Tensor, out: Tensor) -> Tensor:
        """Write the normalized sum of features and update into `out` (B·n, C); returns the inverse deviations."""
        three = self.project(tile, rows).by_kind(tile)
        pairs = self.pair_weights(tile)
        _, softmax = self.attend(three, pairs)
        mixed = self.scratch("mixed", *three.shape[1:])
        torch.bmm(pairs.weights(softmax, softmax), three[2], out=mixed)
        summed = torch.add(rows, self.weights.output_bias, out=self.scratch("summed", *rows.shape))
        summed.addmm_(mixed.flatten(0, 1), self.weights.output)
        values, _, inverse_std = torch.native_layer_norm(summed, summed.shape[1:], None, None, self._norm_eps)
        out.copy_(values)
        return inverse_std

    def d_summed(self, normalized: Tensor, inverse_std: Tensor, gradient: Tensor) -> Tensor:
        """Through the normalization: the gradient (B·n, C) of what was normalized."""
        gradient = torch.mul(gradient, self.weights.norm_scale, out=self.scratch("d_summed", *gradient.shape))
        along = torch.mul(gradient, normalized, out=self.scratch("summed", *gradient.shape)).mean(1, keepdim=True)
        return gradient.sub_(gradient.mean(1, keepdim=True)).addcmul_(normalized, along, value=-1).mul_(inverse_std)

    def backward(self, tile: Tile, rows: Tensor, d_summed: Tensor) -> PairWeights:
        """Add to `d_summed` what reaches the features through the attention; returns where the geometry's part is."""
        projection = self.project(tile, rows)
        query, key, value = three = projection.by_kind(tile)
        pairs = self.pair_weights(tile)
        pairs.start_gradients()
        raw, softmax = self.attend(three, pairs)
        d_mixed = torch.mm(d_summed, self.weights.output.T, out=self.scratch("mixed", len(rows), value.shape[2]))
        d_mixed = d_mixed.view(value.shape)
        d_weight = torch.bmm(d_mixed, value.mT, out=self.scratch("d_weight", *raw.shape))
        pairs.add_value_gradient(softmax, d_weight)
        weight = pairs.weights(softmax, self.scratch("weight", *raw.shape))
        found = Projection(self.scratch("d_projected", *projection.thirds.shape), projection.factor)
        d_three = found.by_kind(tile)
        torch.bmm(weight.mT, d_mixed, out=d_three[2])
        d_logit = weight.mul_(d_weight)
        d_raw = pairs.add_logit_gradient_(raw, d_logit.addcmul_(softmax, d_logit.sum(-1, keepdim=True), value=-1))
        d_raw.mul_(1 / LOG2_E)
        torch.bmm(d_raw, key, out=d_three[0])
        torch.bmm(d_raw.mT, query, out=d_three[1])
        self._d_projected_(projection, found.thirds)
        d_summed.addmm_(found.thirds.flatten(1), self.weights.query_key_value.T)
        return pairs

    def _d_projected_(self, projection: Projection, gradient: Tensor) -> None:
        """In place, through y = factor · x with a factor that makes y of constant length where it normalizes."""
        thirds = projection.thirds
        if self._normalize:
            product = torch.mul(thirds, gradient, out=self.scratch("product", *thirds.shape)).sum(-1, keepdim=True)
            product[:, 0] /= self._scale**2 or 1.0
            gradient.addcmul_(thirds, product, value=-1)
        gradient.mul_(projection.factor[:, :, None])


class _Layer(torch.autograd.Function):
    """One layer; inputs feature (E, C), unit direction (E, 3), switch (E,)."""

    @staticmethod
    def forward(  # noqa: PLR0913  # the inputs of the layer
        ctx: Any,
        feature: Tensor,
        direction: Tensor,
        switch: Tensor,
        twin: FusedNeighborAttention,
        hood: Neighborhood,
    ) -> Tensor:
        call = _Call(twin, hood, direction, switch)
        rows = call.tiling.spread(feature)
        normalized, inverse_std = torch.empty_like(rows), rows.new_empty(len(rows), 1)
        for tile in call.tiling.tiles:
            inverse_std[tile.slots] = call.forward(tile, rows[tile.slots], normalized[tile.slots])
        ctx.call, ctx.rows, ctx.normalized, ctx.inverse_std = call, rows, normalized, inverse_std
        picked = normalized.index_select(0, call.tiling.slot)
        return picked.mul_(call.weights.norm_scale).add_(call.weights.norm_shift)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        spread = call.tiling.spread(gradient)
        d_feature, d_direction = torch.empty_like(spread), torch.zeros_like(call.direction)
        d_weight = torch.zeros_like(call.weight)
        for tile in call.tiling.tiles:
            slots = tile.slots
            d_summed = call.d_summed(ctx.normalized[slots], ctx.inverse_std[slots], spread[slots])
            of_direction, of_weight = call.backward(tile, ctx.rows[slots], d_summed).finish_gradients()
            d_feature[slots] = d_summed
            if of_direction is not None:
                of_tile(d_direction, tile).copy_(of_direction)
            if of_weight is not None:
                of_tile(d_weight, tile).copy_(of_weight)
        pick = call.tiling.slot
        return d_feature[pick], d_direction[pick], d_weight[pick], None, None

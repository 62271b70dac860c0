"""The pair channel of the repformer on one tile: its updates and, by hand, their derivatives.

Letters as in `pair_weights`. With t = φ(gW + b), z the normalized output o of the attention, S the softmax,
A = S ⊙ value, and D the gradient that arrives:

    g' = c g + ρ₀ ⊙ t + γ ⊙ z + β,     o = Y O + b_o,     Y = A g,     raw = (g M) gᵀ
    dg = c D + (φ' ⊙ ρ₀ ⊙ D) Wᵀ + Aᵀ dY + drawᵀ (g M) + (draw g) Mᵀ
    dY = do Oᵀ,   dA = dY gᵀ,   τ = A ⊙ dA,   d(logits) = τ − S ⊙ rowsum(τ)

The normalization subtracts the mean of o over its channels: it is subtracted from O and b_o instead, once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's usual name

from .folding import FoldedLayer, present
from .pair_weights import LOG2_E, PairWeights
from .scratch import ElementWise, Scratch


def pad_channels(layer: FoldedLayer, width: int) -> FoldedLayer:
    """The pair updates of `layer` on `width` channels; those beyond its own are never read."""
    own = len(present(layer.edge_weight))
    more = width - own
    vectors = ("edge_bias", "edge_scale", "output_bias", "norm_scale", "norm_shift")
    values = {name: getattr(layer, name) for name in vectors}
    padded: dict[str, Any] = {name: F.pad(value, (0, more)) for name, value in values.items() if value is not None}
    padded["edge_weight"] = F.pad(present(layer.edge_weight), (0, more, 0, more))
    if layer.query_key is not None and layer.value_output is not None:
        by_head = layer.query_key.unflatten(1, (-1, own))  # (P, H, P)
        padded["query_key"] = F.pad(by_head, (0, more, 0, 0, 0, more)).flatten(1)
        by_head = layer.value_output.unflatten(0, (-1, own))  # (H, P, P)
        padded["value_output"] = F.pad(by_head, (0, more, 0, more)).flatten(0, 1)
    return replace(layer, **padded)


@dataclass(frozen=True)
class Normalized:
    """Output of the attention after normalization: with it the way back need not compute the output again."""

    values: Tensor  # (B·n, P)
    inverse_std: Tensor  # (B·n, 1)


@dataclass(frozen=True)
class Attended:
    """The attention of one layer on the way back."""

    query: Tensor  # g M log₂e (B, n·H, P)
    raw: Tensor  # query gᵀ (B, n·H, n)
    softmax: Tensor  # S (B, n·H, n)
    weight: Tensor  # A (B, n·H, n)
    d_output: Tensor  # gradient of the centered o (B·n, P)


class TowerLayer:
    """One update of the pair channel; g is (B, n, P) with the channels of `width`."""

    def __init__(self, folded: FoldedLayer, activation: ElementWise, width: int) -> None:
        attention = None if folded.query_key is None else TowerAttention(folded, width)
        folded = pad_channels(folded, width)
        self._old, self._activation, self.attention = folded.edge_old, activation, attention
        self._weight = present(folded.edge_weight)
        self._bias, self._scale = present(folded.edge_bias), present(folded.edge_scale)

    def forward(
        self, g: Tensor, weights: PairWeights | None, saved: Normalized | None, new: Tensor, scratch: Scratch
    ) -> None:
        """Write the updated channel into `new`, and what saves work on the way back into `saved`."""
        rows, new_rows = g.flatten(0, 1), new.flatten(0, 1)
        value, _ = self._activation.apply_(self._update(rows, scratch))
        torch.addcmul(rows if self._old == 1 else rows * self._old, value, self._scale, out=new_rows)
        if self.attention is not None and weights is not None:
            self.attention.add_update_(g, weights, saved, new_rows, scratch)

    def backward_(
        self, g: Tensor, weights: PairWeights | None, saved: Normalized | None, gradient: Tensor, scratch: Scratch
    ) -> None:
        """Turn the gradient of the updated channel into that of `g`, in place."""
        rows, d_rows = g.flatten(0, 1), gradient.flatten(0, 1)
        _, for_backward = self._activation.apply_(self._update(rows, scratch))
        scaled = torch.mul(d_rows, self._scale, out=scratch("scaled", *rows.shape))
        d_update = self._activation.pull_back(for_backward, scaled, scratch)
        attended = None
        if self.attention is not None and weights is not None:
            attended = self.attention.repeat(g, weights, saved, d_rows, scratch)
        d_rows.addmm_(d_update, self._weight.T, beta=self._old)
        if self.attention is not None and weights is not None and attended is not None:
            self.attention.add_gradient_(g, weights, attended, gradient, scratch)

    def _update(self, rows: Tensor, scratch: Scratch) -> Tensor:
        return torch.addmm(self._bias, rows, self._weight, out=scratch("update", *rows.shape))


class TowerAttention:
    """The pair attention of one layer."""

    def __init__(self, folded: FoldedLayer, width: int) -> None:
        bias, output = present(folded.output_bias), present(folded.value_output)
        own = len(bias)
        centered = replace(folded, value_output=output - output.mean(1, keepdim=True), output_bias=bias - bias.mean())
        padded = pad_channels(centered, width)
        self._query_key = present(padded.query_key)
        self._base_two = self._query_key * LOG2_E
        self._output, self._output_bias = present(padded.value_output), present(padded.output_bias)
        self._scale, self._shift = present(padded.norm_scale), present(padded.norm_shift)
        self._eps = padded.norm_eps
        self._mean = torch.full_like(self._output_bias, 1 / own)  # as a product, the mean over the true channels

    def add_update_(
        self, g: Tensor, weights: PairWeights, saved: Normalized | None, new_rows: Tensor, scratch: Scratch
    ) -> None:
        """Add the update of `g` to `new_rows` (B·n, P), and write it before scale and shift into `saved`."""
        _, _, softmax = self._softmax(g, weights, scratch)
        found = self._normalize(g, weights.weights(softmax, softmax), saved, scratch)
        new_rows.addcmul_(found.values, self._scale).add_(self._shift)

    def _softmax(self, g: Tensor, weights: PairWeights, scratch: Scratch) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, n·H, P), products with the keys (B, n·H, n), both log₂e too large, and the softmax."""
        batch, n, width = g.shape
        heads = self._base_two.shape[1] // width
        query = scratch("query", batch, n * heads, width)
        torch.mm(g.flatten(0, 1), self._base_two, out=query.view(batch * n, -1))
        raw = torch.bmm(query, g.mT, out=scratch("raw", batch, n * heads, n))
        return query, raw, weights.softmax(raw, scratch("softmax", *raw.shape))

    def _normalize(self, g: Tensor, weight: Tensor, saved: Normalized | None, scratch: Scratch) -> Normalized:
        """The normalized output for attention weights A (B, n·H, n), in `saved` or a temporary array."""
        shape = g.shape[0] * g.shape[1], g.shape[2]
        mixed = torch.bmm(weight, g, out=scratch("mixed", *weight.shape[:2], g.shape[2]))
        output = torch.addmm(self._output_bias, mixed.view(shape[0], -1), self._output, out=scratch("output", *shape))
        square = torch.mul(output, output, out=scratch("square", *shape))
        inverse_std = torch.mv(square, self._mean).add_(self._eps).rsqrt_()[:, None]
        if saved is None:
            return Normalized(output.mul_(inverse_std), inverse_std)
        torch.mul(output, inverse_std, out=saved.values)
        saved.inverse_std.copy_(inverse_std)
        return saved

    def repeat(
        self, g: Tensor, weights: PairWeights, saved: Normalized | None, d_rows: Tensor, scratch: Scratch
    ) -> Attended:
        """Compute again what was not kept, and the gradient of the centered o from that of the updated channel."""
        query, raw, softmax = self._softmax(g, weights, scratch)
        weight = weights.weights(softmax, scratch("weight", *raw.shape))
        if saved is None:
            saved = self._normalize(g, weight, None, scratch)
        gradient = torch.mul(d_rows, self._scale, out=scratch("d_output", *d_rows.shape))
        product = torch.mul(gradient, saved.values, out=scratch("square", *d_rows.shape))
        along = torch.mv(product, self._mean)[:, None]
        gradient.addcmul_(saved.values, along, value=-1).mul_(saved.inverse_std)
        return Attended(query, raw, softmax, weight, gradient)

    def add_gradient_(
        self, g: Tensor, weights: PairWeights, attended: Attended, gradient: Tensor, scratch: Scratch
    ) -> None:
        """Add to `gradient` what reaches `g` through the attention, and to `weights` what reaches the geometry."""
        query, raw, softmax, weight = attended.query, attended.raw, attended.softmax, attended.weight
        d_output, n = attended.d_output, g.shape[1]
        d_mixed = scratch("mixed", *query.shape)
        torch.mm(d_output, self._output.T, out=d_mixed.view(len(d_output), -1))
        d_weight = torch.bmm(d_mixed, g.mT, out=scratch("d_weight", *raw.shape))
        weights.add_value_gradient(softmax, d_weight)
        gradient.baddbmm_(weight.mT, d_mixed)
        d_logit = weight.mul_(d_weight)
        row_sum = torch.mv(d_logit.view(-1, n), raw.new_ones(n)).view(*raw.shape[:2], 1)
        d_raw = weights.add_logit_gradient_(raw, d_logit.addcmul_(softmax, row_sum, value=-1))
        gradient.baddbmm_(d_raw.mT, query, alpha=1 / LOG2_E)
        d_query = torch.bmm(d_raw, g, out=d_mixed)
        gradient.flatten(0, 1).addmm_(d_query.view(len(d_output), -1), self._query_key.T)

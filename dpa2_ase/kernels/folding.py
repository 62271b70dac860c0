"""Weights of the repformer with everything constant folded in, in float64.

Two matrices that follow each other without an activation between them become one, and every constant factor (the
divisors of the attention and of the symmetrization, the residual scales) moves into a weight beside it.
All matrices are contiguous and stored (in, out), for row vectors. `fold_repformer` is for training: autograd sees
through it, and where there is nothing to fold the tensors are the parameters themselves. `constants` is for all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..nn.attention import PairAttention
from ..nn.layers import Activation
from ..nn.repformer import Combine, Repformer, RepformerLayer


@dataclass(frozen=True)
class FoldedLayer:
    r"""One layer; G channels of atoms, P of pairs, H heads. A part the layer does not have is ``None``.

    Pair channel g, with z the normalized output o of the attention:

    .. math::
        g' = c g + \rho_0 \odot \phi(g W + b) + \gamma \odot z + \beta, \quad
        o_j = b_o + \sum_h \sum_k B^h_{jk}\, g_k O_h, \quad \ell^h_{jk} = g_j M_h \cdot g_k

    Atom channel x, with X the convolution :math:`\nu_c \sum_j \omega_j (g_j W_c) \odot x_j` and s the input that
    `RepformerLayer` joins (in its order, the symmetrized moments as plain products without the divisor 3):

    .. math:: x' = c x + \rho_s \odot \phi(x W_s + b_s) + \rho_X \odot X + \rho_n \odot \phi(s W_n + b_n)
    """

    node_old: float  # c of the atom channel
    node_weight: Tensor  # W_n (z, G), the divisor 3 inside
    node_bias: Tensor  # b_n (G,)
    node_scale: Tensor  # ρ_n (G,)
    self_weight: Tensor | None = None  # W_s (G, G)
    self_bias: Tensor | None = None  # b_s (G,)
    self_scale: Tensor | None = None  # ρ_s (G,)
    conv: Tensor | None = None  # W_c (P, G), or (G, P) where the convolution is an input of s
    conv_scale: Tensor | None = None  # ρ_X (G,); None where the convolution is an input of s
    edge_old: float = 1.0  # c of the pair channel
    edge_weight: Tensor | None = None  # W (P, P)
    edge_bias: Tensor | None = None  # b (P,)
    edge_scale: Tensor | None = None  # ρ₀ (P,)
    query_key: Tensor | None = None  # M (P, H·P), head slowest, 1/√d inside
    value_output: Tensor | None = None  # O (H·P, P), head slowest, 1/√3 inside
    output_bias: Tensor | None = None  # b_o (P,)
    norm_scale: Tensor | None = None  # γ (P,), residual scale inside
    norm_shift: Tensor | None = None  # β (P,), residual scale inside
    norm_eps: float = 1e-5

    def apply(self, function: Callable[[Tensor], Tensor]) -> FoldedLayer:
        """The same layer with `function` applied to every tensor."""
        changed: dict[str, Any] = {name: function(tensor) for name, tensor in self.tensors.items()}
        return replace(self, **changed)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    @property
    def n_heads(self) -> int:
        """Heads of the pair attention, zero without one."""
        return 0 if self.query_key is None else self.query_key.shape[1] // self.query_key.shape[0]


@dataclass(frozen=True)
class FoldedRepformer:
    """All layers and the embedding of the radial coordinate."""

    embedding_weight: Tensor  # (P,)
    embedding_bias: Tensor  # (P,)
    activation: Activation
    layers: tuple[FoldedLayer, ...]

    def apply(self, function: Callable[[Tensor], Tensor]) -> FoldedRepformer:
        """The same block with `function` applied to every tensor."""
        return FoldedRepformer(
            function(self.embedding_weight),
            function(self.embedding_bias),
            self.activation,
            tuple(layer.apply(function) for layer in self.layers),
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; those of a layer as ``3.node_weight``."""
        found = {"embedding_weight": self.embedding_weight, "embedding_bias": self.embedding_bias}
        for index, layer in enumerate(self.layers):
            found |= {f"{index}.{name}": tensor for name, tensor in layer.tensors.items()}
        return found


def aligned(width: int, like: Tensor) -> int:
    """A number of columns, at least `width`, that makes products faster; the columns beyond `width` are zeros.

    The float64 products of CPU libraries work on twelve columns at a time: 36 take a third less time than 32.
    """
    more = -width % 12
    pays = like.dtype == torch.float64 and like.device.type == "cpu" and 8 * more <= width
    return width + more if pays else width


def present(tensor: Tensor | None) -> Tensor:
    """A part of a layer that is known to be there."""
    assert tensor is not None
    return tensor


def constants(reference: Repformer, dtype: torch.dtype) -> FoldedRepformer:
    """Folded weights that have nothing to do any more with the parameters of `reference`."""
    with torch.no_grad():
        return fold_repformer(reference, dtype).apply(torch.clone)


def fold_repformer(reference: Repformer, dtype: torch.dtype) -> FoldedRepformer:
    """Fold in float64, then round once to `dtype`."""
    embedding = reference.edge_embedding
    layers = tuple(fold_layer(layer, dtype) for layer in reference.layers if isinstance(layer, RepformerLayer))
    assert embedding.bias is not None
    return FoldedRepformer(embedding.weight[0].to(dtype), embedding.bias.to(dtype), reference.activation, layers)


def fold_layer(layer: RepformerLayer, dtype: torch.dtype) -> FoldedLayer:
    """Fold one layer in float64, then round once to `dtype`."""
    folded = _fold_node_update(layer)
    if not layer.is_last:
        folded = _fold_edge_update(folded, layer)
    return folded.apply(lambda tensor: tensor.to(dtype).contiguous())


def _scales(combine: Combine, n_updates: int, like: Tensor) -> tuple[float, list[Tensor]]:
    """The three styles as one: a factor of the old value and one vector, shaped as `like`, for every update."""
    if combine.style == "res_residual":
        return 1.0, [scale.double() for scale in combine.scales]
    ones = torch.ones_like(like.double())
    if combine.style == "res_avg":
        factor = 1 / math.sqrt(n_updates + 1)
        return factor, [factor * ones] * n_updates
    return 1.0, [ones / math.sqrt(n_updates)] * n_updates


def _fold_node_update(layer: RepformerLayer) -> FoldedLayer:
    config, update, own = layer.config, layer.node_update, layer.node_self
    assert update.bias is not None
    adds_conv = layer.conv is not None and config.g1_out_conv
    n_updates = 1 + (own is not None) + adds_conv + (layer.local_attention is not None)
    old, scales = _scales(layer.combine_node, n_updates, update.bias)
    by_position = iter(scales)
    self_scale = next(by_position) if own is not None else None
    conv_scale = next(by_position) if adds_conv else None
    widths = config.g2_dim * config.update_g1_has_grrg + config.g1_dim * config.update_g1_has_drrd
    whole = update.weight.double()
    n_others = len(whole) - config.axis_neuron * widths  # rows before those of the symmetrized moments
    others, moments = whole.split([n_others, len(whole) - n_others])
    weight = torch.cat([others, moments / 3]) if n_others else moments / 3
    return FoldedLayer(
        node_old=old,
        node_weight=weight,
        node_bias=update.bias.double(),
        node_scale=next(by_position),
        self_weight=None if own is None else own.weight.double(),
        self_bias=None if own is None or own.bias is None else own.bias.double(),
        self_scale=self_scale,
        conv=None if layer.conv is None else layer.conv.weight.double(),
        conv_scale=conv_scale,
    )


def _fold_edge_update(folded: FoldedLayer, layer: RepformerLayer) -> FoldedLayer:
    update, attention = layer.edge_update, layer.pair_attention
    assert update.bias is not None
    has_attention = attention is not None and attention.updates_edge
    n_updates = 1 + (layer.edge_nodes is not None) + has_attention
    old, scales = _scales(layer.combine_edge, n_updates, update.bias)
    folded = replace(
        folded,
        edge_old=old,
        edge_weight=update.weight.double(),
        edge_bias=update.bias.double(),
        edge_scale=scales[0],
    )
    return _fold_attention(folded, attention, scales[-1]) if attention is not None and has_attention else folded


def _fold_attention(folded: FoldedLayer, attention: PairAttention, scale: Tensor) -> FoldedLayer:
    heads, norm = attention.n_heads, attention.norm
    assert attention.edge_output.bias is not None
    query_key = attention.query_key.weight.double().unflatten(1, (-1, 2 * heads))  # (P, d, 2H), head fastest
    query, key = query_key.movedim(2, 0).chunk(2)  # (H, P, d)
    value = attention.value.weight.double().unflatten(1, (-1, heads)).movedim(2, 0)  # (H, P, P)
    output = attention.edge_output.weight.double().unflatten(0, (-1, heads)).movedim(1, 0)  # (H, P, P)
    return replace(
        folded,
        query_key=(query @ key.mT / math.sqrt(attention.hidden)).movedim(0, 1).flatten(1),
        value_output=(value @ output / math.sqrt(3)).flatten(0, 1),
        output_bias=attention.edge_output.bias.double(),
        norm_scale=norm.weight.double() * scale,
        norm_shift=norm.bias.double() * scale,
        norm_eps=norm.eps,
    )

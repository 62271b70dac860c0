"""The two attention mechanisms of the repformer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..config import RepformerConfig
from ..graph import Neighborhood
from ..ops import EMPTY_LOGIT, segment_softmax, segment_sum, softmax_with_empty_slots
from .layers import Dense, LayerNorm


class PairAttention(nn.Module):
    r"""Pairs of one center attend to each other; updates the invariant and the equivariant pair channel.

    .. math::
        A^h_{jk} = softmax_k(Q^h_j \cdot K^h_k / \sqrt{d}\; [h_j \cdot h_k]), \quad
        B^h_{jk} = A^h_{jk}\, h_j \cdot h_k / \sqrt 3

    Parameters
    ----------
    updates_edge, updates_direction
        Which of the two channels get an update from the weights B.
    """

    def __init__(self, config: RepformerConfig, *, smooth: bool, updates_edge: bool, updates_direction: bool) -> None:
        super().__init__()
        width, self.hidden, self.n_heads = config.g2_dim, config.attn2_hidden, config.attn2_nhead
        self.has_gate, self.smooth = config.attn2_has_gate, smooth
        self.query_key = Dense(width, 2 * self.hidden * self.n_heads, bias=False)
        if updates_edge:
            self.value = Dense(width, width * self.n_heads, bias=False)
            self.edge_output = Dense(width * self.n_heads, width)
            self.norm = LayerNorm(width, config.ln_eps)
        if updates_direction:
            self.direction_output = Dense(self.n_heads, 1, bias=False)
        self.updates_edge, self.updates_direction = updates_edge, updates_direction

    def forward(
        self, edge: Tensor, direction: Tensor, switch: Tensor, hood: Neighborhood
    ) -> tuple[Tensor | None, Tensor | None]:
        """Updates of `edge` (E, P), E > 0, and `direction` (E, 3); ``None`` for a channel that gets none."""
        query_key = self.query_key(edge).unflatten(-1, (self.hidden, 2 * self.n_heads))  # head index fastest
        value = self.value(edge).unflatten(-1, (-1, self.n_heads)) if self.updates_edge else None
        new_edge, new_direction = [], []
        for centers, edges in hood.graph.edges_by_degree:
            weight = self._weights(query_key[edges], direction[edges], switch[edges], hood.n_dead[centers])
            if value is not None:
                new_edge.append(torch.einsum("bjkh,bkch->bjch", weight, value[edges]).flatten(2))
            if self.updates_direction:
                new_direction.append(torch.einsum("bjkh,bka->bjah", weight, direction[edges]))
        join = hood.graph.join_degrees
        return (
            self.norm(self.edge_output(join(new_edge))) if new_edge else None,
            self.direction_output(join(new_direction)).squeeze(-1) if new_direction else None,
        )

    def _weights(self, query_key: Tensor, direction: Tensor, switch: Tensor, n_dead: Tensor) -> Tensor:
        """Weights B of shape (B, n, n, H)."""
        query, key = query_key.chunk(2, dim=-1)  # (B, n, d, H)
        cosine = (direction @ direction.mT)[:, None]  # (B, 1, n, n)
        logits = query.movedim(-1, 1) @ key.movedim(-1, 1).mT / math.sqrt(self.hidden)  # (B, H, n, n)
        if self.has_gate:
            logits = logits * cosine
        if self.smooth:
            pair_switch = (switch[:, :, None] * switch[:, None, :])[:, None]
            logits = (logits - EMPTY_LOGIT) * pair_switch + EMPTY_LOGIT
            weight = softmax_with_empty_slots(logits, pair_switch, n_dead[:, None, None, None])
        else:
            weight = logits.softmax(dim=-1)
        return (weight * cosine / math.sqrt(3)).movedim(1, -1)


class LocalAttention(nn.Module):
    r"""An atom attends to its neighbors: :math:`o^h_i = \sum_j softmax_j(q^h_i \cdot k^h_j / \sqrt d)\, v^h_j`."""

    def __init__(self, config: RepformerConfig, *, smooth: bool) -> None:
        super().__init__()
        width, self.hidden, self.n_heads = config.g1_dim, config.attn1_hidden, config.attn1_nhead
        self.smooth = smooth
        self.query = Dense(width, self.hidden * self.n_heads, bias=False)
        self.key_value = Dense(width, (self.hidden + width) * self.n_heads, bias=False)
        self.output = Dense(width * self.n_heads, width)

    def forward(self, node: Tensor, switch: Tensor, hood: Neighborhood) -> Tensor:
        """Update of `node` (N, G)."""
        graph = hood.graph
        query = self.query(node).unflatten(-1, (self.hidden, self.n_heads))[graph.center]  # (E, d, H)
        key_value = self.key_value(node).unflatten(-1, (-1, self.n_heads))[graph.neighbor]
        key, value = key_value.split([self.hidden, node.shape[1]], dim=1)
        logits = (query * key).sum(1) / math.sqrt(self.hidden)  # (E, H)
        if self.smooth:
            logits = (logits - EMPTY_LOGIT) * switch[:, None] + EMPTY_LOGIT
            weight = segment_softmax(logits, switch, graph.center, hood.n_dead, graph.n_atoms)
        else:
            weight = segment_softmax(logits, torch.ones_like(switch), graph.center, None, graph.n_atoms)
        mixed = segment_sum(weight[:, :, None] * value.mT, graph.center, graph.n_atoms)  # (N, H, G), head slowest
        return self.output(mixed.flatten(1))

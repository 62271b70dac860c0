"""The repformer of DPA-2: message passing over atoms, invariant pairs and equivariant pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import RepformerConfig
from ..graph import AtomicGraph, Neighborhood, neighborhood
from ..ops import segment_sum, type_pair_mask
from .attention import LocalAttention, PairAttention
from .environment import Environment
from .layers import Dense, activation_function, random_parameter
from .se_atten import BlockOutput


@dataclass(frozen=True)
class Channels:
    """What a layer reads and writes; the paper calls the three channels g1, g2 and h2."""

    node: Tensor  # (N, G)
    edge: Tensor  # (E, P)
    direction: Tensor  # (E, 3)


@dataclass(frozen=True)
class Weights:
    """Weights of edges and neighborhoods, the same in all layers."""

    edge: Tensor  # (E,) switch, or one where the model is not smooth
    mean: Tensor  # (N,) divisor of a sum over neighbors, inverted
    moment: Tensor  # (N,) the same for moments; its square root where use_sqrt_nnei
    switch: Tensor  # (E,)


class Combine(nn.Module):
    """Join the old value of a channel and its updates: ``res_avg``, ``res_incr`` or ``res_residual``."""

    def __init__(self, style: str, n_updates: int, width: int) -> None:
        super().__init__()
        self.style = style
        count = n_updates if style == "res_residual" else 0
        self.scales = nn.ParameterList(random_parameter(width, std=1e-3) for _ in range(count))

    def forward(self, old: Tensor, updates: list[Tensor]) -> Tensor:
        """`updates` in the order of the layer's list: learned scales are paired with them by position."""
        if not updates:
            return old
        if self.style == "res_avg":
            return (old + sum(updates)) / math.sqrt(len(updates) + 1)
        if self.style == "res_incr":
            return old + sum(updates) / math.sqrt(len(updates))
        for scale, update in zip(self.scales, updates, strict=True):
            old = old + scale * update
        return old


class RepformerLayer(nn.Module):
    """One round of message passing; the last layer leaves the pair channels as they are."""

    def __init__(self, config: RepformerConfig, *, smooth: bool, is_last: bool) -> None:
        super().__init__()
        self.config, self.is_last = config, is_last
        node, edge, axis = config.g1_dim, config.g2_dim, config.axis_neuron
        conv_inside = config.update_g1_has_conv and not config.g1_out_conv
        width = (
            node * (not config.g1_out_mlp)
            + edge * conv_inside
            + axis * edge * config.update_g1_has_grrg
            + axis * node * config.update_g1_has_drrd
        )
        self.node_update = Dense(width, node, activation=config.activation_function)
        self.node_self = Dense(node, node, activation=config.activation_function) if config.g1_out_mlp else None
        self.conv: Dense | None = None
        if config.update_g1_has_conv:
            self.conv = Dense(*((edge, node) if config.g1_out_conv else (node, edge)), bias=False)
        self.local_attention = LocalAttention(config, smooth=smooth) if config.update_g1_has_attn else None
        n_node = 1 + config.g1_out_mlp + (config.update_g1_has_conv and config.g1_out_conv) + config.update_g1_has_attn
        self.combine_node = Combine(config.update_style, n_node, node)
        if not is_last:
            self._make_pair_updates(smooth)

    def _make_pair_updates(self, smooth: bool) -> None:
        config = self.config
        node, edge = config.g1_dim, config.g2_dim
        self.edge_update = Dense(edge, edge, activation=config.activation_function)
        self.edge_nodes = Dense(node, edge, bias=False) if config.update_g2_has_g1g1 else None
        self.pair_attention: PairAttention | None = None
        if config.update_g2_has_attn or config.update_h2:
            self.pair_attention = PairAttention(
                config, smooth=smooth, updates_edge=config.update_g2_has_attn, updates_direction=config.update_h2
            )
        self.combine_edge = Combine(
            config.update_style, 1 + config.update_g2_has_g1g1 + config.update_g2_has_attn, edge
        )
        self.combine_direction = Combine(config.update_style, int(config.update_h2), 1)

    def forward(self, old: Channels, weights: Weights, hood: Neighborhood) -> Channels:
        """All updates read the old channels."""
        node = self.combine_node(old.node, self._node_updates(old, weights, hood))
        if self.is_last or not hood.graph.n_edges:
            return Channels(node, old.edge, old.direction)
        edge_updates, direction_updates = self._pair_updates(old, weights, hood)
        return Channels(
            node, self.combine_edge(old.edge, edge_updates), self.combine_direction(old.direction, direction_updates)
        )

    def _node_updates(self, old: Channels, weights: Weights, hood: Neighborhood) -> list[Tensor]:
        config, graph = self.config, hood.graph
        neighbor = old.node[graph.neighbor]  # (E, G)
        updates, inputs = [], []
        if self.node_self is not None:
            updates.append(self.node_self(old.node))
        else:
            inputs.append(old.node)
        if self.conv is not None and config.g1_out_conv:
            updates.append(self._convolve(self.conv(old.edge) * neighbor, weights, graph))
        elif self.conv is not None:
            inputs.append(self._convolve(old.edge * self.conv(old.node)[graph.neighbor], weights, graph))
        if config.update_g1_has_grrg:
            inputs.append(symmetrize(moment(old.edge, old.direction, weights, graph), config.axis_neuron))
        if config.update_g1_has_drrd:
            inputs.append(symmetrize(moment(neighbor, old.direction, weights, graph), config.axis_neuron))
        updates.append(self.node_update(torch.cat(inputs, dim=1)))
        if self.local_attention is not None:
            updates.append(self.local_attention(old.node, weights.switch, hood))
        return updates

    @staticmethod
    def _convolve(messages: Tensor, weights: Weights, graph: AtomicGraph) -> Tensor:
        return weights.mean[:, None] * segment_sum(weights.edge[:, None] * messages, graph.center, graph.n_atoms)

    def _pair_updates(self, old: Channels, weights: Weights, hood: Neighborhood) -> tuple[list[Tensor], list[Tensor]]:
        graph = hood.graph
        edge_updates, direction_updates = [self.edge_update(old.edge)], []
        if self.edge_nodes is not None:
            product = old.node[graph.center] * old.node[graph.neighbor]
            edge_updates.append(self.edge_nodes(weights.edge[:, None] * product))
        if self.pair_attention is not None:
            edge, direction = self.pair_attention(old.edge, old.direction, weights.switch, hood)
            edge_updates += [] if edge is None else [edge]
            direction_updates += [] if direction is None else [direction]
        return edge_updates, direction_updates


def moment(feature: Tensor, direction: Tensor, weights: Weights, graph: AtomicGraph) -> Tensor:
    """Sum of directions times features over the neighbors, (N, 3, d) for `feature` (E, d)."""
    return weights.moment[:, None, None] * graph.sum_outer(weights.edge[:, None] * direction, feature)


def symmetrize(moments: Tensor, axis: int) -> Tensor:
    """Invariants (N, axis·d) of `moments` (N, 3, d)."""
    return torch.einsum("nka,nkd->nad", moments[:, :, :axis], moments).flatten(1) / 3


class Repformer(nn.Module):
    """Stacked message passing from per-atom features of the initializer to the final representation.

    References
    ----------
    DPA-2, https://doi.org/10.1038/s41524-024-01493-2
    """

    excluded: Tensor

    def __init__(
        self,
        config: RepformerConfig,
        n_types: int,
        *,
        smooth: bool,
        exclude_types: tuple[tuple[int, int], ...],
        env_protection: float,
    ) -> None:
        super().__init__()
        self.config, self.smooth = config, smooth
        self.environment = Environment(n_types, config.rcut_smth, config.rcut, env_protection)
        self.edge_embedding = Dense(1, config.g2_dim, activation=config.activation_function)
        self.activation = activation_function(config.activation_function)
        self.layers = nn.ModuleList(
            RepformerLayer(config, smooth=smooth, is_last=index == config.nlayers - 1)
            for index in range(config.nlayers)
        )
        self.register_buffer("excluded", type_pair_mask(exclude_types, n_types), persistent=False)

    def forward(self, graph: AtomicGraph, node: Tensor) -> BlockOutput:
        """Refine `node` (N, G); the equivariant output is the moment of the pair channel, (N, P, 3)."""
        hood = neighborhood(graph, self.config.rcut, self.config.nsel, self.excluded)
        graph = hood.graph
        env = self.environment(graph)
        if self.config.direct_dist:
            scaled = torch.cat([graph.distances[:, None], graph.vectors], dim=1) / self.config.rcut
            radial, direction = scaled.to(env.env).split([1, 3], dim=1)
        else:
            radial, direction = env.env[:, :1], env.env[:, 1:]
        weights = self._weights(env.switch, hood)
        channels = Channels(self.activation(node), self.edge_embedding(radial), direction)
        for layer in self.layers:
            channels = layer(channels, weights, hood)
        return BlockOutput(channels.node, moment(channels.edge, channels.direction, weights, graph).mT)

    def _weights(self, switch: Tensor, hood: Neighborhood) -> Weights:
        """Sums are divided by the list length of the training, or by the true count where the model is not smooth."""
        power = 0.5 if self.config.use_sqrt_nnei else 1.0
        if self.smooth:
            size = torch.full_like(hood.graph.degree, hood.nsel, dtype=switch.dtype)
            return Weights(switch, 1 / size, 1 / size**power, switch)
        size = hood.graph.degree.to(switch.dtype)
        return Weights(torch.ones_like(switch), 1 / (1e-4 + size), 1 / (1e-4 + size**power), switch)

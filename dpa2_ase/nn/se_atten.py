"""The ``se_atten`` block: the body of DPA-1 and the ``repinit`` of DPA-2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's usual name

from ..config import SeAttenConfig
from ..graph import AtomicGraph, Neighborhood, neighborhood
from ..ops import EMPTY_LOGIT, has_nonzero, softmax_with_empty_slots, type_pair_mask
from .environment import EdgeEnvironment, Environment
from .layers import Dense, LayerNorm
from .pair_features import PairFeatures
from .spherical import solid_harmonics


@dataclass(frozen=True)
class BlockOutput:
    """What a block says of every atom."""

    node: Tensor  # (N, C) invariant
    equivariant: Tensor  # (N, M, 3) rotates with the structure


class NeighborAttention(nn.Module):
    r"""Let the neighbors of an atom exchange features, gated by the angle between them.

    .. math:: G \leftarrow LN(G + (A \odot \hat u \hat u^T) V W_o), \quad A = softmax(QK^T)

    Padding of the training code survives as the empty slots in the denominator (see `softmax_with_empty_slots`).
    """

    def __init__(self, config: SeAttenConfig) -> None:
        super().__init__()
        width = config.neuron[-1]
        self.query_key_value = Dense(width, 3 * config.attn)
        self.output = Dense(config.attn, width)
        self.norm = LayerNorm(width, config.ln_eps)
        self.config = config
        default = (config.attn * config.scaling_factor) ** -0.5
        self.scale = default if config.temperature is None else config.temperature  # the training code multiplies by it

    def forward(self, feature: Tensor, env: EdgeEnvironment, hood: Neighborhood) -> Tensor:
        """New features (E, C)."""
        if not hood.graph.n_edges:
            return feature
        projected = self.query_key_value(feature)
        mixed = []
        direction = F.normalize(env.env[:, 1:4], dim=-1)
        for centers, edges in hood.graph.edges_by_degree:
            query, key, value = projected[edges].chunk(3, dim=-1)  # (B, n, D)
            if self.config.normalize:
                query, key, value = (F.normalize(x, dim=-1) for x in (query, key, value))
            weight = self._weights(query @ key.mT * self.scale, env.switch[edges], hood.n_dead[centers])
            if self.config.attn_dotr:
                weight = weight * (direction[edges] @ direction[edges].mT)
            mixed.append(weight @ value)
        return self.norm(feature + self.output(hood.graph.join_degrees(mixed)))

    def _weights(self, logits: Tensor, switch: Tensor, n_dead: Tensor) -> Tensor:
        if not self.config.smooth:
            return logits.softmax(dim=-1)
        pair_switch = switch[:, :, None] * switch[:, None, :]
        return softmax_with_empty_slots(
            (logits - EMPTY_LOGIT) * pair_switch + EMPTY_LOGIT, pair_switch, n_dead[:, None, None]
        )

    def of_empty_slot(self, feature: Tensor) -> Tensor:
        """Features of a slot without neighbor: nobody attends to it, only bias and norm act."""
        return self.norm(feature + self.output(feature.new_zeros(1, self.config.attn)))


class SeAtten(nn.Module):
    r"""Moments of typed pair features over the neighborhood.

    .. math:: M_i = \frac{1}{N_{sel}} \sum_j R_{ij}^T g_{ij}, \qquad D_i = M_i^T M_i[:, :A]

    A non-zero mean of the environment makes empty slots contribute, with the type of the first atom of the structure
    (`Environment.of_empty_slot`): kept because the trained numbers contain it.

    References
    ----------
    DPA-1, https://doi.org/10.1038/s41524-024-01278-7
    """

    excluded: Tensor
    attention: Sequence[NeighborAttention]

    def __init__(self, config: SeAttenConfig, n_types: int) -> None:
        super().__init__()
        self.config = config
        self.environment = Environment(n_types, config.rcut_smth, config.rcut, config.env_protection)
        self.features = PairFeatures(config, one_side=config.type_one_side)
        layers = (NeighborAttention(config) for _ in range(config.attn_layer))
        self.attention = nn.ModuleList(layers)  # type: ignore[assignment]  # a ModuleList forgets what it holds
        self.degree_gain = nn.Parameter(torch.ones(config.lmax - 1)) if config.lmax > 1 else None
        self.register_buffer("excluded", type_pair_mask(config.exclude_types, n_types), persistent=False)

    @property
    def width(self) -> int:
        """Number of invariants per atom."""
        return self.config.neuron[-1] * self.config.axis_neuron

    @property
    def sees_empty_slots(self) -> bool:
        """Whether the mean of the environment makes empty slots contribute."""
        return has_nonzero(self.environment.mean)

    def forward(self, graph: AtomicGraph, type_embedding: Tensor) -> BlockOutput:
        """Invariants (N, C·A) and the equivariant part (N, C, 3) of the moment."""
        hood = neighborhood(graph, self.config.rcut, self.config.nsel, self.excluded)
        graph = hood.graph
        env = self.environment(graph)
        types = graph.types
        feature = self.features(
            env.env[:, 0], types[graph.neighbor], types[graph.center], type_embedding, env.switch
        )  # (E, C)
        for layer in self.attention:
            feature = layer(feature, env, hood)
        rows = self.rows(graph, env)  # (E, K)
        moment = graph.sum_outer(rows, feature)  # (N, K, C)
        return self.output(moment, hood, type_embedding)

    def output(self, moment: Tensor, hood: Neighborhood, type_embedding: Tensor) -> BlockOutput:
        """What follows from the sum of rows and features over neighbors (N, K, C)."""
        if self.sees_empty_slots:
            moment = moment + self._empty_slots(hood, type_embedding, moment.shape[1]).to(moment)
        moment = moment / self.config.nsel
        axis = moment[:, :, : self.config.axis_neuron]
        if self.degree_gain is not None:
            axis = self._degree_weight(self.degree_gain.to(moment)) * axis
        node = (moment.mT @ axis).flatten(1)
        return BlockOutput(node, moment[:, 1:4].mT)

    def rows(self, graph: AtomicGraph, env: EdgeEnvironment) -> Tensor:
        """Geometry that weighs the features: the environment row and, for lmax > 1, higher solid harmonics."""
        if self.config.lmax == 1:
            return env.env
        amplitude = env.amplitude / self.environment.std[graph.types[graph.center], 0]
        harmonics = solid_harmonics(graph.vectors.to(env.env) / env.distances[:, None], self.config.lmax)
        return torch.cat([env.env, amplitude[:, None] * harmonics], dim=1)

    def _degree_weight(self, gain: Tensor) -> Tensor:
        """One for degrees 0 and 1, the squared `gain` (lmax - 1,) for higher ones; (K, 1)."""
        repeats = torch.tensor([2 * degree + 1 for degree in range(2, self.config.lmax + 1)], device=gain.device)
        return torch.cat([gain.new_ones(4), gain.repeat_interleave(repeats) ** 2])[:, None]

    def _empty_slots(self, hood: Neighborhood, type_embedding: Tensor, n_rows: int) -> Tensor:
        graph = hood.graph
        row = self.environment.of_empty_slot(graph.types)  # (N, 4)
        nothing = torch.zeros_like(row[:, 0])
        feature = self.features(row[:, 0], graph.first_type, graph.types, type_embedding, nothing)
        for layer in self.attention:
            feature = layer.of_empty_slot(feature)
        moment = hood.n_empty[:, None, None] * row[:, :, None] * feature[:, None, :]  # (N, 4, C)
        return F.pad(moment, (0, 0, 0, n_rows - 4))

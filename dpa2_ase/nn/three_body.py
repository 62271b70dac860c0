"""The three-body block of DPA-2: angles between pairs of neighbors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's usual name

from ..config import ThreeBodyConfig
from ..graph import AtomicGraph, neighborhood
from ..ops import type_pair_mask
from .environment import Environment
from .pair_features import PairFeatures


class ThreeBody(nn.Module):
    r"""Sum features of all ordered pairs of neighbors, a neighbor with itself included.

    .. math::
        D_i = \frac{1}{N_{sel}^2} \sum_{jk} c_{jk}\, g(c_{jk}, T_j, T_k), \quad c_{jk} = R_j[1{:}4] \cdot R_k[1{:}4]

    References
    ----------
    DPA-2, https://doi.org/10.1038/s41524-024-01493-2
    """

    excluded: Tensor

    def __init__(self, config: ThreeBodyConfig, n_types: int) -> None:
        super().__init__()
        self.config = config
        self.environment = Environment(n_types, config.rcut_smth, config.rcut, config.env_protection)
        self.features = PairFeatures(config)
        self.register_buffer("excluded", type_pair_mask(config.exclude_types, n_types), persistent=False)

    @property
    def width(self) -> int:
        """Number of invariants per atom."""
        return self.config.neuron[-1]

    @property
    def sees_empty_slots(self) -> bool:
        """Whether the angular mean of the environment makes empty slots contribute."""
        return bool(self.environment.mean[:, 1:].any())

    def forward(self, graph: AtomicGraph, type_embedding: Tensor) -> Tensor:
        """Invariants (N, C)."""
        hood = neighborhood(graph, self.config.rcut, self.config.nsel, self.excluded)
        graph = hood.graph
        env = self.environment(graph)
        empty_slot = self.environment.of_empty_slot(graph.types)[:, None, 1:]  # (N, 1, 3)
        has_empty_slots = self.sees_empty_slots
        groups = graph.edges_by_degree
        if has_empty_slots:  # centers without any neighbor count as well
            alone = torch.nonzero(graph.degree == 0).squeeze(-1)
            groups = [(alone, alone.new_zeros(len(alone), 0)), *groups]
        total = env.env.new_zeros(graph.n_atoms, self.width)
        for centers, edges in groups:
            angular, switch, types = env.env[edges, 1:], env.switch[edges], graph.types[graph.neighbor[edges]]
            count = torch.ones_like(switch)
            if has_empty_slots:  # all alike: one row that counts for all of them
                angular = torch.cat([angular, empty_slot[centers]], dim=1)
                switch, types = F.pad(switch, (0, 1)), torch.cat([types, graph.first_type[centers, None]], dim=1)
                count = torch.cat([count, hood.n_empty[centers, None].to(count)], dim=1)
            total = total.index_copy(0, centers, self._pairs(angular, switch, types, count, type_embedding))
        return total / self.config.nsel**2

    def _pairs(self, angular: Tensor, switch: Tensor, types: Tensor, count: Tensor, type_embedding: Tensor) -> Tensor:
        """Sum over pairs of rows (B, n, 3) that stand for `count` (B, n) neighbors each; returns (B, C)."""
        cosine = angular @ angular.mT  # (B, n, n)
        first, second = types[:, :, None].expand_as(cosine), types[:, None, :].expand_as(cosine)
        pair_switch = switch[:, :, None] * switch[:, None, :]
        feature = self.features(cosine, first, second, type_embedding, pair_switch)  # (B, n, n, C)
        weight = cosine * count[:, :, None] * count[:, None, :]
        return torch.einsum("bjk,bjkc->bc", weight, feature)

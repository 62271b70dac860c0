"""The three-body block of DPA-2: angles between pairs of neighbors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import ThreeBodyConfig
from ..graph import AtomicGraph, Neighborhood, neighborhood
from ..ops import has_nonzero, segment_sum, type_pair_mask
from .environment import EdgeEnvironment, Environment
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
        return has_nonzero(self.environment.mean, first_column=1)

    def forward(self, graph: AtomicGraph, type_embedding: Tensor) -> Tensor:
        """Invariants (N, C)."""
        hood = neighborhood(graph, self.config.rcut, self.config.nsel, self.excluded)
        graph = hood.graph
        env = self.environment(graph)
        total = self.neighbor_pairs(graph, env, type_embedding)
        if self.sees_empty_slots:
            total = total + self.empty_slots(hood, env, type_embedding)
        return total / self.config.nsel**2

    def neighbor_pairs(self, graph: AtomicGraph, env: EdgeEnvironment, type_embedding: Tensor) -> Tensor:
        """Sum over the pairs of neighbors of every center, (N, C)."""
        total = env.env.new_zeros(graph.n_atoms, self.width)
        for centers, edges in graph.edges_by_degree:
            angular, switch, types = env.env[edges, 1:], env.switch[edges], graph.types[graph.neighbor[edges]]
            cosine = angular @ angular.mT  # (B, n, n)
            first, second = types[:, :, None].expand_as(cosine), types[:, None, :].expand_as(cosine)
            pair_switch = switch[:, :, None] * switch[:, None, :]
            feature = self.features(cosine, first, second, type_embedding, pair_switch)  # (B, n, n, C)
            total = total.index_copy(0, centers, torch.einsum("bjk,bjkc->bc", cosine, feature))
        return total

    def empty_slots(self, hood: Neighborhood, env: EdgeEnvironment, type_embedding: Tensor) -> Tensor:
        """Sum over the pairs of a slot without neighbor and a neighbor, or another such slot, (N, C).

        These slots are all alike, with the type of the first atom of the structure (`Environment.of_empty_slot`).
        """
        graph = hood.graph
        empty = self.environment.of_empty_slot(graph.types)[:, 1:]  # (N, 3)
        cosine = (env.env[:, 1:] * empty[graph.center]).sum(1)  # (E,)
        types, empty_types = graph.types[graph.neighbor], graph.first_type[graph.center]
        nothing = torch.zeros_like(cosine)
        feature = self.features(cosine, types, empty_types, type_embedding, nothing)
        feature = feature + self.features(cosine, empty_types, types, type_embedding, nothing)
        mixed = segment_sum(cosine[:, None] * feature, graph.center, graph.n_atoms)
        square = (empty**2).sum(1)
        own = self.features(square, graph.first_type, graph.first_type, type_embedding, torch.zeros_like(square))
        count = hood.n_empty[:, None].to(mixed)
        return count * mixed + count**2 * square[:, None] * own

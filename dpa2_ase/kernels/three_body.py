"""The three-body block of DPA-2 from tables, with every pair of neighbors visited once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..graph import AtomicGraph, neighborhood
from ..nn.environment import EdgeEnvironment
from ..nn.pair_features import PairFeatures
from ..nn.three_body import ThreeBody
from .environment import edge_environment
from .pair_sums import TriplePlan, bent, pair_sums
from .tables import Tables
from .tabulation import PairFunctions, TableBook, exact_copy, net_and_slope, table_obstacle, trial_error

LARGEST = 1.6  # 1/Å, w / r of the closest neighbors in the tables, at 0.62 Å; closer ones get the exact nets
BENDS = (15.0, 20.0, 30.0, 45.0, 65.0)  # the best depends on the statistics and on the steepness of the nets
TRIAL_CELLS = 512


class TabulatedThreeBody(nn.Module):
    """`ThreeBody` with piecewise polynomials in place of its nets; once differentiable.

    Tables are made from the first type embedding that comes along: the weights of the model are taken as constants.
    Atoms with an extremely close neighbor, outside of the tables, get the exact nets.

    Parameters
    ----------
    reference
        Computes geometry, empty slots and whatever is outside of the tables.
    dtype
        Precision of tables and sums.
    """

    def __init__(self, reference: ThreeBody, dtype: torch.dtype) -> None:
        super().__init__()
        self.reference, self.dtype = reference, dtype
        mean, std = reference.environment.mean[:, 1:].double(), reference.environment.std[:, 1:].double()
        # length of angular rows, products of which are in the tables
        self.largest = (LARGEST / std.amin() + (mean / std).norm(dim=1).amax()).item()
        self.bend = BENDS[0]
        self._book: TableBook | None = None
        self._plans: dict[tuple[torch.device, tuple[int, ...]], TriplePlan] = {}
        self._latest: Tables | None = None  # that the plans belong to

    @classmethod
    def obstacle(cls, reference: ThreeBody) -> str | None:
        """Why there are no tables for this block, in a user's words; ``None`` if there are."""
        return table_obstacle(reference.features, reference.config.activation_function)

    @classmethod
    def from_reference(cls, reference: ThreeBody, dtype: torch.dtype) -> TabulatedThreeBody:
        """The twin of a block, computing in `dtype`; shares the block's tensors."""
        return cls(reference, dtype)

    def forward(self, graph: AtomicGraph, type_embedding: Tensor) -> Tensor:
        """Invariants (N, C)."""
        block = self.reference
        type_embedding = type_embedding.to(block.environment.mean.dtype)
        hood = neighborhood(graph, block.config.rcut, block.config.nsel, block.excluded)
        env = edge_environment(block.environment, hood.graph)
        total = self._neighbor_pairs(hood.graph, env, type_embedding)
        if block.sees_empty_slots:
            total = total + block.empty_slots(hood, env, type_embedding).to(self.dtype)
        return total / block.config.nsel**2

    def _neighbor_pairs(self, graph: AtomicGraph, env: EdgeEnvironment, type_embedding: Tensor) -> Tensor:
        plan = self.plan(graph.types, type_embedding)
        angular, switch = env.env[:, 1:], env.switch
        exact = self._exact_centers(plan, graph, angular.detach())
        if exact is None:
            return self.pair_sums(plan, graph, angular.double(), switch.to(self.dtype))
        index = torch.nonzero(~exact[graph.center]).squeeze(-1)
        total = self.pair_sums(
            plan, graph.select(~exact[graph.center]), angular[index].double(), switch[index].to(self.dtype)
        )
        left = graph.select(exact[graph.center])
        return total + self.reference.neighbor_pairs(left, self.reference.environment(left), type_embedding).to(
            self.dtype
        )

    def _exact_centers(self, plan: TriplePlan, graph: AtomicGraph, angular: Tensor) -> Tensor | None:
        """Centers (N,) with a neighbor that the tables know nothing of; ``None`` if there are none."""
        close = angular.norm(dim=1) > self.largest
        if plan.lacking is not None:
            close = close | plan.lacking[graph.types[graph.neighbor]]
        if not bool(close.any()):
            return None
        return torch.zeros(graph.n_atoms, dtype=torch.bool, device=close.device).index_fill(
            0, graph.center[torch.nonzero(close).squeeze(-1)], True
        )

    def pair_sums(self, plan: TriplePlan, graph: AtomicGraph, angular: Tensor, switch: Tensor) -> Tensor:
        """See `pair_sums`: (N, C) for edges whose products the tables cover, w being one where features are not smooth.

        `angular` (E, 3) is float64, `switch` (E,) is in the precision of the run.
        """
        switch = switch if self.reference.config.smooth else torch.ones_like(switch)
        types = graph.types[graph.neighbor]
        return pair_sums(plan, graph.degree, types, angular, switch)[:, : self.reference.width]

    def plan(self, types: Tensor, type_embedding: Tensor) -> TriplePlan:
        """Tables for the elements among `types` (N,); built when they first appear."""
        strip = self.reference.features.type_net is not None
        elements = () if strip else tuple(torch.unique(types).tolist())
        key = (types.device, elements)
        if self._book is None or self._latest is not self._book.tables or key not in self._plans:
            type_embedding = type_embedding.detach().cpu().double()
            pairs = [(0, 0)] if strip else [(a, b) for a in elements for b in elements if a <= b]
            with torch.device("cpu"):  # whatever the default device
                if self._book is None:
                    self._book = self._new_book(torch.tensor(pairs[:1]), type_embedding)
                tables = self._book.covering(pairs)
                if self._latest is not tables:
                    self._plans.clear()
                self._latest = tables
                self._plans[key] = self._new_plan(self._book, elements, type_embedding, types.device)
        return self._plans[key]

    def _new_book(self, trial: Tensor, type_embedding: Tensor) -> TableBook:
        """An empty book with the bend that gives the smallest error for the pairs `trial` (K, 2)."""
        features = exact_copy(self.reference.features)
        choices = {
            bend: PairFunctions(
                partial(_exact_functions, features, type_embedding, bend),
                partial(self._ranges, bend),
                low_rank=False,
                reader=self.dtype,
            )
            for bend in BENDS
        }
        errors = {bend: trial_error(functions, trial, TRIAL_CELLS) for bend, functions in choices.items()}
        self.bend = min(BENDS, key=errors.__getitem__)
        return TableBook(choices[self.bend], len(type_embedding))

    def _ranges(self, bend: float, pairs: Tensor) -> tuple[Tensor, Tensor]:
        largest = torch.full((len(pairs),), self.largest**2 * (1 + 1e-5), dtype=torch.float64)
        upper, _ = bent(largest, bend)
        return -upper, upper

    def _new_plan(
        self, book: TableBook, elements: tuple[int, ...], type_embedding: Tensor, device: torch.device
    ) -> TriplePlan:
        tables, features = book.moved(self.dtype, device), self.reference.features
        if features.type_net is None:
            tables = replace(tables, kind=torch.maximum(tables.kind, tables.kind.mT))
            known = tables.kind[list(elements)][:, list(elements)] >= 0
            if bool(known.all()):
                return TriplePlan(tables, self.bend, None, None)
            lacking = torch.zeros(len(type_embedding), dtype=torch.bool, device=device)
            lacking[list(elements)] = ~known.all(1)
            return TriplePlan(tables, self.bend, None, lacking)
        n_types = len(type_embedding)
        first, second = torch.meshgrid(torch.arange(n_types), torch.arange(n_types), indexing="ij")
        exact = exact_copy(features)
        assert exact.type_net is not None
        values = exact.type_net(exact.type_rows(first, second, type_embedding))
        factor = (values + values.transpose(0, 1)) / 2  # the tables hold both orders, which are equal
        factor = nn.functional.pad(factor, (0, tables.rank - factor.shape[-1])).to(device, self.dtype)
        tables = replace(tables, kind=tables.kind[:1, :1].repeat(n_types, n_types))
        everything = torch.ones(n_types, dtype=torch.bool, device=device)
        return TriplePlan(tables, self.bend, factor, everything if book.refused else None)


def _exact_functions(
    features: PairFeatures, type_embedding: Tensor, bend: float, pairs: Tensor, argument: Tensor
) -> tuple[Tensor, Tensor]:
    """Values and slopes (K, n, C) of the sum over both orders of pairs (K, 2) at bent arguments (K, n)."""
    root = (1 - (argument / bend) ** 2).rsqrt()
    inputs = (argument * root).reshape(-1, 1)
    if features.type_net is not None:
        value, slope = (2 * part for part in net_and_slope(features.net, inputs))
    else:
        orders = []
        for first, second in (pairs.unbind(1), pairs.flip(1).unbind(1)):
            types = features.type_rows(first, second, type_embedding).repeat_interleave(argument.shape[1], dim=0)
            orders.append(net_and_slope(features.net, torch.cat([inputs, types], dim=1)))
        value, slope = orders[0][0] + orders[1][0], orders[0][1] + orders[1][1]
    return value.reshape(*argument.shape, -1), slope.reshape(*argument.shape, -1) * root[:, :, None] ** 3

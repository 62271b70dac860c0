"""The ``se_atten`` block without attention from tables: the ``repinit`` of DPA-2 and DPA-1 with no layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from ..graph import AtomicGraph, neighborhood
from ..nn.environment import EdgeEnvironment
from ..nn.pair_features import PairFeatures
from ..nn.se_atten import BlockOutput, SeAtten
from ..nn.tables import QuinticTable
from ..ops import segment_sum
from .column_sums import mixed, sums_by_element
from .environment import edge_environment
from .tables import Tables
from .tabulation import PairFunctions, TableBook, exact_copy, net_and_slope, stored_tables, table_obstacle

# 1/Å, to what w / r the tables go: the first that is enough for all neighbors met so far, since few functions describe
# a small range. Neighbors closer than 0.62 Å get the exact nets
REACHES = (0.5, 0.8, 1.6)
LEEWAY = 1.25  # of the range of a table that was too small
MOST_COLUMNS = 16  # elements at once; for more the exact nets cost less than sums and matrices for each of them
MOST_SQUARES = 2048  # pairs of elements in all plans that are kept


@dataclass(frozen=True)
class PairPlan:
    """Everything that the pair features of some elements need.

    Letters: P elements in the plan; S = 2 if features have a factor, otherwise 1.
    """

    tables: Tables  # in the precision of the run; `kind` (T, T) by the types of center and neighbor
    basis: Tensor  # (K, R, C) float64, that of the tables
    factor: Tensor | None  # (T, T, C): features are u B (1 + w factor)
    elements: Tensor  # (P,) int64, their types, ascending
    column: Tensor  # (T,) int64, place of a type in `elements`

    @cached_property
    def mixing(self) -> Tensor:
        """Bases by center, factor or not, and neighbor, (P, S·P·R, C) float64; large if there are many elements."""
        pairs = self.elements[:, None], self.elements[None]  # center, neighbor
        basis = self.basis[self.tables.kind[pairs]]  # (P, P, R, C); of no account where there is no table
        parts = [basis] if self.factor is None else [basis, basis * self.factor[pairs].double()[:, :, None]]
        return torch.stack(parts, dim=1).reshape(len(self.elements), -1, basis.shape[-1])


class TabulatedSeAtten(nn.Module):
    """`SeAtten` without attention, with piecewise polynomials in place of its nets; once differentiable.

    Tables are made from the first type embedding that comes along: the weights of the model are taken as constants.
    Edges outside of the tables, of extremely close neighbors, get the exact nets.

    Parameters
    ----------
    reference
        Computes geometry, empty slots and whatever is outside of the tables.
    dtype
        Precision of the tables and of everything that follows the sums over neighbors, which are in float64.
    """

    def __init__(self, reference: SeAtten, dtype: torch.dtype) -> None:
        super().__init__()
        self.reference, self.dtype = reference, dtype
        self.reach = REACHES[0]
        self._book: TableBook | None = None
        self._span = torch.zeros(2, dtype=torch.float64)  # arguments of the one table of nets that see no types
        self._factor: Tensor | None = None  # (T, T, C) in the precision of the run, of pairs among `_factored`
        self._factored: list[int] = []
        self._plans: dict[tuple[torch.device, tuple[int, ...]], PairPlan] = {}
        self._latest: Tables | None = None  # that the plans belong to

    @classmethod
    def obstacle(cls, reference: SeAtten) -> str | None:
        """Why there are no tables for this block, in a user's words; ``None`` if there are."""
        if reference.config.attn_layer:
            return "its attention layers mix the features of neighbors"
        return table_obstacle(reference.features, reference.config.activation_function)

    @classmethod
    def from_reference(cls, reference: SeAtten, dtype: torch.dtype) -> TabulatedSeAtten:
        """The twin of a block, computing in `dtype`; shares the block's tensors."""
        return cls(reference, dtype)

    def forward(self, graph: AtomicGraph, type_embedding: Tensor) -> BlockOutput:
        """Invariants (N, C·A) and the equivariant part (N, C, 3) of the moment."""
        block = self.reference
        type_embedding = type_embedding.to(block.environment.mean.dtype)
        hood = neighborhood(graph, block.config.rcut, block.config.nsel, block.excluded)
        graph = hood.graph
        env = edge_environment(block.environment, graph)
        if graph.n_edges:
            self.widen(env.amplitude.detach().amax().item())
        plan = self.plan(graph.types, type_embedding)
        argument = env.env[:, 0].double()
        rows, switch = block.rows(graph, env).double(), env.switch.double()
        kind = plan.tables.kind[graph.types[graph.center], graph.types[graph.neighbor]]
        covered = plan.tables.covers(argument.detach(), kind)
        if len(plan.elements) > MOST_COLUMNS:
            moment = self._exact_moments(
                graph, env, rows, torch.arange(graph.n_edges, device=rows.device), type_embedding
            )
        elif bool(covered.all()):
            moment = self.moments(plan, graph, argument, rows, switch)
        else:
            index = torch.nonzero(covered).squeeze(-1)
            moment = self.moments(plan, graph.select(covered), argument[index], rows[index], switch[index])
            moment = moment + self._exact_moments(graph, env, rows, torch.nonzero(~covered).squeeze(-1), type_embedding)
        return block.output(moment.to(self.dtype), hood, type_embedding)

    def widen(self, largest: float) -> None:
        """Drop the tables if they do not go to `largest` w / r (1/Å) though others would."""
        reach = next((enough for enough in REACHES if largest <= enough), REACHES[-1])
        if reach > self.reach:
            self.reach, self._book = reach, None
            self._span.zero_()

    def _exact_moments(
        self, graph: AtomicGraph, env: EdgeEnvironment, rows: Tensor, index: Tensor, type_embedding: Tensor
    ) -> Tensor:
        """`moments` of the edges of an `index`, by the nets."""
        center, neighbor = graph.center[index], graph.types[graph.neighbor[index]]
        feature = self.reference.features(
            env.env[index, 0], neighbor, graph.types[center], type_embedding, env.switch[index]
        )
        return segment_sum(rows[index][:, :, None] * feature.double()[:, None, :], center, graph.n_atoms)

    def moments(self, plan: PairPlan, graph: AtomicGraph, argument: Tensor, rows: Tensor, switch: Tensor) -> Tensor:
        r"""Sum rows times features over the neighbors of every center; once differentiable.

        .. math:: M_{iqc} = \sum_j R_{jq} \sum_r u_r(\rho_j) B_{rc} (1 + w_j f_c)

        Parameters
        ----------
        plan
            Tables, bases B and factors f by the types of center i and neighbor j.
        graph
            Edges, all of which the tables cover.
        argument
            ρ of every edge, (E,) float64.
        rows
            R of every edge, (E, Q) float64.
        switch
            w of every edge, (E,) float64; read only if there are factors, and one where they are not smooth.

        Returns
        -------
        moment
            Shape (N, Q, C), summed in float64 whatever the precision of the features.
        """
        types, n_rows = graph.types[graph.neighbor], rows.shape[1]
        kind = plan.tables.kind[graph.types[graph.center], types]
        if plan.factor is not None:
            weighted = rows * switch[:, None] if self.reference.config.smooth else rows
            rows = torch.stack([rows, weighted], dim=2).flatten(1)  # (E, Q·S)
        n_columns, column = len(plan.elements), plan.column[types]
        sums = sums_by_element(plan.tables, graph.degree, n_columns, kind, column, argument, rows)
        return mixed(sums.reshape(graph.n_atoms, n_rows, -1), plan.column[graph.types], plan.mixing)

    def plan(self, types: Tensor, type_embedding: Tensor) -> PairPlan:
        """Tables and folded weights for the elements among `types` (N,); built when they first appear."""
        elements = tuple(torch.unique(types).tolist())
        key = (types.device, elements)
        if self._book is None or self._latest is not self._book.tables or key not in self._plans:
            type_embedding = type_embedding.detach().cpu().double()
            with torch.device("cpu"):  # whatever the default device
                self._plans[key] = self._new_plan(elements, type_embedding, types.device)
        return self._plans[key]

    def _new_plan(self, elements: tuple[int, ...], type_embedding: Tensor, device: torch.device) -> PairPlan:
        book = self._filled_book(elements, type_embedding)
        squares = sum(len(plan.elements) ** 2 for plan in self._plans.values())
        if self._latest is not book.tables or squares + len(elements) ** 2 > MOST_SQUARES:
            self._plans.clear()
        self._latest = book.tables
        factor = self._factors(elements, type_embedding)
        tables = book.moved(self.dtype, device)
        if factor is not None:  # one table for all pairs
            tables = replace(tables, kind=tables.kind[:1, :1].repeat(*factor.shape[:2]))
            factor = factor.to(device)
        column = torch.zeros(len(type_embedding), dtype=torch.int64)
        column[list(elements)] = torch.arange(len(elements))
        assert book.tables is not None
        return PairPlan(
            tables, book.tables.basis.to(device), factor, torch.tensor(elements, device=device), column.to(device)
        )

    def _filled_book(self, elements: tuple[int, ...], type_embedding: Tensor) -> TableBook:
        """Tables for all pairs of elements; only ``kind[0, 0]`` is set where features differ by a factor alone."""
        n_types, features = len(type_embedding), self.reference.features
        if isinstance(features.net, QuinticTable):
            if self._book is None:
                self._book = TableBook(None, n_types, stored_tables(features.net, n_types))
            return self._book
        strip = features.type_net is not None
        if strip:
            self._span_of(elements)
        if self._book is None:
            evaluate = partial(_exact_functions, exact_copy(features), type_embedding)
            ranges = self._whole_span if strip else self._ranges
            self._book = TableBook(PairFunctions(evaluate, ranges, low_rank=True, reader=self.dtype), n_types)
        self._book.covering([(0, 0)] if strip else [(a, b) for a in elements for b in elements])
        return self._book

    def _span_of(self, elements: tuple[int, ...]) -> None:
        """Let go of a table that does not reach all arguments of these elements."""
        lower, upper = self._ranges(torch.tensor([(center, 0) for center in elements]))
        wanted, old = torch.stack([lower.amin(), upper.amax()]), self._span
        if self._book is not None and wanted[0] >= old[0] and wanted[1] <= old[1]:
            return
        if self._book is not None:  # others may ask for a little more
            wanted = torch.stack([torch.minimum(wanted[0], old[0]), torch.maximum(wanted[1], old[1])])
            wanted = torch.where(wanted == old, wanted, wanted * LEEWAY)
        self._span, self._book = wanted, None

    def _whole_span(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        return self._span[0].expand(len(pairs)), self._span[1].expand(len(pairs))

    def _factors(self, elements: tuple[int, ...], type_embedding: Tensor) -> Tensor | None:
        """Factors (T, T, C) of which those of pairs of known elements are set; these and earlier ones are known."""
        features = self.reference.features
        if features.type_net is None:
            return None
        new = [element for element in elements if element not in self._factored]
        if new:
            known = [*self._factored, *new]
            grid = torch.tensor([(a, b) for a in known for b in known if a in new or b in new])
            exact = exact_copy(features)
            assert exact.type_net is not None
            values = exact.type_net(exact.type_rows(grid[:, 1], grid[:, 0], type_embedding))
            shape = (len(type_embedding), len(type_embedding), values.shape[-1])
            if self._factor is None:
                self._factor = torch.zeros(shape, dtype=self.dtype)
            self._factor[grid[:, 0], grid[:, 1]] = values.to(self.dtype)
            self._factored = known
            self._plans.clear()  # on other devices they hold copies
        return self._factor

    def _ranges(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Of the arguments that w / r between zero and the reach gives, widened by what float32 rounds away."""
        environment = self.reference.environment
        mean, std = (table.cpu().double()[pairs[:, 0], 0] for table in (environment.mean, environment.std))
        margin = 1e-5 * self.reach / std
        return -mean / std - margin, (self.reach - mean) / std + margin


def _exact_functions(
    features: PairFeatures, type_embedding: Tensor, pairs: Tensor, argument: Tensor
) -> tuple[Tensor, Tensor]:
    """Values and slopes (K, n, C) of the nets for pairs (K, 2) of center and neighbor at arguments (K, n)."""
    inputs = argument.reshape(-1, 1)
    if features.type_net is None:
        types = features.type_rows(pairs[:, 1], pairs[:, 0], type_embedding)
        inputs = torch.cat([inputs, types.repeat_interleave(argument.shape[1], dim=0)], dim=1)
    value, slope = net_and_slope(features.net, inputs)
    return value.reshape(*argument.shape, -1), slope.reshape(*argument.shape, -1)

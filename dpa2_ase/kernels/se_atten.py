"""The ``se_atten`` block without attention from tables: the ``repinit`` of DPA-2 and DPA-1 with no layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..graph import AtomicGraph, neighborhood
from ..nn.environment import EdgeEnvironment
from ..nn.pair_features import PairFeatures
from ..nn.se_atten import BlockOutput, SeAtten
from ..nn.tables import QuinticTable
from ..ops import segment_sum
from .backward import first_derivatives
from .tables import Tables, padded_neighborhoods, power_slopes, powers, rows_at, weighted_coefficients, with_padding
from .tabulation import MOST_PLANS, PairFunctions, TableBook, exact_copy, net_and_slope, stored_tables, table_obstacle

# 1/Å, to what w / r the tables go: the first that is enough for all neighbors met so far, since few functions describe
# a small range. Neighbors closer than 0.62 Å get the exact nets
REACHES = (0.5, 0.8, 1.6)
SLOTS = 6144  # edges of a tile, padding included: what it needs stays in the cache


@dataclass(frozen=True)
class PairPlan:
    """Everything that the pair features of some elements need.

    Letters: P elements in the plan; S = 2 if features have a factor, otherwise 1.
    """

    tables: Tables  # in the precision of the run; `kind` (T, T) by the types of center and neighbor
    factor: Tensor | None  # (T, T, C): features are u B (1 + w factor)
    elements: Tensor  # (P,) int64, their types, ascending
    column: Tensor  # (T,) int64, place of a type in `elements`
    mixing: Tensor  # (P, S·P·R, C) float64: bases by center, factor or not, and neighbor


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
        self._plans: dict[tuple[torch.device, tuple[int, ...]], PairPlan] = {}

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
        env = block.environment(graph)
        if graph.n_edges:
            self.widen(env.amplitude.detach().amax().item())
        plan = self.plan(graph.types, type_embedding)
        argument = env.env[:, 0].double()
        rows, switch = block.rows(graph, env).double(), env.switch.double()
        kind = plan.tables.kind[graph.types[graph.center], graph.types[graph.neighbor]]
        covered = plan.tables.covers(argument.detach(), kind)
        if bool(covered.all()):
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
            self._plans.clear()

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
        sums = _TabulatedSums.apply(plan.tables, graph.degree, n_columns, kind, column, argument, rows)
        return _mixed(sums.reshape(graph.n_atoms, n_rows, -1), plan.column[graph.types], plan.mixing)

    def plan(self, types: Tensor, type_embedding: Tensor) -> PairPlan:
        """Tables and folded weights for the elements among `types` (N,); built when they first appear."""
        elements = tuple(torch.unique(types).tolist())
        key = (types.device, elements)
        if key not in self._plans:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            type_embedding = type_embedding.detach().cpu().double()
            with torch.device("cpu"):  # whatever the default device
                tables = self._tables(elements, type_embedding)
                self._plans[key] = self._folded(tables, torch.tensor(elements), type_embedding, types.device)
        return self._plans[key]

    def _tables(self, elements: tuple[int, ...], type_embedding: Tensor) -> Tables:
        """Tables in float64; ``kind[:, 0]`` holds for all neighbors if they differ by a factor alone."""
        net = self.reference.features.net
        if isinstance(net, QuinticTable):
            return stored_tables(net, len(type_embedding))
        if self._book is None:
            evaluate = partial(_exact_functions, exact_copy(self.reference.features), type_embedding)
            self._book = TableBook(PairFunctions(evaluate, self._ranges, low_rank=True), len(type_embedding))
        strip = self.reference.features.type_net is not None
        return self._book.covering([(a, b) for a in elements for b in ([0] if strip else elements)])

    def _ranges(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Of the arguments that w / r between zero and the reach gives, widened by what float32 rounds away."""
        environment = self.reference.environment
        mean, std = (table.cpu().double()[pairs[:, 0], 0] for table in (environment.mean, environment.std))
        margin = 1e-5 * self.reach / std
        return -mean / std - margin, (self.reach - mean) / std + margin

    def _folded(self, tables: Tables, elements: Tensor, type_embedding: Tensor, device: torch.device) -> PairPlan:
        n_types, n_elements = len(type_embedding), len(elements)
        pairs = elements[:, None].expand(-1, n_elements), elements.expand(n_elements, -1)  # center, neighbor
        features, factor = exact_copy(self.reference.features), None
        if features.type_net is not None:
            tables = replace(tables, kind=tables.kind[:, :1].repeat(1, n_types))
            values = features.type_net(features.type_rows(pairs[1], pairs[0], type_embedding))  # (P, P, C)
            factor = values.new_zeros(n_types, n_types, values.shape[-1])
            factor[pairs] = values
        basis = tables.basis[tables.kind[pairs]]  # (P, P, R, C); of no account where there is no table
        parts = [basis] if factor is None else [basis, basis * factor[pairs][:, :, None]]
        mixing = torch.stack(parts, dim=1).reshape(n_elements, -1, basis.shape[-1])
        column = torch.zeros(n_types, dtype=torch.int64)
        column[elements] = torch.arange(n_elements)
        return PairPlan(
            tables.to(self.dtype, device), None if factor is None else factor.to(device, self.dtype),
            elements.to(device), column.to(device), mixing.to(device),
        )  # fmt: skip


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


def _mixed(sums: Tensor, center: Tensor, mixing: Tensor) -> Tensor:
    """Apply the matrix of the center's element, `mixing` (P, X, C), to `sums` (N, Q, X)."""
    if len(mixing) == 1:
        return sums @ mixing[0]
    order = center.argsort(stable=True)
    counts = torch.bincount(center, minlength=len(mixing)).tolist()
    parts = sums.index_select(0, order).split(counts)
    joined = torch.cat([part @ matrix for part, matrix in zip(parts, mixing, strict=True)])
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    return joined.index_select(0, place)


class _TabulatedSums(torch.autograd.Function):
    r"""Sums :math:`A_{iqpr} = \sum_{j: t_j = p} R_{jq} u_r(\rho_j)` over the neighbors of every center.

    Takes tables, the number of edges of every center (N,), the number P of columns, kind and column of every edge
    (E,), arguments (E,) and rows (E, Q); returns (N, Q, P, R). Only what the tables need to be evaluated again is kept.
    """

    @staticmethod
    def forward(  # noqa: PLR0913  # all of them tensors of edges
        ctx: Any, tables: Tables, degree: Tensor, n_columns: int, kind: Tensor, column: Tensor, argument: Tensor,
        rows: Tensor,
    ) -> Tensor:  # fmt: skip
        row, x = (with_padding(part) for part in tables.locate(argument, kind))
        rows, column = with_padding(rows), with_padding(column)
        ctx.save_for_backward(degree, kind, column, row, x, rows)
        ctx.tables, ctx.n_columns = tables, n_columns
        sums = rows.new_zeros(len(degree), rows.shape[1] * n_columns, tables.rank)
        for centers, edges in padded_neighborhoods(degree, SLOTS):
            local = rows_at(x, edges)
            u = weighted_coefficients(tables, rows_at(row, edges), powers(local))  # (B, n, R)
            weight = _spread(rows_at(rows, edges), rows_at(column, edges), n_columns)
            sums.index_copy_(0, centers, weight.mT @ u.double())
        return sums.view(len(degree), -1, n_columns, tables.rank)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        degree, kind, column, row, x, rows = ctx.saved_tensors
        tables: Tables = ctx.tables
        gradient = gradient.flatten(1, 2).to(x)  # (N, Q·P, R)
        by_rows, by_x = torch.zeros_like(rows), x.new_zeros(len(x), dtype=torch.float64)
        for centers, edges in padded_neighborhoods(degree, SLOTS):
            place, local, own = rows_at(row, edges), rows_at(x, edges), rows_at(column, edges)
            above = gradient.index_select(0, centers).mT
            by_row, by_slope = (
                _of_own_column(weighted_coefficients(tables, place, weights) @ above, own, ctx.n_columns)
                for weights in (powers(local), power_slopes(local))
            )  # (B, n, Q)
            by_rows.index_copy_(0, edges.flatten(), by_row.flatten(0, 1).to(rows))
            by_x.index_copy_(0, edges.flatten(), (by_slope * rows_at(rows, edges)).sum(-1).flatten())
        by_argument = by_x[:-1] * (2 * tables.inverse_width[kind])
        return None, None, None, None, None, by_argument, by_rows[:-1]


def _spread(values: Tensor, column: Tensor, n_columns: int) -> Tensor:
    """Put values (B, n, Q) into the column of every edge, zeros into the others: (B, n, Q·P)."""
    if n_columns == 1:
        return values
    spread = values.new_zeros(*values.shape, n_columns)
    return spread.scatter_(-1, column[:, :, None, None].expand(*values.shape, 1), values[..., None]).flatten(2)


def _of_own_column(values: Tensor, column: Tensor, n_columns: int) -> Tensor:
    """Undo `_spread` of values (B, n, Q·P)."""
    if n_columns == 1:
        return values
    values = values.unflatten(-1, (-1, n_columns))  # (B, n, Q, P)
    return values.gather(-1, column[:, :, None, None].expand(*values.shape[:-1], 1)).squeeze(-1)

"""Sums over neighbors from tables, apart for every element of theirs, and what joins them again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backward import first_derivatives
from .tables import Tables, padded_neighborhoods, power_slopes, powers, rows_at, weighted_coefficients, with_padding

SLOTS = 6144  # edges of a tile, padding included: what it needs stays in the cache


def sums_by_element(  # noqa: PLR0913  # all of them tensors of edges
    tables: Tables, degree: Tensor, n_columns: int, kind: Tensor, column: Tensor, argument: Tensor, rows: Tensor
) -> Tensor:
    r"""Sums :math:`A_{iqpr} = \sum_{j: t_j = p} R_{jq} u_r(\rho_j)` over the neighbors of every center; (N, Q, P, R).

    Takes tables, the number of edges of every center (N,), the number P of columns, kind and column of every edge
    (E,), arguments (E,) and rows (E, Q). Once differentiable by the last two; only what the tables need to be evaluated
    again is kept.
    """
    sums: Tensor = _TabulatedSums.apply(tables, degree, n_columns, kind, column, argument, rows)
    return sums


def mixed(sums: Tensor, center: Tensor, mixing: Tensor) -> Tensor:
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
    """See `sums_by_element`."""

    @staticmethod
    def forward(  # noqa: PLR0913  # all of them tensors of edges
        ctx: Any, tables: Tables, degree: Tensor, n_columns: int, kind: Tensor, column: Tensor, argument: Tensor,
        rows: Tensor,
    ) -> Tensor:  # fmt: skip
        row, x = (with_padding(part) for part in tables.locate(argument, kind))
        rows, column = with_padding(rows), with_padding(column)
        sums = rows.new_zeros(len(degree), rows.shape[1] * n_columns, tables.rank)
        tiles = []
        for centers, edges in padded_neighborhoods(degree, SLOTS):
            place, local, own = rows_at(row, edges), rows_at(x, edges), rows_at(column, edges)
            u = weighted_coefficients(tables, place, powers(local))  # (B, n, R)
            weight = _spread(rows_at(rows, edges), own, n_columns)
            sums.index_copy_(0, centers, torch.bmm(weight.mT, u.double()))
            if ctx.needs_input_grad[5] or ctx.needs_input_grad[6]:
                tiles.append((centers, edges, place, local, own))
        ctx.save_for_backward(kind, rows)
        ctx.tables, ctx.n_columns, ctx.tiles = tables, n_columns, tiles
        return sums.view(len(degree), -1, n_columns, tables.rank)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kind, rows = ctx.saved_tensors
        tables: Tables = ctx.tables
        gradient = gradient.flatten(1, 2).to(tables.coefficients)  # (N, Q·P, R)
        by_rows, by_x = torch.zeros_like(rows), rows.new_zeros(len(rows), dtype=torch.float64)
        for centers, edges, place, local, own in ctx.tiles:
            above = gradient.index_select(0, centers).mT
            values = powers(local)
            by_row, by_slope = (
                _of_own_column(torch.bmm(weighted_coefficients(tables, place, weights), above), own, ctx.n_columns)
                for weights in (values, power_slopes(values))
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

"""Sums of tabulated features over the pairs of neighbors of every center, each pair visited once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .backward import first_derivatives
from .tables import Tables, padded_neighborhoods, power_slopes, powers, rows_at, weighted_coefficients, with_padding

PAIRS = 16384  # pairs of neighbors of a tile, padding included: what it needs stays in the cache


@dataclass(frozen=True)
class TriplePlan:
    """Everything that the features of pairs of neighbors need.

    Products c of two neighbors are tabulated over u = c / sqrt(1 + (c / bend)²): fine where most of them are.
    """

    tables: Tables  # of the sum over both orders, in the precision of the run; `kind` (T, T) is symmetric
    bend: float
    factor: Tensor | None  # (T, T, R) symmetric: features are u (1 + w_j w_k factor)
    lacking: Tensor | None  # (T,) bool, elements of pairs without a table; None if there are none


def bent(product: Tensor, bend: float) -> tuple[Tensor, Tensor]:
    """The argument u of the tables at products c, and du/dc."""
    scaled = product / bend
    root = (scaled * scaled).add_(1).rsqrt_()
    return product * root, root * root * root


@dataclass(frozen=True)
class _PairTile:
    """The pairs j ≤ k of some centers of similar degree; B centers, n places, P = n (n + 1) / 2 pairs."""

    centers: Tensor  # (B,)
    edges: Tensor  # (B, n)
    first: Tensor  # (P,) j
    second: Tensor  # (P,) k
    flat: Tensor  # (P,) n j + k
    half: Tensor  # (P,) one, ½ for j = k

    def products(self, rows: Tensor) -> Tensor:
        """Products of `rows` (E + 1, Q) of both members, (B, P)."""
        own = rows_at(rows, self.edges)
        return torch.bmm(own, own.mT).flatten(1).index_select(1, self.flat)

    def products_backward(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """Gradient by the rows of `edges`, (B·n, Q), from that by `products` (B, P)."""
        B, n = self.edges.shape
        matrix = gradient.new_zeros(B, n * n).index_copy_(1, self.flat, gradient).view(B, n, n)
        return torch.bmm(matrix + matrix.mT, rows_at(rows, self.edges)).flatten(0, 1)

    def of_types(self, table: Tensor, types: Tensor) -> Tensor:
        """Entries of a `table` (T, T, ...) for the `types` (E + 1,) of both members, (B, P, ...)."""
        own = rows_at(types, self.edges)
        code = (own * len(table)).index_select(1, self.first) + own.index_select(1, self.second)
        return rows_at(table.flatten(0, 1), code)


def _pair_tiles(degree: Tensor, dtype: torch.dtype) -> Iterator[_PairTile]:
    for centers, edges in padded_neighborhoods(degree, PAIRS, pairs=True):
        n = edges.shape[1]
        first, second = torch.triu_indices(n, n, device=degree.device)
        half = torch.where(first == second, 0.5, 1.0).to(dtype)
        yield _PairTile(centers, edges, first, second, n * first + second, half)


@dataclass(frozen=True)
class _Places:
    """Where the products c of the pairs of a tile fall in the tables; all (B, P)."""

    row: Tensor
    x: Tensor
    product: Tensor
    slope: Tensor  # dx/dc

    @classmethod
    def of(cls, plan: TriplePlan, types: Tensor, tile: _PairTile, rows: Tensor) -> _Places:
        """The pairs of neighbors with angular `rows` (E + 1, 3) and `types` (E + 1,)."""
        product, tables = tile.products(rows), plan.tables
        kind = tile.of_types(tables.kind.clamp(min=0), types)  # type 0 of a padded place may have no table
        argument, slope = bent(product, plan.bend)
        row, x = tables.locate(argument, kind)
        return cls(row, x, product.to(x), slope.mul_(rows_at(2 * tables.inverse_width, kind)).to(x))

    def value_weights(self, half: Tensor) -> Tensor:
        """Of the coefficients in h c u(c), (B, P, 6)."""
        return powers(self.x).mul_((self.product * half)[..., None])

    def slope_weights(self, half: Tensor) -> Tensor:
        """Of the coefficients in the derivative of h c u(c) by c, (B, P, 6)."""
        values = powers(self.x)
        factor = (self.product * self.slope)[..., None]
        return values.addcmul_(factor, power_slopes(values)).mul_(half[:, None])


def pair_sums(plan: TriplePlan, degree: Tensor, types: Tensor, angular: Tensor, switch: Tensor) -> Tensor:
    r"""Sum over pairs of neighbors of every center, a neighbor with itself included; once differentiable.

    .. math:: D_{ir} = \sum_{j \le k} h_{jk}\, c_{jk}\, u_r(c_{jk}) (1 + w_j w_k f_r), \quad c_{jk} = R_j \cdot R_k

    with h = ½ for j = k and 1 otherwise.

    Parameters
    ----------
    plan
        Functions u of the bent product and factors f, by the types of both neighbors.
    degree
        Number of edges of every center, (N,).
    types
        Of the neighbors, (E,).
    angular
        R of every edge, (E, 3) float64: sums of products cancel.
    switch
        w of every edge, (E,), in the precision of the tables; not read without a factor.

    Returns
    -------
    sums
        Shape (N, R), in the precision of the tables.
    """
    if plan.factor is None:
        return _PairSums.apply(plan, degree, types, angular)
    return _WeightedPairSums.apply(plan, degree, types, angular, switch)


class _PairSums(torch.autograd.Function):
    """`pair_sums` without a factor."""

    @staticmethod
    def forward(ctx: Any, plan: TriplePlan, degree: Tensor, types: Tensor, angular: Tensor) -> Tensor:
        tables = plan.tables
        rows, types = with_padding(angular), with_padding(types)
        total = tables.coefficients.new_zeros(len(degree), tables.rank)
        ctx.tiles = []
        for tile in _pair_tiles(degree, total.dtype):
            places = _Places.of(plan, types, tile, rows)
            values = weighted_coefficients(tables, places.row, places.value_weights(tile.half))  # (B, P, R)
            total.index_copy_(0, tile.centers, _accurate_sum(values))
            if ctx.needs_input_grad[3]:
                ctx.tiles.append((tile, places))
        ctx.save_for_backward(rows)
        ctx.tables = tables
        return total

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        by_rows = torch.zeros_like(rows)
        for tile, places in ctx.tiles:
            above = gradient.index_select(0, tile.centers)[:, :, None]  # (B, R, 1)
            slopes = weighted_coefficients(ctx.tables, places.row, places.slope_weights(tile.half))
            by_product = torch.bmm(slopes, above)
            own = tile.products_backward(by_product.squeeze(-1).to(rows), rows)
            by_rows.index_copy_(0, tile.edges.flatten(), own)
        return None, None, None, by_rows[:-1]


class _WeightedPairSums(torch.autograd.Function):
    """`pair_sums` with a factor."""

    @staticmethod
    def forward(  # noqa: PLR0913  # the inputs of the formula
        ctx: Any, plan: TriplePlan, degree: Tensor, types: Tensor, angular: Tensor, switch: Tensor
    ) -> Tensor:
        tables, factor = plan.tables, plan.factor
        assert factor is not None
        rows, types, weights = with_padding(angular), with_padding(types), with_padding(switch)[:, None]
        total = factor.new_zeros(len(degree), tables.rank)
        for tile in _pair_tiles(degree, factor.dtype):
            places = _Places.of(plan, types, tile, rows)
            values = weighted_coefficients(tables, places.row, places.value_weights(tile.half))  # (B, P, R)
            bracket = 1 + tile.products(weights)[..., None] * tile.of_types(factor, types)
            total.index_copy_(0, tile.centers, _accurate_sum(values * bracket))
        ctx.save_for_backward(degree, types, rows, weights)
        ctx.plan = plan
        return total

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        degree, types, rows, weights = ctx.saved_tensors
        plan: TriplePlan = ctx.plan
        tables, factor = plan.tables, plan.factor
        assert factor is not None
        by_rows, by_weights = torch.zeros_like(rows), torch.zeros_like(weights)
        for tile in _pair_tiles(degree, factor.dtype):
            places = _Places.of(plan, types, tile, rows)
            above = gradient.index_select(0, tile.centers)[:, None]  # (B, 1, R)
            own = tile.of_types(factor, types) * above  # (B, P, R)
            bracket = above + tile.products(weights)[..., None] * own
            slopes = weighted_coefficients(tables, places.row, places.slope_weights(tile.half))
            values = weighted_coefficients(tables, places.row, places.value_weights(tile.half))
            by_product, by_weight = (slopes * bracket).sum(-1), (values * own).sum(-1)
            edges = tile.edges.flatten()
            by_rows.index_copy_(0, edges, tile.products_backward(by_product.to(rows), rows))
            by_weights.index_copy_(0, edges, tile.products_backward(by_weight, weights))
        return None, None, None, by_rows[:-1], by_weights[:-1, 0]


def _accurate_sum(values: Tensor) -> Tensor:
    """Sum over the pairs of (B, P, R); there are hundreds, and of both signs."""
    return values.sum(1, dtype=torch.float64).to(values.dtype)

"""Tables of embedding nets: quintic pieces of one variable, in a basis of few functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

DEGREE = 5
GPU_TILES = 64  # tiles of a GPU are larger by this factor: it has no such cache to stay in, but many units to fill


@dataclass(frozen=True)
class Tables:
    r"""Functions of one variable for some pairs of types.

    Function c of kind k is :math:`\sum_r u_r B_{rc}` with ``B = basis[k]`` and, in cell m of kind k,
    ``u[r] = sum_q coefficients[k, m, q, r] * x**q``. The position in cells is ``z = (argument - lower[k]) *
    inverse_width[k]``, valid for 0 ≤ z ≤ n_cells; ``m = min(floor(z), n_cells - 1)`` and ``x = 2 (z - m) - 1``, in
    [-1, 1]. `lower` and `inverse_width` stay in float64, and so should z: in float32 it would lose what the argument
    knows.
    """

    coefficients: Tensor  # (K, n_cells, 6, R); functions beyond the rank of a kind are zero
    lower: Tensor  # (K,) float64
    inverse_width: Tensor  # (K,) float64
    kind: Tensor  # (T, T) int64: center (or first) type, neighbor (or second) type → k, -1 where there is no table
    basis: Tensor  # (K, R, C)

    @property
    def n_cells(self) -> int:
        """Number of cells of every kind."""
        return self.coefficients.shape[1]

    @property
    def rank(self) -> int:
        """Number R of tabulated functions."""
        return self.coefficients.shape[3]

    def to(self, dtype: torch.dtype, device: torch.device) -> Tables:
        """Coefficients and basis in another precision; everything on `device`."""
        return replace(
            self,
            coefficients=self.coefficients.to(device, dtype),
            lower=self.lower.to(device),
            inverse_width=self.inverse_width.to(device),
            kind=self.kind.to(device),
            basis=self.basis.to(device, dtype),
        )

    def covers(self, argument: Tensor, kind: Tensor) -> Tensor:
        """Whether there is a table of `kind` and it contains `argument`, both of shape (...)."""
        if not len(self.lower):
            return torch.zeros_like(kind, dtype=torch.bool)
        z = (argument - self.lower[kind]) * self.inverse_width[kind]
        return (kind >= 0) & (z >= 0) & (z <= self.n_cells)

    def locate(self, argument: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of ``coefficients.flatten(0, 1)``, int32, and local variables x in the precision of the coefficients.

        `argument` is float64; both inputs and both outputs have the same shape (...). Only for what the tables cover.
        """
        z = (argument - rows_at(self.lower, kind)).mul_(rows_at(self.inverse_width, kind))
        cell = z.floor().clamp_(0, self.n_cells - 1)
        x = z.sub_(cell).mul_(2).sub_(1)
        return (kind * self.n_cells).to(torch.int32).add_(cell.to(torch.int32)), x.to(self.coefficients.dtype)


def powers(x: Tensor) -> Tensor:
    """1, x, ..., x⁵ of every x (...), (..., 6)."""
    square = x * x
    cube = square * x
    return torch.stack([torch.ones_like(x), x, square, cube, square * square, square * cube], dim=-1)


def power_slopes(powers: Tensor) -> Tensor:
    """Derivatives of `powers` (..., 6)."""
    slopes = torch.zeros_like(powers)
    torch.mul(powers[..., :-1], torch.arange(1, DEGREE + 1, device=powers.device), out=slopes[..., 1:])
    return slopes


def weighted_coefficients(tables: Tables, row: Tensor, weights: Tensor) -> Tensor:
    r"""Sums :math:`\sum_q w_q a_{row, q}` over the coefficients of a place.

    Parameters
    ----------
    row
        Rows as `Tables.locate` gives them, shape (...).
    weights
        One for each of the six degrees q, shape (..., 6).

    Returns
    -------
    functions
        Shape (..., R); the tabulated functions themselves with `powers` as weights.
    """
    degrees = torch.arange(DEGREE + 1, dtype=row.dtype, device=row.device)
    index = row.reshape(-1, 1) * (DEGREE + 1) + degrees
    flat = tables.coefficients.view(-1, tables.rank)
    # an embedding bag reads every coefficient once and writes nothing in between
    found = nn.functional.embedding_bag(index, flat, per_sample_weights=weights.reshape(index.shape), mode="sum")
    return found.view(*row.shape, tables.rank)


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]`` along the first axis for an `index` of any shape (...): (..., *values.shape[1:])."""
    if index.ndim == 1:  # two calls fewer, which molecules notice
        return values.index_select(0, index)
    return values.index_select(0, index.reshape(-1)).view(*index.shape, *values.shape[1:])


def padded_neighborhoods(degree: Tensor, most: int, *, pairs: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut the centers into tiles of similar degree.

    Parameters
    ----------
    degree
        Number of edges of every center, (N,); the edges are sorted by center.
    most
        Largest size of a tile of more than one center, for a CPU: edges, or pairs of them (each with itself included).

    Yields
    ------
    centers, edges
        Shapes (B,) and (B, n), n > 0; the number E of all edges stands where a center has no more. Centers without
        edges may be left out.
    """
    counts, order = degree.sort(descending=True, stable=True)
    first, n_edges = degree.cumsum(0) - degree, int(degree.sum())
    most = most if degree.device.type == "cpu" else GPU_TILES * most
    widths = counts.tolist()
    begin = 0
    while begin < len(widths) and widths[begin]:
        n = widths[begin]
        size = n * (n + 1) // 2 if pairs else n
        centers = order[begin : begin + max(1, most // size)]
        place = torch.arange(n, device=degree.device)
        yield centers, torch.where(place < degree[centers, None], first[centers, None] + place, n_edges)
        begin += len(centers)


def with_padding(values: Tensor) -> Tensor:
    """Values of edges (E, ...) and a zero for the places of `padded_neighborhoods` that hold no edge."""
    return torch.cat([values, values.new_zeros(1, *values.shape[1:])])

"""Make tables of embedding nets, as accurate as a measurement of their error asks for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..nn.layers import Dense
from ..nn.pair_features import PairFeatures
from ..nn.tables import QuinticTable
from .tables import DEGREE, Tables, power_slopes, powers

FEWEST_CELLS, MOST_CELLS = 128, 16384
MOST_NUMBERS = 2**23  # in the table of one kind: 64 MiB
# relative to the largest value and slope; forces are then good to 1e-12, and rounding of the nets themselves is below
VALUE_TOLERANCE, SLOPE_TOLERANCE = 1e-13, 2e-12
RANK_TOLERANCE = 3e-14  # singular values dropped from the basis, relative to the largest
# where tables are read in float32, whose rounding is 6e-8: a sixth of the cells are enough
SINGLE_PRECISION = 1e4  # times the tolerances above
CHEBYSHEV_POINTS = 256  # resolves whatever pieces of degree 5 in a few thousand cells resolve
VECTOR = 4  # the number of functions is a multiple of it
MOST_NEW = 64  # pairs of types that one graph may bring: to make more tables would take longer than they save
MOST_PAIRS = 512  # in a book: tables of more would take gigabytes
ROWS = 1024  # of a net at a time, so that its layers stay in the cache of a core
KINKED = ("relu", "relu6", "silut", "custom_silu")  # activations that jump in the first or second derivative


def table_obstacle(features: PairFeatures, activation: str) -> str | None:
    """Why pair features cannot be tabulated, in a user's words; ``None`` if they can."""
    if not isinstance(features.net, QuinticTable) and activation.lower().partition(":")[0] in KINKED:
        return f"its activation function {activation} has kinks that polynomials cannot follow"
    return None


def exact_copy(features: PairFeatures) -> PairFeatures:
    """Nets in float64 on the CPU, where tables are made whatever device will read them."""
    return copy.deepcopy(features).cpu().double().requires_grad_(False)


@dataclass(frozen=True)
class PairFunctions:
    """Exact functions of one variable for pairs of types, in float64 on the CPU.

    Letters: K pairs, n arguments, C functions of every pair.
    """

    # values (K, n, C) and slopes (K, n, C) for pairs (K, 2) at arguments (K, n)
    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    # lower and upper end (K,) of the arguments for pairs (K, 2)
    ranges: Callable[[Tensor], tuple[Tensor, Tensor]]
    low_rank: bool  # tabulate few functions and a basis, or else the functions themselves and the unit matrix
    reader: torch.dtype = torch.float64  # precision in which the tables will be read

    @property
    def leniency(self) -> float:
        """How much larger errors may be than in tables for float64."""
        return SINGLE_PRECISION if self.reader == torch.float32 else 1.0


def net_and_slope(net: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """An embedding net at `inputs` (n, n_in) and its derivative by the first of them, both (n, C)."""
    parts = [_net_and_slope(net, rows) for rows in inputs.split(ROWS)]
    value, slope = (torch.cat(part) for part in zip(*parts, strict=True))
    return value, slope


def _net_and_slope(net: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    value, slope = inputs, torch.zeros_like(inputs)
    slope[:, 0] = 1.0
    assert isinstance(net, nn.Sequential)
    for layer in net:
        assert isinstance(layer, Dense)
        value, slope = _dense_and_slope(layer, value, slope)
    return value, slope


def _dense_and_slope(layer: Dense, x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    linear = x @ layer.weight if layer.bias is None else torch.addmm(layer.bias, x, layer.weight)
    with torch.enable_grad():
        linear = linear.detach().requires_grad_()
        active = layer.activation(linear)
        (steepness,) = torch.autograd.grad(active.sum(), linear)
    value, change = active.detach(), steepness * (slope @ layer.weight)
    if layer.timestep is not None:
        value, change = value * layer.timestep, change * layer.timestep
    if layer.copies:
        value = value + torch.cat([x] * layer.copies, dim=-1)
        change = change + torch.cat([slope] * layer.copies, dim=-1)
    return value, change


@torch.no_grad()
def tabulate(functions: PairFunctions, pairs: Tensor, n_cells: int) -> tuple[Tables, Tensor]:
    """Tabulate functions over their ranges with as many cells as their measured error asks for.

    Parameters
    ----------
    functions
        What to tabulate.
    pairs
        For which pairs of types, shape (K, 2).
    n_cells
        Fewest cells, a power of two.

    Returns
    -------
    tables
        With an empty map of kinds: row k belongs to pair k.
    accurate
        Whether a pair reached the tolerance, shape (K,).
    """
    basis = _basis(functions, pairs)
    most = min(MOST_CELLS, 1 << (MOST_NUMBERS // ((DEGREE + 1) * basis.shape[1])).bit_length() - 1)
    while True:
        tables = _fit(functions, pairs, basis, n_cells)
        error = _error(functions, pairs, tables)
        worst = error.max().item()
        if worst <= 1 or n_cells >= most:
            return tables, error <= 1
        # the error of the slope falls with the fifth power of the width of a cell
        doublings = max(1, math.ceil(math.log2(worst) / DEGREE)) if math.isfinite(worst) else 1
        n_cells = min(n_cells << doublings, most)


@torch.no_grad()
def trial_error(functions: PairFunctions, pairs: Tensor, n_cells: int) -> float:
    """Largest error of tables of so many cells for the pairs (K, 2), in units of the tolerance."""
    tables = _fit(functions, pairs, _basis(functions, pairs), n_cells)
    return _error(functions, pairs, tables).nan_to_num(torch.inf).max().item()


def _basis(functions: PairFunctions, pairs: Tensor) -> Tensor:
    """Orthonormal functions (K, R, C), or unit matrices, followed by zeros up to a multiple of `VECTOR`."""
    lower, upper = functions.ranges(pairs)
    if functions.low_rank:
        angle = (torch.arange(CHEBYSHEV_POINTS, dtype=lower.dtype) + 0.5) * torch.pi
        position = (1 + torch.cos(angle / CHEBYSHEV_POINTS)) / 2
        sample = functions.evaluate(pairs, lower[:, None] + (upper - lower)[:, None] * position)
        _, size, rows = torch.linalg.svd(
            torch.cat([part / _largest(part)[:, None, None] for part in sample], dim=1), full_matrices=False
        )
        kept = size > RANK_TOLERANCE * functions.leniency * size[:, :1]
        rank = int(kept.sum(1).max())
        basis = rows[:, :rank] * kept[:, :rank, None]
    else:
        value, _ = functions.evaluate(pairs, lower[:, None])
        basis = torch.eye(value.shape[-1], dtype=value.dtype).expand(len(pairs), -1, -1)
    return nn.functional.pad(basis, (0, 0, 0, -basis.shape[1] % VECTOR))


def stored_tables(table: QuinticTable, n_types: int) -> Tables:
    """The fine cells of a compressed file, with the file's numbers, as one kind for all pairs of types."""
    half = table.stride0 / 2
    data = table.data[: table.n_fine].cpu().double()  # (n_cells, C, 6)
    # powers of the distance from the start of a cell, half (1 + x), in powers of x
    binomial = [[math.comb(q, m) * half**q for q in range(DEGREE + 1)] for m in range(DEGREE + 1)]
    centered = torch.einsum("mq,kcq->kmc", data.new_tensor(binomial), data)
    _, size, rows = torch.linalg.svd(centered.flatten(0, 1), full_matrices=False)
    rank = int((size > RANK_TOLERANCE * size[0]).sum())
    basis = nn.functional.pad(rows[:rank], (0, 0, 0, -rank % VECTOR))[None]
    coefficients = centered[None] @ basis.mT[:, None]
    kind = torch.zeros(n_types, n_types, dtype=torch.int64)
    lower, inverse_width = data.new_tensor([table.lower]), data.new_tensor([1 / table.stride0])
    return Tables(coefficients, lower, inverse_width, kind, basis)


def _largest(values: Tensor) -> Tensor:
    """Largest number of every kind, (K,), and not zero."""
    return values.abs().amax((1, 2)).clamp_min(torch.finfo(values.dtype).tiny)


def _fit(functions: PairFunctions, pairs: Tensor, basis: Tensor, n_cells: int) -> Tables:
    """Pieces through the exact slopes at the five Gauss points of a cell, and the exact values in the mean.

    A slope through slopes has no noise to divide by the width of a cell, as differences of values would have.
    """
    lower, upper = functions.ranges(pairs)
    width = (upper - lower) / n_cells
    nodes, _ = np.polynomial.legendre.leggauss(DEGREE)
    x = torch.from_numpy(nodes).to(lower)
    value, slope = functions.evaluate(pairs, _in_every_cell(x, lower, width, n_cells))  # (K, n_cells · 5, C)
    value = value.unflatten(1, (n_cells, DEGREE)).mean(2) @ basis.mT  # (K, n_cells, R)
    slope = (slope @ basis.mT).mul_((width / 2)[:, None, None]).unflatten(1, (n_cells, DEGREE))
    to_powers = torch.linalg.inv(x[:, None] ** torch.arange(DEGREE))  # (5, 5)
    degrees = torch.arange(1, DEGREE + 1, dtype=x.dtype)
    higher = (to_powers / degrees[:, None]) @ slope
    constant = value[:, :, None] - (x[:, None] ** degrees).mean(0, keepdim=True) @ higher
    return Tables(torch.cat([constant, higher], dim=2), lower, 1 / width, pairs.new_empty(0, 0), basis)


def _in_every_cell(x: Tensor, lower: Tensor, width: Tensor, n_cells: int) -> Tensor:
    """Arguments (K, n_cells · n) at local points `x` (n,) of all cells."""
    position = torch.arange(n_cells, dtype=x.dtype)[:, None] + (x + 1) / 2
    return lower[:, None] + width[:, None] * position.flatten()


def _error(functions: PairFunctions, pairs: Tensor, tables: Tables) -> Tensor:
    """Largest error of each kind (K,), in units of the tolerance, at two bad points of every cell."""
    x = tables.lower.new_tensor([-1.0, 0.76])  # the error of the slope follows the Legendre polynomial of degree 5
    exact = functions.evaluate(pairs, _in_every_cell(x, tables.lower, 1 / tables.inverse_width, tables.n_cells))
    values = powers(x)
    value, slope = (
        torch.einsum("xq,kmqr->kmxr", weights, tables.coefficients).flatten(1, 2) @ tables.basis
        for weights in (values, power_slopes(values))
    )
    slope = slope * (2 * tables.inverse_width[:, None, None])
    of_value = _largest(value - exact[0]) / _largest(exact[0]) / VALUE_TOLERANCE
    of_slope = _largest(slope - exact[1]) / _largest(exact[1]) / SLOPE_TOLERANCE
    return torch.maximum(of_value, of_slope) / functions.leniency


class TableBook:
    """Tables of one block, grown by the pairs of types that structures bring along.

    Parameters
    ----------
    functions
        What to tabulate; none if there will be no other than the `tables` given.
    n_types
        Size T of the type map.
    """

    def __init__(self, functions: PairFunctions | None, n_types: int, tables: Tables | None = None) -> None:
        self.functions, self.n_types = functions, n_types
        self.pairs: list[tuple[int, int]] = []
        self.refused: set[tuple[int, int]] = set()
        self.tables = tables
        self._moved: dict[tuple[torch.dtype, torch.device], Tables] = {}

    def covering(self, wanted: Sequence[tuple[int, int]]) -> Tables:
        """Tables on the CPU, in float64, in which ``kind[pair]`` is set for all `wanted` pairs.

        It stays -1 for pairs that no reasonable number of cells describes, and for those of a structure of so many
        elements that tables would not pay.
        """
        missing = [pair for pair in wanted if pair not in self.pairs]
        if len(missing) > MOST_NEW:
            missing = [] if self.pairs else missing[:1]
        if len(self.pairs) + len(missing) > MOST_PAIRS:
            self.pairs, self.tables = [], None
            self.refused.clear()
            missing = list(wanted)
        if self.tables is None or missing:
            self.tables = self._grown(self.tables, missing)
            self._moved.clear()
        return self.tables

    def moved(self, dtype: torch.dtype, device: torch.device) -> Tables:
        """What `covering` returned last in another precision, on another device."""
        assert self.tables is not None
        if (dtype, device) not in self._moved:
            self._moved[dtype, device] = self.tables.to(dtype, device)
        return self._moved[dtype, device]

    def _grown(self, old: Tables | None, missing: list[tuple[int, int]]) -> Tables:
        tables, accurate = self._build(missing, FEWEST_CELLS if old is None else old.n_cells)
        refused = [pair for pair, good in zip(missing, accurate.tolist(), strict=True) if not good]
        self.refused.update(refused)
        if old is not None:
            if tables.n_cells > old.n_cells:
                old, _ = self._build(self.pairs, tables.n_cells)
            tables = _joined(old, tables)
        self.pairs += missing
        kind = torch.full((self.n_types, self.n_types), -1, dtype=torch.int64)
        for number, pair in enumerate(self.pairs):
            kind[pair] = -1 if pair in self.refused else number
        return replace(tables, kind=kind)

    def _build(self, pairs: list[tuple[int, int]], n_cells: int) -> tuple[Tables, Tensor]:
        assert self.functions is not None
        index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        return tabulate(self.functions, index, n_cells)


def _joined(first: Tables, second: Tables) -> Tables:
    """The kinds of both, which have the same number of cells."""
    rank = max(first.rank, second.rank)
    coefficients = [nn.functional.pad(t.coefficients, (0, rank - t.rank)) for t in (first, second)]
    basis = [nn.functional.pad(t.basis, (0, 0, 0, rank - t.rank)) for t in (first, second)]
    return replace(
        first,
        coefficients=torch.cat(coefficients),
        lower=torch.cat([first.lower, second.lower]),
        inverse_width=torch.cat([first.inverse_width, second.inverse_width]),
        basis=torch.cat(basis),
    )

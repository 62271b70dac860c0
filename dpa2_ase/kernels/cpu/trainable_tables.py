"""Tables made anew from the weights of the moment, and differentiable by them.

For given types of a pair its features are functions of one variable. The net is evaluated at the nodes of a grid, with
autograd, and polynomials through its values there replace it everywhere else. So the gradient by its weights goes
through a few hundred rows of the net instead of one for every edge or pair of edges. With ``tebd_input_mode: strip``
the net does not see the types, and one table serves all pairs, times a factor of the two types; with ``concat`` every
pair of types that meets in a batch has a table of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from ctypes import byref
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...graph import AtomicGraph
from ...nn.pair_features import PairFeatures
from ...nn.se_atten import SeAtten
from ...nn.tables import QuinticTable
from ...nn.three_body import ThreeBody
from ..tables import DEGREE
from ..tabulation import table_obstacle
from .library import Library, require
from .structures import BlockSums, TrainedFeatures, fill
from .tables import padded_to

# of slopes, the worst relative to the largest: values, and with them gradients by weights, are a hundred times better
TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-7}
FEWEST_CELLS, MOST_CELLS = 8, 4096  # of a table
# Tables of pairs of types pay up to so many evaluations of the net at nodes for one at an edge or a pair of edges
# (measured on liquids of 2 to 12 elements). They are fewer in float32, since tables are made in float64 all the same.
NODES_PER_ROW = {torch.float64: 0.5, torch.float32: 0.2}
# partial sums of a gradient: more cost memory, fewer leave threads idle
MOST_BLOCKS, ATOMS_PER_BLOCK, MOST_SUMS = 8, 8, 2**22

_NODES = -torch.cos(torch.arange(DEGREE + 1, dtype=torch.float64) * (torch.pi / DEGREE))  # in [-1, 1], ends included
_TO_POWERS = torch.linalg.inv(_NODES[:, None] ** torch.arange(DEGREE + 1))  # coefficients from values at the nodes
# slope at the end of a cell of the polynomial of degree 6 that is zero at the nodes: what the pieces lack
_MISSED = math.prod(float(_NODES[-1] - x) for x in _NODES[:-1])


def trainable_obstacle(features: PairFeatures, activation: str) -> str | None:
    """Why pair features cannot be tabulated in a training, in a user's words; ``None`` if they can."""
    if isinstance(features.net, QuinticTable):
        return "its net is a table that cannot be trained"
    return table_obstacle(features, activation)


class TableTwin(nn.Module):
    """What the trainable twins of blocks with tables share: the parameters of `reference`, for a run in `dtype`."""

    def __init__(self, reference: SeAtten | ThreeBody, dtype: torch.dtype, library: Library) -> None:
        super().__init__()
        self.reference, self.dtype, self.library = reference, dtype, library

    @classmethod
    def from_reference(cls, reference: SeAtten | ThreeBody, dtype: torch.dtype) -> Self:
        """The twin for a run in `dtype`; has the parameters of `reference`."""
        return cls(reference, dtype, require())


@dataclass(frozen=True)
class Lattice:
    """Cells of some tables on one grid that begins at zero; those of one table follow those of another."""

    first: Tensor  # (K + 1,) where the cells of a table are in the list
    start: Tensor  # (K,) number of its first cell on the grid
    width: float  # of a cell, a power of two

    @classmethod
    def covering(cls, lower: Tensor, upper: Tensor, width: float) -> Lattice:
        """The cells that contain the ranges, and a few at least; `lower` and `upper` (K,) are float64."""
        start = (lower / width).floor()
        counts = ((upper / width).floor() - start + 1).clamp_min(FEWEST_CELLS).to(torch.int64)
        return cls(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), start.to(torch.int64), width)

    @property
    def owner(self) -> Tensor:
        """Table of every cell, (M,)."""
        return torch.arange(len(self.start), device="cpu").repeat_interleave(self.first.diff())

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Arguments and tables (5 M + K,): the nodes of every cell but its end, and the ends of the tables."""
        owner = self.owner
        cell = torch.arange(len(owner), device="cpu") - (self.first[:-1] - self.start)[owner]
        inside = (cell[:, None] + (_NODES[:-1] + 1) / 2).flatten()
        tables = torch.arange(len(self.start), device="cpu")
        place = torch.cat([inside, (self.start + self.first.diff()).to(inside)])
        return place * self.width, torch.cat([owner.repeat_interleave(DEGREE), tables])

    def pieces(self, values: Tensor) -> Tensor:
        """Coefficients (M, 6, C) from values (5 M + K, C) at the nodes: neighboring cells share one."""
        n_cells = int(self.first[-1])
        following = torch.arange(1, n_cells + 1, device="cpu") * DEGREE
        following[self.first[1:] - 1] = DEGREE * n_cells + torch.arange(len(self.start), device="cpu")
        inside = values[: DEGREE * n_cells].unflatten(0, (n_cells, DEGREE))
        return _TO_POWERS @ torch.cat([inside, values.index_select(0, following)[:, None]], dim=1)

    def error(self, coefficients: Tensor) -> float:
        """Of slopes, relative to the largest: that of the next power, known from the change of the last one."""
        same = self.owner.diff() == 0
        next_power = coefficients[:, DEGREE].diff(dim=0)[same].abs().amax() / (2 * (DEGREE + 1))
        return (_MISSED * next_power / coefficients[:, 1].abs().amax().clamp_min(1e-300)).item()


@dataclass(frozen=True)
class TrainedTables:
    """Pieces of functions of one variable."""

    coefficients: Tensor  # (M, 6, C) float64, differentiable: of powers of x in [-1, 1] in every cell
    lattice: Lattice


def tabulate(  # noqa: PLR0913  # as documented
    functions: Callable[[Tensor, Tensor], Tensor], lower: Tensor, upper: Tensor, width: float, tolerance: float,
    most_cells: int,
) -> TrainedTables | None:  # fmt: skip
    """Tabulate functions over their ranges, as finely as the measured error asks for.

    Cells lie on a lattice that does not depend on the ranges: after a small change of the arguments the functions are
    the same, which differences of their gradients need.

    Parameters
    ----------
    functions
        From arguments (n,), float64, and numbers of tables (n,) to values (n, C).
    lower, upper
        Ranges of the arguments, (K,), float64.
    width
        Largest width of a cell, a power of two.
    tolerance
        Error of slopes, relative to the largest.
    most_cells
        Of all tables together.

    Returns
    -------
    tables
        ``None`` where arguments are not finite, or where so many cells are not enough.
    """
    if not bool(torch.isfinite(upper - lower).all()):
        return None
    while True:
        if float(((upper - lower) / width).sum()) > most_cells:
            return None
        lattice = Lattice.covering(lower, upper, width)
        if int(lattice.first[-1]) > most_cells:
            return None
        coefficients = lattice.pieces(functions(*lattice.nodes()))
        excess = lattice.error(coefficients.detach()) / tolerance
        if not excess > 1:  # nor where weights are not numbers
            return TrainedTables(coefficients, lattice)
        width /= 2 ** math.ceil(math.log2(excess) / DEGREE) if math.isfinite(excess) else 2


def in_float64(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """The net with its parameters in float64: differences of single values would be too coarse for slopes."""
    parameters = {name: parameter.double() for name, parameter in net.named_parameters()}
    return lambda x: functional_call(net, parameters, (x,))


@dataclass(frozen=True)
class TypePairs:
    """Pairs of types that meet in a structure."""

    first: Tensor  # (K,)
    second: Tensor  # (K,)
    number: Tensor  # (T, T) int64, where a pair is in the lists; zero for pairs that do not meet

    @classmethod
    def of(cls, graph: AtomicGraph, n_types: int, *, ordered: bool) -> TypePairs:
        """Those of all structures of a graph, in both orders, or in one with one number for both."""
        present = torch.zeros(graph.n_structures, n_types, device="cpu")
        present[graph.structure, graph.types] = 1
        meet = present.mT @ present
        first, second = (meet if ordered else meet.triu()).nonzero(as_tuple=True)
        number = torch.zeros(n_types, n_types, dtype=torch.int64, device="cpu")
        number[first, second] = torch.arange(len(first), device="cpu")
        if not ordered:
            number[second, first] = number[first, second]
        return cls(first, second, number)


@dataclass(frozen=True)
class TypedFunctions:
    """Pair features as functions of one variable: one for all pairs of types, times factors, or one for each pair."""

    features: PairFeatures
    type_embedding: Tensor  # (T, tebd_dim)
    orders: Sequence[tuple[Tensor, Tensor]]  # types (K,) and (K,) that the nets see; features of all orders are summed
    variable: Callable[[Tensor], Tensor] = lambda u: u  # what the net sees of the argument

    def tabulated(
        self, ranges: tuple[Tensor, Tensor], dtype: torch.dtype, width: float, n_rows: int
    ) -> TrainedTables | None:
        """See `tabulate`, for a run in `dtype`; ``None`` also where `n_rows` evaluations of the net are quicker.

        `ranges` are the lower and upper ends (K,) of the arguments of the pairs.
        """
        lower, upper = ranges
        if self.features.type_net is not None:
            lower, upper, most = lower.amin()[None], upper.amax()[None], MOST_CELLS
        else:
            evaluations = min(n_rows * NODES_PER_ROW[dtype], MOST_CELLS * DEGREE * len(lower))
            most = int(evaluations / (DEGREE * len(self.orders)))
        return tabulate(self._values, lower, upper, width, TOLERANCE[dtype], most)

    def factor(self) -> Tensor | None:
        """Of the pairs (K, C), the mean over their orders; ``None`` where the net sees the types."""
        type_net = self.features.type_net
        return None if type_net is None else torch.stack([type_net(rows) for rows in self._rows()]).mean(0)

    def _values(self, argument: Tensor, table: Tensor) -> Tensor:
        """Features (n, C) at arguments (n,) of tables (n,)."""
        net, x = in_float64(self.features.net), self.variable(argument)[:, None]
        if self.features.type_net is not None:
            return len(self.orders) * net(x)
        seen = [torch.cat([x, rows.double().index_select(0, table)], dim=1) for rows in self._rows()]
        return torch.stack([net(x) for x in seen]).sum(0)

    def _rows(self) -> list[Tensor]:
        return [self.features.type_rows(first, second, self.type_embedding) for first, second in self.orders]


class Kernel:
    """What the kernels read of tables and the factors of types.

    Parameters
    ----------
    tables
        Their coefficients are taken in the precision of the run.
    factor
        (K, C) of one table for all pairs; ``None`` where every pair has its own.
    dtype
        Precision of the run.
    lanes
        The number of channels is filled up with zeros to a multiple of it.
    bend
        Of the variable of three-body features.
    """

    def __init__(  # noqa: PLR0913  # as documented
        self, tables: TrainedTables, factor: Tensor | None, pairs: TypePairs, dtype: torch.dtype, lanes: int,
        bend: float = 0.0,
    ) -> None:  # fmt: skip
        self.coefficients = padded_to(tables.coefficients.to(dtype), lanes, -1)  # (M, 6, R)
        self.factor = None if factor is None else padded_to(factor.to(dtype), lanes, -1)  # (K, R)
        self.channels = tables.coefficients.shape[-1]
        self._keep: list[Tensor] = []
        lattice = tables.lattice
        self._features = fill(
            TrainedFeatures(), self._keep, n_types=len(pairs.number), n_pairs=len(pairs.first),
            n_tables=len(lattice.start), n_functions=self.coefficients.shape[-1], channels=self.channels,
            inverse_width=1 / lattice.width, bend=bend, coefficients=self.coefficients.detach(), first=lattice.first,
            start=lattice.start, factor=None if self.factor is None else self.factor.detach(), pair=pairs.number,
        )  # fmt: skip

    @property
    def features(self) -> Any:
        """The C structure, by reference."""
        return byref(self._features)

    def gradients(self, n_atoms: int, run: Callable[[Any], None]) -> tuple[Tensor, Tensor | None]:
        """Gradients of coefficients and factor from a kernel that takes `BlockSums`."""
        sizes = [self.coefficients.numel(), 0 if self.factor is None else self.factor.numel()]
        n_blocks = max(1, min(MOST_BLOCKS, n_atoms // ATOMS_PER_BLOCK, MOST_SUMS // sum(sizes)))
        blocks, total = self.coefficients.new_empty(n_blocks, sum(sizes)), self.coefficients.new_empty(sum(sizes))
        keep: list[Tensor] = []
        run(byref(fill(BlockSums(), keep, n_blocks=n_blocks, blocks=blocks, total=total)))
        of_table, of_factor = total.split(sizes)
        return of_table.view_as(self.coefficients), None if self.factor is None else of_factor.view_as(self.factor)


def lanes_of(library: Library, dtype: torch.dtype) -> int:
    """Numbers in a vector."""
    return library.vector_bytes // dtype.itemsize

"""Tables made anew from the weights of the moment, and differentiable by them.

With ``tebd_input_mode: strip`` the features of a pair are those of one net of one variable, times a factor of the two
types: one table serves all pairs. The net is evaluated at the nodes of a grid, with autograd, and polynomials through
its values there replace it everywhere else. So the gradient by its weights goes through a few hundred rows of the net
instead of one for every edge or pair of edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from ctypes import byref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...graph import AtomicGraph
from ...nn.pair_features import PairFeatures
from ...nn.tables import QuinticTable
from ..tables import DEGREE
from ..tabulation import table_obstacle
from .library import Library
from .structures import BlockSums, SharedFeatures, Table, fill
from .tables import padded_to

# of slopes, the worst relative to the largest: values, and with them gradients by weights, are a hundred times better
TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-7}
FEWEST_CELLS, MOST_CELLS = 8, 4096
MOST_BLOCKS, ATOMS_PER_BLOCK = 8, 8  # partial sums of a gradient: more cost memory, fewer leave threads idle

_NODES = -torch.cos(torch.arange(DEGREE + 1, dtype=torch.float64) * (torch.pi / DEGREE))  # in [-1, 1], ends included
_TO_POWERS = torch.linalg.inv(_NODES[:, None] ** torch.arange(DEGREE + 1))  # coefficients from values at the nodes
# slope at the end of a cell of the polynomial of degree 6 that is zero at the nodes: what the pieces lack
_MISSED = math.prod(float(_NODES[-1] - x) for x in _NODES[:-1])


def trainable_obstacle(features: PairFeatures, activation: str) -> str | None:
    """Why pair features cannot be tabulated in a training, in a user's words; ``None`` if they can."""
    if features.type_net is None:
        return "its nets see the types (tebd_input_mode: concat): every pair of types would need a table of its own"
    if isinstance(features.net, QuinticTable):
        return "its net is a table that cannot be trained"
    return table_obstacle(features, activation)


@dataclass(frozen=True)
class SharedTable:
    """Pieces of a net of one variable; see `Tables` for their meaning."""

    coefficients: Tensor  # (n_cells, 6, C) float64, differentiable
    lower: float
    width: float  # of a cell


def shared_table(
    net: Callable[[Tensor], Tensor], lower: float, upper: float, width: float, tolerance: float
) -> SharedTable | None:
    """Tabulate a net over a range, as finely as the measured error asks for.

    Cells lie on a lattice that does not depend on the range: after a small change of the arguments the function is the
    same, which differences of its gradients need.

    Parameters
    ----------
    net
        From arguments (n, 1), float64, to values (n, C).
    lower, upper
        Range of the arguments.
    width
        Largest width of a cell, a power of two.
    tolerance
        Error of slopes, relative to the largest.

    Returns
    -------
    table
        ``None`` where arguments are not finite, or where no reasonable number of cells is enough.
    """
    while math.isfinite(upper - lower):
        first = math.floor(lower / width)
        n_cells = max(FEWEST_CELLS, math.floor(upper / width) - first + 1)
        if n_cells > MOST_CELLS:
            return None
        start = torch.arange(first, first + n_cells, dtype=torch.float64, device="cpu")[:, None]
        nodes = ((start + (_NODES[:-1] + 1) / 2) * width).flatten()
        last = nodes.new_tensor([(first + n_cells) * width])
        coefficients = _pieces(net(torch.cat([nodes, last])[:, None]))
        excess = _error(coefficients.detach()) / tolerance
        if not excess > 1:  # nor where weights are not numbers
            return SharedTable(coefficients, first * width, width)
        width /= 2 ** math.ceil(math.log2(excess) / DEGREE) if math.isfinite(excess) else 2
    return None


def _pieces(values: Tensor) -> Tensor:
    """Coefficients (n, 6, C) from values (5 n + 1, C): neighboring cells share a node."""
    inside, ends = values[:-1].unflatten(0, (-1, DEGREE)), values[DEGREE::DEGREE]
    return _TO_POWERS @ torch.cat([inside, ends[:, None]], dim=1)


def _error(coefficients: Tensor) -> float:
    """Error of slopes, relative to the largest: that of the next power, known from the change of the last one."""
    next_power = coefficients[:, DEGREE].diff(dim=0).abs().amax() / (2 * (DEGREE + 1))
    return (_MISSED * next_power / coefficients[:, 1].abs().amax().clamp_min(1e-300)).item()


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
    def of(cls, graph: AtomicGraph, n_types: int) -> TypePairs:
        """Those of all structures of a graph, in both orders."""
        present = torch.zeros(graph.n_structures, n_types, device="cpu")
        present[graph.structure, graph.types] = 1
        first, second = (present.mT @ present).nonzero(as_tuple=True)
        number = torch.zeros(n_types, n_types, dtype=torch.int64, device="cpu")
        number[first, second] = torch.arange(len(first), device="cpu")
        return cls(first, second, number)


class Kernel:
    """What the kernels read of a table and the factors of types.

    Parameters
    ----------
    table
        Its coefficients are taken in the precision of `factor`.
    factor
        (K, C), in the precision of the run.
    lanes
        The number of channels is filled up with zeros to a multiple of it.
    bend
        Of the variable of three-body features.
    """

    def __init__(self, table: SharedTable, factor: Tensor, pairs: TypePairs, lanes: int, bend: float = 0.0) -> None:
        self.coefficients = padded_to(table.coefficients.to(factor), lanes, -1)  # (n_cells, 6, R)
        self.factor = padded_to(factor, lanes, -1)  # (K, R)
        self.channels = factor.shape[-1]
        self._keep: list[Tensor] = []
        n_cells, _, width = self.coefficients.shape
        c_table = fill(
            Table(), self._keep, n_types=len(pairs.number), n_cells=n_cells, n_functions=width,
            coefficients=self.coefficients.detach(),
            lower=torch.tensor([table.lower], dtype=torch.float64, device="cpu"),
            inverse_width=torch.tensor([1 / table.width], dtype=torch.float64, device="cpu"),
        )  # fmt: skip
        self._features = fill(
            SharedFeatures(), self._keep, table=c_table, channels=self.channels, n_pairs=len(factor), bend=bend,
            factor=self.factor.detach(), pair=pairs.number,
        )  # fmt: skip

    @property
    def features(self) -> Any:
        """The C structure, by reference."""
        return byref(self._features)

    def gradients(self, n_atoms: int, run: Callable[[Any], None]) -> tuple[Tensor, Tensor]:
        """Gradients of coefficients and factor from a kernel that takes `BlockSums`."""
        size = self.coefficients.numel() + self.factor.numel()
        n_blocks = max(1, min(MOST_BLOCKS, n_atoms // ATOMS_PER_BLOCK))
        blocks, total = self.factor.new_empty(n_blocks, size), self.factor.new_empty(size)
        keep: list[Tensor] = []
        run(byref(fill(BlockSums(), keep, n_blocks=n_blocks, blocks=blocks, total=total)))
        of_table, of_factor = total.split([self.coefficients.numel(), self.factor.numel()])
        return of_table.view_as(self.coefficients), of_factor.view_as(self.factor)


def lanes_of(library: Library, dtype: torch.dtype) -> int:
    """Numbers in a vector."""
    return library.vector_bytes // dtype.itemsize

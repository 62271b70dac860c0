"""The search of `neighbor_search` on an accelerator, for structures of many atoms; needs the extra ``gpu``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .graph import norms
from .search_box import Box, Edges

EXTRA = "vesin_torch"


def search_device(device: torch.device) -> torch.device | None:
    """Where lists for a model on `device` are searched: there if it is CUDA's and the extra is installed.

    ``None`` stands for the CPU, where matscipy searches.
    """
    return device if device.type == "cuda" and find_spec(EXTRA) is not None else None


class _Edges(NamedTuple):
    """Pairs on the device, int64."""

    center: Tensor  # (E,)
    neighbor: Tensor  # (E,)
    shift: Tensor  # (E, 3)

    def chosen(self, index: Tensor) -> _Edges:
        """Those of an index (K,)."""
        return _Edges(*(column.index_select(0, index) for column in self))


def find_pairs_on(  # noqa: PLR0913  # a device, and what `neighbor_search` knows
    device: torch.device, box: Box, width: float, positions: np.ndarray, cell: np.ndarray, radius: float
) -> Edges:
    """All pairs at most `radius` (Å) apart in the order of `NeighborList`.

    Parameters
    ----------
    device
        Where to search.
    box
        The atoms in a box of their own.
    width
        What to search in it, Å: the radius and what rounding may take of it.
    positions, cell
        Of the structure, (N, 3) and (3, 3), Å; they decide.
    """
    points, lattice, wraps, reduction, given, axes = (
        torch.from_numpy(np.ascontiguousarray(array)).to(device)
        for array in (
            box.fractions.T @ box.axes,
            box.lengths[:, None] * box.axes,
            box.wraps.T,
            box.reduction.astype(np.float64),
            positions,
            cell,
        )
    )
    center, neighbor, shift = _pairs_in_cells(points, lattice, box.pbc, width)
    whole = shift + wraps.index_select(0, center) - wraps.index_select(0, neighbor)
    edges = _Edges(center, neighbor, (whole @ reduction).round().to(torch.int64))
    found = [column.cpu().numpy() for column in _ordered(_near(edges, given, axes, radius))]
    return found[0], found[1], found[2]


def _pairs_in_cells(points: Tensor, lattice: Tensor, pbc: np.ndarray, width: float) -> _Edges:
    """By vesin, https://github.com/Luthaf/vesin; shifts in the precision of the points."""
    from vesin_torch import NeighborList

    periodic = torch.from_numpy(np.array(pbc, dtype=bool)).to(points.device)
    center, neighbor, shift = NeighborList(cutoff=width, full_list=True).compute(
        points, lattice, periodic, quantities="ijS"
    )
    return _Edges(center.to(torch.int64), neighbor.to(torch.int64), shift.to(points.dtype))


def _near(edges: _Edges, positions: Tensor, cell: Tensor, radius: float) -> _Edges:
    """Those at most `radius` long."""
    vectors = positions.index_select(0, edges.neighbor) - positions.index_select(0, edges.center)
    for axis in range(3):  # one after the other, as on the CPU: the same rounding
        vectors += edges.shift[:, axis, None] * cell[axis]
    return edges.chosen(torch.nonzero(norms(vectors) <= radius).squeeze(1))


def _ordered(edges: _Edges) -> _Edges:
    """Sorted by center, then neighbor, then the three shifts: stable sorts, from the last to the first."""
    order = torch.arange(len(edges.center), device=edges.center.device)
    for digit in (*edges.shift.flip(1).unbind(1), edges.neighbor, edges.center):
        order = order.index_select(0, digit.index_select(0, order).argsort(stable=True))
    return edges.chosen(order)

"""Tables as the compiled kernels read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's usual name

from ...graph import AtomicGraph
from ..tables import Tables
from .structures import Table, fill


def padded_to(values: Tensor, multiple: int, dim: int) -> Tensor:
    """Zeros behind `values` along an axis up to a whole number of `multiple`."""
    missing = -values.shape[dim] % multiple
    behind = [0, 0] * (values.ndim - 1 - dim % values.ndim)
    return F.pad(values, [*behind, 0, missing]).contiguous()


def c_table(tables: Tables, multiple: int, keep: list[Tensor]) -> Any:
    """The C view of `tables`, with a whole number of `multiple` functions; tensors it needs go to `keep`."""
    coefficients = padded_to(tables.coefficients, multiple, -1)
    return fill(
        Table(),
        keep,
        n_types=len(tables.kind),
        n_cells=tables.n_cells,
        n_functions=coefficients.shape[-1],
        coefficients=coefficients,
        lower=tables.lower.contiguous(),
        inverse_width=tables.inverse_width.contiguous(),
        kind=tables.kind.to(torch.int64).contiguous(),
    )


def edges_of(graph: AtomicGraph) -> tuple[int, int, int, int]:
    """Number of atoms and the addresses of offsets, neighbors and types."""
    return graph.n_atoms, graph.offsets.data_ptr(), graph.neighbor.data_ptr(), graph.types.data_ptr()

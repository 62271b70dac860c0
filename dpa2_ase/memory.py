"""How much memory an evaluation takes, known before it is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from .config import AnyModelConfig, DPA2Config, ModelConfig, PairTableConfig, SeAttenConfig
from .neighbors import NeighborList

DegreesOf = Callable[[float, int], np.ndarray]

# numbers kept for the backward pass per channel of a layer; fitted to measured peaks, see tests/test_memory.py
_PER_CHANNEL = 4


def evaluation_bytes(config: AnyModelConfig, neighbors: NeighborList) -> float:
    """Estimate the peak memory of energy and forces of one structure, in bytes, right within a factor of two."""
    if isinstance(config, PairTableConfig):
        return 200.0 * len(neighbors.center)
    if not isinstance(config, ModelConfig):
        return sum(evaluation_bytes(part, neighbors) for part in config.models)
    vectors = neighbors.positions[neighbors.neighbor] - neighbors.positions[neighbors.center]
    vectors = vectors + neighbors.shift @ neighbors.cell
    squared = np.einsum("ea,ea->e", vectors, vectors)
    n_atoms = len(neighbors.positions)

    def degrees(cutoff: float, nsel: int) -> np.ndarray:
        near = neighbors.center[squared <= cutoff**2]
        return np.minimum(np.bincount(near, minlength=n_atoms), nsel).astype(float)

    descriptor = config.descriptor
    numbers = _se_atten(descriptor.block, degrees(descriptor.rcut, descriptor.nsel))
    numbers += n_atoms * _PER_CHANNEL * sum(config.fitting_net.neuron)
    if isinstance(descriptor, DPA2Config):
        numbers += _three_body(descriptor, degrees) + _repformer(descriptor, degrees)
    return numbers * (8 if descriptor.precision == "float64" else 4)


def _se_atten(block: SeAttenConfig, degrees: np.ndarray) -> float:
    width, n_rows = block.neuron[-1], (block.lmax + 1) ** 2
    per_edge = _PER_CHANNEL * sum(block.neuron) + 3 * block.tebd_dim
    per_edge += 2 * n_rows * width + 10 * n_rows * (block.lmax > 1)  # rows times features, and the harmonics
    per_edge += 4 * width * (block.tebd_input_mode == "strip")
    per_edge += block.attn_layer * (6 * block.attn + 4 * width)
    per_pair = 8 * block.attn_layer
    return float(per_edge * degrees.sum() + per_pair * (degrees**2).sum())


def _three_body(config: DPA2Config, degrees: DegreesOf) -> float:
    block = config.three_body
    if block is None:
        return 0.0
    per_pair = _PER_CHANNEL * sum(block.neuron) + 3 * block.tebd_dim
    return float(per_pair * (degrees(block.rcut, block.nsel) ** 2).sum())


def _repformer(config: DPA2Config, degrees: DegreesOf) -> float:
    part = config.repformer
    counts = degrees(part.rcut, part.nsel)
    heads = part.attn2_nhead * (part.update_g2_has_attn or part.update_h2)
    per_edge = 7 * part.g1_dim + 8 * part.g2_dim + 2 * heads * (part.attn2_hidden + 2 * part.g2_dim)
    per_edge += part.update_g1_has_attn * part.attn1_nhead * (2 * part.attn1_hidden + 3 * part.g1_dim)
    per_pair = 10 * heads
    return float(part.nlayers * (per_edge * counts.sum() + per_pair * (counts**2).sum()))


def split_by_memory(costs: Iterable[float], limit: float) -> Iterator[range]:
    """Cut a list of structures into runs whose summed cost (bytes) stays below `limit`, one structure at least.

    Takes costs as they come, so that a run can be evaluated and forgotten before the next is looked at.
    """
    start, end, total = 0, 0, 0.0
    for cost in costs:
        if end > start and total + cost > limit:
            yield range(start, end)
            start, total = end, 0.0
        end, total = end + 1, total + cost
    if end > start:
        yield range(start, end)

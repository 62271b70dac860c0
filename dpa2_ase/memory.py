"""How much memory an evaluation takes, known before it is allocated.

All sizes are sums of what is alive when the peak is reached, at the end of the forward pass: arrays of pairs and of
atoms, which grow with the structure, and no scratch, which does not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from .config import AnyModelConfig, DPA2Config, ModelConfig, PairTableConfig, SeAttenConfig
from .kernels.cpu.attentive import CENTERS_AT_ONCE, MOST_KEPT, kept_bytes
from .kernels.cpu.repformer import FRUGAL_FROM
from .kernels.fitting import ATOMS_AT_ONCE
from .neighbors import NeighborList

Terms = dict[str, float]  # what takes memory -> bytes

INDEX, EXACT = 8, 8  # bytes of an index, and of a number of the geometry
# numbers that the reference keeps for the backward pass per channel of a layer; fitted to measured peaks, see
# tests/test_memory.py
_PER_CHANNEL = 3.6
_PER_LISTED = 100  # bytes; the neighbor list, its copy on the device, and the search for it
_PER_EDGE = 2 * INDEX + 4 * EXACT  # centers, neighbors, vectors and lengths of a graph
_GEOMETRY = 30  # float64 numbers that autograd keeps of an edge for the environment matrix


class Pairs:
    """Numbers of pairs of one structure, or of `copies` of it side by side."""

    def __init__(self, neighbors: NeighborList) -> None:
        vectors = neighbors.positions[neighbors.neighbor] - neighbors.positions[neighbors.center]
        vectors = vectors + neighbors.shift @ neighbors.cell
        self._squared = np.einsum("ea,ea->e", vectors, vectors)
        self._neighbors, self.copies = neighbors, 1
        self._known: dict[tuple[float, int], tuple[float, float]] = {}

    def times(self, copies: int) -> Pairs:
        """The numbers of so many structures like this one."""
        other = copy.copy(self)
        other.copies = copies
        return other

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.copies * len(self._neighbors.positions)

    @property
    def n_listed(self) -> int:
        """Number of pairs in the neighbor list."""
        return self.copies * len(self._neighbors.center)

    def edges(self, cutoff: float, nsel: int) -> float:
        """Number of edges of a block."""
        return self.copies * self._sums(cutoff, nsel)[0]

    def squares(self, cutoff: float, nsel: int) -> float:
        """Sum of the squared numbers of neighbors: pairs of edges of a block."""
        return self.copies * self._sums(cutoff, nsel)[1]

    def _sums(self, cutoff: float, nsel: int) -> tuple[float, float]:
        if (cutoff, nsel) not in self._known:
            near = self._neighbors.center[self._squared <= cutoff**2]
            degrees = np.minimum(np.bincount(near), nsel).astype(float)
            self._known[cutoff, nsel] = degrees.sum(), (degrees**2).sum()
        return self._known[cutoff, nsel]


def evaluation_bytes(
    config: AnyModelConfig, pairs: Pairs, paths: Mapping[str, str] | None = None, dtype: str | None = None
) -> float:
    """Peak memory of energy and forces of a structure, in bytes; arguments as for `evaluation_terms`."""
    return sum(evaluation_terms(config, pairs, paths, dtype).values())


def evaluation_terms(
    config: AnyModelConfig,
    pairs: Pairs,
    paths: Mapping[str, str] | None = None,
    dtype: str | None = None,
    place: str = "model",
) -> Terms:
    """What the peak memory of energy and forces consists of.

    Parameters
    ----------
    config
        The model.
    pairs
        Of the structure.
    paths
        Where a block of the model lives -> ``"torch"`` or ``"kernels"``; the others take the reference.
    dtype
        Precision of the nets; ``None`` for the model's own.
    place
        Where in the potential the model of `config` lives.
    """
    terms = {"neighbor list": float(_PER_LISTED * pairs.n_listed)} if place == "model" else {}
    if isinstance(config, PairTableConfig):
        return _sum([terms, {"pair table": 25.0 * EXACT * pairs.edges(config.rcut, config.nsel)}])
    if not isinstance(config, ModelConfig):
        parts = enumerate(config.models)
        return _sum([terms, *(evaluation_terms(c, pairs, paths, dtype, f"{place}.models.{i}") for i, c in parts)])
    paths = paths or {}
    descriptor, size = config.descriptor, 8 if (dtype or config.descriptor.precision) == "float64" else 4
    terms["graph"] = _PER_EDGE * pairs.edges(descriptor.rcut, descriptor.nsel)
    is_dpa2 = isinstance(descriptor, DPA2Config)
    path = paths.get(f"{place}.descriptor.{'repinit' if is_dpa2 else 'se_atten'}", "reference")
    terms["initializer" if is_dpa2 else "descriptor"] = _se_atten(descriptor.block, pairs, size, path)
    if isinstance(descriptor, DPA2Config):
        path = paths.get(f"{place}.descriptor.three_body", "reference")
        terms["three-body terms"] = _three_body(descriptor, pairs, size, path)
        path = paths.get(f"{place}.descriptor.repformer", "reference")
        terms |= _repformer(descriptor, pairs, size, path)
    size = 8 if (dtype or config.fitting_net.precision) == "float64" else 4
    at_once = min(pairs.n_atoms, ATOMS_AT_ONCE) if f"{place}.fitting" in paths else pairs.n_atoms
    terms["fitting net"] = float(size * _PER_CHANNEL * at_once * sum(config.fitting_net.neuron))
    return terms


def _sum(parts: Iterable[Terms]) -> Terms:
    total: Terms = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _fast_geometry(edges: float, size: int, path: str) -> float:
    """The environment matrix of a block: by autograd, or rows, switches and their gradients."""
    return edges * (_GEOMETRY * EXACT if path == "torch" else 10 * size + 4 * EXACT)


def _se_atten(block: SeAttenConfig, pairs: Pairs, size: int, path: str) -> float:
    edges, width, n_rows = pairs.edges(block.rcut, block.nsel), block.neuron[-1], (block.lmax + 1) ** 2
    if path != "reference":
        per_atom = size * (2 * n_rows * width + 1.5 * width * block.axis_neuron)
        features = kept_bytes(edges, width, block.attn_layer, size) if block.attn_layer else 0.0
        if features > MOST_KEPT:
            features *= min(1.0, CENTERS_AT_ONCE / pairs.n_atoms)
        return _fast_geometry(edges, size, path) + features + per_atom * pairs.n_atoms
    per_edge = _PER_CHANNEL * sum(block.neuron) + 3 * block.tebd_dim
    per_edge += 1.3 * (n_rows + width) + 10 * n_rows * (block.lmax > 1)  # stacked for products, and the harmonics
    per_edge += 4 * width * (block.tebd_input_mode == "strip")
    per_edge += block.attn_layer * (6 * block.attn + 4 * width)
    per_pair = 8 * block.attn_layer
    return size * (per_edge * edges + per_pair * pairs.squares(block.rcut, block.nsel))


def _three_body(config: DPA2Config, pairs: Pairs, size: int, path: str) -> float:
    block = config.three_body
    if block is None:
        return 0.0
    if path != "reference":
        return _fast_geometry(pairs.edges(block.rcut, block.nsel), size, path)
    per_pair = _PER_CHANNEL * sum(block.neuron) + 3 * block.tebd_dim
    return size * per_pair * pairs.squares(block.rcut, block.nsel)


def _repformer(config: DPA2Config, pairs: Pairs, size: int, path: str) -> Terms:
    part = config.repformer
    n_layers, node, edge = part.nlayers, part.g1_dim, part.g2_dim
    edges = pairs.edges(part.rcut, part.nsel)
    if path != "reference":
        frugal = path == "kernels" and edges >= FRUGAL_FROM  # keeps neither what attention nor what nodes went through
        attends = n_layers - 1 if part.update_g2_has_attn else 0
        moments = 3 * (edge + node)
        per_atom = n_layers * ((1 if frugal else 3) * node + moments + (moments + node if path == "torch" else 0))
        per_edge = edge * (n_layers + (1 if frugal else attends + 1))
        return {
            "pair channel": _fast_geometry(edges, size, path) + size * per_edge * edges,
            "atom channel": float(size * per_atom * pairs.n_atoms),
        }
    heads = part.attn2_nhead * (part.update_g2_has_attn or part.update_h2)
    kept = 6.2 * node + 7 * edge
    kept += part.update_g1_has_attn * part.attn1_nhead * (2 * part.attn1_hidden + 3 * node)
    attention = 1.4 * heads * (part.attn2_hidden + 2 * edge) * edges + 7 * heads * pairs.squares(part.rcut, part.nsel)
    return {"repformer": size * (n_layers * kept * edges + (n_layers - 1) * attention)}


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

"""How much memory an evaluation takes, known before it is allocated.

All sizes count the arrays that are alive at the peak: those that a block keeps for the backward pass, which grow with
the structure and stay until its end, and the temporary arrays of the block that needs most of them. In compiled kernels
the blocks of DPA-2 have two arrays together, one for what they keep and one for what is temporary, laid out in
`kernels/cpu/src/descriptor.hpp` and `repformer.hpp`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch

from .config import AnyModelConfig, DPA1Config, DPA2Config, FittingConfig, ModelConfig, PairTableConfig, SeAttenConfig
from .kernels.cpu.attentive import CENTERS_AT_ONCE, MOST_KEPT, kept_bytes
from .kernels.cpu.repformer import ATOMS_PER_CHUNK, FRUGAL_FROM
from .kernels.fitting import ATOMS_AT_ONCE
from .kernels.folding import aligned
from .neighbors import Pairs

Terms = dict[str, float]  # what takes memory -> bytes

INDEX, EXACT = 8, 8  # bytes of an index, and of a number of the geometry
# arrays of less than 32 MiB share a heap, where those that are gone leave holes; 2 to 25 % were measured
_HOLES = 1 / 8
_PER_LISTED = 8 * INDEX  # both atoms and the shift of a pair, and on the device both atoms and the image
_PER_EDGE = 2 * INDEX + 3 * EXACT  # centers, neighbors and vectors of a graph
_VECTOR = 3 * EXACT
# numbers that autograd keeps of an edge for the environment matrix: length, the switch and its powers (5), both
# factors of the rows (3), the rows and what they are divided by (8)
_GEOMETRY = 17 * EXACT


class Need(NamedTuple):
    """Bytes that a block keeps for the backward pass, and bytes in which it works there."""

    kept: float
    work: float


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
    found = _terms(config, pairs, paths or {}, dtype, place)
    if place == "model":  # the search for the list takes twice as much, but before there is anything else
        found["neighbor list"] = float(_PER_LISTED * pairs.n_listed)
    return {name: float((1 + _HOLES) * value) for name, value in found.items()}


def _terms(config: AnyModelConfig, pairs: Pairs, paths: Mapping[str, str], dtype: str | None, place: str) -> Terms:
    if isinstance(config, PairTableConfig):
        return {"pair table": 25.0 * EXACT * pairs.edges(config.rcut, config.nsel)}
    if not isinstance(config, ModelConfig):
        return _sum(_terms(part, pairs, paths, dtype, f"{place}.models.{i}") for i, part in enumerate(config.models))
    descriptor, size = config.descriptor, 8 if (dtype or config.descriptor.precision) == "float64" else 4
    own_path = {name.removeprefix(f"{place}."): path for name, path in paths.items()}
    needs: dict[str, Need] = {}
    if isinstance(descriptor, DPA2Config):
        needs |= _dpa2(descriptor, pairs, size, own_path)
        width = descriptor.repformer.g1_dim
    else:
        path = own_path.get("descriptor.se_atten", "reference")
        needs["descriptor"] = _se_atten(descriptor.block, pairs, size, path, is_alone=True)
        width = descriptor.neuron[-1] * descriptor.axis_neuron
    size = 8 if (dtype or config.fitting_net.precision) == "float64" else 4
    needs["fitting net"] = _fitting(config.fitting_net, width, pairs.n_atoms, size, "fitting" in own_path)
    terms = {name: need.kept for name, need in needs.items()}
    terms["graph"] = _graph(descriptor, pairs, is_compiled="kernels" in own_path.values())
    terms["temporary arrays"] = max(need.work for need in needs.values())
    return terms


def _sum(parts: Iterable[Terms]) -> Terms:
    total: Terms = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _graph(descriptor: DPA1Config | DPA2Config, pairs: Pairs, *, is_compiled: bool) -> float:
    """The edges of the model, and the shorter lists that its blocks share, which also know which edges they took."""
    per_edge = _PER_EDGE + EXACT * (not is_compiled)  # lengths
    total = per_edge * pairs.edges(descriptor.rcut, descriptor.nsel)
    if isinstance(descriptor, DPA2Config):
        blocks = descriptor.block, descriptor.repformer, descriptor.three_body
        cuts = {(block.rcut, block.nsel) for block in blocks if block} - {(descriptor.rcut, descriptor.nsel)}
        total += sum((per_edge + INDEX) * pairs.edges(*cut) for cut in cuts)
    return total


def _fitting(config: FittingConfig, width: int, n_atoms: int, size: int, is_fast: bool) -> Need:
    """Activations of all atoms or, in a fast net, derivatives by its `width` inputs and activations of some atoms."""
    neuron = config.neuron or (0,)
    if not is_fast:
        return Need(float(size * sum(neuron) * n_atoms), float(size * 2 * max(neuron) * n_atoms))
    at_once = min(n_atoms, ATOMS_AT_ONCE)
    return Need(float(size * 2 * width * n_atoms), float(size * (sum(neuron) + 2 * max(neuron)) * at_once))


def _dpa2(config: DPA2Config, pairs: Pairs, size: int, own_path: Mapping[str, str]) -> dict[str, Need]:
    names = ["repinit", "repformer", *["three_body"] * (config.three_body is not None)]
    if all(own_path.get(f"descriptor.{name}") == "kernels" for name in names) and not config.block.attn_layer:
        return _joined_kernels(config, pairs, size)
    paths = {name: own_path.get(f"descriptor.{name}", "reference") for name in ("repinit", "three_body", "repformer")}
    return {
        "initializer": _se_atten(config.block, pairs, size, paths["repinit"], is_alone=False),
        "three-body terms": _three_body(config, pairs, size, paths["three_body"]),
    } | _repformer(config, pairs, size, paths["repformer"])


def _joined_kernels(config: DPA2Config, pairs: Pairs, size: int) -> dict[str, Need]:
    """All blocks in one call there and one back, where the initializer takes the place of what the repformer left."""
    block, three, part, n_atoms = config.block, config.three_body, config.repformer, pairs.n_atoms
    edges, moments = pairs.edges(block.rcut, block.nsel), 4 * block.neuron[-1]
    triples = pairs.edges(three.rcut, three.nsel) if three else 0.0
    width = block.neuron[-1] * block.axis_neuron + (2 * three.neuron[-1] if three else 0)
    needs = _compiled_repformer(config, pairs, size, is_alone=False)
    # gradients of rows and switches, of the invariants and of the moments, beside what stays of the repformer
    work = 5 * (edges + triples) + (width + moments) * n_atoms
    work += part.g2_dim * pairs.edges(part.rcut, part.nsel) + 2 * part.g1_dim * n_atoms
    needs["initializer"] = Need(edges * (5 * size + EXACT) + size * moments * n_atoms, size * work)
    needs["three-body terms"] = Need(5.0 * size * triples, 0.0)
    gradient = _VECTOR * edges  # by all edge vectors
    return {name: Need(need.kept, need.work + gradient) for name, need in needs.items()}


def _se_atten(block: SeAttenConfig, pairs: Pairs, size: int, path: str, *, is_alone: bool) -> Need:
    edges, width, n_rows = pairs.edges(block.rcut, block.nsel), block.neuron[-1], (block.lmax + 1) ** 2
    moments = size * n_rows * (width + block.axis_neuron) * pairs.n_atoms
    invariants = size * width * block.axis_neuron * pairs.n_atoms
    if path == "reference":
        padded = pairs.padded(block.rcut, block.nsel)
        per_edge = sum(block.neuron) + width + n_rows  # activations; what is laid side by side for the sums
        per_edge += 3 * width * (block.tebd_input_mode == "strip") + 10 * n_rows * (block.lmax > 1)
        per_edge += block.attn_layer * (6 * block.attn + 4 * width)
        squares = 8 * block.attn_layer * pairs.squares(block.rcut, block.nsel)
        kept = size * (per_edge * edges + (n_rows + width) * padded + squares) + _GEOMETRY * edges + moments
        work = 2 * size * width * padded * is_alone  # otherwise all of the repformer is gone before
        return Need(kept, work + invariants)
    work = invariants + moments + edges * (6 * size + _VECTOR * (1 if is_alone else 2))
    if block.attn_layer:
        features = kept_bytes(edges, width, block.attn_layer, size)
        if features > MOST_KEPT:
            features *= min(1.0, CENTERS_AT_ONCE / pairs.n_atoms)
        return Need(edges * (5 * size + EXACT) + features + moments, work)
    if path == "kernels":
        return Need(edges * (5 * size + EXACT) + moments, work)  # rows, switch; argument of the tables
    places = 2 * INDEX + 4 + size + 4 * EXACT  # kinds and columns, row and place in the tables, rows of the sums
    return Need(edges * (_GEOMETRY + places) + moments, work)


def _three_body(config: DPA2Config, pairs: Pairs, size: int, path: str) -> Need:
    block = config.three_body
    if block is None:
        return Need(0.0, 0.0)
    edges, squares = pairs.edges(block.rcut, block.nsel), pairs.squares(block.rcut, block.nsel)
    work = edges * (5 * size + _VECTOR)
    if path == "kernels":
        return Need(edges * (5 * size + _VECTOR), work)
    is_strip = block.tebd_input_mode == "strip"
    if path == "torch":  # row, place, product and slope of every pair, but with a factor these are found again
        places = 0.0 if is_strip else (4 + 3 * size) * (squares + edges) / 2
        return Need(edges * (_GEOMETRY + _VECTOR) + places, work)
    width = block.neuron[-1]
    per_pair = sum(block.neuron) + width + 1 + (3 * width + 1) * is_strip  # activations, features and the product
    return Need(edges * (_GEOMETRY + _VECTOR) + size * per_pair * squares, work)


def _repformer(config: DPA2Config, pairs: Pairs, size: int, path: str) -> dict[str, Need]:
    if path == "reference":
        return {"repformer": _reference_repformer(config, pairs, size)}
    return (_compiled_repformer if path == "kernels" else _fused_repformer)(config, pairs, size)


def _compiled_repformer(config: DPA2Config, pairs: Pairs, size: int, *, is_alone: bool = True) -> dict[str, Need]:
    """As `KeptRepformer` and `repformer_backward` lay it out; alone, with vectors of its own and their gradient."""
    part = config.repformer
    n_layers, node, edge, moments = part.nlayers, part.g1_dim, part.g2_dim, 3 * (part.g1_dim + part.g2_dim)
    edges, n_atoms = pairs.edges(part.rcut, part.nsel), pairs.n_atoms
    frugal = edges >= FRUGAL_FROM  # keeps neither what attention nor what nodes went through
    attends = (n_layers - 1) * (part.update_g2_has_attn and not frugal)
    own = _VECTOR * is_alone
    per_edge = size * (5 + (n_layers - 1 + attends) * edge + attends) + own  # rows, switch; the first is made again
    per_atom = n_layers * ((1 if frugal else 3) * node + moments) + 3 * edge
    messages = min(n_atoms, ATOMS_PER_CHUNK) * edges / max(n_atoms, 1) * node
    # the first pair channel; gradients of pair channel, rows, switch, start, convolution and moments; who receives
    work = edges * (size * (2 * edge + 5) + 3 * INDEX + own) + size * ((3 * node + moments) * n_atoms + messages)
    return {"pair channel": Need(per_edge * edges, work), "atom channel": Need(float(size * per_atom * n_atoms), 0.0)}


def _fused_repformer(config: DPA2Config, pairs: Pairs, size: int) -> dict[str, Need]:
    from .kernels.repformer import KEPT_BYTES  # a start with compiled kernels does not wait for these modules
    from .kernels.tiles import TILE_BYTES

    part = config.repformer
    n_layers, node = part.nlayers, part.g1_dim
    edge = aligned(part.g2_dim, torch.empty(0, dtype=torch.float64 if size == 8 else torch.float32, device="cpu"))
    edges, sums = pairs.edges(part.rcut, part.nsel), 4 * node + 3 * part.g2_dim  # moments of both channels, convolution
    heads = part.attn2_nhead if part.update_g2_has_attn else 0
    normalized = size * (n_layers - 1) * (edge + 1) * edges * (heads > 0)
    slots = size * (13 + n_layers * edge) + 2 * INDEX  # geometry twice, pair channels; places
    kept = edges * (_GEOMETRY + _VECTOR + slots) + normalized * (normalized <= KEPT_BYTES)
    tile = size * max(heads, 4) * pairs.squares(part.rcut, part.nsel)
    scratch = min(TILE_BYTES, tile) * (22 if heads else 10)  # temporary arrays of a tile, in units of its attention
    work = size * (5 * edges + (n_layers * sums + 2 * node) * pairs.n_atoms) + scratch
    per_atom = n_layers * (sums + 3 * node) + node
    return {"pair channel": Need(kept, work), "atom channel": Need(float(size * per_atom * pairs.n_atoms), 0.0)}


def _reference_repformer(config: DPA2Config, pairs: Pairs, size: int) -> Need:
    part = config.repformer
    n_layers, node, edge = part.nlayers, part.g1_dim, part.g2_dim
    cut = part.rcut, part.nsel
    edges, padded, squares = pairs.edges(*cut), pairs.padded(*cut), pairs.squares(*cut)
    # neighbors, their weights, both products of the convolution; directions of two moments
    per_edge = node + 3 * (node if part.g1_out_conv else edge) * part.update_g1_has_conv + 6
    per_edge += part.update_g1_has_attn * part.attn1_nhead * (2 * part.attn1_hidden + 3 * node)
    dense = (edge + 3) * part.update_g1_has_grrg + (node + 3) * part.update_g1_has_drrd
    updates = 2 * edge + 3 * node * part.update_g2_has_g1g1
    heads = part.attn2_nhead * (part.update_g2_has_attn or part.update_h2)
    # query, key, value and output; logits, softmax and their weights, switch and cosine
    updates += (2 * heads * (part.attn2_hidden + edge) + edge) * (heads > 0)
    of_pairs = (6 * heads + 2) * (heads > 0)
    kept = n_layers * (per_edge * edges + dense * padded) + (n_layers - 1) * (updates * edges + of_pairs * squares)
    kept += edge * edges + (edge + 3) * padded  # embedding and last moment
    kept += n_layers * (4 * (edge + node) + 2 * node) * pairs.n_atoms
    return Need(size * kept + (_GEOMETRY + _VECTOR) * edges, size * (node + edge) * padded)


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

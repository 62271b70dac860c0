r"""Floating-point operations that energy and forces of a model need, counted from the neighbors a structure has.

One multiplication with its addition counts as two. What is counted is the least work known, not what a program
happens to do: no padding to the list length, no parameter gradients, nothing computed twice, and the algebra folded.

- Type-dependent embedding nets of one distance or cosine are tables: for each pair of types, `RANK` functions of
  which the net's channels are linear combinations, as polynomials of degree `DEGREE`.
- Three-body terms are symmetric in the two neighbors, so half of the pairs are enough.
- In pair attention value and output fold into one matrix per head (g2_dim × g2_dim), and so do query and key where that
  is less work.
- The convolution over neighbors and the moments of their features are one product: with n neighbors, the
  (g2_dim + 3, n) matrix of pair features and directions times the (n, g1_dim) matrix of neighbor features.
- The backward pass of a product with a weight costs one product, that of a product of two activations two.

Element-wise functions are left out: the count is compared with the rate of matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ase import Atoms
from matscipy.neighbours import neighbour_list

from dpa2_ase.config import DPA1Config, DPA2Config, FittingConfig, ModelConfig, RepformerConfig

RANK = 28  # numerical rank of the embedding of one type pair at 1e-13, of the usual 100 channels
DEGREE = 5
_TABLE = 2 * DEGREE + 2 * (DEGREE - 1) + 2  # value, derivative, and the derivative times its incoming gradient
_WEIGHT = 2  # a product with a weight, forward and backward
_ACTIVATIONS = 3  # a product of two activations, forward and backward


@dataclass(frozen=True)
class Neighbors:
    """Means over atoms of the number n of neighbors, and of n²."""

    n: float
    squared: float


def count_neighbors(atoms: Atoms, cutoff: float, nsel: int) -> Neighbors:
    """Neighbors within `cutoff` (Å), `nsel` at most."""
    if not atoms.pbc.any():
        atoms = atoms.copy()
        atoms.center(vacuum=cutoff)  # the search needs a cell
    center = neighbour_list("i", atoms, cutoff)
    counts = np.minimum(np.bincount(center, minlength=len(atoms)), nsel).astype(float)
    return Neighbors(float(counts.mean()), float((counts**2).mean()))


def useful_flop(config: ModelConfig, atoms: Atoms) -> dict[str, float]:
    """Operations per atom for energy and forces, by part of the model.

    Raises
    ------
    ValueError
        For options that no model of the benchmark uses, whose least work was not derived.
    """
    descriptor = config.descriptor
    block = descriptor.block
    far = count_neighbors(atoms, descriptor.rcut, descriptor.nsel)
    n_types = len(set(atoms.symbols))
    width, axis = block.neuron[-1], block.axis_neuron
    rank = min(RANK, width)
    invariants = _ACTIVATIONS * 2 * 4 * width * axis  # the product of the moment with its first columns
    parts = {}
    if isinstance(descriptor, DPA1Config):
        parts["embedding"] = _expanded(far, width, rank) if block.attn_layer else _moments(far, width, rank, n_types)
        parts["embedding"] += invariants
        parts["attention"] = block.attn_layer * _neighbor_attention(far, width, block.attn)
        n_features = width * axis
    elif isinstance(descriptor, DPA2Config):
        parts["embedding"] = _moments(far, width, rank, n_types) + invariants
        parts |= _dpa2(descriptor, atoms)
        n_features = descriptor.repformer.g1_dim
    n_features += descriptor.tebd_dim * descriptor.concat_output_tebd
    parts["fitting"] = _fitting(config.fitting_net, n_features)
    return parts


def _moments(hood: Neighbors, width: int, rank: int, n_types: int) -> float:
    """Moments (4, rank) per type of neighbor from tables, then expanded to (4, width)."""
    per_edge = rank * (_TABLE + _ACTIVATIONS * 2 * 4)
    return hood.n * per_edge + n_types * _WEIGHT * 2 * 4 * rank * width


def _expanded(hood: Neighbors, width: int, rank: int) -> float:
    """Features (n, width) of all neighbors from tables, and their moments (4, width)."""
    return hood.n * (rank * _TABLE + _WEIGHT * 2 * rank * width + _ACTIVATIONS * 2 * 4 * width)


def _neighbor_attention(hood: Neighbors, width: int, hidden: int) -> float:
    """One attention layer of DPA-1; queries, keys and values are normalized, so nothing folds."""
    projections = _WEIGHT * 2 * hood.n * width * 4 * hidden  # query, key, value, and the output
    return projections + _ACTIVATIONS * 2 * hood.squared * (2 * hidden + 3)  # logits, mixing, cosines


def _dpa2(config: DPA2Config, atoms: Atoms) -> dict[str, float]:
    part, three_body = config.repformer, config.three_body
    hood = count_neighbors(atoms, part.rcut, part.nsel)
    n_features = config.block.neuron[-1] * config.block.axis_neuron
    parts = _repformer(part, hood)
    if three_body is not None:
        n_features += three_body.neuron[-1]
        close = count_neighbors(atoms, three_body.rcut, three_body.nsel)
        pairs = (close.squared + close.n) / 2
        # a cosine and its gradient, then one table per channel, weighted with the cosine and summed
        parts["three-body"] = pairs * (_ACTIVATIONS * 2 * 3 + three_body.neuron[-1] * (_TABLE + 4))
    if n_features != part.g1_dim:
        parts["shape"] = _WEIGHT * 2 * n_features * part.g1_dim
    return parts


def _repformer(config: RepformerConfig, hood: Neighbors) -> dict[str, float]:
    refused = ("update_g1_has_attn", "update_g2_has_g1g1", "update_h2")
    needed = ("update_g1_has_conv", "update_g1_has_grrg", "update_g1_has_drrd", "g1_out_conv", "g1_out_mlp")
    odd = [n for n in refused if getattr(config, n)] + [n for n in needed if not getattr(config, n)]
    if odd:
        raise ValueError(f"useful operations are not derived for models with unusual {odd}; leave the count out")
    node, edge, axis = config.g1_dim, config.g2_dim, config.axis_neuron
    attention = _pair_attention(config, hood) if config.update_g2_has_attn else 0.0
    symmetrized = _ACTIVATIONS * 2 * 3 * axis * (node + edge)
    return {
        "pairs": (config.nlayers - 1) * (_WEIGHT * 2 * hood.n * edge**2 + attention),
        "aggregation": config.nlayers * (_ACTIVATIONS * 2 * hood.n * (edge + 3) * node + symmetrized),
        "nodes": config.nlayers * _WEIGHT * 2 * (axis * (edge + node) * node + node**2),
    }


def _pair_attention(config: RepformerConfig, hood: Neighbors) -> float:
    """Gated self-attention of the pair channel; logits and mixing are products of activations."""
    width, hidden, heads = config.g2_dim, config.attn2_hidden, config.attn2_nhead
    folded = _WEIGHT * 2 * hood.n * heads * width**2 + _ACTIVATIONS * 2 * heads * hood.squared * width
    apart = _WEIGHT * 2 * hood.n * heads * width * 2 * hidden + _ACTIVATIONS * 2 * heads * hood.squared * hidden
    return min(folded, apart) + folded  # logits; values, whose width per head is that of the channel


def _fitting(config: FittingConfig, n_features: int) -> float:
    sizes = [n_features, *config.neuron, 1]
    return _WEIGHT * 2 * float(sum(a * b for a, b in pairwise(sizes)))

"""The C structures the kernels read, field by field as in the headers; pointers are addresses of tensors."""

from __future__ import annotations

import ctypes
from typing import Any

from torch import Tensor

_NUMBER, _REAL, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


def _fields(numbers: str = "", reals: str = "", pointers: str = "") -> list[tuple[str, Any]]:
    kinds = (numbers, _NUMBER), (reals, _REAL), (pointers, _POINTER)
    return [(name, kind) for names, kind in kinds for name in names.split()]


class EnvironmentOptions(ctypes.Structure):
    """environment.hpp."""

    _fields_ = _fields(reals="onset cutoff protection", pointers="mean inverse_std")


class Listed(ctypes.Structure):
    """near.hpp."""

    _fields_ = _fields("n_images", pointers="offsets neighbor image owner shift positions cells")


class Near(ctypes.Structure):
    """near.hpp."""

    _fields_ = _fields("count most", "shortest", "offsets center neighbor vectors index")


class Arena(ctypes.Structure):
    """arena.hpp."""

    _fields_ = [("data", _POINTER), ("used", _NUMBER)]


class Edges(ctypes.Structure):
    """repformer.hpp."""

    _fields_ = _fields("n_atoms", pointers="offsets neighbor types vectors index")


class PairWeights(ctypes.Structure):
    """pairs.hpp."""

    _fields_ = _fields(
        "channels heads gate",
        "old_scale eps",
        "weight weight_t bias scale query_key query_key_t value_output value_output_t output_bias "
        "norm_scale norm_shift",
    )


class AttentionWeights(ctypes.Structure):
    """attention.hpp."""

    _fields_ = _fields(
        "channels columns rank normalize smooth dotr",
        "eps",
        "query_key query_key_t value_output value_output_t roots squares output_bias norm_scale norm_shift",
    )


class AttentionArrays(ctypes.Structure):
    """attention.hpp."""

    _fields_ = _fields(pointers="g direction weight n_dead kept_z kept_rstd inverse")


class AttentionGradients(ctypes.Structure):
    """attention_backward.hpp."""

    _fields_ = _fields(pointers="d_out d_g d_direction d_weight")


class BlockSums(ctypes.Structure):
    """weight_gradients.hpp."""

    _fields_ = _fields("n_blocks", pointers="blocks total")


class NodeWeightGradients(ctypes.Structure):
    """weight_gradients.hpp."""

    _fields_ = _fields(pointers="weight self_weight bias scale self_bias self_scale conv_scale z d_t d_s")


class NodeWeights(ctypes.Structure):
    """nodes.hpp."""

    _fields_ = _fields(
        "pair_channels channels axis has_edge_moment has_node_moment",
        "old_scale",
        "weight weight_t bias scale self_weight self_weight_t self_bias self_scale conv_scale",
    )


class LayerWeights(ctypes.Structure):
    """repformer.hpp."""

    _fields_ = [("node", NodeWeights), ("pair", PairWeights), *_fields(pointers="conv conv_t")]


class RepformerWeights(ctypes.Structure):
    """repformer.hpp."""

    _fields_ = [
        *_fields("n_layers pair_channels channels n_slots root"),
        ("environment", EnvironmentOptions),
        *_fields(pointers="embedding_weight embedding_bias layers"),
    ]


class LayerGradients(ctypes.Structure):
    """repformer.hpp."""

    _fields_ = [("pair", BlockSums), ("conv", BlockSums), ("node", NodeWeightGradients)]


class RepformerGradients(ctypes.Structure):
    """repformer.hpp."""

    _fields_ = [*_fields(pointers="d_node d_moment d_start vectors layers"), ("embedding", BlockSums)]


class DenseWeights(ctypes.Structure):
    """dense.hpp."""

    _fields_ = _fields("n_in n_out is_tanh copies", pointers="weight weight_t bias timestep")


class Table(ctypes.Structure):
    """tables.hpp."""

    _fields_ = _fields("n_types n_cells n_functions", pointers="coefficients lower inverse_width kind")


class Features(ctypes.Structure):
    """tables.hpp."""

    _fields_ = [("table", Table), ("channels", _NUMBER), *_fields(pointers="basis basis_t factor")]


class ThreeBodyOptions(ctypes.Structure):
    """tables.hpp."""

    _fields_ = [("table", Table), ("bend", _REAL), ("factor", _POINTER)]


class InitializerWeights(ctypes.Structure):
    """descriptor.hpp."""

    _fields_ = [
        *_fields("n_slots axis n_triple three_slots"),
        ("environment", EnvironmentOptions),
        ("three_environment", EnvironmentOptions),
        ("features", Features),
        ("three_body", ThreeBodyOptions),
        ("to_node", DenseWeights),
        ("type_rows", _POINTER),
    ]


class DescriptorEdges(ctypes.Structure):
    """descriptor.hpp."""

    _fields_ = [(name, ctypes.POINTER(Edges)) for name in ("repinit", "three_body", "repformer")]


class TrainedFeatures(ctypes.Structure):
    """table_gradients.hpp."""

    _fields_ = _fields(
        "n_types n_pairs n_tables n_functions channels", "inverse_width bend", "coefficients first start factor pair"
    )


def fill(
    structure: ctypes.Structure,
    keep: list[Tensor],
    **values: float | Tensor | ctypes.Structure | ctypes.c_void_p | None,
) -> Any:
    """Set fields; tensors become their addresses and are kept alive in `keep`."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            keep.append(value)
            value = value.data_ptr()
        setattr(structure, name, value)
    return structure

"""What the compiled kernels need to know of a repformer."""

from __future__ import annotations

from ctypes import c_void_p, cast

from torch import Tensor

from ...config import RepformerConfig
from ...nn.repformer import Repformer
from ..folding import FoldedLayer, FoldedRepformer
from .geometry import Geometry
from .library import Library
from .structures import LayerWeights, NodeWeights, PairWeights, RepformerWeights, fill


class Plan:
    """Folded weights, statistics of the geometry and options of a block, as the kernels read them."""

    def __init__(self, reference: Repformer, folded: FoldedRepformer, library: Library) -> None:
        self.config, self.folded, self.library = reference.config, folded, library
        self.dtype = folded.embedding_weight.dtype
        self._geometry = Geometry(reference.environment, self.dtype, library)
        self._keep: list[Tensor] = []
        layers = [_layer(self.config, layer, self._keep) for layer in folded.layers]
        self._layers = (LayerWeights * len(layers))(*layers)
        self.weights: RepformerWeights = fill(
            RepformerWeights(), self._keep,
            n_layers=len(layers), pair_channels=self.config.g2_dim, channels=self.config.g1_dim,
            n_slots=self.config.nsel, root=self.config.use_sqrt_nnei, environment=self._geometry.options,
            embedding_weight=folded.embedding_weight, embedding_bias=folded.embedding_bias,
            layers=cast(self._layers, c_void_p),
        )  # fmt: skip


def _layer(config: RepformerConfig, layer: FoldedLayer, keep: list[Tensor]) -> LayerWeights:
    node = fill(
        NodeWeights(), keep,
        pair_channels=config.g2_dim, channels=config.g1_dim, axis=config.axis_neuron,
        has_edge_moment=config.update_g1_has_grrg, has_node_moment=config.update_g1_has_drrd,
        old_scale=layer.node_old, weight=layer.node_weight, weight_t=_transposed(layer.node_weight),
        bias=layer.node_bias, scale=layer.node_scale, self_weight=layer.self_weight,
        self_weight_t=_transposed(layer.self_weight), self_bias=layer.self_bias, self_scale=layer.self_scale,
        conv_scale=layer.conv_scale,
    )  # fmt: skip
    pair = PairWeights() if layer.edge_weight is None else fill(
        PairWeights(), keep,
        channels=config.g2_dim, heads=layer.n_heads, gate=config.attn2_has_gate,
        old_scale=layer.edge_old, eps=layer.norm_eps, weight=layer.edge_weight,
        weight_t=_transposed(layer.edge_weight), bias=layer.edge_bias, scale=layer.edge_scale,
        query_key=layer.query_key, query_key_t=_transposed(layer.query_key), value_output=layer.value_output,
        value_output_t=_transposed(layer.value_output), output_bias=layer.output_bias,
        norm_scale=layer.norm_scale, norm_shift=layer.norm_shift,
    )  # fmt: skip
    return fill(LayerWeights(), keep, node=node, pair=pair, conv=layer.conv, conv_t=_transposed(layer.conv))


def _transposed(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.T.contiguous()

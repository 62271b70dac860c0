"""DPA-1 and DPA-2: from neighborhoods to one representation per atom."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config import DPA1Config, DPA2Config
from ..graph import AtomicGraph
from .layers import Dense
from .repformer import Repformer
from .se_atten import BlockOutput, SeAtten
from .three_body import ThreeBody
from .type_embedding import TypeEmbedding


class DPA1(nn.Module):
    """Attention over the neighbors of one atom, no message passing.

    References
    ----------
    https://doi.org/10.1038/s41524-024-01278-7
    """

    def __init__(self, config: DPA1Config, type_map: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.type_embedding = TypeEmbedding(
            type_map, config.tebd_dim, econf=config.use_econf_tebd, bias=config.use_tebd_bias
        )
        self.se_atten = SeAtten(config.block, len(type_map))
        self.width = self.se_atten.width + config.tebd_dim * config.concat_output_tebd
        self.equivariant_width = config.neuron[-1]

    def forward(self, graph: AtomicGraph) -> BlockOutput:
        """Representation (N, C) and equivariant vectors (N, M, 3)."""
        type_embedding = self.type_embedding()
        output = self.se_atten(graph, type_embedding)
        return _with_types(output, graph, type_embedding) if self.config.concat_output_tebd else output


class DPA2(nn.Module):
    """An initializer (``repinit``, three-body terms) followed by message passing (``repformer``).

    References
    ----------
    https://doi.org/10.1038/s41524-024-01493-2
    """

    def __init__(self, config: DPA2Config, type_map: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        n_types, width = len(type_map), config.repformer.g1_dim
        self.type_embedding = TypeEmbedding(
            type_map, config.tebd_dim, econf=config.use_econf_tebd, bias=config.use_tebd_bias
        )
        self.repinit = SeAtten(config.block, n_types)
        self.three_body = ThreeBody(config.three_body, n_types) if config.three_body else None
        initial = self.repinit.width + (self.three_body.width if self.three_body else 0)
        self.to_node = Dense(initial, width, bias=False) if initial != width else None
        self.type_to_node = Dense(config.tebd_dim, width, bias=False) if config.add_tebd_to_repinit_out else None
        self.repformer = Repformer(
            config.repformer,
            n_types,
            smooth=config.smooth,
            exclude_types=config.exclude_types,
            env_protection=config.env_protection,
        )
        self.width = width + config.tebd_dim * config.concat_output_tebd
        self.equivariant_width = config.repformer.g2_dim

    def forward(self, graph: AtomicGraph) -> BlockOutput:
        """Representation (N, C) and equivariant vectors (N, M, 3)."""
        type_embedding = self.type_embedding()
        output = self.repformer(graph, self.initial(graph, type_embedding))
        return _with_types(output, graph, type_embedding) if self.config.concat_output_tebd else output

    def initial(self, graph: AtomicGraph, type_embedding: Tensor) -> Tensor:
        """What message passing starts from (N, G): the blocks of `initializer` brought to the repformer's width."""
        node = self.initializer(graph, type_embedding)
        if self.to_node is not None:
            node = self.to_node(node)
        if self.type_to_node is not None:
            node = node + self.type_to_node(type_embedding)[graph.types]
        return node

    def initializer(self, graph: AtomicGraph, type_embedding: Tensor) -> Tensor:
        """Outputs of ``repinit`` and, behind them, of the three-body terms (N, I)."""
        node = self.repinit(graph, type_embedding).node
        if self.three_body is None:
            return node
        return torch.cat([node, self.three_body(graph, type_embedding)], dim=1)


def _with_types(output: BlockOutput, graph: AtomicGraph, type_embedding: Tensor) -> BlockOutput:
    return BlockOutput(torch.cat([output.node, type_embedding[graph.types]], dim=1), output.equivariant)


def make_descriptor(config: DPA1Config | DPA2Config, type_map: Sequence[str]) -> DPA1 | DPA2:
    """The descriptor a configuration asks for, with random weights in its precision."""
    descriptor = DPA1(config, type_map) if isinstance(config, DPA1Config) else DPA2(config, type_map)
    return descriptor.to(getattr(torch, config.precision))

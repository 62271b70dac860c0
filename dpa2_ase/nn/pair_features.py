"""Features of a pair from one scalar and the types of its members."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import SeAttenConfig, ThreeBodyConfig
from .layers import embedding_net


class PairFeatures(nn.Module):
    r"""Embed a scalar x of a pair together with the types of its two members.

    .. math::
        g = N([x, T_1, T_2]) \;\text{(concat)}, \qquad g = N(x) \odot (1 + w\,N_t([T_1, T_2])) \;\text{(strip)}

    Parameters
    ----------
    config
        Of the block: ``neuron`` are the widths of both nets, the last the number of features C; ``tebd_input_mode`` is
        one of the forms above; ``tebd_dim`` the width of one type embedding T; ``smooth`` keeps the switch w in the
        strip form, otherwise it is one.
    one_side
        Leave T_2 out.
    """

    def __init__(self, config: SeAttenConfig | ThreeBodyConfig, *, one_side: bool = False) -> None:
        super().__init__()
        n_types_in = config.tebd_dim if one_side else 2 * config.tebd_dim
        strip = config.tebd_input_mode == "strip"
        options = config.neuron, config.activation_function, config.resnet_dt
        self.one_side, self.smooth = one_side, config.smooth
        self.net: nn.Module = embedding_net(1 if strip else 1 + n_types_in, *options)
        self.type_net = embedding_net(n_types_in, *options) if strip else None

    def forward(self, x: Tensor, first: Tensor, second: Tensor, type_embedding: Tensor, switch: Tensor) -> Tensor:
        """Features (..., C) of pairs with scalar `x` (...), types `first` and `second` (...), and `switch` (...)."""
        if self.type_net is None:
            return self.net(torch.cat([x.unsqueeze(-1), self.type_rows(first, second, type_embedding)], dim=-1))
        # evaluated once per kind of pair: there are few of them
        n_types = len(type_embedding)
        kinds, kind = torch.unique(first * n_types + second, return_inverse=True)
        factor = self.type_net(self.type_rows(kinds // n_types, kinds % n_types, type_embedding))[kind]
        if self.smooth:
            factor = switch.unsqueeze(-1) * factor
        return self.net(x.unsqueeze(-1)) * (1 + factor)

    def type_rows(self, first: Tensor, second: Tensor, type_embedding: Tensor) -> Tensor:
        """What the nets see of the types `first` and `second` (...), shape (..., tebd_dim) or twice that."""
        rows = type_embedding[first]
        return rows if self.one_side else torch.cat([rows, type_embedding[second]], dim=-1)

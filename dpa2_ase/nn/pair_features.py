"""Features of a pair from one scalar and the types of its members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .layers import embedding_net


class PairFeatures(nn.Module):
    r"""Embed a scalar x of a pair together with the types of its two members.

    .. math::
        g = N([x, T_1, T_2]) \;\text{(concat)}, \qquad g = N(x) \odot (1 + w\,N_t([T_1, T_2])) \;\text{(strip)}

    Parameters
    ----------
    neuron
        Widths of both nets; the last is the number of features C.
    mode
        ``concat`` or ``strip``, see above.
    tebd_dim
        Width of one type embedding T.
    one_side
        Leave T_2 out.
    smooth
        Keep the switch w in the strip form; otherwise it is one.
    """

    def __init__(  # noqa: PLR0913  # the options of the trained nets
        self,
        neuron: Sequence[int],
        mode: Literal["concat", "strip"],
        tebd_dim: int,
        *,
        activation: str,
        timestep: bool,
        one_side: bool = False,
        smooth: bool = True,
    ) -> None:
        super().__init__()
        n_types_in = tebd_dim if one_side else 2 * tebd_dim
        self.one_side, self.smooth = one_side, smooth
        self.net: nn.Module = embedding_net(1 if mode == "strip" else 1 + n_types_in, neuron, activation, timestep)
        self.type_net = embedding_net(n_types_in, neuron, activation, timestep) if mode == "strip" else None

    def forward(self, x: Tensor, first: Tensor, second: Tensor, type_embedding: Tensor, switch: Tensor) -> Tensor:
        """Features (..., C) of pairs with scalar `x` (...), types `first` and `second` (...), and `switch` (...)."""
        if self.type_net is None:
            return self.net(torch.cat([x.unsqueeze(-1), self._types(first, second, type_embedding)], dim=-1))
        # evaluated once per kind of pair: there are few of them
        n_types = len(type_embedding)
        kinds, kind = torch.unique(first * n_types + second, return_inverse=True)
        factor = self.type_net(self._types(kinds // n_types, kinds % n_types, type_embedding))[kind]
        if self.smooth:
            factor = switch.unsqueeze(-1) * factor
        return self.net(x.unsqueeze(-1)) * (1 + factor)

    def _types(self, first: Tensor, second: Tensor, type_embedding: Tensor) -> Tensor:
        rows = type_embedding[first]
        return rows if self.one_side else torch.cat([rows, type_embedding[second]], dim=-1)

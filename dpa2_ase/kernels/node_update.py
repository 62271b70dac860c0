"""The dense part of a repformer layer on atoms: from the sums over neighbors to the new channel, and by hand back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import RepformerConfig
from .aggregation import Sums
from .folding import FoldedLayer
from .scratch import ElementWise, Scratch

CHUNK = 256  # atoms at a time; the widest temporary array has some hundred numbers for each


@dataclass(frozen=True)
class SavedUpdates:
    """What the way back needs of the two activations, (N, G) each."""

    own: Tensor | None
    joined: Tensor

    def part(self, rows: slice) -> SavedUpdates:
        """Some atoms of it."""
        return SavedUpdates(None if self.own is None else self.own[rows], self.joined[rows])


class NodeUpdate:
    """The update of the atom channel x in one layer."""

    def __init__(self, folded: FoldedLayer, config: RepformerConfig, activation: ElementWise, scratch: Scratch) -> None:
        self._folded, self._activation, self._scratch = folded, activation, scratch
        self._axis = config.axis_neuron
        parts = [  # inputs of the joined update, in the order of the reference
            ("node", config.g1_dim, not config.g1_out_mlp),
            ("conv", config.g2_dim, folded.conv is not None and folded.conv_scale is None),
            ("edge_moment", self._axis * config.g2_dim, config.update_g1_has_grrg),
            ("node_moment", self._axis * config.g1_dim, config.update_g1_has_drrd),
        ]
        present = [(name, width) for name, width, is_present in parts if is_present]
        weights = folded.node_weight.split([width for _, width in present])
        self._parts = {name: weight for (name, _), weight in zip(present, weights, strict=True)}

    @staticmethod
    def _chunks(n_atoms: int) -> list[slice]:
        return [slice(start, min(start + CHUNK, n_atoms)) for start in range(0, n_atoms, CHUNK)]

    def forward(self, node: Tensor, sums: Sums) -> tuple[Tensor, SavedUpdates]:
        """New channel (N, G)."""
        new = torch.empty_like(node)
        own = None if self._folded.self_weight is None else torch.empty_like(node)
        saved = SavedUpdates(own, torch.empty_like(node))
        for rows in self._chunks(len(node)):
            self._forward_rows(node[rows], sums.part(rows), saved.part(rows), new[rows])
        return new, saved

    def _forward_rows(self, x: Tensor, sums: Sums, saved: SavedUpdates, out: Tensor) -> None:
        folded = self._folded
        argument = saved.joined.copy_(folded.node_bias.expand_as(x))
        for name, weight in self._parts.items():
            argument.addmm_(self._input(name, x, sums), weight)
        value, _ = self._activation.apply_(argument)
        torch.addcmul(x if folded.node_old == 1 else x * folded.node_old, value, folded.node_scale, out=out)
        if folded.self_weight is not None and folded.self_scale is not None and saved.own is not None:
            assert folded.self_bias is not None
            value, _ = self._activation.apply_(torch.addmm(folded.self_bias, x, folded.self_weight, out=saved.own))
            out.addcmul_(value, folded.self_scale)
        if folded.conv_scale is not None and sums.conv is not None:
            out.addcmul_(sums.conv, folded.conv_scale)

    def _input(self, name: str, x: Tensor, sums: Sums) -> Tensor:
        """One part of the joined update's input; moments M (rows, 3, d) are symmetrized to M[:, :A]ᵀ M."""
        if name == "node":
            return x
        values: Tensor = getattr(sums, name)
        if values.ndim == 2:
            return values
        invariants = self._scratch("invariants", len(x), self._axis, values.shape[2])
        return torch.bmm(values[:, :, : self._axis].mT, values, out=invariants).flatten(1)

    def backward(self, sums: Sums, saved: SavedUpdates, gradient: Tensor) -> tuple[Tensor, Sums]:
        """Gradients of x (N, G), neighbors aside, and of `sums`, from that of the new channel."""
        d_node, d_sums = torch.empty_like(gradient), sums.zeros_like()
        for rows in self._chunks(len(gradient)):
            some, d_some = (x.part(rows) for x in (sums, d_sums))
            self._backward_rows(some, saved.part(rows), gradient[rows], d_node[rows], d_some)
        return d_node, d_sums

    def _backward_rows(self, sums: Sums, saved: SavedUpdates, gradient: Tensor, d_node: Tensor, d_sums: Sums) -> None:
        folded = self._folded
        scaled = torch.mul(gradient, folded.node_scale, out=self._scratch("scaled", *gradient.shape))
        d_argument = self._activation.pull_back(saved.joined, scaled, self._scratch)
        torch.mul(gradient, folded.node_old, out=d_node)
        for name, weight in self._parts.items():
            if name == "node":
                d_node.addmm_(d_argument, weight.T)
            elif name == "conv":
                torch.mm(d_argument, weight.T, out=getattr(d_sums, name))
            else:
                d_invariants = self._scratch("invariants", len(gradient), len(weight))
                torch.mm(d_argument, weight.T, out=d_invariants)
                self._symmetrized_back(getattr(sums, name), d_invariants, getattr(d_sums, name))
        if folded.self_weight is not None and folded.self_scale is not None and saved.own is not None:
            torch.mul(gradient, folded.self_scale, out=scaled)
            d_node.addmm_(self._activation.pull_back(saved.own, scaled, self._scratch), folded.self_weight.T)
        if folded.conv_scale is not None and d_sums.conv is not None:
            torch.mul(gradient, folded.conv_scale, out=d_sums.conv)

    def _symmetrized_back(self, moment: Tensor, gradient: Tensor, out: Tensor) -> None:
        """Gradient of a moment M (rows, 3, d) from that of M[:, :A]ᵀ M."""
        gradient = gradient.view(gradient.shape[0], self._axis, -1)
        torch.bmm(moment[:, :, : self._axis], gradient, out=out)
        out[:, :, : self._axis].add_(torch.bmm(moment, gradient.mT))  # `baddbmm_` into a part goes matrix by matrix

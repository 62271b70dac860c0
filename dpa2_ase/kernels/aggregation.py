"""Sums over neighbors in a repformer layer, tile by tile, and by hand their derivatives.

Letters: B atoms of a tile, n slots of each, Z slots of all tiles, N atoms, G and P channels of atoms and pairs.
Convolution and atom moments are one product: with J (B, n, G) the atom channel x of the neighbors,
F = [ω g | ω h] (B, n, P + 3) and X = Fᵀ J, the convolution is the sum of W ⊙ X over the first P rows, and the moment
of x is the other three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import RepformerConfig
from .folding import FoldedLayer, aligned
from .scratch import Scratch
from .tiles import Tile, Tiling, of_tile


@dataclass(frozen=True)
class Slots:
    """Geometry of all slots, zero where there is no edge."""

    tiling: Tiling
    direction: Tensor  # h (Z, 3)
    weight: Tensor  # ω (Z, 1) switch, or one where the model is not smooth
    weighted_direction: Tensor  # ω h (Z, 3)
    mean: Tensor  # (N, 1) factor of convolutions
    moment: Tensor  # (N, 1, 1) factor of moments
    scratch: Scratch


@dataclass(frozen=True)
class Channels:
    """What a layer reads."""

    edge: Tensor  # (Z, P), or more columns
    node: Tensor  # (N, G)
    sent: Tensor  # (N, P) what neighbors send where the convolution is an input of the update, else (N, 0)


@dataclass(frozen=True)
class NodeGradient:
    """Gradients of the atoms of `Channels`."""

    node: Tensor
    sent: Tensor


@dataclass(frozen=True)
class EdgeGradient:
    """Gradients of a tile that grow from layer to layer."""

    edge: Tensor  # (B, n, P), or more columns
    weight: Tensor  # (B, n)
    weighted_direction: Tensor  # (B, n, 3)


@dataclass(frozen=True)
class Sums:
    """Sums over neighbors with their factors, or the gradients of the sums without; what a layer lacks is ``None``."""

    edge_moment: Tensor | None  # (N, 3, P)
    node_moment: Tensor | None  # (N, 3, G)
    conv: Tensor | None  # (N, G), or (N, P) where it is an input of the update

    def part(self, rows: slice) -> Sums:
        """The sums of some atoms."""
        return self._each(lambda values: values[rows])

    def zeros_like(self) -> Sums:
        """Zeros of the same shapes."""
        return self._each(torch.zeros_like)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Sums:
        parts = self.edge_moment, self.node_moment, self.conv
        return Sums(*(None if part is None else function(part) for part in parts))

    def scale_(self, mean: Tensor, moment: Tensor) -> None:
        """Multiply by the factors of convolutions (N, 1) and of moments (N, 1, 1)."""
        if self.conv is not None:
            self.conv.mul_(mean)
        for moments in (self.edge_moment, self.node_moment):
            if moments is not None:
                moments.mul_(moment)


class Aggregation:
    """The sums of one layer."""

    def __init__(self, folded: FoldedLayer, config: RepformerConfig, slots: Slots, *, is_last: bool) -> None:
        self._slots, self._scratch = slots, slots.scratch
        self._conv, self._adds_conv = folded.conv, folded.conv_scale is not None
        self._has_edge_moment = config.update_g1_has_grrg or is_last  # the last one is an output of the block
        self._edge, self._node = config.g2_dim, config.g1_dim
        self._of_edge = slice(0, self._edge * self._adds_conv)  # columns of F, rows of X
        self._of_direction = slice(self._of_edge.stop, self._of_edge.stop + 3 * config.update_g1_has_drrd)
        self._rows = aligned(self._of_direction.stop, slots.direction)

    @property
    def _is_input(self) -> bool:
        return self._conv is not None and not self._adds_conv

    @property
    def _has_node_moment(self) -> bool:
        return self._of_direction.stop > self._of_direction.start

    def channels(self, edge: Tensor, node: Tensor) -> Channels:
        """With what the atoms send."""
        return Channels(edge, node, node @ self._conv if self._is_input and self._conv is not None else node[:, :0])

    def forward(self, channels: Channels) -> Sums:
        """The sums of all atoms."""
        node, n_atoms = channels.node, channels.node.shape[0]
        sums = Sums(
            node.new_empty(n_atoms, 3, self._edge) if self._has_edge_moment else None,
            node.new_empty(n_atoms, 3, self._node) if self._has_node_moment else None,
            None if self._conv is None else node.new_empty(n_atoms, self._node if self._adds_conv else self._edge),
        )
        for tile in self._slots.tiling.tiles:
            self._sum_tile(tile, channels, sums)
        sums.scale_(self._slots.mean, self._slots.moment)
        return sums

    def _sum_tile(self, tile: Tile, channels: Channels, sums: Sums) -> None:
        g, atoms = self._edges(tile, channels), tile.atoms
        if sums.edge_moment is not None:
            torch.bmm(of_tile(self._slots.weighted_direction, tile).mT, g, out=sums.edge_moment[atoms])
        if self._rows:
            product = self._scratch("product", tile.n_atoms, self._rows, self._node)
            torch.bmm(self._factors(tile, g).mT, self._neighbors(tile, channels.node), out=product)
            if sums.node_moment is not None:
                sums.node_moment[atoms] = product[:, self._of_direction]
            if self._adds_conv and self._conv is not None and sums.conv is not None:
                torch.sum(product[:, self._of_edge].mul_(self._conv), 1, out=sums.conv[atoms])
        if self._is_input and sums.conv is not None:
            weighted = self._neighbors(tile, channels.sent).mul_(g)
            torch.sum(weighted.mul_(of_tile(self._slots.weight, tile)), 1, out=sums.conv[atoms])

    def send_back(self, channels: Channels, gradient: Sums, target: NodeGradient) -> None:
        """Add to `target` what the sums say of the neighbors, tile by tile in a fixed order."""
        for tile in self._slots.tiling.tiles:
            g, neighbor = self._edges(tile, channels), self._slots.tiling.neighbor[tile.slots]
            if self._rows:
                messages = self._scratch("neighbors", tile.n_atoms, tile.width, self._node)
                torch.bmm(self._factors(tile, g), self._d_product(tile, gradient), out=messages)
                target.node.index_add_(0, neighbor, messages.flatten(0, 1))
            if self._is_input and gradient.conv is not None:
                weighted = g * of_tile(self._slots.weight, tile) * gradient.conv[tile.atoms, None]
                target.sent.index_add_(0, neighbor, weighted.flatten(0, 1))
        if self._is_input and self._conv is not None:
            target.node.addmm_(target.sent, self._conv.T)

    def backward(self, tile: Tile, channels: Channels, gradient: Sums, found: EdgeGradient) -> None:
        """Add to `found` what the sums of the tile's atoms say of their edges."""
        g = self._edges(tile, channels)
        if self._rows:
            d_factors = self._scratch("factors", tile.n_atoms, tile.width, self._rows)
            torch.bmm(self._neighbors(tile, channels.node), self._d_product(tile, gradient).mT, out=d_factors)
            if self._adds_conv:
                self._add_weighted(d_factors[..., self._of_edge], g, tile, found)
            if self._has_node_moment:
                found.weighted_direction.add_(d_factors[..., self._of_direction])
        if self._is_input and gradient.conv is not None:
            received = self._neighbors(tile, channels.sent)
            self._add_weighted(received.mul_(gradient.conv[tile.atoms, None]), g, tile, found)
        if gradient.edge_moment is not None:
            d_moment = gradient.edge_moment[tile.atoms]
            found.edge[..., : self._edge].add_(torch.bmm(of_tile(self._slots.weighted_direction, tile), d_moment))
            found.weighted_direction.add_(torch.bmm(g, d_moment.mT))

    def _add_weighted(self, gradient: Tensor, g: Tensor, tile: Tile, found: EdgeGradient) -> None:
        """From the gradient (B, n, P) of ω g."""
        found.edge[..., : self._edge].addcmul_(gradient, of_tile(self._slots.weight, tile))
        product = torch.mul(gradient, g, out=self._scratch("weighted", *g.shape))
        found.weight.add_(product.sum(-1))

    def _edges(self, tile: Tile, channels: Channels) -> Tensor:
        return of_tile(channels.edge, tile)[..., : self._edge]

    def _factors(self, tile: Tile, g: Tensor) -> Tensor:
        factors = self._scratch("factors", tile.n_atoms, tile.width, self._rows)
        if self._adds_conv:
            torch.mul(g, of_tile(self._slots.weight, tile), out=factors[..., self._of_edge])
        if self._has_node_moment:
            factors[..., self._of_direction] = of_tile(self._slots.weighted_direction, tile)
        factors[..., self._of_direction.stop :] = 0
        return factors

    def _d_product(self, tile: Tile, gradient: Sums) -> Tensor:
        d_product = self._scratch("product", tile.n_atoms, self._rows, self._node)
        if self._adds_conv and gradient.conv is not None and self._conv is not None:
            torch.mul(self._conv, gradient.conv[tile.atoms, None], out=d_product[:, self._of_edge])
        if gradient.node_moment is not None:
            d_product[:, self._of_direction] = gradient.node_moment[tile.atoms]
        d_product[:, self._of_direction.stop :] = 0
        return d_product

    def _neighbors(self, tile: Tile, values: Tensor) -> Tensor:
        gathered = self._scratch("neighbors", tile.n_atoms * tile.width, values.shape[1])
        torch.index_select(values, 0, self._slots.tiling.neighbor[tile.slots], out=gathered)
        return gathered.view(tile.n_atoms, tile.width, -1)

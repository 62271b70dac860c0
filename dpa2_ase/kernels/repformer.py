"""A fast twin of the repformer: folded weights, neighborhoods in tiles, derivatives by hand.

Where no update of the pair channel reads the atom channel, all layers of the pair channel depend on one neighborhood
alone. They are evaluated tile by tile while the tile is in the cache (`pair_tower`); the atom channel follows, layer by
layer over all tiles (`aggregation`, `node_update`). The way back is the same in reverse: first the atom channel, then
every tile through all its layers. Kept for it are the pair channel and the sums of every layer; softmaxes are computed
again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's usual name

from ..graph import AtomicGraph, Neighborhood, neighborhood
from ..nn.repformer import Repformer
from ..nn.se_atten import BlockOutput
from .aggregation import Aggregation, Channels, EdgeGradient, NodeGradient, Slots, Sums
from .backward import first_derivatives
from .environment import edge_environment
from .folding import FoldedRepformer, aligned, constants
from .node_update import NodeUpdate, SavedUpdates
from .pair_tower import Normalized, TowerLayer
from .pair_weights import AttentionForm, PairWeights
from .scratch import ElementWise, Scratch
from .tiles import Tile, make_tiling, of_tile, pairs_per_tile

KEPT_BYTES = 1 << 29  # outputs of the pair attentions are kept for the way back if they are not larger


class FusedRepformer(nn.Module):
    """The repformer where updates of pairs do not read atoms; `forward` as in `Repformer`, first derivatives only."""

    excluded: Tensor

    def __init__(self, reference: Repformer, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.smooth = reference.config, reference.smooth
        self.environment, self.activation = reference.environment, reference.activation
        self.register_buffer("excluded", reference.excluded, persistent=False)
        self.folded = constants(reference, dtype)
        self.tower = Tower(self.folded)

    @classmethod
    def obstacle(cls, reference: Repformer) -> str | None:
        """Why this model cannot have this twin, or ``None`` if it can."""
        config = reference.config
        options = {
            "update_g1_has_attn": config.update_g1_has_attn,
            "update_g2_has_g1g1": config.update_g2_has_g1g1 and config.nlayers > 1,
            "update_h2": config.update_h2 and config.nlayers > 1,
        }
        used = [name for name, value in options.items() if value]
        return f"the repformer uses {' and '.join(used)}" if used else None

    @classmethod
    def from_reference(cls, reference: Repformer, dtype: torch.dtype) -> FusedRepformer:
        """Fold the weights of `reference`; the twin computes in `dtype`, the geometry in the precision it is given."""
        found = cls.obstacle(reference)
        if found is not None:
            raise ValueError(f"no fast twin: {found}")
        return cls(reference, dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> FusedRepformer:
        super()._apply(fn, recurse)
        self.folded = self.folded.apply(fn)
        self.tower = Tower(self.folded)
        return self

    def forward(self, graph: AtomicGraph, node: Tensor) -> BlockOutput:
        """Refine `node` (N, G); the equivariant output is the moment of the pair channel, (N, P, 3)."""
        hood = neighborhood(graph, self.config.rcut, self.config.nsel, self.excluded)
        env = edge_environment(self.environment, hood.graph)
        radial, direction = env.env[:, 0], env.env[:, 1:]
        if self.config.direct_dist:
            scaled = torch.cat([hood.graph.distances[:, None], hood.graph.vectors], dim=1) / self.config.rcut
            radial, direction = scaled[:, 0], scaled[:, 1:]
        dtype = self.folded.embedding_weight.dtype
        inputs = (x.to(dtype) for x in (self.activation(node), radial, direction, env.switch))
        refined, moment = _Block.apply(*inputs, self, hood)
        return BlockOutput(refined.to(node.dtype), moment.mT.to(node.dtype))


class Tower:
    """The pair channel of all layers on one tile: its embedding and its updates."""

    def __init__(self, folded: FoldedRepformer) -> None:
        own = len(folded.embedding_weight)
        self.width = aligned(own, folded.embedding_weight)
        more = self.width - own
        self._weight, self._bias = (F.pad(x, (0, more)) for x in (folded.embedding_weight, folded.embedding_bias))
        self._activation = ElementWise(folded.activation)
        self.layers = [TowerLayer(layer, self._activation, self.width) for layer in folded.layers[:-1]]

    def embed(self, radial: Tensor) -> Tensor:
        """The channel (B·n, P) before the first layer."""
        value, _ = self._activation.apply_(self._argument(radial))
        return value

    def embed_back(self, radial: Tensor, gradient: Tensor, scratch: Scratch) -> Tensor:
        """Gradient of `radial` (B·n,) from that of its embedding."""
        _, saved = self._activation.apply_(self._argument(radial))
        return self._activation.pull_back(saved, gradient, scratch) @ self._weight

    def _argument(self, radial: Tensor) -> Tensor:
        return torch.addcmul(self._bias, radial[:, None], self._weight)


@dataclass
class _Saved:
    """What the way back needs, in the order of the tiles; nothing of it is ever overwritten."""

    radial: Tensor  # (Z,)
    edge: list[Tensor] = field(default_factory=list)  # pair channel before every layer, (Z, P)
    normalized: list[Normalized] = field(default_factory=list)  # of every pair attention
    channels: list[Channels] = field(default_factory=list)
    sums: list[Sums] = field(default_factory=list)
    updates: list[SavedUpdates] = field(default_factory=list)


class _Layers:
    """The layers of one call, the geometry they share, and the ways there and back."""

    def __init__(self, twin: FusedRepformer, hood: Neighborhood, direction: Tensor, switch: Tensor) -> None:
        config, layers = twin.config, twin.folded.layers
        self.tower, self.smooth = twin.tower, twin.smooth
        heads = layers[0].n_heads
        self._form = AttentionForm(heads, config.attn2_has_gate, True, twin.smooth, hood.nsel) if heads else None
        self.slots = _slots(twin, hood, direction, switch)
        self.sums = [Aggregation(layer, config, self.slots, is_last=layer is layers[-1]) for layer in layers]
        activation = ElementWise(twin.folded.activation)
        self.updates = [NodeUpdate(layer, config, activation, self.slots.scratch) for layer in layers]

    def _pair_weights(self, tile: Tile) -> PairWeights | None:
        slots = self.slots
        if self._form is None:
            return None
        weight = of_tile(slots.weight, tile).squeeze(2)
        return PairWeights(self._form, of_tile(slots.direction, tile), weight, slots.scratch)

    def raise_tower(self, saved: _Saved) -> None:
        """The pair channel of all layers, tile by tile."""
        radial, tower = saved.radial, self.tower
        n_numbers = len(tower.layers) * len(radial) * (tower.width + 1)
        saved.edge.extend(radial.new_empty(len(radial), tower.width) for _ in self.sums)
        if self._form is not None and n_numbers * radial.element_size() <= KEPT_BYTES:
            shapes = (len(radial), tower.width), (len(radial), 1)
            saved.normalized.extend(Normalized(*(radial.new_empty(s) for s in shapes)) for _ in tower.layers)
        for tile in self.slots.tiling.tiles:
            saved.edge[0][tile.slots] = tower.embed(radial[tile.slots])
            weights = self._pair_weights(tile)
            for index, layer in enumerate(tower.layers):
                old, new = (of_tile(saved.edge[k], tile) for k in (index, index + 1))
                layer.forward(old, weights, _normalized(saved, index, tile), new, self.slots.scratch)

    def descend_nodes(self, saved: _Saved, d_node: Tensor, d_moment: Tensor | None) -> tuple[Tensor, list[Sums]]:
        """Gradient of the atom channel before the first layer, and of the sums of all layers."""
        found: list[Sums] = []
        for aggregation, update, channels, sums, kept in reversed(
            list(zip(self.sums, self.updates, saved.channels, saved.sums, saved.updates, strict=True))
        ):
            d_node, d_sums = update.backward(sums, kept, d_node)
            if d_moment is not None and d_sums.edge_moment is not None and not found:
                d_sums.edge_moment.add_(d_moment)
            d_sums.scale_(self.slots.mean, self.slots.moment)
            aggregation.send_back(channels, d_sums, NodeGradient(d_node, torch.zeros_like(channels.sent)))
            found.append(d_sums)
        return d_node, found[::-1]

    def descend_tower(self, saved: _Saved, d_sums: list[Sums]) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of radial (Z,), direction (Z, 3) and weight (Z,)."""
        d_radial, d_direction = torch.empty_like(saved.radial), torch.empty_like(self.slots.direction)
        d_weight = torch.zeros_like(self.slots.weight[:, 0])
        for tile in self.slots.tiling.tiles:
            found = self._descend_tile(saved, d_sums, tile, d_weight)
            radial, gradient = saved.radial[tile.slots], found.edge.flatten(0, 1)
            d_radial[tile.slots] = self.tower.embed_back(radial, gradient, self.slots.scratch)
            of_tile(d_direction, tile).copy_(found.weighted_direction)
        return d_radial, d_direction, d_weight

    def _descend_tile(self, saved: _Saved, d_sums: list[Sums], tile: Tile, d_weight: Tensor) -> EdgeGradient:
        """Gradients of the embedding, the weight and, in the place of ω h, the direction h."""
        scratch, shape = self.slots.scratch, (tile.n_atoms, tile.width)
        weighted = scratch("d_direction", *shape, 3).zero_()
        edges = scratch("d_edge", len(self.sums), *shape, self.tower.width).zero_()
        for index, aggregation in enumerate(self.sums):  # together, while their temporary arrays are in the cache
            found = EdgeGradient(edges[index], of_tile(d_weight, tile), weighted)
            aggregation.backward(tile, saved.channels[index], d_sums[index], found)
        weights = self._pair_weights(tile)
        if weights is not None:
            weights.start_gradients()
        gradient = edges[-1]
        for index in reversed(range(len(self.tower.layers))):
            old, norm = of_tile(saved.edge[index], tile), _normalized(saved, index, tile)
            self.tower.layers[index].backward_(old, weights, norm, gradient, scratch)
            gradient.add_(edges[index])
        found = EdgeGradient(gradient, of_tile(d_weight, tile), weighted)
        found.weight.add_((found.weighted_direction * of_tile(self.slots.direction, tile)).sum(-1))
        found.weighted_direction.mul_(of_tile(self.slots.weight, tile))
        if weights is not None:
            of_direction, of_weight = weights.finish_gradients()
            if of_direction is not None:
                found.weighted_direction.add_(of_direction)
            if of_weight is not None:
                found.weight.add_(of_weight)
        return found


def _slots(twin: FusedRepformer, hood: Neighborhood, direction: Tensor, switch: Tensor) -> Slots:
    heads = twin.folded.layers[0].n_heads
    tiling = make_tiling(hood.graph, pairs_per_tile(direction, max(heads, 4)))
    degree = tiling.sort(hood.graph.degree).to(direction)
    power = 0.5 if twin.config.use_sqrt_nnei else 1.0
    if twin.smooth:
        size = torch.full_like(degree, hood.nsel)
        weight, mean, moment = tiling.spread(switch[:, None]), 1 / size, 1 / size**power
    else:
        weight = tiling.spread(torch.ones_like(switch)[:, None])
        mean, moment = 1 / (1e-4 + degree), 1 / (1e-4 + degree**power)
    spread = tiling.spread(direction)
    return Slots(tiling, spread, weight, weight * spread, mean[:, None], moment[:, None, None], Scratch(direction))


def _normalized(saved: _Saved, index: int, tile: Tile) -> Normalized | None:
    if not saved.normalized:
        return None
    whole = saved.normalized[index]
    return Normalized(whole.values[tile.slots], whole.inverse_std[tile.slots])


class _Block(torch.autograd.Function):
    """All layers; inputs x (N, G) after the first activation, radial (E,), direction (E, 3), switch (E,)."""

    @staticmethod
    def forward(  # noqa: PLR0913  # the inputs of the block
        ctx: Any,
        node: Tensor,
        radial: Tensor,
        direction: Tensor,
        switch: Tensor,
        twin: FusedRepformer,
        hood: Neighborhood,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        layers = _Layers(twin, hood, direction, switch)
        tiling = layers.slots.tiling
        saved = _Saved(tiling.spread(radial))
        layers.raise_tower(saved)
        x = tiling.sort(node)
        for aggregation, update, edge in zip(layers.sums, layers.updates, saved.edge, strict=True):
            saved.channels.append(aggregation.channels(edge, x))
            saved.sums.append(aggregation.forward(saved.channels[-1]))
            x, kept = update.forward(x, saved.sums[-1])
            saved.updates.append(kept)
        ctx.layers, ctx.saved = layers, saved
        moment = saved.sums[-1].edge_moment
        assert moment is not None  # the last layer always has it
        return tiling.unsort(x), tiling.unsort(moment)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, d_node: Tensor | None, d_moment: Tensor | None) -> tuple[Tensor | None, ...]:
        layers, saved = ctx.layers, ctx.saved
        tiling = layers.slots.tiling
        d_node = torch.zeros_like(saved.channels[-1].node) if d_node is None else tiling.sort(d_node)
        d_moment = None if d_moment is None else tiling.sort(d_moment)
        d_node, d_sums = layers.descend_nodes(saved, d_node, d_moment)
        d_radial, d_direction, d_weight = layers.descend_tower(saved, d_sums)
        pick = tiling.slot
        d_switch = d_weight[pick] if layers.smooth else None
        return tiling.unsort(d_node), d_radial[pick], d_direction[pick], d_switch, None, None

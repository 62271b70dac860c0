"""Energies by several heads of one descriptor, without derivatives: their fitting nets in as few operations as go.

A head alone is a dozen operations on short arrays, and as many calls. All heads together are one matrix product per
layer, or one compiled call per layer and head on memory that is reused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..graph import AtomicGraph
from ..nn.atomic_models import StandardModel
from ..nn.fitting import Fitting
from ..nn.layers import Dense
from ..nn.se_atten import BlockOutput
from .cpu.dense import CompiledFitting, Layer
from .fitting import ATOMS_AT_ONCE, EagerFitting

Parameters = tuple[Tensor | None, Tensor | None]  # of structures (S, F) and of atoms (N, A)
Nets = Callable[[Tensor], Tensor]  # from inputs (N, I) of all heads, or (H, N, I) of each, to outputs (H, N)


class HeadEnergies:
    """Atomic energies of several heads from one representation.

    Parameters
    ----------
    models
        Energy models of accelerated potentials that share a descriptor; letters: H of them.
    """

    def __init__(self, models: Sequence[StandardModel]) -> None:
        modules: list[nn.Module] = [model.fitting for model in models]
        self._fittings = [_reference(module) for module in modules]
        shapes = [(type(m), _shape(f)) for m, f in zip(modules, self._fittings, strict=True)]
        self._parts = [  # heads whose nets are alike, by their numbers, and these nets
            (rows, _nets([modules[row] for row in rows]))
            for rows in ([r for r, shape in enumerate(shapes) if shape == kind] for kind in dict.fromkeys(shapes))
        ]
        self._bias = [fitting.bias_atom_e[:, 0] for fitting in self._fittings]  # each (T,), in the precision of its net
        self._out_bias = torch.stack([model.out_bias[:, 0] for model in models])  # (H, T)
        self._excluded = torch.stack([model.exclusions.excluded_atoms for model in models])  # (H, T)
        self._zero = torch.stack([bias.double() for bias in self._bias]) + self._out_bias

    def references(self, types: Tensor) -> Tensor:
        """Energies of free atoms (H, N), eV, of atoms with types (N,): what the heads count from."""
        return self._zero[:, types].masked_fill(self._excluded[:, types], 0.0)

    def __call__(self, output: BlockOutput, graph: AtomicGraph, parameters: Sequence[Parameters]) -> Tensor:
        """Atomic energies (H, N), eV, float64, as `StandardModel.contributions` of each head has them.

        Parameters
        ----------
        output
            Of the descriptor.
        parameters
            Frame and atomic parameters for each head.
        """
        energies = output.node.new_empty(len(self._fittings), graph.n_atoms, dtype=torch.float64)
        for rows, nets in self._parts:
            inputs = [self._fittings[row].parameter_inputs(graph, *parameters[row]) for row in rows]
            first = self._fittings[rows[0]]
            node = output.node.to(first.bias_atom_e.dtype)
            values = _in_pieces(nets, _joined(node, inputs))
            if first.config.subtracts_vacuum:
                values = values - _in_pieces(nets, _joined(torch.zeros_like(node), inputs))
            bias = torch.stack([self._bias[row] for row in rows])[:, graph.types]
            energies[rows] = (values + bias).double() + self._out_bias[rows][:, graph.types]
        return energies.masked_fill(self._excluded[:, graph.types], 0.0)


def _reference(module: nn.Module) -> Fitting:
    """What a twin was made from, in the precision that it computes in."""
    found = module.reference if isinstance(module, EagerFitting | CompiledFitting) else module
    assert isinstance(found, Fitting)  # other models have twins that are not known here
    return found


def _shape(fitting: Fitting) -> tuple[object, ...]:
    """Nets that agree in this are one batch."""
    config, dtype = fitting.config, fitting.bias_atom_e.dtype
    layers = tuple(layer.weight.shape for layer in fitting.net if isinstance(layer, Dense))
    return layers, config.activation_function, config.resnet_dt, config.subtracts_vacuum, dtype


def _joined(node: Tensor, inputs: Sequence[list[Tensor]]) -> Tensor:
    """Inputs of nets: the representations (N, C) for all where there is nothing else, or (H, N, I)."""
    if not any(inputs):
        return node
    return torch.stack([torch.cat([node, *parts], dim=1) for parts in inputs])


def _in_pieces(nets: Nets, x: Tensor) -> Tensor:
    """Outputs (H, N) with activations of some atoms at a time."""
    return torch.cat([nets(piece) for piece in x.split(ATOMS_AT_ONCE, dim=-2)], dim=1)


def _nets(modules: Sequence[nn.Module]) -> Nets:
    compiled = [module.layers for module in modules if isinstance(module, CompiledFitting)]
    if compiled:
        return CompiledNets(compiled)
    return BatchedNets([_reference(module) for module in modules])


class BatchedNets:
    """Nets of one shape as batches of matrix products."""

    def __init__(self, fittings: Sequence[Fitting]) -> None:
        nets = [[layer for layer in fitting.net if isinstance(layer, Dense)] for fitting in fittings]
        self._layers = [_Stack(layers) for layers in zip(*nets, strict=True)]

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (H, N) of inputs (N, I) or (H, N, I)."""
        x = x.expand(self._layers[0].weight.shape[0], *x.shape[-2:])
        for layer in self._layers:
            x = layer(x)
        return x.squeeze(-1)


class _Stack:
    """Dense layers of one shape, side by side."""

    def __init__(self, layers: Sequence[Dense]) -> None:
        self.first = layers[0]
        self.weight = torch.stack([layer.weight.detach() for layer in layers])  # (H, I, O)
        self.bias = _rows([layer.bias for layer in layers])
        self.timestep = _rows([layer.timestep for layer in layers])

    def __call__(self, x: Tensor) -> Tensor:
        """As `Dense`, of (H, N, I)."""
        y = torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias, x, self.weight)
        y = self.first.activation(y)
        if self.timestep is not None:
            y = y * self.timestep
        if self.first.copies == 1:
            return y + x
        return y + torch.cat([x, x], dim=-1) if self.first.copies else y


def _rows(vectors: Sequence[nn.Parameter | None]) -> Tensor | None:
    """Vectors (O,) of all heads as (H, 1, O); all have one or none has."""
    found = [vector.detach() for vector in vectors if vector is not None]
    return torch.stack(found)[:, None] if found else None


class CompiledNets:
    """Nets in compiled kernels, one after the other; all write to the same memory."""

    def __init__(self, nets: Sequence[list[Layer]]) -> None:
        self._nets = nets
        self._widest = max((layer.width for layers in nets for layer in layers[:-1]), default=0)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (H, N) of inputs (N, I) or (H, N, I)."""
        x = x.contiguous()
        n_atoms, each = x.shape[-2], x.ndim == 3  # heads, atoms, channels
        memory = x.new_empty(2, n_atoms * self._widest)
        out = x.new_empty(len(self._nets), n_atoms)
        for head, layers in enumerate(self._nets):
            source = x[head] if each else x
            for number, layer in enumerate(layers[:-1]):
                target = memory[number % 2]
                layer.write(n_atoms, source, target)
                source = target
            layers[-1].write(n_atoms, source, out[head])
        return out

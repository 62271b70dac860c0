"""The fast twin of the attention among neighbors against the reference: values and gradients, every option."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest
import torch
import zoo
from test_kernels_repformer import GRADIENTS, VALUES, graph_of, structures

from dpa2_ase.config import DPA1Config
from dpa2_ase.graph import AtomicGraph, neighborhood
from dpa2_ase.kernels.attention import FusedNeighborAttention
from dpa2_ase.model import differentiable
from dpa2_ase.nn.environment import Environment
from dpa2_ase.nn.se_atten import NeighborAttention
from dpa2_ase.ops import type_pair_mask

BASE = dataclasses.replace(
    DPA1Config(rcut=5.0, rcut_smth=2.0, sel=60, neuron=(3, 6, 12), attn=8).block, smooth=True, temperature=1.5
)


def random_layer(**options: object) -> NeighborAttention:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layer = NeighborAttention(dataclasses.replace(BASE, **options)).double()  # type: ignore[arg-type]
        for parameter in layer.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return layer.requires_grad_(False)


def evaluate(
    layer: torch.nn.Module, graph: AtomicGraph, dtype: torch.dtype, excluded: tuple[tuple[int, int], ...] = ()
) -> list[torch.Tensor]:
    """New features, and the gradients of a random combination of them with respect to vectors and features."""
    generator = torch.Generator().manual_seed(1)
    graph = differentiable(graph)
    hood = neighborhood(graph, BASE.rcut, BASE.nsel, type_pair_mask(excluded, 3))
    env = Environment(3, BASE.rcut_smth, BASE.rcut, 0.0).double()(hood.graph)
    shape = hood.graph.n_edges, BASE.neuron[-1]
    feature = torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    new = layer(feature, env, hood)
    weight = torch.randn(shape, dtype=torch.float64, generator=generator)
    gradients = torch.autograd.grad((weight * new).sum(), [graph.vectors, feature], allow_unused=True)
    found = [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, (graph.vectors, feature), strict=True)]
    return [new.detach(), *found]


def assert_agrees(found: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype) -> None:
    limits = VALUES[dtype], GRADIENTS[dtype], GRADIENTS[dtype]
    for x, y, limit in zip(found, expected, limits, strict=True):
        assert x.shape == y.shape
        if x.numel():  # what is zero by symmetry comes out as rounding of numbers around one
            assert (x - y).abs().max() <= limit * y.abs().max().clamp_min(0.01)


def assert_repeatable(twin: torch.nn.Module) -> None:
    """The gradient of a twin can be asked for twice, with the same bits; its second derivative is refused."""
    hood = neighborhood(graph_of(5.0, 3, zoo.liquid(40, 12.0)), BASE.rcut, BASE.nsel, type_pair_mask((), 3))
    env = Environment(3, BASE.rcut_smth, BASE.rcut, 0.0).double()(hood.graph)
    feature = torch.ones(hood.graph.n_edges, 12, dtype=torch.float64, requires_grad=True)
    total = twin(feature, env, hood).square().sum()
    first = torch.autograd.grad(total, feature, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(total, feature, retain_graph=True)[0])
    with pytest.raises(RuntimeError, match="second derivatives need the reference path"):
        torch.autograd.grad(total, feature, create_graph=True)


def assert_same_empty_slot(twin: torch.nn.Module, reference: NeighborAttention) -> None:
    """What an empty slot becomes, in the precision of what is given."""
    feature = torch.linspace(0, 1, 12, dtype=torch.float64)[None]
    assert torch.equal(twin.of_empty_slot(feature), reference.of_empty_slot(feature))
    assert twin.of_empty_slot(feature.float()).dtype == torch.float32


@pytest.mark.parametrize(("smooth", "dotr", "normalize"), list(product([True, False], repeat=3)))
def test_options(smooth, dotr, normalize):
    reference = random_layer(smooth=smooth, attn_dotr=dotr, normalize=normalize)
    assert FusedNeighborAttention.obstacle(reference) is None
    twin = FusedNeighborAttention.from_reference(reference, torch.float64)
    for atoms in structures():
        graph = graph_of(5.0, 3, *atoms)
        for excluded in ((), ((0, 1), (2, 2))):
            found, expected = (evaluate(x, graph, torch.float64, excluded) for x in (twin, reference))
            assert_agrees(found, expected, torch.float64)


def test_scaling_factor():
    """Without a temperature the scale is that of the width."""
    reference = random_layer(temperature=None, scaling_factor=0.3)
    twin = FusedNeighborAttention.from_reference(reference, torch.float64)
    graph = graph_of(5.0, 3, zoo.structure("skew"))
    assert_agrees(evaluate(twin, graph, torch.float64), evaluate(reference, graph, torch.float64), torch.float64)


def test_single_precision():
    """1e-6, some ten roundings of 6e-8; derivatives pass through twice as many operations."""
    reference = random_layer()
    twin = FusedNeighborAttention.from_reference(reference, torch.float32)
    graph = graph_of(5.0, 3, zoo.liquid(40, 12.0))
    found = evaluate(twin, graph, torch.float32)
    assert found[0].dtype == torch.float32
    assert found[1].dtype == torch.float64
    expected = evaluate(reference, graph, torch.float64)
    assert_agrees([x.double() for x in found], expected, torch.float32)


def test_backward_can_be_repeated():
    assert_repeatable(FusedNeighborAttention.from_reference(random_layer(), torch.float64))


def test_empty_slots_are_those_of_the_reference():
    reference = random_layer()
    assert_same_empty_slot(FusedNeighborAttention.from_reference(reference, torch.float64), reference)


def test_nothing_kept(monkeypatch):
    """Systems whose queries, keys and values are too many to be kept compute them again."""
    reference = random_layer()
    twin = FusedNeighborAttention.from_reference(reference, torch.float64)
    graph = graph_of(5.0, 3, zoo.liquid(40, 12.0))
    expected = evaluate(twin, graph, torch.float64)
    monkeypatch.setattr("dpa2_ase.kernels.attention.KEPT_BYTES", 0)
    for x, y in zip(evaluate(twin, graph, torch.float64), expected, strict=True):
        assert torch.equal(x, y)

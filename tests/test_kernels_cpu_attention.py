"""The compiled attention among neighbors against the reference: values and gradients, every option, every library."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import product

import pytest
import torch
import zoo
from test_kernels_attention import (
    BASE,
    assert_agrees,
    assert_repeatable,
    assert_same_empty_slot,
    evaluate,
    random_layer,
)
from test_kernels_repformer import graph_of, structures

from dpa2_ase.checkpoint import load_potential
from dpa2_ase.graph import AtomicGraph
from dpa2_ase.kernels.cpu import available, library
from dpa2_ase.kernels.cpu.attention import CompiledNeighborAttention
from dpa2_ase.kernels.cpu.library import Library
from dpa2_ase.kernels.cpu.se_atten import CompiledSeAtten
from dpa2_ase.model import differentiable
from dpa2_ase.nn.se_atten import SeAtten

if not available()[0]:  # an installation without a compiler is a good one; tests/test_packaging.py builds the kernels
    pytest.skip(f"the compiled kernels are not available: {available()[1]}", allow_module_level=True)

_NAMES = library._BEST_FIRST.get(torch.backends.cpu.get_cpu_capability(), ("baseline",))
LIBRARIES = {name: Library(path) for name in _NAMES if (path := library._file(name))}


@pytest.fixture(params=LIBRARIES)
def kernels(request: pytest.FixtureRequest) -> Library:
    """Every library that runs here."""
    return LIBRARIES[request.param]


@pytest.mark.parametrize(("smooth", "dotr", "normalize"), list(product([True, False], repeat=3)))
def test_options(kernels, smooth, dotr, normalize):
    """Also excluded types, overfull lists, and atoms without neighbors, which are in some of the structures."""
    reference = random_layer(smooth=smooth, attn_dotr=dotr, normalize=normalize)
    assert CompiledNeighborAttention.obstacle(reference) is None
    twin = CompiledNeighborAttention(reference, torch.float64, kernels)
    for atoms in structures():
        graph = graph_of(5.0, 3, *atoms)
        for excluded in ((), ((0, 1), (2, 2))):
            found, expected = (evaluate(x, graph, torch.float64, excluded) for x in (twin, reference))
            assert_agrees(found, expected, torch.float64)


def test_scaling_factor(kernels):
    """Without a temperature the scale is that of the width."""
    reference = random_layer(temperature=None, scaling_factor=0.3)
    twin = CompiledNeighborAttention(reference, torch.float64, kernels)
    graph = graph_of(5.0, 3, zoo.structure("skew"))
    assert_agrees(evaluate(twin, graph, torch.float64), evaluate(reference, graph, torch.float64), torch.float64)


@pytest.mark.parametrize("attn", [3, 13, 40])
def test_widths(kernels, attn):
    """Fewer and more queries than channels: the triangular factors have another shape."""
    reference = random_layer(attn=attn)
    twin = CompiledNeighborAttention(reference, torch.float64, kernels)
    graph = graph_of(5.0, 3, zoo.liquid(40, 12.0))
    assert_agrees(evaluate(twin, graph, torch.float64), evaluate(reference, graph, torch.float64), torch.float64)


def test_vanishing_and_huge_products(kernels):
    """Lengths at the limit of the normalization are constants; large logits neither overflow nor lose the others."""
    zero = random_layer()
    zero.query_key_value.weight.zero_()
    zero.query_key_value.bias.zero_()  # type: ignore[union-attr]  # there is one
    huge = random_layer(normalize=False, temperature=80.0)
    for reference in (zero, huge):
        twin = CompiledNeighborAttention(reference, torch.float64, kernels)
        graph = graph_of(5.0, 3, zoo.liquid(40, 12.0))
        found, expected = (evaluate(x, graph, torch.float64) for x in (twin, reference))
        for x, y in zip(found, expected, strict=True):
            # 1e-9: logits of some thousands have absolute errors of 1e-12, which are relative ones of the weights
            assert (x - y).abs().max() <= 1e-9 * y.abs().max()


def test_single_precision(kernels):
    """1e-6, some ten roundings of 6e-8; derivatives pass through twice as many operations."""
    reference = random_layer()
    twin = CompiledNeighborAttention(reference, torch.float32, kernels)
    graph = graph_of(5.0, 3, zoo.liquid(40, 12.0))
    found = evaluate(twin, graph, torch.float32)
    assert [x.dtype for x in found] == [torch.float32, torch.float64, torch.float32]
    assert_agrees([x.double() for x in found], evaluate(reference, graph, torch.float64), torch.float32)


def test_saving_memory_and_threads_change_nothing(monkeypatch):
    """Large systems normalize again, by the same instructions; centers are independent of each other."""
    twin = CompiledNeighborAttention.from_reference(random_layer(), torch.float64)
    graph = graph_of(5.0, 3, zoo.liquid(40, 12.0))
    before = torch.get_num_threads()
    expected = evaluate(twin, graph, torch.float64)
    try:
        for threads, frugal_from in ((1, 1 << 40), (3, 1 << 40), (2, 0)):
            torch.set_num_threads(threads)
            monkeypatch.setattr("dpa2_ase.kernels.cpu.attention.FRUGAL_FROM", frugal_from)
            for found, value in zip(evaluate(twin, graph, torch.float64), expected, strict=True):
                assert torch.equal(found, value)
    finally:
        torch.set_num_threads(before)


def test_crowded_neighborhoods(kernels, monkeypatch):
    """Scratch memory follows the structure."""
    monkeypatch.setattr("test_kernels_attention.BASE", dataclasses.replace(BASE, nsel=400))
    reference = random_layer()
    twin = CompiledNeighborAttention(reference, torch.float64, kernels)
    graph = graph_of(5.0, 3, zoo.liquid(60, 2.0))
    assert graph.max_degree > 200
    assert_agrees(evaluate(twin, graph, torch.float64), evaluate(reference, graph, torch.float64), torch.float64)


def test_backward_can_be_repeated():
    assert_repeatable(CompiledNeighborAttention.from_reference(random_layer(), torch.float64))


def test_empty_slots_are_those_of_the_reference():
    reference = random_layer()
    assert_same_empty_slot(CompiledNeighborAttention.from_reference(reference, torch.float64), reference)


# ---- the whole block ------------------------------------------------------------------------------------------------

FILES = ["dpa1-attn", "dpa1-attn-davg", "dpa1-attn-strip-smooth", "dpa1-temperature"]


@cache
def block_of(file: str) -> tuple[SeAtten, torch.Tensor, float]:
    descriptor = load_potential(zoo.DATA / "parity" / f"{file}.pt").model.descriptor.double()
    return descriptor.se_atten, descriptor.type_embedding().detach(), descriptor.se_atten.config.rcut


def value_and_gradient(
    block: torch.nn.Module, graph: AtomicGraph, embedding: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Invariants, and the gradient of a random combination of both outputs."""
    graph = differentiable(graph)
    output = block(graph, embedding)
    parts = [part.double() for part in (output.node, output.equivariant)]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(part.shape, dtype=torch.float64, generator=generator) for part in parts]
    total = sum(((w * part).sum() for w, part in zip(weights, parts, strict=True)), 0 * graph.vectors.sum())
    (gradient,) = torch.autograd.grad(total, graph.vectors)
    return parts[0].detach(), gradient


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("file", FILES)
def test_blocks_of_files(kernels, file, dtype):
    """Tables are good to 1e-13 of values and 2e-12 of slopes; the normalizations make that ten times as much."""
    reference, embedding, cutoff = block_of(file)
    assert CompiledSeAtten.obstacle(reference) is None
    twin = CompiledSeAtten(reference, dtype, kernels)
    limits = (1e-12, 2e-11) if dtype == torch.float64 else (2e-6, 4e-6)
    for atoms in structures():
        graph = graph_of(cutoff, len(embedding), *atoms)
        found, expected = (value_and_gradient(x, graph, embedding) for x in (twin, reference))
        for x, y, limit in zip(found, expected, limits, strict=True):
            if x.numel():
                assert (x - y).abs().max() <= limit * y.abs().max().clamp_min(1e-3)


def test_extremely_close_neighbors(kernels):
    """The tables get wider as far as they can, then the exact nets take over."""
    reference, embedding, cutoff = block_of("dpa1-attn")
    twin = CompiledSeAtten(reference, torch.float64, kernels)
    for distance in (1.5, 0.7, 0.4):
        atoms = zoo.structure("molecule")
        atoms.positions[1] = atoms.positions[0] + [0.0, 0.0, distance]
        graph = graph_of(cutoff, len(embedding), atoms)
        found, expected = (value_and_gradient(x, graph, embedding) for x in (twin, reference))
        for x, y in zip(found, expected, strict=True):
            assert (x - y).abs().max() <= 2e-11 * y.abs().max()


@pytest.mark.parametrize("file", FILES)
def test_computing_features_again(file, monkeypatch):
    """Large systems keep nothing but vectors, and go through some centers at a time, one of which has no neighbor."""
    reference, embedding, cutoff = block_of(file)
    twin = CompiledSeAtten.from_reference(reference, torch.float64)
    graph = graph_of(cutoff, len(embedding), zoo.liquid(40, 12.0), zoo.structure("one-atom"), zoo.structure("slab"))
    expected = value_and_gradient(twin, graph, embedding)
    monkeypatch.setattr("dpa2_ase.kernels.cpu.attentive.MOST_KEPT", 0)
    monkeypatch.setattr("dpa2_ase.kernels.cpu.attentive.CENTERS_AT_ONCE", 7)
    for found, value in zip(value_and_gradient(twin, graph, embedding), expected, strict=True):
        assert torch.equal(found, value)

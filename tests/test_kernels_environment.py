"""The environment matrix by hand against the reference: values and derivatives."""

from __future__ import annotations

import pytest
import torch

from dpa2_ase.graph import AtomicGraph
from dpa2_ase.kernels.environment import edge_environment
from dpa2_ase.nn.environment import EdgeEnvironment, Environment

N_ATOMS, N_EDGES, N_TYPES = 20, 300, 3
ONSET, CUTOFF = 2.0, 4.0
CLOSE = 1e-13  # relative to the largest; a handful of roundings of 1e-16


@pytest.fixture
def vectors() -> torch.Tensor:
    """Lengths on both sides of the onset and of the cutoff."""
    directions = torch.randn(N_EDGES, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lengths = torch.linspace(0.7, 5.0, N_EDGES, dtype=torch.float64)
    return (directions / directions.norm(dim=1, keepdim=True) * lengths[:, None]).requires_grad_()


def environment(protection: float = 0.0) -> Environment:
    found = Environment(N_TYPES, ONSET, CUTOFF, protection).double()
    generator = torch.Generator().manual_seed(2)
    found.mean.normal_(generator=generator)
    found.std.uniform_(0.2, 2.0, generator=generator)
    return found


def graph_of(vectors: torch.Tensor) -> AtomicGraph:
    center, neighbor = torch.randint(N_ATOMS, (2, N_EDGES), generator=torch.Generator().manual_seed(3))
    types, structure = torch.arange(N_ATOMS) % N_TYPES, torch.zeros(N_ATOMS, dtype=torch.int64)
    return AtomicGraph(types, center.sort().values, neighbor, vectors, structure, None, 1, 6.0)


def parts(found: EdgeEnvironment) -> dict[str, torch.Tensor]:
    return {name: getattr(found, name) for name in ("env", "switch", "amplitude", "distances")}


@pytest.mark.parametrize("protection", [0.0, 0.01])
def test_values_and_derivatives_are_those_of_the_reference(vectors, protection):
    reference = environment(protection)
    exact, found = parts(reference(graph_of(vectors))), parts(edge_environment(reference, graph_of(vectors)))
    for name, value in exact.items():
        assert (found[name] - value).abs().max() <= CLOSE * value.abs().max()
        weight = torch.linspace(-1, 2, value.numel(), dtype=torch.float64).view_as(value)
        wanted, gradient = (
            torch.autograd.grad((x * weight).sum(), vectors, retain_graph=True)[0] for x in (value, found[name])
        )
        assert (gradient - wanted).abs().max() <= CLOSE * wanted.abs().max()


def test_derivatives_are_finite_differences(vectors):
    reference = environment()

    def function(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = edge_environment(reference, graph_of(values))
        return found.env, found.switch, found.amplitude, found.distances

    assert torch.autograd.gradcheck(function, vectors)


def test_second_derivatives_are_refused(vectors):
    rows = edge_environment(environment(), graph_of(vectors)).env
    with pytest.raises(RuntimeError, match="mode='reference'"):
        torch.autograd.grad(rows.sum(), vectors, create_graph=True)

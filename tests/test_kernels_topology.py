"""The compiled search for the pairs that are near now and the sums over them, against those in torch operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene, molecule

from dpa2_ase import derivatives
from dpa2_ase.graph import AtomicGraph
from dpa2_ase.kernels.cpu import available
from dpa2_ase.neighbors import build_neighbor_list
from dpa2_ase.topology import Topology

if not available()[0]:  # an installation without a compiler is a good one; tests/test_packaging.py builds the kernels
    pytest.skip(f"the compiled kernels are not available: {available()[1]}", allow_module_level=True)

from dpa2_ase.kernels.cpu.pull_back import pull_back
from dpa2_ase.kernels.cpu.topology import CompiledTopology

CUTOFF, SKIN, INNER = 5.0, 0.5, 3.2  # Å
LIMITS = [("model", CUTOFF, 500), ("long", INNER, 400), ("short", INNER, 4), ("other", 2.6, 400)]


def moved(atoms: Atoms, seed: int) -> Atoms:
    """A copy with atoms moved by less than half the skin."""
    copy = atoms.copy()
    copy.positions += np.random.default_rng(seed).uniform(-0.1, 0.1, copy.positions.shape)
    return copy


def structures() -> list[Atoms]:
    slab = graphene(size=(3, 2, 1), vacuum=6.0)
    return [
        bulk("Cu", cubic=True) * (2, 1, 1), molecule("CH3CH2OH"), Atoms(), Atoms("He", cell=[20.0] * 3, pbc=True), slab,
    ]  # fmt: skip


def both(chosen: list[Atoms]) -> tuple[AtomicGraph, AtomicGraph]:
    """Graphs of moved structures by the reference and by the twin, from the lists of the structures before."""
    lists = [build_neighbor_list(atoms, CUTOFF, SKIN) for atoms in chosen]
    now = [moved(atoms, seed) for seed, atoms in enumerate(chosen)]
    types = torch.from_numpy(np.concatenate([atoms.numbers for atoms in now]).astype(np.int64))
    return Topology.of(lists).graph(now, types), CompiledTopology.for_blocks_of(LIMITS, lists).graph(now, types)


def assert_same(found: AtomicGraph, expected: AtomicGraph) -> None:
    """All edges; lengths to the last digit, which depends on whether the processor rounds the squares."""
    for name in ("types", "center", "neighbor", "vectors", "structure", "offsets", "degree"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    torch.testing.assert_close(found.lengths, expected.lengths, rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("index", range(5))
def test_pairs_are_those_of_the_reference(index: int) -> None:
    expected, found = both(structures()[index : index + 1])
    assert_same(found, expected)


def test_many_structures_at_once() -> None:
    expected, found = both(structures())
    assert_same(found, expected)
    assert found.n_structures == 5


@pytest.mark.parametrize(("cutoff", "nsel"), [limit[1:] for limit in LIMITS])
def test_shorter_lists_are_those_of_the_reference(cutoff: float, nsel: int) -> None:
    """Prepared with the graph or not, truncated to the nearest or not; and so are their gradients."""
    expected, found = both(structures())
    weights = torch.linspace(-1, 1, expected.n_edges, dtype=torch.float64)[:, None]
    gradients = []
    for graph in (expected, found):
        vectors = graph.vectors.clone().requires_grad_()
        cut = graph.with_vectors(vectors).within(cutoff, nsel)
        (cut.vectors**2 * weights[: cut.n_edges]).sum().backward()
        gradients.append((cut, vectors.grad))
    assert_same(gradients[1][0], gradients[0][0])
    assert torch.equal(gradients[1][1], gradients[0][1])


@pytest.mark.parametrize("n_structures", [1, 5])
def test_forces_and_virials_are_those_of_the_reference(n_structures: int) -> None:
    """To the rounding of a hundred numbers of order one; the forces of every structure add up to zero."""
    _, graph = both(structures()[-n_structures:])
    gradient = torch.linspace(-1, 1, 3 * graph.n_edges, dtype=torch.float64).reshape(3, -1).mT  # not contiguous
    forces, virials = pull_back(gradient, graph)
    expected_forces, expected_virials = derivatives.pull_back(gradient, graph)
    torch.testing.assert_close(forces, expected_forces, rtol=0, atol=1e-13)
    torch.testing.assert_close(virials, expected_virials, rtol=0, atol=1e-11)
    assert torch.equal(virials, virials.mT)
    assert forces.sum(0).abs().max() < 1e-12


def test_the_largest_number_of_neighbors_and_the_shortest_distance() -> None:
    """Known with the graph; without any pair the distance is infinite."""
    expected, found = both(structures())
    assert (found.max_degree, found.shortest) == (expected.max_degree, pytest.approx(expected.shortest, rel=1e-15))
    _, empty = both(structures()[2:4])
    assert (empty.n_edges, empty.max_degree, empty.shortest) == (0, 0, np.inf)


@pytest.mark.parametrize("cutoff", [3.0, np.sqrt(8.0), 5.0 * np.sqrt(0.5)])
def test_cutoffs_at_distances_that_occur(cutoff: float) -> None:
    """The list of the model is open at its cutoff and the shorter ones are closed, though squares are compared."""
    atoms = Atoms("H3", positions=[[0.0, 0.0, 0.0], [0.0, 0.0, cutoff], [0.0, cutoff, cutoff]])
    lists = [build_neighbor_list(atoms, cutoff, SKIN)]
    types = torch.zeros(3, dtype=torch.int64)
    assert CompiledTopology.for_blocks_of([("model", cutoff, 9)], lists).graph([atoms], types).n_edges == 0
    wide = CompiledTopology.for_blocks_of([("short", cutoff, 9)], [build_neighbor_list(atoms, 2 * cutoff, 0.0)])
    graph = wide.graph([atoms], types)
    assert graph.n_edges == 6
    assert graph.within(cutoff, 9).n_edges == 4


def test_atoms_on_top_of_each_other_are_refused() -> None:
    """As by the reference: a list that is still valid, and two atoms that met since."""
    atoms = Atoms("H2", positions=[[0.0, 0.0, 0.0], [0.0, 0.0, 0.4]])
    topology = CompiledTopology.for_blocks_of(LIMITS, [build_neighbor_list(atoms, CUTOFF, SKIN)])
    atoms.positions[1, 2] = 0.0
    with pytest.raises(ValueError, match=r"atoms 0 and 1 are 0\.0e\+00 Å apart"):
        topology.graph([atoms], torch.zeros(2, dtype=torch.int64))

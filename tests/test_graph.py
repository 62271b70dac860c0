"""The edge list: order, slots, cuts and groups by degree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from ase import Atoms

from dpa2_ase.graph import AtomicGraph, neighborhood
from dpa2_ase.model import differentiable
from dpa2_ase.neighbors import build_neighbor_list
from dpa2_ase.ops import segment_sum
from dpa2_ase.topology import Topology, graph_of_structures


@pytest.fixture
def graph():
    """Two structures and a lone atom between them, within 6 Å."""
    structures = [zoo.structure("skew"), zoo.structure("one-atom"), zoo.structure("molecule")]
    lists = [build_neighbor_list(atoms, 6.0) for atoms in structures]
    return graph_of_structures(structures, lists, [np.array([2, 0, 1]), np.array([1]), np.array([1, 2, 0, 0, 2, 1, 0])])


def test_order_and_slots(graph):
    """Edges come by center; slots number the neighbors of a center by distance, whatever the order of the edges."""
    assert graph.n_atoms == 11
    assert graph.n_structures == 3
    assert (graph.center.diff() >= 0).all()
    assert graph.slot is None
    ranked = graph.ranked()
    assert ranked.ranked() is ranked
    for atom in range(graph.n_atoms):
        mine = graph.center == atom
        assert torch.equal(ranked.slot[mine].sort().values, torch.arange(int(mine.sum())))
        assert (graph.distances[mine][ranked.slot[mine].argsort()].diff() >= -1e-9).all()
        assert graph.degree[atom] == mine.sum()
        assert torch.equal(torch.nonzero(mine).squeeze(-1), torch.arange(*graph.offsets[atom : atom + 2]))
    assert graph.max_degree == graph.degree.max()
    assert torch.equal(graph.structure[graph.center], graph.structure[graph.neighbor])
    assert graph.degree[3] == 0  # the lone atom
    torch.testing.assert_close(graph.lengths, graph.distances, rtol=1e-15, atol=0)  # another order of three products


def test_equal_distances_are_ranked_by_the_order_of_the_edges():
    """Rounding must not decide: 1e-12 Å of difference is none."""
    length = torch.tensor([2.0, 1.0 + 1e-12, 1.0, 1.0 + 1e-8])
    vectors = length[:, None] * torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], dtype=torch.float64)
    zeros = torch.zeros(4, dtype=torch.int64)
    graph = AtomicGraph(zeros[:1], zeros, zeros, vectors, zeros[:1], None, 1, 6.0)
    assert graph.ranked().slot.tolist() == [3, 0, 1, 2]
    assert torch.equal(graph.within(6.0, 1).vectors, vectors[1:2])


def test_vectors_point_to_images():
    """Neighbor image minus center, for atoms outside the cell as well."""
    atoms = zoo.structure("slab")
    neighbors = build_neighbor_list(atoms, 6.0)
    graph = graph_of_structures([atoms], [neighbors], [np.zeros(4, dtype=np.int64)])
    difference = graph.vectors.numpy() - (atoms.positions[graph.neighbor] - atoms.positions[graph.center])
    cells = difference @ np.linalg.inv(atoms.cell.array)
    np.testing.assert_allclose(cells, cells.round(), atol=1e-12)
    assert np.abs(cells.round()).max() >= 1
    assert not cells[:, 2].round().any()  # open along the third


def test_within_keeps_the_nearest(graph):
    cut = graph.within(4.0, 5)
    for atom in range(graph.n_atoms):
        distances = graph.distances[graph.center == atom].sort().values
        expected = distances[distances <= 4.0][:5]
        assert torch.equal(cut.distances[cut.center == atom].sort().values, expected)
    assert cut.cutoff == 4.0
    assert graph.within(4.0, 5).within(6.0, 10).n_edges == cut.n_edges
    exact = AtomicGraph(
        torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([[4.0, 0, 0], [-4.0, 0, 0]]),
        torch.tensor([0, 0]), None, 1, 6.0,
    )  # fmt: skip
    assert exact.within(4.0, 5).n_edges == 2  # the cutoff itself included


def test_ranks_are_made_only_where_something_is_dropped(graph):
    assert graph.within(4.0, graph.max_degree).slot is None
    assert graph.within(6.0, graph.max_degree).slot is None
    assert graph.within(6.0, graph.max_degree - 1).slot is not None
    assert graph.within(6.0, graph.max_degree - 1).n_edges < graph.n_edges
    for cutoff, nsel in ((4.0, 5), (4.0, 100), (6.0, 100)):
        cut, of_ranked = graph.within(cutoff, nsel), graph.ranked().within(cutoff, nsel)
        assert torch.equal(cut.vectors, of_ranked.vectors)
        assert torch.equal(cut.center, of_ranked.center)


def test_the_same_cut_twice_serves_two_backward_passes(graph):
    """What a cut remembers holds no derivatives, with and without recording."""
    graph = differentiable(graph)
    with torch.no_grad():
        graph.within(4.0, 100)
    for cutoff in (4.0, 6.0, 4.0, 6.0):
        cut = graph.within(cutoff, 100)
        (gradient,) = torch.autograd.grad(cut.distances.sum(), graph.vectors)
        assert torch.equal(gradient.norm(dim=1) > 0.5, graph.lengths <= cutoff)


def test_topology_follows_moving_atoms_and_cells():
    """Against the pairs that the neighbor list finds itself, for atoms far outside of their cell as well."""
    rng = np.random.default_rng(0)
    structures = [zoo.structure(name) for name in ("sheared", "wire", "molecule", "one-atom", "slab")]
    structures[0].positions[1] += 40 * structures[0].cell[0] - 9 * structures[0].cell[2]
    lists = [build_neighbor_list(atoms, 5.0, 0.6) for atoms in structures]
    topology = Topology.of(lists)
    for _ in range(3):
        for atoms in structures:
            atoms.positions += rng.uniform(-0.04, 0.04, atoms.positions.shape)
            atoms.set_cell(atoms.cell.array * rng.uniform(0.995, 1.005), scale_atoms=True)
        n_atoms = sum(map(len, structures))
        graph = topology.graph(structures, torch.zeros(n_atoms, dtype=torch.int64))
        pairs = [neighbors.pairs(atoms) for atoms, neighbors in zip(structures, lists, strict=True)]
        first = np.cumsum([0, *(len(atoms) for atoms in structures)])
        for column, index in ((graph.center, 0), (graph.neighbor, 1)):
            expected = np.concatenate([pair[index] + start for pair, start in zip(pairs, first[:-1], strict=True)])
            np.testing.assert_array_equal(column, expected)
        vectors = np.concatenate([pair[2] for pair in pairs])
        np.testing.assert_allclose(graph.vectors, vectors, atol=1e-13)  # positions of 200 Å
        order = np.lexsort((*graph.vectors.T, graph.neighbor, graph.center))
        back = np.lexsort((*-graph.vectors.T, graph.center, graph.neighbor))
        np.testing.assert_array_equal(graph.vectors[order], -graph.vectors[back])  # exact opposites


def test_slots_survive_exclusions(graph):
    """An excluded neighbor keeps its place in the list: the others do not move up."""
    excluded = torch.zeros(3, 3, dtype=torch.bool)
    excluded[0, 1] = excluded[1, 0] = True
    pruned = graph.without_type_pairs(excluded)
    pairs = {
        tuple(sorted(p))
        for p in zip(*(pruned.types[k].tolist() for k in (pruned.center, pruned.neighbor)), strict=True)
    }
    assert (0, 1) not in pairs
    assert pairs == {(0, 0), (0, 2), (1, 1), (1, 2), (2, 2)}
    dropped = graph.n_edges - pruned.n_edges
    assert dropped > 0
    hood = neighborhood(graph, 6.0, 60, excluded)
    assert torch.equal(hood.n_empty, 60 - graph.degree)
    assert torch.equal(hood.n_dead, 60 - pruned.degree)
    assert (hood.n_dead - hood.n_empty).sum() == dropped
    first = pruned.within(6.0, 3)
    assert first.n_edges < sum(min(3, int(n)) for n in pruned.degree)


def test_degrees_there_and_back(graph):
    values = torch.arange(2.0 * graph.n_edges).reshape(-1, 2)
    groups = graph.edges_by_degree
    for centers, edges in groups:
        assert (graph.degree[centers] == edges.shape[1]).all()
        assert (graph.center[edges] == centers[:, None]).all()
    assert sum(len(centers) for centers, _ in groups) == (graph.degree > 0).sum()
    assert torch.equal(graph.join_degrees([values[edges] for _, edges in groups]), values)


def test_first_type(graph):
    assert graph.first_type.tolist() == [2] * 3 + [1] + [1] * 7


def test_atoms_on_top_of_each_other_are_refused():
    lone = Atoms("Cu")
    double = Atoms("OHO", [[0, 0, 0], [2, 0, 0], [0, 0, 1e-6]])
    structures = [lone, double]
    lists = [build_neighbor_list(atoms, 6.0) for atoms in structures]
    types = [np.zeros(len(atoms), dtype=np.int64) for atoms in structures]
    with pytest.raises(ValueError, match="atoms 0 and 2 of structure 1 are 1.0e-06 Å apart"):
        graph_of_structures(structures, lists, types, first_number=0)
    with pytest.raises(ValueError, match="atoms 0 and 2 are 1.0e-06 Å apart"):
        graph_of_structures(structures[1:], lists[1:], types[1:])


@pytest.mark.parametrize("degrees", [[3, 4, 2, 4], [1, 0, 9, 2, 1, 30], [0, 0], [5]], ids=str)
def test_sums_of_outer_products(degrees):
    """Values, first and second derivatives are those of the sum written out, however unequal neighborhoods are."""
    generator = torch.Generator().manual_seed(1)
    n_atoms, n_edges = len(degrees), sum(degrees)
    center = torch.repeat_interleave(torch.arange(n_atoms), torch.tensor(degrees))
    rows, features, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((n_edges, 3), (n_edges, 5), (n_atoms, 3, 5))
    )
    nothing = torch.zeros(n_atoms, dtype=torch.int64)
    vectors = torch.ones(n_edges, 3, dtype=torch.float64)
    graph = AtomicGraph(nothing, center, torch.zeros_like(center), vectors, nothing, None, 1, 3.0)
    found, expected = [], []
    for values, total in (
        (found, graph.sum_outer(rows, features)),
        (expected, segment_sum(rows[:, :, None] * features[:, None, :], center, n_atoms)),
    ):
        first = torch.autograd.grad((weight * total).sum(), (rows, features), create_graph=True)
        second = torch.autograd.grad(sum((g**3).sum() for g in first), (rows, features, weight))
        values += [total, *first, *second]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

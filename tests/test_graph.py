"""The edge list: order, slots, cuts and groups by degree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from ase import Atoms

from dpa2_ase.graph import graph_of_structures, neighborhood, sorted_graph
from dpa2_ase.neighbors import build_neighbor_list


@pytest.fixture
def graph():
    """Two structures and a lone atom between them, within 6 Å."""
    structures = [zoo.structure("skew"), zoo.structure("one-atom"), zoo.structure("molecule")]
    lists = [build_neighbor_list(atoms, 6.0) for atoms in structures]
    return graph_of_structures(structures, lists, [np.array([2, 0, 1]), np.array([1]), np.array([1, 2, 0, 0, 2, 1, 0])])


def test_order_and_slots(graph):
    assert graph.n_atoms == 11
    assert graph.n_structures == 3
    assert (graph.center.diff() >= 0).all()
    for atom in range(graph.n_atoms):
        mine = graph.center == atom
        assert torch.equal(graph.slot[mine], torch.arange(int(mine.sum())))
        assert (graph.distances[mine].diff() >= 0).all()
        assert graph.degree[atom] == mine.sum()
    assert torch.equal(graph.structure[graph.center], graph.structure[graph.neighbor])
    assert graph.degree[3] == 0  # the lone atom


def test_sorted_graph_takes_any_order(graph):
    order = torch.randperm(graph.n_edges, generator=torch.Generator().manual_seed(0))
    again = sorted_graph(
        graph.types, graph.center[order], graph.neighbor[order], graph.vectors[order], graph.structure, 3, 6.0
    )
    assert torch.equal(again.center, graph.center)
    assert torch.equal(again.slot, graph.slot)
    assert torch.allclose(again.distances, graph.distances, atol=1e-14)  # images at one distance may swap places


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
        distances = graph.distances[graph.center == atom]
        expected = distances[distances <= 4.0][:5]
        assert torch.equal(cut.distances[cut.center == atom], expected)
    assert cut.cutoff == 4.0
    assert graph.within(4.0, 5).within(6.0, 10).n_edges == cut.n_edges
    exact = sorted_graph(
        torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([[4.0, 0, 0], [-4.0, 0, 0]]),
        torch.tensor([0, 0]), 1, 6.0,
    )  # fmt: skip
    assert exact.within(4.0, 5).n_edges == 2  # the cutoff itself included


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

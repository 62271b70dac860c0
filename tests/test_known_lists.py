"""Neighbor lists of batches that come again: the same numbers to the last bit, and fewer searches."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from zoo import METALS

from dpa2_ase import DPA2Calculator
from dpa2_ase.interfaces.known import KnownLists, Listed
from dpa2_ase.neighbors import build_neighbor_list
from dpa2_ase.topology import Topology

CUTOFF, SKIN, ROOM = 4.0, 0.5, 10.0


class Searches(KnownLists):
    """Lists that cost one byte each, and how wide those were that had to be searched."""

    def __init__(self):
        super().__init__(self.search, Topology.of)
        self.skins = []

    def search(self, atoms, skin):
        self.skins.append(skin)
        return Listed(build_neighbor_list(atoms, CUTOFF, skin), 1.0)

    def run(self, structures, memory=ROOM):
        """Skins of the searches that a batch takes, and its topology."""
        self.skins, lists, before = [], [], None
        for atoms in structures:
            lists.append(self.of(atoms, SKIN, before))
            before = atoms, lists[-1]
        return self.skins, self.topology(structures, lists, memory)


def test_who_comes_again_is_searched_once_more_with_a_skin():
    known, structures = Searches(), [bulk("Cu", cubic=True), molecule("H2O")]
    for expected in ([0.0, 0.0], [SKIN, SKIN], [], []):
        for atoms in structures:
            atoms.rattle(0.01, seed=len(expected))
        assert known.run(structures)[0] == expected
    structures[0].positions[0] += 0.4
    assert known.run(structures)[0] == [SKIN]
    structures[0].set_cell(structures[0].cell * 0.8, scale_atoms=True)
    assert known.run(structures)[0] == [SKIN]
    assert known.run(structures[1:])[0] == []


def test_topologies_stay_while_all_lists_do():
    known, structures = Searches(), [bulk("Cu", cubic=True), molecule("H2O")]
    first = known.run(structures)[1]
    assert known.run(structures)[1] is first
    assert known.run(structures[:1])[1] is not first


def test_displacements_of_a_crystal_share_a_list():
    displaced = [bulk("Cu", cubic=True) for _ in range(6)]
    for index, atoms in enumerate(displaced):
        atoms.positions[index % 4, 0] += 0.01
    assert Searches().run(displaced)[0] == [0.0, SKIN]
    for index, atoms in enumerate(displaced):
        atoms.set_cell(atoms.cell * (1 + 0.01 * index), scale_atoms=True)
    assert Searches().run(displaced)[0] == [0.0] * 6


def test_what_takes_more_memory_than_a_pass_is_not_remembered():
    known, structures = Searches(), [bulk("Cu", cubic=True), molecule("H2O")]
    for _ in range(2):
        assert known.run(structures, memory=1.0)[0] == [0.0, 0.0]


def test_lists_belong_to_atoms_and_not_to_their_addresses():
    known = Searches()
    for _ in range(20):  # Python likes to give the room of what is gone to the next
        assert known.run([bulk("Cu", cubic=True)])[0] == [0.0]
        gc.collect()


@pytest.fixture(scope="module")
def calc():
    return DPA2Calculator(METALS, device="cpu", dtype="float64")


def moving(n_steps: int) -> Iterator[list[Atoms]]:
    """Crystals and a molecule: the same `Atoms`, seen after each of some moves and once with one of them gone."""
    structures = [bulk("Cu", cubic=True), bulk("Ni"), Atoms("Cu2", positions=[[0, 0, 0], [0.3, 0, 2.4]])]
    for step in range(n_steps):
        for index, atoms in enumerate(structures):
            atoms.rattle(0.02 + 0.2 * (step == 3), seed=10 * step + index)
            if atoms.pbc.all():
                atoms.set_cell(atoms.cell * (1 + 0.004 * (-1) ** step), scale_atoms=True)
        yield structures[step == 2 :]


def test_known_lists_change_no_bit(calc):
    for structures in moving(6):
        fresh = copy.deepcopy(calc)
        copies = [atoms.copy() for atoms in structures]
        for one, other in zip(calc.evaluate(structures), fresh.evaluate(copies), strict=True):
            for name in one.keys() | other.keys():
                np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_copies_and_other_processes_begin_anew(calc):
    structures = next(moving(1))
    expected = [found["energy"] for found in calc.evaluate(structures)]
    for other in (copy.deepcopy(calc), pickle.loads(pickle.dumps(calc))):
        assert [found["energy"] for found in other.evaluate(structures)] == expected
        assert other.evaluator._known._build.__self__ is other.evaluator


def test_messages_name_the_structure_that_went_wrong(calc):
    structures = [bulk("Cu", cubic=True), bulk("Ni", cubic=True)]
    for _ in range(3):
        calc.evaluate(structures)
    structures[1].positions[2] = np.nan
    with pytest.raises(ValueError, match=r"structure 1: positions of atoms \[2\]"):
        calc.evaluate(structures)
    structures[1].positions[2] = structures[1].positions[1]
    with pytest.raises(ValueError, match="atoms 1 and 2 of structure 1"):
        calc.evaluate(structures)

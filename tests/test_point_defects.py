"""`dpa2_ase.workflows.defects`: voids of simple lattices, and formation energies by their definition."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from batching import BatchEMT

from dpa2_ase.workflows.defects import defects, voids
from dpa2_ase.workflows.relax import relax


def copper(calc: EMT | None = None, *, cubic: bool = False) -> Atoms:
    atoms = bulk("Cu", cubic=cubic)
    atoms.calc = calc or EMT()
    return atoms


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (bulk("Cu", a=4.0), [(2.0, 1), (np.sqrt(3), 2)]),  # octahedral, tetrahedral
        (bulk("Cu", a=4.0, cubic=True), [(2.0, 4), (np.sqrt(3), 8)]),
        (bulk("Fe", a=4.0, cubic=True), [(np.sqrt(5), 12)]),  # tetrahedral
        (bulk("Cu", "sc", a=4.0), [(2 * np.sqrt(3), 1)]),  # the middle of the cube
    ],
    ids=["fcc", "fcc cubic", "bcc", "sc"],
)
def test_voids_of_lattices(atoms, expected):
    """Radii and numbers of every textbook, wherever the origin is."""
    for shift in ([0.0, 0.0, 0.0], [0.3, -0.2, 0.7]):
        moved = atoms.copy()
        moved.positions += shift
        found = voids(moved)
        assert [void.multiplicity for void in found] == [count for _, count in expected]
        np.testing.assert_allclose([void.radius for void in found], [radius for radius, _ in expected], atol=1e-6)
        for void in found:
            probe = moved * (3, 3, 3) + Atoms("H", positions=[np.array(void.place) @ moved.cell.array])
            distances = probe.get_distances(-1, range(len(probe) - 1), mic=True)
            assert distances.min() == pytest.approx(void.radius, abs=1e-6)


def test_an_atom_in_place_of_its_like_costs_nothing(tmp_path):
    found = defects(copper(), substitutions=[("Cu", "Cu")], repeats=(2, 2, 2))
    assert found.sites[0].formation_energy == pytest.approx(0.0, abs=1e-5)
    assert str(found.sites[0]) == "Cu_Cu"
    names = {path.name for path in found.write(tmp_path)}
    assert {"defects.json", "defects.png", "defects-0-Cu_Cu.extxyz", "defects-crystal.extxyz"} <= names


def test_formation_energies_are_differences_of_energies():
    """Gold in copper, by hand, at the same volume; both atoms come from and go to their own crystals."""
    gold = bulk("Au")
    gold.calc = EMT()
    potential = relax(gold, cell=True, fmax=1e-4).final.energy
    start = copper(cubic=True)
    before = start.copy()
    found = defects(
        start, substitutions=[("Cu", "Au")], chemical_potentials={"Au": potential}, repeats=(2, 2, 2), fmax=1e-3
    )
    assert start == before
    (site,) = found.sites
    assert (site.added, site.removed, site.multiplicity) == ("Au", "Cu", 4)
    perfect = found.crystal.repeat((2, 2, 2))
    perfect.calc = EMT()
    by_hand = perfect.copy()
    by_hand.symbols[0] = "Au"
    by_hand.calc = EMT()
    energy = perfect.get_potential_energy()
    host = energy / len(perfect)
    assert site.unrelaxed == pytest.approx(by_hand.get_potential_energy() - energy + host - potential, abs=1e-8)
    relaxed = relax(by_hand, fmax=1e-3).final.energy
    assert site.formation_energy == pytest.approx(relaxed - energy + host - potential, abs=1e-5)
    assert site.formation_energy < site.unrelaxed


def test_interstitials_go_into_every_void_in_one_batch():
    """A self-interstitial of copper costs about three electronvolts."""
    calc = BatchEMT()
    settings = {"interstitials": ["Cu"], "repeats": (2, 2, 2), "relax_first": False}
    found = defects(copper(calc, cubic=True), **settings, fmax=0.05)
    assert [str(site) for site in found.sites] == ["Cu_i", "Cu_i"]
    assert [site.multiplicity for site in found.sites] == [4, 8]
    assert all(len(cell) == 33 for cell in found.cells)
    assert set(calc.sizes[:2]) == {2}
    for site in found.sites:
        assert 1.0 < site.formation_energy < 6.0
        assert site.formation_energy < site.unrelaxed - 0.5
    unrelaxed = defects(copper(cubic=True), **settings, relax_positions=False)
    assert [site.formation_energy for site in unrelaxed.sites] == [site.unrelaxed for site in unrelaxed.sites]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no defects asked for"),
        ({"substitutions": [("Au", "Cu")]}, "cannot be replaced"),
        ({"substitutions": [("Cu", "Au")]}, r"where do atoms of \['Au'\] come from"),
        ({"interstitials": ["H"]}, r"where do atoms of \['H'\] come from"),
        ({"interstitials": ["Cu"], "smallest_void": 5.0}, "no void has a radius above"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        defects(copper(), relax_first=False, **options)
    with pytest.raises(ValueError, match="three periodic directions"):
        defects(Atoms("Cu"), interstitials=["Cu"])


def test_a_compound_needs_all_its_potentials():
    alloy = bulk("Cu", cubic=True)
    alloy.symbols[0] = "Au"
    alloy.calc = EMT()
    swaps = [("Cu", "Au"), ("Au", "Cu")]
    with pytest.raises(ValueError, match=r"where do atoms of \['Cu'\]"):
        defects(alloy, substitutions=swaps, chemical_potentials={"Au": 0.0}, relax_first=False)
    found = defects(
        alloy, substitutions=swaps, chemical_potentials={"Au": 0.0, "Cu": 0.0},
        repeats=(1, 1, 1), relax_first=False, relax_positions=False,
    )  # fmt: skip
    assert [(str(site), site.multiplicity) for site in found.sites] == [("Au_Cu", 3), ("Cu_Au", 1)]

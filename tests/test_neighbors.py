"""The neighbor list against all pairs and images counted one by one."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from matscipy.neighbours import neighbour_list

from dpa2_ase import neighbor_search, neighbors
from dpa2_ase.neighbor_search import find_pairs
from dpa2_ase.neighbors import build_neighbor_list

ALL_PBC = list(itertools.product([False, True], repeat=3))
pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(params=["table", "bins", "device"])
def way(request, monkeypatch):
    """Search in bins, here and on a device, also where a table would be quicker, so that everything holds for all."""
    if request.param != "table":
        monkeypatch.setattr(neighbor_search, "MAX_TABLE", 0)
    if request.param == "device":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        monkeypatch.setattr(neighbors, "find_pairs", lambda *geometry: find_pairs(*geometry[:4], device))


def brute_force(atoms, cutoff):
    """Return {(i, j, S1, S2, S3): vector} of all pairs with r <= cutoff, by trying every image that could be near."""
    lattice = np.where(atoms.pbc[:, None], atoms.cell, 0.0)  # (3, 3); open directions have no images
    inverse = np.linalg.pinv(lattice, rcond=1e-9)  # (3, 3); column norms are inverse distances of lattice planes
    difference = atoms.positions[None] - atoms.positions[:, None]  # (N, N, 3)
    reach = cutoff * np.linalg.norm(inverse, axis=0)
    fractions = difference.reshape(-1, 3) @ inverse
    low = np.floor(-reach - fractions.max(axis=0, initial=0.0)) * atoms.pbc
    high = np.ceil(reach - fractions.min(axis=0, initial=0.0)) * atoms.pbc
    ranges = (np.arange(a, b + 1) for a, b in zip(low, high, strict=True))
    shifts = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3).astype(int)  # (M, 3)
    vectors = difference[:, :, None] + shifts @ lattice  # (N, N, M, 3)
    near = np.argwhere(np.linalg.norm(vectors, axis=-1) <= cutoff).tolist()
    edges = {(i, j, *shifts[m].tolist()): vectors[i, j, m] for i, j, m in near}
    return {key: vector for key, vector in edges.items() if key[0] != key[1] or any(key[2:])}


def as_keys(center, neighbor, shift):
    return list(zip(center.tolist(), neighbor.tolist(), *shift.T.tolist(), strict=True))


def assert_complete(atoms, cutoff, skin=0.0):
    """List and pairs hold exactly the pairs of the oracle, in the documented order, with the right vectors."""
    result = build_neighbor_list(atoms, cutoff, skin)
    keys = as_keys(result.center, result.neighbor, result.shift)
    assert keys == sorted(brute_force(atoms, cutoff + skin))
    expected = brute_force(atoms, cutoff)
    center, neighbor, vectors, shift = result.pairs(atoms)
    keys = as_keys(center, neighbor, shift)
    assert keys == sorted(expected)
    assert vectors.shape == (len(keys), 3)
    assert vectors.dtype == np.float64
    assert center.dtype == neighbor.dtype == shift.dtype == np.int64
    tolerance = 1e-14 * (1.0 + np.abs(atoms.positions).max(initial=0.0) + np.abs(shift).max(initial=0) * 100.0)
    np.testing.assert_allclose(vectors, np.array([expected[k] for k in keys]).reshape(-1, 3), atol=tolerance, rtol=0)
    return result


def random_atoms(rng, pbc, n_atoms=None, length=4.0, spread=1.0):
    """Irregular atoms in an irregular cell of either handedness; `spread` above one leaves the cell."""
    cell = length * (np.diag(rng.uniform(0.5, 1.5, 3)) + rng.uniform(-0.4, 0.4, (3, 3)))
    cell = cell[rng.permutation(3)] * rng.choice([-1.0, 1.0])
    n_atoms = rng.integers(1, 6) if n_atoms is None else n_atoms
    fractions = spread * rng.uniform(-0.5, 0.5, (n_atoms, 3)) + rng.uniform(-1, 1, 3)
    return Atoms(numbers=[1] * n_atoms, positions=fractions @ cell, cell=cell, pbc=pbc)


def random_rotation(rng):
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


@pytest.mark.parametrize("pbc", ALL_PBC, ids=str)
@pytest.mark.parametrize(("length", "spread"), [(4.0, 1.0), (12.0, 1.0), (3.0, 8.0), (1.3, 1.0)])
def test_all_pairs_are_found(pbc, length, spread):
    rng = np.random.default_rng([*pbc, int(10 * length), int(spread)])
    for _ in range(8):
        assert_complete(random_atoms(rng, pbc, length=length, spread=spread), rng.uniform(1.5, 5.0), rng.choice([0, 1]))


@pytest.mark.parametrize("pbc", ALL_PBC, ids=str)
def test_strongly_skewed_cells(pbc):
    """Cells sheared by whole vectors describe the same crystal with long, almost parallel vectors."""
    rng = np.random.default_rng([*pbc, 5])
    for _ in range(5):
        atoms = random_atoms(rng, pbc, n_atoms=3)
        shear = np.eye(3)
        shear[1, 0], shear[2, 0], shear[2, 1] = rng.integers(-6, 7, 3)
        atoms.set_cell(shear @ atoms.cell)
        assert_complete(atoms, 4.0, 0.5)


@pytest.mark.parametrize("zero_vector", [True, False])
def test_slab_with_and_without_a_third_vector(zero_vector):
    slab = fcc111("Al", (2, 1, 3), vacuum=None)
    slab.rattle(0.1, seed=3)
    slab.cell[2] = [0, 0, 0] if zero_vector else [1.0, 2.0, 0.5]  # inside the slab and skewed: must be ignored
    result = assert_complete(slab, 4.5, 0.3)
    assert not result.shift[:, 2].any()


@pytest.mark.parametrize(("pbc", "swap"), [((1, 0, 0), (1, 0, 2)), ((0, 1, 1), (1, 0, 2)), ((0, 0, 1), (2, 1, 0))])
def test_periodic_vectors_along_other_axes(pbc, swap):
    """The first vector of a wire may well point along y."""
    rng = np.random.default_rng(5)
    cell = np.diag([2.0, 3.0, 5.0])[list(swap)]
    assert_complete(Atoms("H6", rng.uniform(-5, 5, (6, 3)), cell=cell, pbc=pbc), 3.3, 0.2)


def test_cells_much_smaller_than_the_cutoff():
    result = assert_complete(Atoms("H", [[7.0, -3.0, 0.2]], cell=np.diag([0.9, 1.1, 1.3]), pbc=True), 4.0)
    assert len(result.center) > 150
    assert (0, 0, 0, 0, 0) not in as_keys(result.center, result.neighbor, result.shift)


@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 0, 1), (1, 1, 1)], ids=str)
def test_empty_single_and_coincident_atoms(pbc):
    cell = np.diag([9.0, 8.0, 7.0])
    empty = assert_complete(Atoms(cell=cell, pbc=pbc), 3.0)
    assert empty.shift.shape == (0, 3)
    assert empty.valid_for(Atoms(cell=2 * cell, pbc=pbc))
    assert len(assert_complete(Atoms("H", [[1, 2, 3]], cell=cell, pbc=pbc), 3.0).center) == 0
    twins = Atoms("H3", [[1, 2, 3], [1, 2, 3], [1.5, 2, 3]], cell=cell, pbc=pbc)
    _, _, vectors, _ = assert_complete(twins, 3.0).pairs(twins)
    assert (np.linalg.norm(vectors, axis=1) == 0.0).sum() == 2
    twins.positions[1] += 4 * cell[0] * pbc[0]  # the same place, four cells on
    assert_complete(twins, 3.0)


def test_cutoff_is_inclusive():
    pair = Atoms("H2", [[0, 0, 0], [3.0, 4.0, 0.0]])
    for beyond, skin in ((np.nextafter(5.0, 0.0), 0.0), (5.0, 0.0), (4.0, 1.0), (4.0, 0.9)):
        assert len(build_neighbor_list(pair, beyond, skin).center) == (2 if beyond + skin >= 5.0 else 0)
    assert len(build_neighbor_list(pair, 5.0, 1.0).pairs(pair)[0]) == 2
    assert len(build_neighbor_list(pair, np.nextafter(5.0, 0.0), 1.0).pairs(pair)[0]) == 0
    cube = Atoms("H", cell=3.0 * np.eye(3), pbc=True)
    assert len(build_neighbor_list(cube, 3.0).center) == 6
    assert len(build_neighbor_list(cube, np.nextafter(3.0, 0.0)).center) == 0


def test_edges_come_in_exactly_opposite_pairs():
    atoms = random_atoms(np.random.default_rng(4), True, n_atoms=5)
    center, neighbor, vectors, shift = build_neighbor_list(atoms, 5.0).pairs(atoms)
    found = dict(zip(as_keys(center, neighbor, shift), vectors, strict=True))
    for (i, j, *s), vector in found.items():
        np.testing.assert_array_equal(vector, -found[(j, i, *(-k for k in s))])


def test_unusual_arrays_and_inputs_left_alone():
    big = random_atoms(np.random.default_rng(1), True, n_atoms=8)
    atoms = big[::2]
    atoms.arrays["positions"] = np.asfortranarray(big.positions)[::2]
    atoms.cell = np.asfortranarray(big.cell)
    before = atoms.copy()
    result = assert_complete(atoms, np.float32(3.0), 0)
    assert atoms == before
    integers = Atoms("H2", cell=np.eye(3) * 5, pbc=True)
    integers.arrays["positions"] = np.array([[0, 0, 0], [1, 2, 2]])
    assert_complete(integers, 4)
    atoms.positions[:] = 0.0
    np.testing.assert_array_equal(result.positions, before.positions)
    for name in ("center", "neighbor", "shift", "positions", "cell", "pbc"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(result, name)[...] = 0


@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)], ids=str)
def test_wide_vacuum_costs_nothing(pbc, monkeypatch):
    """Clusters 1e6 Å apart in every direction, with and without a cell around them, are searched in a small box."""

    def search_small_box(*args, **kwargs):
        assert kwargs["cutoff"] < 3.6
        assert np.linalg.norm(kwargs["cell"], axis=1).max() < 50.0
        return neighbour_list(*args, **kwargs)

    monkeypatch.setattr(neighbor_search, "neighbour_list", search_small_box)
    rng = np.random.default_rng(8)
    centers = np.array([[0, 0, 0], [1e6, 1e6, -1e6], [3e5, -8e5, 2e5]])
    positions = (centers[:, None] + rng.uniform(-3, 3, (1, 4, 3))).reshape(-1, 3)
    atoms = Atoms("H12", positions, cell=[[4e6, 0, 0], [1e6, 3e6, 0], [-1e6, 2e5, 5e6]], pbc=pbc)
    expected = brute_force(atoms[:4], 3.5)
    result = build_neighbor_list(atoms, 3.5)
    assert len(result.center) == 3 * len(expected)
    assert (result.center // 4 == result.neighbor // 4).all()
    assert not result.shift.any()


def test_scattered_molecules_share_wide_bins():
    """Two thousand molecules leave no common gaps to cut: the bins must grow instead of their number."""
    rng = np.random.default_rng(9)
    positions = (rng.uniform(0, 1e5, (2000, 1, 3)) + molecule("H2O").positions).reshape(-1, 3)
    result = build_neighbor_list(Atoms(numbers=[1] * 6000, positions=positions), 6.0)
    near = result.center // 3 == result.neighbor // 3
    assert near.sum() == 12000


@pytest.mark.parametrize("pbc", ALL_PBC, ids=str)
def test_wider_bins_give_the_same_pairs(pbc, monkeypatch):
    monkeypatch.setattr(neighbor_search, "MAX_BINS", 2)
    rng = np.random.default_rng([*pbc, 6])
    for _ in range(3):
        assert_complete(random_atoms(rng, pbc, n_atoms=5, length=15.0, spread=2.0), 2.5, 0.5)


def test_both_searches_find_the_same_in_the_same_order(monkeypatch):
    """Exactly: what a pair's vector and its place in the list are does not depend on how it was found."""
    rng = np.random.default_rng(11)
    for pbc in ALL_PBC:
        atoms = random_atoms(rng, pbc, n_atoms=30, length=9.0, spread=3.0)
        found = []
        for most in (np.inf, 0):
            monkeypatch.setattr(neighbor_search, "MAX_TABLE", most)
            found.append(build_neighbor_list(atoms, 5.0, 0.5))
        for name in ("center", "neighbor", "shift"):
            np.testing.assert_array_equal(*(getattr(one, name) for one in found))


def test_large_bulk_agrees_with_its_unit():
    atoms = bulk("Cu", cubic=True) * (6, 6, 6)
    result = build_neighbor_list(atoms, 6.0)
    assert (np.bincount(result.center) == len(brute_force(bulk("Cu"), 6.0))).all()


def deform(atoms, rng, size):
    """Return a copy after a random strain, rotation of cell and atoms, drift and moves, all about `size` Å."""
    moved = atoms.copy()
    strain = rng.normal(size=(3, 3)) * rng.choice([0.0, 0.1, 0.4]) * size / 5.0
    if rng.random() < 0.3:
        strain = -np.diag(rng.uniform(0.0, size / 5.0, 3))  # compression, the dangerous case
    map_ = np.eye(3) + strain
    if atoms.pbc.any() and rng.random() < 0.5:
        map_ = map_ @ random_rotation(rng)
    moved.set_cell(moved.cell @ map_)
    if rng.random() < 0.8:
        moved.positions = moved.positions @ map_ + rng.normal(size=3)
    moves = rng.normal(size=(len(atoms), 3))
    moved.positions += rng.choice([0.0, 0.3, 0.6]) * size * moves / np.linalg.norm(moves, axis=1)[:, None]
    return moved


@pytest.mark.parametrize("pbc", ALL_PBC, ids=str)
def test_a_valid_list_is_complete(pbc):
    """Whenever `valid_for` agrees, the filtered list equals the oracle; it must agree often enough to count."""
    rng = np.random.default_rng([*pbc, 7])
    n_valid = n_steps = n_changed = 0
    for _ in range(25):
        atoms = random_atoms(rng, pbc, n_atoms=rng.integers(3, 13 - 3 * sum(pbc)), length=4.5, spread=1.5)
        cutoff, skin = rng.uniform(2.0, 3.5), rng.uniform(0.2, 1.0)
        kept = build_neighbor_list(atoms, cutoff, skin)
        before = set(brute_force(atoms, cutoff))
        for _ in range(20):
            moved = deform(atoms, rng, skin)
            n_steps += 1
            if kept.valid_for(moved):
                center, neighbor, _, shift = kept.pairs(moved)
                expected = brute_force(moved, cutoff)
                assert as_keys(center, neighbor, shift) == sorted(expected)
                n_valid += 1
                n_changed += set(expected) != before
            else:
                with pytest.raises(ValueError, match="out of date"):
                    kept.pairs(moved)
    assert n_steps == 500
    assert n_valid > 0.1 * n_steps  # strong strains and rotations of wires rightly fail
    assert n_changed > 0.02 * n_steps


def test_validity_ends_where_a_pair_can_enter():
    """Head-on moves and uniform compression reach the bound; a hair less is valid, a hair more is not."""
    cutoff, skin = 4.0, 0.8
    pair = Atoms("H2", [[0, 0, 0], [cutoff + skin + 1e-9, 0, 0]])
    kept = build_neighbor_list(pair, cutoff, skin)
    assert len(kept.center) == 0
    for factor in (0.999, 1.001):
        moved = pair.copy()
        moved.positions[:, 0] += np.array([0.5, -0.5]) * skin * factor
        assert kept.valid_for(moved) == (factor < 1)
    crystal = Atoms("H", cell=np.eye(3) * (cutoff + skin + 1e-9), pbc=True)
    kept = build_neighbor_list(crystal, cutoff, skin)
    for factor in (0.999, 1.001):
        moved = crystal.copy()
        moved.set_cell(crystal.cell.array * (1.0 - factor * skin / (cutoff + skin)))
        assert kept.valid_for(moved) == (factor < 1)


@pytest.mark.parametrize("pbc", ALL_PBC, ids=str)
def test_small_moves_and_rigid_motions_stay_valid(pbc):
    """Rotations of a molecule or about a wire's axis cannot be told from its cell; a wire may tilt with its atoms."""
    rng = np.random.default_rng([*pbc, 9])
    for _ in range(20):
        atoms = random_atoms(rng, pbc, n_atoms=4)
        kept = build_neighbor_list(atoms, 4.0, 0.6)
        moved = atoms.copy()
        moves = rng.normal(size=(4, 3))
        moves -= moves.mean(axis=0)
        moved.positions += rng.normal(size=3) * 1e3 + 0.299 * moves / np.linalg.norm(moves, axis=1).max()
        assert kept.valid_for(moved)
        center, neighbor, _, shift = kept.pairs(moved)
        assert as_keys(center, neighbor, shift) == sorted(brute_force(moved, 4.0))
        rotation = random_rotation(rng)
        if sum(pbc) < 2:
            axis = atoms.cell[np.argmax(pbc)] / np.linalg.norm(atoms.cell[np.argmax(pbc)]) if any(pbc) else None
            rotation = np.eye(3) if axis is None else minimal_rotation(axis, axis @ rotation)
        atoms.set_cell(atoms.cell @ rotation)
        atoms.positions = atoms.positions @ rotation + rng.normal(size=3)
        assert kept.valid_for(atoms)


def minimal_rotation(old, new):
    """Return R with ``old @ R == new``: half turns about `old` and about the bisector, one after the other."""
    middle = (old + new) / np.linalg.norm(old + new)
    return (2 * np.outer(old, old) - np.eye(3)) @ (2 * np.outer(middle, middle) - np.eye(3))


def test_what_makes_a_list_invalid():
    atoms = random_atoms(np.random.default_rng(2), (1, 1, 0), n_atoms=4)
    kept = build_neighbor_list(atoms, 3.0, 0.4)
    exact = build_neighbor_list(atoms, 3.0)
    assert kept.valid_for(atoms)
    assert exact.valid_for(atoms)
    assert not kept.valid_for(atoms[:3])
    other = atoms.copy()
    other.pbc = True
    assert not kept.valid_for(other)
    other = atoms.copy()
    other.cell[2] *= 3.0  # an open direction: nothing has changed
    assert exact.valid_for(other)
    other.positions[1, 0] += 1e-3
    assert not exact.valid_for(other)
    assert kept.valid_for(other)
    other.cell[0] *= 0.5
    assert not kept.valid_for(other)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e12])
def test_positions_that_are_not_numbers(bad):
    atoms = random_atoms(np.random.default_rng(3), True, n_atoms=15)
    kept = build_neighbor_list(atoms, 3.0, 0.5)
    atoms.positions[[2, 7], 1] = bad
    for call in (kept.valid_for, kept.pairs, lambda a: build_neighbor_list(a, 3.0)):
        with pytest.raises(ValueError, match=r"positions of atoms \[2, 7\] are not finite"):
            call(atoms)
    atoms.positions[:] = bad
    with pytest.raises(ValueError, match=r"8, 9\] and 5 more are not finite"):
        build_neighbor_list(atoms, 3.0)


def test_cells_that_are_no_cells():
    cell = np.diag([3.0, 4.0, 0.0])
    with pytest.raises(ValueError, match=r"cell is singular.* no lattice vector .*\[2\]; set pbc=False"):
        build_neighbor_list(Atoms("H", cell=cell, pbc=True), 3.0)
    with pytest.raises(ValueError, match=r"cell is singular.*\[0, 1, 2\]; set pbc=False .* or give a cell"):
        build_neighbor_list(Atoms("H", pbc=True), 3.0)
    with pytest.raises(ValueError, match=r"cell is singular.* linearly dependent .*\[0, 2\]"):
        build_neighbor_list(Atoms("H", cell=[[1, 2, 3], [0, 1, 0], [2, 4, 6]], pbc=(1, 0, 1)), 3.0)
    cell[0, 1] = np.nan
    with pytest.raises(ValueError, match=r"cell .* not finite"):
        build_neighbor_list(Atoms("H", cell=cell, pbc=True), 3.0)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, np.nan, np.inf])
def test_bad_radii(cutoff):
    with pytest.raises(ValueError, match="cutoff must be a positive finite number"):
        build_neighbor_list(Atoms("H"), cutoff)
    if cutoff != 0.0:
        with pytest.raises(ValueError, match="skin must be a finite number"):
            build_neighbor_list(Atoms("H"), 3.0, cutoff)


def test_absurd_searches_are_refused():
    with pytest.raises(ValueError, match=r"1 atoms would have about 9e\+08 pairs within 6 Å .* cell are in Å"):
        build_neighbor_list(Atoms("H", cell=0.01 * np.eye(3), pbc=True), 6.0)
    with pytest.raises(ValueError, match=r"pairs within 1e\+06 Å"):
        build_neighbor_list(bulk("Cu"), 1e6)
    dense = Atoms(numbers=[1] * 40000, positions=np.random.default_rng(0).uniform(0, 1e-3, (40000, 3)))
    with pytest.raises(ValueError, match="40000 atoms would have about 8e"):
        build_neighbor_list(dense, 6.0)


@pytest.mark.parametrize("pbc", ALL_PBC, ids=str)
def test_the_estimate_of_the_work_is_close(pbc, monkeypatch):
    """Refusals rest on an estimate: within a factor of three for a filled box larger than the cutoff."""
    monkeypatch.setattr(neighbor_search, "MAX_TABLE", 0)
    rng = np.random.default_rng([*pbc, 1])
    atoms = Atoms("H600", rng.uniform(0, 20, (600, 3)), cell=[20, 20, 20], pbc=pbc)
    n_edges = len(build_neighbor_list(atoms, 4.0).center)
    monkeypatch.setattr(neighbor_search, "MAX_EDGES", 3 * n_edges)
    build_neighbor_list(atoms, 4.0)
    monkeypatch.setattr(neighbor_search, "MAX_EDGES", n_edges / 3)
    with pytest.raises(ValueError, match="600 atoms would have about"):
        build_neighbor_list(atoms, 4.0)

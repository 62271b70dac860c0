"""What no model may see: where a structure is, how it is turned, numbered, wrapped, repeated or batched."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import zoo
from numpy.testing import assert_allclose

from dpa2_ase import DPA2Calculator
from dpa2_ase.interfaces.evaluator import stress_volume

# float64 sums of a few hundred terms in another order
ENERGY, FORCE = 1e-11, 1e-11
MODELS = (*zoo.SMOOTH, *zoo.NOT_SMOOTH, *zoo.HIGHER_DEGREES)
PERIODIC = ("skew", "left-handed", "sheared", "slab", "wire", "one-atom-cell")


@pytest.fixture(params=MODELS)
def potential(request):
    return zoo.potential(request.param)


def assert_same(found, expected):
    """Energies, forces and virials of two predictions agree."""
    assert_allclose(found.energy, expected.energy, atol=ENERGY, rtol=0)
    assert_allclose(found.atomic_energies, expected.atomic_energies, atol=ENERGY, rtol=0)
    assert_allclose(found.forces, expected.forces, atol=FORCE, rtol=0)
    assert_allclose(found.virial, expected.virial, atol=10 * FORCE, rtol=0)


def orthogonal(seed: int, sign: int) -> np.ndarray:
    """A random rotation (sign 1) or rotation with reflection (-1)."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * sign * np.sign(np.linalg.det(q))


def turned(atoms, q: np.ndarray):
    """The structure with every vector multiplied by `q`."""
    result = atoms.copy()
    result.set_cell(atoms.cell.array @ q.T)
    result.positions = atoms.positions @ q.T
    return result


def test_the_zoo_has_forces(potential):
    """Agreement means nothing for numbers that are zero, or for neighborhoods cut at the list length."""
    for atoms in zoo.structures():
        graph = zoo.graph_of(potential, *atoms.values)
        for _, cutoff, nsel in potential.neighbor_limits:
            assert graph.within(cutoff, 10**6).degree.max() <= nsel
        if graph.n_edges and len(graph.types) > 1:
            assert potential.predict(graph).forces.abs().max() > 1e-4


@pytest.mark.parametrize("atoms", zoo.structures())
def test_translation(potential, atoms):
    moved = atoms.copy()
    moved.positions += [11.3, -4.7, 0.9]
    assert_same(zoo.predict(potential, moved), zoo.predict(potential, atoms))


@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
@pytest.mark.parametrize("atoms", zoo.structures())
def test_orthogonal(potential, atoms, sign):
    q = orthogonal(7, sign)
    before, after = zoo.predict(potential, atoms), zoo.predict(potential, turned(atoms, q))
    assert_allclose(after.energy, before.energy, atol=ENERGY, rtol=0)
    assert_allclose(after.forces, before.forces.numpy() @ q.T, atol=FORCE, rtol=0)
    assert_allclose(after.virial[0], q @ before.virial[0].numpy() @ q.T, atol=10 * FORCE, rtol=0)
    assert_allclose(after.virial[0], after.virial[0].T, atol=10 * FORCE, rtol=0)


@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
@pytest.mark.parametrize("atoms", zoo.structures("skew", "slab", "molecule", "dimer"))
@pytest.mark.parametrize(
    "name", ["dpa2-dipole", "dpa2-polar", "extra/dpa1-polar-full-scale", "extra/dpa1-dipole-exclude"]
)
def test_equivariance(name, atoms, sign):
    """Dipoles turn as vectors, polarizabilities as tensors of rank two; both stay under permutation."""
    model, q = zoo.potential(name), orthogonal(8, sign)
    before, after = _tensors(model, atoms), _tensors(model, turned(atoms, q))
    expected = np.einsum("ab,nb->na", q, before) if before.ndim == 2 else np.einsum("ab,nbc,dc->nad", q, before, q)
    assert np.abs(before).max() > 1e-3
    assert_allclose(after, expected, atol=ENERGY, rtol=0)
    order = np.random.default_rng(0).permutation(len(atoms))
    assert_allclose(_tensors(model, atoms[order]), before[order], atol=ENERGY, rtol=0)


def _tensors(model, atoms) -> np.ndarray:
    fparam = torch.full((1, 1), 0.3) if model.fitting_nets[0].config.numb_fparam else None
    return model.predict(zoo.graph_of(model, atoms), fparam).atomic.numpy()


@pytest.mark.parametrize("atoms", zoo.structures("skew", "sheared", "slab", "molecule", "wire"))
def test_permutation(potential, atoms):
    order = np.random.default_rng(0).permutation(len(atoms))
    before, after = zoo.predict(potential, atoms), zoo.predict(potential, atoms[order])
    assert_allclose(after.energy, before.energy, atol=ENERGY, rtol=0)
    assert_allclose(after.forces, before.forces[order], atol=FORCE, rtol=0)
    assert_allclose(after.atomic_energies, before.atomic_energies[order], atol=ENERGY, rtol=0)


@pytest.mark.parametrize("atoms", zoo.structures(*PERIODIC))
def test_wrapping(potential, atoms):
    """Every atom moved by lattice vectors of its own."""
    moved = atoms.copy()
    moved.positions += (np.random.default_rng(0).integers(-3, 4, (len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
    assert_same(zoo.predict(potential, moved), zoo.predict(potential, atoms))


@pytest.mark.parametrize("atoms", zoo.structures(*PERIODIC))
def test_supercell(potential, atoms):
    n = np.where(atoms.pbc, [2, 3, 2], 1)
    small, large = zoo.predict(potential, atoms), zoo.predict(potential, atoms.repeat(n))
    assert_allclose(large.energy, small.energy * n.prod(), atol=100 * ENERGY, rtol=0)
    assert_allclose(large.forces, np.tile(small.forces, (n.prod(), 1)), atol=FORCE, rtol=0)
    assert_allclose(large.virial / n.prod(), small.virial, atol=10 * FORCE, rtol=0)


@pytest.mark.parametrize(
    "change", [np.diag([1, -1, 1]), np.eye(3)[[1, 0, 2]], np.array([[1, 2, 0], [0, 1, 0], [-1, 0, -1]])]
)
@pytest.mark.parametrize("atoms", zoo.structures("skew", "left-handed", "sheared"))
def test_other_cell_of_the_same_lattice(potential, atoms, change):
    """All three turn a right-handed cell into a left-handed one and the other way round."""
    assert np.linalg.det(change) == -1
    other = atoms.copy()
    other.set_cell(change @ atoms.cell.array)
    assert_same(zoo.predict(potential, other), zoo.predict(potential, atoms))
    assert stress_volume(other) == pytest.approx(stress_volume(atoms))
    assert stress_volume(other) > 0


@pytest.mark.parametrize("name", [*MODELS, "dpa1-attn-davg", "dpa2-medium-davg", "dpa2-exclude", "dpa2-econf"])
def test_batch_is_the_sum_of_its_parts(name):
    potential = zoo.potential(name)
    structures = [entry.values[0] for entry in zoo.structures()]
    together = zoo.predict(potential, *structures)
    first = 0
    for index, atoms in enumerate(structures):
        alone, rows = zoo.predict(potential, atoms), slice(first, first + len(atoms))
        assert_allclose(together.energy[index], alone.energy[0], atol=ENERGY, rtol=0)
        assert_allclose(together.forces[rows], alone.forces, atol=FORCE, rtol=0)
        assert_allclose(together.virial[index], alone.virial[0], atol=10 * FORCE, rtol=0)
        first += len(atoms)


@pytest.mark.parametrize("memory", [1e-9, 1e-4, 2.0], ids=["one by one", "some", "all at once"])
@pytest.mark.parametrize("name", ["dpa1-temperature", "dpa2-everything"])
def test_evaluate_splits_without_a_trace(name, memory, monkeypatch):
    """Any limit of memory (GiB) gives the numbers of single calculations, in order."""
    calculator = DPA2Calculator(zoo.potential(name), device="cpu", batch_memory=memory)
    structures = [entry.values[0] for entry in zoo.structures()]
    passes = []
    forward = calculator.evaluator.forward
    monkeypatch.setattr(calculator.evaluator, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    results = calculator.evaluate(structures)
    assert len(passes) in {1e-9: {len(structures)}, 1e-4: range(2, len(structures)), 2.0: {1}}[memory]
    for atoms, result in zip(structures, results, strict=True):
        atoms.calc = DPA2Calculator(zoo.potential(name), device="cpu")
        assert result["energy"] == pytest.approx(atoms.get_potential_energy(), abs=ENERGY)
        assert_allclose(result["forces"], atoms.get_forces(), atol=FORCE, rtol=0)
        assert ("stress" in result) == atoms.pbc.any()
        if "stress" in result:
            assert_allclose(result["stress"], atoms.get_stress(), atol=FORCE, rtol=0)


@pytest.mark.parametrize("name", ["dpa1-attn-davg", "dpa2-medium-davg"])
def test_mean_of_the_environment_makes_the_first_atom_special(name):
    """Documented quirk of set_davg_zero = false: the first atom's element counts; a warning says so once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calculator = DPA2Calculator(zoo.DATA / "parity" / f"{name}.pt", device="cpu")
    assert sum("set_davg_zero" in str(warning.message) for warning in caught) == 1
    atoms = zoo.structure("molecule")
    rest = [index for index, symbol in enumerate(atoms.symbols) if symbol == atoms.symbols[0]][1:]
    other = next(index for index, symbol in enumerate(atoms.symbols) if symbol != atoms.symbols[0])

    def energy(first: int) -> float:  # a second warning would be an error
        order = [first, *(index for index in range(len(atoms)) if index != first)]
        return calculator.evaluate([atoms[order]], ["energy"])[0]["energy"]

    assert energy(rest[0]) == pytest.approx(energy(0), abs=ENERGY)
    assert abs(energy(other) - energy(0)) > 1e-4

"""Forces, virials, stresses and Hessians against finite differences, and gradients of gradients."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.testing import assert_allclose

from dpa2_ase import DPA2Calculator, derivatives
from dpa2_ase.interfaces.evaluator import stress_volume
from dpa2_ase.model import differentiable

pytestmark = pytest.mark.filterwarnings("ignore:this model was trained without smooth attention")
MODELS = ("dpa1-attn", "dpa2-everything", "dpa2-resavg-nosmooth", "extra/dpa1-lmax4")
STEP = 1e-4  # Å; central differences leave about 1e-8 times the third derivative and 1e-16 eV / 1e-4 Å of rounding
# every kind of formula: attention with and without gate, strip, both update styles, not smooth, tables, exclusions
DOUBLE = (
    *MODELS,
    "dpa1-temperature",
    "dpa1-attn-strip-smooth",
    "dpa1-noattn-strip",
    "dpa1-attn-davg",
    "dpa2-strip",
    "dpa2-resincr-layer",
    "dpa2-exclude",
    "dpa2-econf",
    "extra/dpa1-nosmooth-dotr",
    "extra/dpa2-fulldavg-strip",
    "extra/dpa2-locattn-nosmooth",
    "extra/zbl-dpa1",
)


def central(function, step: float = STEP) -> float | np.ndarray:
    return (function(step) - function(-step)) / (2 * step)


def moved(atoms: Atoms, index: int, axis: int, step: float) -> Atoms:
    result = atoms.copy()
    result.positions[index, axis] += step
    return result


def strained(atoms: Atoms, a: int, b: int, step: float) -> Atoms:
    """All atoms and cell vectors with x_a -> x_a + step x_b; also along open directions."""
    deformation = np.eye(3)
    deformation[b, a] += step
    result = atoms.copy()
    result.set_cell(atoms.cell.array @ deformation)
    result.positions = atoms.positions @ deformation
    return result


@pytest.fixture(params=MODELS, scope="module")
def potential(request):
    return zoo.potential(request.param)


@pytest.mark.parametrize("atoms", zoo.structures("skew", "sheared", "slab", "wire", "molecule", "dimer"))
def test_forces_are_the_negative_gradient(potential, atoms):
    found = zoo.predict(potential, atoms).forces
    numeric = [
        [-central(lambda h, i=i, a=a: zoo.energy(potential, moved(atoms, i, a, h))) for a in range(3)]
        for i in range(len(atoms))
    ]
    assert_allclose(found, numeric, atol=1e-7, rtol=0)


@pytest.mark.parametrize("atoms", zoo.structures("skew", "left-handed", "slab", "wire", "one-atom-cell", "molecule"))
def test_virial_and_stress_are_strain_derivatives(potential, atoms):
    """The stress is that over the volume of the cell, molecules have none (only a virial)."""
    numeric = np.array(
        [
            [central(lambda h, a=a, b=b: zoo.energy(potential, strained(atoms, a, b, h))) for b in range(3)]
            for a in range(3)
        ]
    )
    # a strain of 1e-4 moves edges of 6 Å further than 1e-4 Å, so the error is larger than that of forces
    assert_allclose(-zoo.predict(potential, atoms).virial[0], numeric, atol=1e-6, rtol=0)
    if atoms.pbc.any():
        atoms.calc = DPA2Calculator(potential, device="cpu")
        assert_allclose(atoms.get_stress(voigt=False), numeric / stress_volume(atoms), atol=1e-7, rtol=0)


def test_volume_of_the_stress():
    """That of the cell; along open directions without a cell vector a length of one."""
    assert stress_volume(zoo.structure("slab")) == pytest.approx(abs(np.linalg.det(zoo.structure("slab").cell.array)))
    assert stress_volume(zoo.structure("wire")) == pytest.approx(np.linalg.norm(zoo.structure("wire").cell[0]))
    assert stress_volume(zoo.structure("left-handed")) == pytest.approx(zoo.structure("left-handed").get_volume())


@pytest.mark.parametrize("atoms", zoo.structures())
def test_atomic_virials_add_up(potential, atoms):
    graph = differentiable(zoo.graph_of(potential, atoms))
    atomic = derivatives.atomic_virials(potential.atomic(graph), graph, torch.as_tensor(atoms.positions))
    assert atomic.shape == (len(atoms), 3, 3)
    assert_allclose(atomic.sum(0), zoo.predict(potential, atoms).virial[0], atol=1e-11, rtol=0)  # rounding
    if atoms.pbc.any():
        atoms.calc = DPA2Calculator(potential, device="cpu")
        assert_allclose(atoms.get_stresses().sum(0), atoms.get_stress(), atol=1e-12, rtol=0)  # eV/Å³


def test_total_force_and_torque_vanish(potential):
    atoms = zoo.structure("molecule")
    forces = zoo.predict(potential, atoms).forces.numpy()
    assert_allclose(forces.sum(0), 0, atol=1e-12)
    assert_allclose(np.cross(atoms.positions, forces).sum(0), 0, atol=1e-12)


@pytest.mark.parametrize("name", DOUBLE)
def test_autograd(name):
    """First and second derivatives with respect to every edge vector, each on its own (j -> i is not minus i -> j)."""
    potential = zoo.potential(name)
    positions = [[0, 0, 0], [1.1, 0.4, -0.3], [-0.5, 1.2, 0.6], [0.3, -0.9, 3.4]]  # the last within onset and cutoff
    graph = zoo.graph_of(potential, Atoms("CuOHO", positions))
    vectors = (
        graph.vectors + 0.05 * torch.randn(graph.vectors.shape, generator=torch.Generator().manual_seed(1))
    ).double()

    def energy(vectors):
        return potential(replace(graph, vectors=vectors))

    vectors.requires_grad_()
    assert torch.autograd.gradcheck(energy, (vectors,), atol=1e-7, rtol=1e-5)
    assert torch.autograd.gradgradcheck(energy, (vectors,), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("atoms", zoo.structures("skew", "sheared"))
def test_strain_derivatives(potential, atoms):
    """Stresses and forces of strained cells with sheared angles half on either side, under stress as they are."""
    calculator = DPA2Calculator(potential, device="cpu")
    stresses, forces = calculator.get_strain_derivatives(atoms)
    for row, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):

        def results(h, a=a, b=b):
            deformation = np.eye(3)
            deformation[a, b] += h / 2
            deformation[b, a] += h / 2
            one = atoms.copy()
            one.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
            (found,) = calculator.evaluate([one], ["forces", "stress"])
            return np.concatenate([found["stress"], found["forces"].ravel()])

        numeric = central(results, 3e-5)
        assert_allclose(stresses[row], numeric[:6], atol=1e-6, rtol=1e-6)
        assert_allclose(forces[row].ravel(), numeric[6:], atol=1e-5, rtol=1e-6)


def test_strain_derivatives_need_a_crystal(potential):
    calculator = DPA2Calculator(potential, device="cpu")
    with pytest.raises(PropertyNotImplementedError, match="need a crystal"):
        calculator.get_strain_derivatives(zoo.structure("slab"))
    far = Atoms("Cu", cell=[40, 41, 42], pbc=True)
    stresses, forces = calculator.get_strain_derivatives(far)
    assert (stresses.shape, forces.shape, stresses.any(), forces.any()) == ((6, 6), (6, 1, 3), False, False)


@pytest.mark.parametrize("atoms", zoo.structures("skew", "slab", "molecule", "one-atom-cell", "one-atom"))
def test_hessian(potential, atoms):
    """Against differences of forces, which are not symmetric by construction; rigid shifts cost nothing."""
    calculator = DPA2Calculator(potential, device="cpu")
    hessian = calculator.get_hessian(atoms)
    size = 3 * len(atoms)
    numeric = np.array(
        [
            -central(lambda h, i=i, a=a: zoo.predict(potential, moved(atoms, i, a, h)).forces.numpy().flatten(), 3e-5)
            for i in range(len(atoms))
            for a in range(3)
        ]
    )
    assert hessian.shape == (size, size)
    assert_allclose(hessian, numeric, atol=1e-6, rtol=0)
    assert_allclose(hessian, hessian.T, atol=0)
    assert_allclose(hessian.reshape(size, -1, 3).sum(1), 0, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["dpa1-attn", "dpa2-everything", "dpa2-strip", "dpa2-resavg-nosmooth", "extra/dpa1-lmax4"]
)
def test_parameters_get_gradients_of_a_loss_on_forces(name):
    """Training: every parameter has a finite gradient, and together they are the derivative along a direction."""
    potential = copy.deepcopy(zoo.potential(name)).requires_grad_(True)
    graph = differentiable(zoo.graph_of(potential, zoo.structure("skew"), zoo.structure("molecule")))
    target = torch.randn(graph.n_atoms, 3, generator=torch.Generator().manual_seed(0)).double()

    def loss():
        energy = potential(graph)
        gradient = derivatives.edge_gradient(energy, graph, create_graph=True)
        forces = derivatives.forces(gradient, graph)
        return ((forces - target) ** 2).sum() + (energy**2).sum() + (derivatives.virial(gradient, graph) ** 2).sum()

    loss().backward()
    parameters = dict(potential.named_parameters())
    assert [n for n, p in parameters.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [n for n, p in parameters.items() if not p.grad.any()] == []
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator).double() for p in parameters.values()]
    expected = sum((p.grad * d).sum() for p, d in zip(parameters.values(), direction, strict=True)).item()

    def along(step):
        with torch.no_grad():
            for parameter, d in zip(parameters.values(), direction, strict=True):
                parameter += step * d
        value = loss().item()
        with torch.no_grad():
            for parameter, d in zip(parameters.values(), direction, strict=True):
                parameter -= step * d
        return value

    assert central(along, 1e-6) == pytest.approx(expected, rel=1e-6)  # rounding 1e-16 · loss / step


@pytest.mark.parametrize("atoms", zoo.structures("one-atom", "one-atom-cell", "dimer"))
def test_smallest_structures(potential, atoms):
    """Shapes and zeros where there are no edges; a lone atom feels nothing, in a cell as well by symmetry."""
    found = zoo.predict(potential, atoms)
    assert found.energy.shape == (1,)
    assert found.forces.shape == (len(atoms), 3)
    assert found.virial.shape == (1, 3, 3)
    assert_allclose(found.forces.sum(0), 0, atol=1e-13)
    if not atoms.pbc.any() and len(atoms) == 1:
        assert not found.virial.any()

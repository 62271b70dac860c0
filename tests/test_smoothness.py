"""Energy, force and second derivative while an atom crosses the radii at which it begins or ceases to be seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from ase import Atoms

from dpa2_ase.nn import environment

# every radius where a formula changes: cutoffs and onsets of repinit / DPA-1 (6 Å) and of repformer and three-body
RADII = {"dpa1": (6.0,), "dpa2": (6.0, 4.0, 3.0)}
CROSSINGS = [(name, radius) for name in zoo.SMOOTH for radius in RADII[name[:4]]]
DIRECTION = np.array([0.48, -0.6, 0.64])  # a unit vector


def cluster(radius: float, offset: float) -> Atoms:
    """A probe (last) at `radius` + `offset` from atom 0; no other pair is near a radius of interest."""
    near = np.array([[0, 0, 0], [-0.9, 0.8, 0.5], [-1.4, -0.9, 0.2], [-0.3, 0.7, -1.5]])
    probe = near[0] + radius * DIRECTION
    friend = probe + np.array([0.9, -1.0, 1.1])
    return Atoms("CuOHOHCu", [*near, friend, probe + offset * DIRECTION])


def derivatives_along(potential, radius: float, offset: float = 0.0) -> np.ndarray:
    """Energy, its first and its second derivative with respect to the distance of the probe."""
    graph = zoo.graph_of(potential, cluster(radius, offset))
    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    probe = graph.types.new_tensor(len(graph.types) - 1)
    sign = (graph.neighbor == probe).double() - (graph.center == probe).double()
    moved = replace(graph, vectors=graph.vectors + s * sign[:, None] * torch.as_tensor(DIRECTION))
    energy = potential(moved)[0]
    (first,) = torch.autograd.grad(energy, s, create_graph=True)
    (second,) = torch.autograd.grad(first, s)
    return np.array([energy.item(), first.item(), second.item()])


def jumps(potential, radius: float, step: float) -> np.ndarray:
    """Differences across `radius` of what a smooth function changes by less than `step` squared.

    The change that value and slope at both ends promise is taken off from energy and slope.
    """
    below, above = derivatives_along(potential, radius, -step), derivatives_along(potential, radius, step)
    change = above - below
    change[0] -= step * (above[1] + below[1])
    change[1] -= step * (above[2] + below[2])
    return np.abs(change)


def remaining(potential, radius: float) -> float:
    """What is left of the change of the second derivative when the step across `radius` becomes 100 times smaller.

    0.01 for a finite third derivative on both sides, one for a jump on a flat ground.
    """
    return jumps(potential, radius, 1e-7)[2] / jumps(potential, radius, 1e-5)[2]


@pytest.mark.parametrize(("name", "radius"), CROSSINGS)
def test_two_continuous_derivatives(name, radius):
    potential = zoo.potential(name)
    energy, slope, _ = jumps(potential, radius, 1e-5)
    assert energy < 1e-12  # third derivatives up to 40 eV/Å³ times the cube of the step, and rounding
    assert slope < 1e-8  # the same times the square of the step
    assert remaining(potential, radius) < 0.011
    assert abs(derivatives_along(potential, radius)[1]) > 1e-3  # eV/Å: the probe is felt by others


def _once_differentiable(distances, onset, cutoff):
    v = ((cutoff - distances) / (cutoff - onset)).clamp(0, 1)
    return v**2 * (3 - 2 * v)


@pytest.mark.parametrize(("name", "radius"), CROSSINGS)
def test_a_switch_with_one_derivative_would_be_noticed(name, radius, monkeypatch):
    monkeypatch.setattr(environment, "smooth_switch", _once_differentiable)
    assert remaining(zoo.potential(name), radius) > 0.05


@pytest.mark.parametrize(("name", "radius"), [*zip(zoo.NOT_SMOOTH, (6.0, 4.0), strict=True)])
def test_models_without_smoothness_jump(name, radius):
    """As trained, and as DeePMD-kit computes them. The checks above would see it."""
    assert jumps(zoo.potential(name), radius, 1e-5)[0] > 1e-4


@pytest.mark.parametrize("name", [*zoo.SMOOTH, *zoo.NOT_SMOOTH])
def test_far_atoms_do_not_see_each_other(name):
    """Just beyond the cutoff and far away: the sum of the parts, and no force on a lone atom."""
    potential = zoo.potential(name)
    alone = {symbol: zoo.energy(potential, Atoms(symbol)) for symbol in zoo.SYMBOLS}
    for distance in (6.0 + 1e-9, 50.0, 1e6):
        found = zoo.predict(potential, Atoms("CuO", distance * np.array([[0, 0, 0], DIRECTION])))
        assert found.energy.item() == pytest.approx(alone["Cu"] + alone["O"], abs=1e-12)
        assert not found.forces.any()
        assert not found.virial.any()
    molecule = zoo.structure("molecule")
    moved = molecule.copy()
    moved.positions += [30.0, 0.0, 1.0]
    both = zoo.predict(potential, molecule + moved)
    assert both.energy.item() == pytest.approx(2 * zoo.energy(potential, molecule), abs=1e-11)


@pytest.mark.parametrize("name", zoo.SMOOTH)
def test_energy_reaches_the_isolated_one_smoothly(name):
    """An atom on its way out: 0.01 Å before the cutoff what is left scales as the cube of the way, 1e-7 and less."""
    potential = zoo.potential(name)
    pair = [zoo.energy(potential, Atoms("CuO", [[0, 0, 0], r * DIRECTION])) for r in (3.0, 5.99, 5.999, 6.1)]
    left = np.abs(np.array(pair[:3]) - pair[3])
    assert left[0] > 1e-4
    assert left[1] < 1e-6
    assert left[2] < 2e-3 * left[1] + 1e-13

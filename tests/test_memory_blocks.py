"""Large blocks of memory that kernels use again: never two users at a time, never more than agreed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from ase.build import bulk

from dpa2_ase import DPA2Calculator
from dpa2_ase.kernels.cpu import available
from dpa2_ase.kernels.cpu import blocks as module
from dpa2_ase.kernels.cpu.blocks import Blocks


@pytest.fixture
def pool(monkeypatch):
    """Blocks of 1 kB are large, and 100 kB are held."""
    monkeypatch.setattr(module, "FROM_BYTES", 1000)
    monkeypatch.setattr(module, "MOST_HELD", 100_000)
    return Blocks()


def test_memory_is_used_again_when_nobody_needs_it(pool):
    first = pool.empty((2_000, 5), torch.float64)
    assert first.shape == (2_000, 5)
    assert first.dtype == torch.float64
    second = pool.empty((2_000, 5), torch.float64)
    places = {first.data_ptr(), second.data_ptr()}
    assert len(places) == 2
    assert pool.held == 0
    row = first[3]  # a view keeps the memory only as long as the tensor that was handed out
    del first, row
    assert pool.held > 0
    third = pool.empty((9_900,), torch.float64)  # a little less
    assert pool.held == 0
    assert third.data_ptr() in places - {second.data_ptr()}


def test_small_arrays_and_other_sizes_are_new(pool):
    small = pool.empty((3,), torch.float32)
    del small
    assert pool.held == 0
    large = pool.empty((10_000,), torch.float64)
    del large
    assert pool.held >= 80_000
    other = pool.empty((300,), torch.float64)  # far smaller: those of the other structure are let go
    assert pool.held == 0
    del other


def test_no_more_is_held_than_agreed(pool):
    many = [pool.empty((2_000,), torch.float64) for _ in range(20)]
    del many
    assert 0 < pool.held <= 100_000


def test_numbers_do_not_depend_on_it(monkeypatch):
    """Bit for bit, with energies of one structure waiting for their forces while another is evaluated."""
    structures = [bulk("Cu", cubic=True) * (2, 2, n) for n in (1, 2, 2)]
    for number, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=number)

    def forces():
        calculators = [DPA2Calculator(zoo.METALS, device="cpu") for _ in structures]
        energies = [calc.get_potential_energy(a) for calc, a in zip(calculators, structures, strict=True)]
        return energies, [calc.get_forces(a) for calc, a in zip(calculators, structures, strict=True)]

    expected = forces()
    monkeypatch.setattr(module, "FROM_BYTES", 1)
    for _ in range(2):
        found = forces()
        assert found[0] == expected[0]
        for one, other in zip(found[1], expected[1], strict=True):
            np.testing.assert_array_equal(one, other)
    assert (module.blocks.held > 0) == available()[0]

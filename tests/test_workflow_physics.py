"""The bundled model in the workflows: numbers one can look up, and batches that change none."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes

from dpa2_ase import DPA2Calculator
from dpa2_ase.workflows.elastic import elastic
from dpa2_ase.workflows.eos import eos
from dpa2_ase.workflows.vacancy import vacancy


@pytest.fixture(scope="module")
def calc() -> DPA2Calculator:
    return DPA2Calculator(device="cpu", dtype="float64")


class OneByOne(Calculator):
    """The same model without its batches."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, calc: DPA2Calculator):
        super().__init__()
        self.inner = calc

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.inner.calculate(self.atoms, ["energy", "forces", "stress"])
        self.results = dict(self.inner.results)


@pytest.mark.parametrize(
    ("symbol", "lattice", "constants"),
    [("Cu", 3.603, (176.2, 124.9, 81.8)), ("Ni", 3.516, (261.2, 150.8, 131.7))],
)
def test_metals_of_the_bundled_model(calc, symbol, lattice, constants):
    """Measured at low temperature (C. Kittel, Introduction to Solid State Physics, tables 3 and 10 of chapter 3).

    The model is small and follows PBE, which is off by some percent itself: 1 percent of the lattice constant, 15 of
    the elastic constants. The equation of state and the elastic constants are of the same energies; its fit within
    2 percent of the volume is good to 3 percent of the bulk modulus for so rough a curve.
    """
    atoms = bulk(symbol, cubic=True)
    atoms.calc = calc
    curve, found = eos(atoms, strain=0.02), elastic(atoms)
    assert curve.fit.v0 ** (1 / 3) == pytest.approx(lattice, rel=0.01)
    assert found.tensor[[0, 0, 3], [0, 1, 3]] == pytest.approx(constants, rel=0.15)
    assert found.stable
    assert found.atoms.get_volume() == pytest.approx(curve.fit.v0, rel=1e-3)
    assert found.moduli.bulk_hill == pytest.approx(curve.fit.b0, rel=0.03)


def test_batches_change_no_number(calc):
    """To 1e-8: sums over a batch have another order, and relaxations amplify that a little."""
    copper = bulk("Cu", cubic=True)

    def run(one: Calculator) -> tuple[np.ndarray, np.ndarray, float]:
        atoms: Atoms = copper.copy()
        atoms.calc = one
        defect = vacancy(atoms, repeats=(2, 2, 1), fmax=0.05)
        return eos(atoms).energies, elastic(atoms, relax_first=False).tensor, defect.sites[0].formation_energy

    batched, single = run(calc), run(OneByOne(calc))
    np.testing.assert_allclose(batched[0], single[0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(batched[1], single[1], rtol=0, atol=1e-5)  # GPa: 1e-8 eV/Å³ over strains of 0.005
    assert batched[2] == pytest.approx(single[2], abs=1e-8)

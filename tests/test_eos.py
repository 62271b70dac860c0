"""`dpa2_ase.workflows.eos`: a Morse crystal, whose energy is a sum over shells that can be differentiated by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.neighborlist import neighbor_list
from ase.units import GPa
from pairs import Morse, crystal, morse
from scipy.optimize import brentq

from dpa2_ase.workflows.eos import FORMS, eos, fit_all, scaled
from dpa2_ase.workflows.relax import relax


def derivatives(a: float) -> tuple[float, float, float]:
    """Energy of four atoms, its first and second derivative by the volume: E(V), r ∝ V^(1/3)."""
    r = neighbor_list("d", bulk("Cu", a=a), 4.5 * a)  # of one atom; exp(-1.8·(4.5·3.65 - 2.7)) is 1e-11
    volume = a**3
    energy = 2 * morse(r).sum()
    slope = 2 * (morse(r, 1) * r).sum() / (3 * volume)
    curvature = 2 * (morse(r, 2) * r**2 - 2 * morse(r, 1) * r).sum() / (9 * volume**2)
    return energy, slope, curvature


def exact() -> tuple[float, float, float, float]:
    """V0, E0, B0 (GPa) and B0′ of four atoms; the last by a central difference of B along the pressure."""
    a0 = brentq(lambda a: derivatives(a)[1], 3.5, 3.8, xtol=1e-12)
    energy, _, curvature = derivatives(a0)
    bulk_modulus = a0**3 * curvature
    step = 1e-3
    (_, p, m), (_, q, n) = derivatives(a0 + step), derivatives(a0 - step)
    prime = ((a0 + step) ** 3 * m - (a0 - step) ** 3 * n) / (q - p)
    return a0**3, energy, bulk_modulus / GPa, prime


def primitive():
    atoms = bulk("Cu", a=3.65)
    atoms.calc = Morse(6)
    return atoms


def test_all_forms_find_the_second_derivative():
    """Forms differ in the fourth order of the energy; within 2 percent of the volume that is worth up to 1.5e-3 of B0.

    The worst are the polynomials (``taylor``, ``p3``), which have no fourth order at all.
    """
    v0, e0, b0, prime = (value * factor for value, factor in zip(exact(), (0.25, 0.25, 1, 1), strict=True))
    found = eos(primitive(), strain=0.02, points=9)
    assert set(found.fits) == set(FORMS)
    for name, fit in found.fits.items():
        assert fit.v0 == pytest.approx(v0, rel=2e-6), name
        assert fit.e0 == pytest.approx(e0, abs=1e-6), name
        assert fit.b0 == pytest.approx(b0, rel=2e-3), name
        assert fit.b0_prime == pytest.approx(prime, rel=0.01), name
        assert fit.residual < 1e-6
    assert found.fit is found.fits["birchmurnaghan"]
    assert found.atoms.get_volume() == pytest.approx(found.fit.v0)
    assert found.fit.b0 == pytest.approx(b0, rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_fits_a_cubic(form):
    """Forms differ in the fourth order, here worth up to 3.4e-3 of the bulk modulus."""
    volumes = np.linspace(11.6, 12.4, 9)
    x = volumes / 12
    energies = -300 + 0.9 * 12 * ((x - 1) ** 2 / 2 - (1 + 4.5) * (x - 1) ** 3 / 6)
    fit = fit_all(volumes, energies, form)[1][form]
    assert fit.v0 == pytest.approx(12.0, rel=1e-3)
    assert fit.e0 == pytest.approx(-300.0, abs=1e-3)
    assert fit.b0 == pytest.approx(0.9 / GPa, rel=5e-3)
    assert fit.b0_prime == pytest.approx(4.5, rel=5e-3)
    if form in ("taylor", "p3"):  # a cubic they are
        assert (fit.v0, fit.b0, fit.b0_prime) == pytest.approx((12.0, 0.9 / GPa, 4.5), rel=1e-6)


def test_a_distant_start_is_recentered():
    near, far = eos(primitive()), eos(scaled(primitive(), 14.5))
    assert far.fit.v0 == pytest.approx(near.fit.v0, rel=1e-4)
    assert abs(far.volumes.mean() / far.fit.v0 - 1) < 0.35 * 0.06
    with pytest.raises(ValueError, match="no minimum of the energy found after 6 scans"):
        eos(scaled(primitive(), 40.0), strain=0.02)


def test_the_minimum_is_where_relaxation_ends(tmp_path):
    atoms = bulk("Cu")
    atoms.calc = EMT()
    seen = []
    found = eos(atoms, on_result=lambda *count: seen.append(count))
    assert seen[-1] == (11, 11)
    relaxed = relax(atoms, cell=True, fmax=1e-5)
    assert found.fit.v0 == pytest.approx(relaxed.atoms.get_volume(), rel=1e-4)
    names = {path.name for path in found.write(tmp_path)}
    assert names == {"eos.json", "eos.png", "eos.svg", "eos-atoms.extxyz"}
    stored = json.loads((tmp_path / "eos.json").read_text())
    assert stored["fits"]["vinet"]["b0"] == found.fits["vinet"].b0
    ax = found.plot()
    assert "GPa" in ax.get_title()


def test_relaxing_lowers_the_energy():
    """A cell with an atom to one side and a strained one: relaxed volumes have less energy, by what relax finds."""
    atoms = crystal(images=1)
    atoms.positions[1] += [0.05, 0.02, 0.0]
    atoms.set_cell(atoms.cell.array * [1.01, 1.0, 0.99], scale_atoms=True)
    before = atoms.copy()
    frozen, positions, shape = (
        eos(atoms, relaxed=choice, points=5, strain=0.04, fmax=1e-3) for choice in ("none", "positions", "shape")
    )
    assert atoms == before
    assert shape.fit.e0 < positions.fit.e0 < frozen.fit.e0
    assert shape.fit.e0 == pytest.approx(relax(atoms, cell=True, fmax=1e-4).final.energy, abs=2e-5)  # the fit's error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "birch-murnaghan"}, "form 'birch-murnaghan' is not one of"),
        ({"strain": 0.0}, "strain should be between 0 and 0.5"),
        ({"points": 4}, "points at least 5"),
        ({"relaxed": "cell"}, "relaxed='cell' is not one of none, positions, shape"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        eos(primitive(), **options)


def test_needs_a_crystal_with_a_calculator():
    slab = fcc111("Cu", (1, 1, 2), vacuum=5)
    slab.calc = EMT()
    with pytest.raises(ValueError, match="three periodic directions"):
        eos(slab)
    with pytest.raises(ValueError, match="no calculator"):
        eos(bulk("Cu"))

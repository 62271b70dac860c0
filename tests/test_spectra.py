"""Spectra against signals whose spectra are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zoo

from dpa2_ase import DPA2Calculator
from dpa2_ase.workflows.spectra import KB_OVER_HC, Response, infrared, raman, response_of

DATA = Path(__file__).parent / "data" / "parity"
PER_FS = 2 * np.pi * 2.99792458e-5  # angular frequency (1/fs) of one cm⁻¹
STEP, COUNT = 1.0, 16384  # fs; 16 ps resolve 2 cm⁻¹, far below the width of 20


def wave(frequency: float, amplitude: float = 1.0) -> np.ndarray:
    return amplitude * np.cos(PER_FS * frequency * STEP * np.arange(COUNT) + 0.3)


def area(frequency: np.ndarray, values: np.ndarray, center: float) -> float:
    """Integral of a line of 20 cm⁻¹ width."""
    near = np.abs(frequency - center) < 100
    return float(np.trapezoid(values[near], frequency[near]))


def test_infrared_lines_are_where_they_should_be_and_as_strong():
    """A dipole A cos ωt absorbs in proportion to A²ω²; 1 % is left for the ends of a finite signal."""
    dipoles = np.stack([wave(1600.0), wave(3400.0, 0.5), wave(400.0, 2.0)], axis=1)
    found = infrared(dipoles, STEP, width=20.0)
    for center, amplitude in ((1600.0, 1.0), (3400.0, 0.5), (400.0, 2.0)):
        near = np.abs(found.frequency - center) < 100
        peak = found.frequency[near][found.intensity[near].argmax()]
        assert peak == pytest.approx(center, abs=2.1)  # the spacing of wavenumbers
        ratio = area(found.frequency, found.intensity, center) / area(found.frequency, found.intensity, 1600.0)
        assert ratio == pytest.approx((amplitude * center / 1600.0) ** 2, rel=0.01)
        half = found.frequency[near][found.intensity[near] > found.intensity[near].max() / 2]
        assert np.ptp(half) == pytest.approx(20.0, abs=4.2)


def test_a_constant_dipole_absorbs_nothing():
    assert infrared(np.ones((500, 3)), STEP).intensity.max() == 0.0


def test_raman_separates_isotropic_from_anisotropic():
    r"""A trace at 1000 cm⁻¹ and a traceless part at 2000 cm⁻¹: depolarization ratios 0 and 3/4."""
    traceless = np.array([[1.0, 0.4, 0.0], [0.4, -0.7, 0.2], [0.0, 0.2, -0.3]])
    alpha = wave(1000.0)[:, None, None] * np.eye(3) + wave(2000.0)[:, None, None] * traceless
    found = raman(alpha, STEP, width=20.0)
    ratio = {
        center: area(found.frequency, found.perpendicular, center) / area(found.frequency, found.parallel, center)
        for center in (1000.0, 2000.0)
    }
    assert ratio[1000.0] == pytest.approx(0.0, abs=1e-3)  # the tail of the other line
    assert ratio[2000.0] == pytest.approx(0.75, abs=1e-3)


def test_raman_factors_of_temperature_and_laser():
    alpha = wave(500.0)[:, None, None] * np.eye(3)
    plain = raman(alpha, STEP, width=20.0)
    hot = raman(alpha, STEP, width=20.0, temperature=300.0, laser=20000.0)
    peak = int(plain.isotropic.argmax())
    frequency = plain.frequency[peak]
    bose = 1 / (frequency * (1 - np.exp(-frequency / (KB_OVER_HC * 300.0))))
    expected = bose * (1 - frequency / 20000.0) ** 4
    assert hot.isotropic[peak] / plain.isotropic[peak] == pytest.approx(expected, rel=1e-12)


def test_models_of_dipoles_and_polarizabilities_give_series():
    """Frames of an MD, whatever moved it; the values are those of the calculators."""
    dipole = DPA2Calculator(DATA / "dpa2-dipole.pt", device="cpu")
    polar = DPA2Calculator(DATA / "dpa2-polar.pt", device="cpu")
    frames = []
    for index in range(6):
        atoms = zoo.structure("molecule")
        atoms.positions[0] += 0.02 * np.sin(index)
        atoms.info["time"] = 2.0 * index
        frames.append(atoms)
    found = response_of(frames, dipole=dipole, polarizability=polar)
    assert found.interval == 2.0
    np.testing.assert_array_equal(found.series("dipole")[3], dipole.get_property("dipole", frames[3]))
    np.testing.assert_allclose(
        found.series("polarizability"), [r["polarizability"] for r in polar.evaluate(frames)], atol=1e-12
    )
    assert len(found.infrared().frequency) == len(found.raman(300.0).unpolarized)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="give a calculator"):
        Response()
    with pytest.raises(ValueError, match="at least four"):
        infrared(np.zeros((3, 3)), 1.0)
    with pytest.raises(ValueError, match="no polarizability"):
        Response(dipole=object()).series("polarizability")

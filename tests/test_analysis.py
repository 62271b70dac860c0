"""`dpa2_ase.workflows.analysis` and `motion`: sums that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import fs
from pairs import crystal

from dpa2_ase.workflows.analysis import (
    RadialDistribution,
    autocorrelation,
    density_profile,
    mean_with_error,
    rdf,
)
from dpa2_ase.workflows.md import md
from dpa2_ase.workflows.motion import Motion, mean_squared_displacement, motion_of, msd, vibrational_spectrum

# ---- averages --------------------------------------------------------------------------------------------------------


def test_error_of_independent_numbers():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=4000)
    mean, error = mean_with_error(values)
    assert mean == values.mean()
    assert error == pytest.approx(3.0 / np.sqrt(4000), rel=0.15)  # the correlation time itself is estimated


def test_error_of_correlated_numbers():
    """x' = a x + noise has 2τ = (1 + a)/(1 − a), 39 here; an estimate from 1000 τ is good to ten percent."""
    rng, a, x = np.random.default_rng(1), 0.95, np.zeros(40000)
    for i in range(1, len(x)):
        x[i] = a * x[i - 1] + rng.normal()
    expected = np.sqrt(1 / (1 - a**2) * (1 + a) / (1 - a) / len(x))
    assert mean_with_error(x)[1] == pytest.approx(expected, rel=0.2)


def test_errors_of_little():
    assert mean_with_error(np.full(5, 3.0)) == (3.0, 0.0)
    assert mean_with_error(np.array([3.0]))[0] == 3.0
    assert np.isnan(mean_with_error(np.array([3.0]))[1])
    assert np.isnan(mean_with_error(np.array([]))).all()
    assert np.isnan(mean_with_error(np.array([1.0, np.nan]))).all()


def test_autocorrelation_is_its_definition():
    series = np.random.default_rng(0).normal(size=(7, 2))
    direct = [(series[: 7 - lag] * series[lag:]).mean(axis=0) for lag in range(7)]
    np.testing.assert_allclose(autocorrelation(series), direct, atol=1e-14)


# ---- structure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("atoms", [bulk("Cu", a=3.61), bulk("Cu", a=3.61, cubic=True) * (3, 1, 2)], ids=["1", "24"])
def test_shells_of_fcc(atoms):
    """12, 6, 24, 12 neighbors at a·√(n/2), in a primitive cell smaller than the cutoff as well."""
    found = rdf([atoms, atoms], r_max=6.0, bins=240)
    assert found.frames == 2
    occupied = found.r[found.g > 0]
    shells = 3.61 * np.sqrt(np.arange(1, 6) / 2)
    np.testing.assert_allclose(occupied, shells, atol=6.0 / 240)
    counts = np.diff(found.coordination[found.g > 0], prepend=0)
    np.testing.assert_allclose(counts, [12, 6, 24, 12, 24], rtol=1e-12)
    edges = np.linspace(0, 6, 241)
    density = len(atoms) / atoms.get_volume()
    np.testing.assert_allclose(  # g is the local over the mean density
        np.cumsum(found.g * density * 4 / 3 * np.pi * np.diff(edges**3)), found.coordination, rtol=1e-12
    )


def test_an_ideal_gas_has_no_structure():
    rng = np.random.default_rng(3)
    frames = [Atoms("Ar100", rng.random((100, 3)) * [9, 10, 11], cell=[9, 10, 11], pbc=True) for _ in range(10)]
    found = rdf(frames, r_max=8.0, bins=16)
    pairs = 10 * 100 * 99 / 2 / 990 * 4 / 3 * np.pi * np.diff(np.linspace(0, 8, 17) ** 3)
    assert (np.abs(found.g - 0.99) < 5 / np.sqrt(pairs)).all()  # (N − 1)/N: an atom is not its own neighbor


def test_pairs_of_elements():
    salt = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    unlike, like = rdf([salt], r_max=4.5, pair=("Na", "Cl")), rdf([salt], r_max=4.5, pair=("Cl", "Cl"))
    assert (unlike.coordination[-1], like.coordination[-1]) == (6, 12)
    assert unlike.r[unlike.g > 0] == pytest.approx([2.8], abs=0.03)
    with pytest.raises(ValueError, match=r"no pair \('Na', 'K'\); its elements are \['Cl', 'Na'\]"):
        rdf([salt], pair=("Na", "K"))
    with pytest.raises(ValueError, match="needs a volume"):
        rdf([Atoms("H2", [[0, 0, 0], [0, 0, 1]])])
    with pytest.raises(ValueError, match="no frames"):
        rdf([])
    with pytest.raises(ValueError, match="should be positive"):
        RadialDistribution(r_max=-1.0)


def test_density_along_an_axis():
    """Two slabs of known mass in a skewed cell; the profile's mean is the density."""
    cell = [[4, 0, 0], [1, 5, 0], [0.5, 0.3, 20]]
    atoms = Atoms("ArXe", scaled_positions=[[0.1, 0.2, 0.26], [0.3, 0.4, 0.74]], cell=cell, pbc=True)
    shifted = atoms.copy()
    shifted.positions += 3 * atoms.cell[2]  # outside of the cell is inside
    profile = density_profile([atoms, shifted], bins=10)
    unit = 1.66053907
    np.testing.assert_allclose(profile.density[[2, 7]], atoms.get_masses() * unit / 40, rtol=1e-7)
    assert np.count_nonzero(profile.density) == 2
    assert profile.density.mean() == pytest.approx(atoms.get_masses().sum() * unit / 400)
    assert profile.z[0] == pytest.approx(1.0)
    assert (profile.error == 0).all()
    with pytest.raises(ValueError, match="needs a cell"):
        density_profile([Atoms("H")])
    with pytest.raises(ValueError, match="no frames"):
        density_profile([])


# ---- motion ----------------------------------------------------------------------------------------------------------


def frames_of(positions: np.ndarray, symbols: str, step: float = 2.0, **options) -> list[Atoms]:
    found = []
    for index, x in enumerate(positions):
        atoms = Atoms(symbols, x, **options)
        atoms.info["time"] = index * step
        found.append(atoms)
    return found


def test_ballistic_motion_is_quadratic():
    """Two atoms in opposite directions: v² t² exactly, and no diffusion constant that is the same everywhere."""
    velocity = np.array([[0.3, -0.1, 0.2], [-0.3, 0.1, -0.2]])  # Å/ps
    time = np.arange(50) * 0.002
    found = msd(motion_of(frames_of(time[:, None, None] * velocity, "Cu2")))
    np.testing.assert_allclose(found.time, time, atol=1e-15)
    np.testing.assert_allclose(found.msd["Cu"], 0.14 * time**2, atol=1e-16)
    window = time[5:25]
    assert found.coefficient["Cu"][0] == pytest.approx(0.14 * np.polyfit(window, window**2, 1)[0] / 6 * 1e-4, rel=0.05)


def test_mean_squared_displacement_is_its_definition():
    x = np.cumsum(np.random.default_rng(0).normal(size=(40, 3, 3)), axis=0) + 100.0
    direct = [((x[lag:] - x[: 40 - lag]) ** 2).sum(-1).mean() for lag in range(40)]
    np.testing.assert_allclose(mean_squared_displacement(x), direct, rtol=1e-11, atol=1e-11)


def test_a_random_walk_diffuses():
    """Steps of variance s² per direction every t0: D = s²/2t0; 100 walkers of 1000 steps."""
    rng, step, interval = np.random.default_rng(2), 0.1, 10.0
    x = np.cumsum(rng.normal(0, step, size=(1000, 200, 3)), axis=0)
    found = msd(motion_of(frames_of(x, "Cu100Al100", interval)), fit=(0.02, 0.1))
    exact = step**2 / 2 / (interval / 1000) * 1e-4
    for symbol in ("Cu", "Al"):
        value, error = found.coefficient[symbol]
        assert 0 < error < 0.1 * exact
        assert abs(value - exact) < 4 * error
    assert found.fit == pytest.approx((0.02 * 9.99, 0.1 * 9.99))


def test_jumps_through_the_boundary_are_undone():
    cell = np.array([[4.0, 0, 0], [1.5, 5, 0], [0, 0, 6]])
    x = np.cumsum(np.random.default_rng(5).normal(0, 0.4, size=(60, 4, 3)), axis=0)
    wrapped = frames_of(x, "Cu4", cell=cell, pbc=True)
    for atoms in wrapped:
        atoms.wrap()
    free = motion_of(frames_of(x, "Cu4")).positions()
    np.testing.assert_allclose(
        np.diff(motion_of(wrapped, unwrap=True).positions(), axis=0), np.diff(free, axis=0), atol=1e-12
    )
    assert np.abs(np.diff(motion_of(wrapped).positions(), axis=0)).max() > 2


def oscillators(steps: int = 4000) -> Motion:
    """Copper against its mirror image at 5 THz, hydrogen at 20 THz with a third of the energy, 2 fs apart."""
    time = np.arange(steps) * 0.002
    masses = Atoms("Cu2H2").get_masses()
    frames = []
    for t in time:
        atoms = Atoms("Cu2H2", np.zeros((4, 3)))
        speed = np.array([1, -1, 0, 0]) * np.cos(2 * np.pi * 5 * t) / np.sqrt(masses)
        speed += np.array([0, 0, 1, -1]) * np.cos(2 * np.pi * 20 * t) / np.sqrt(3 * masses)
        atoms.set_velocities(np.outer(speed, [0, 0.6, 0.8]) / (1000 * fs))
        frames.append(atoms)
    return motion_of(frames, time_step=2.0)


def test_the_spectrum_of_oscillators():
    found = vibrational_spectrum(oscillators())
    for symbol, frequency, share in (("Cu", 5.0, 0.75), ("H", 20.0, 0.25)):
        peak = found.frequency[np.argmax(found.partial[symbol])]
        assert peak == pytest.approx(frequency, abs=0.1)  # resolution: half an inverse of 2 ps
        assert np.trapezoid(found.partial[symbol], found.frequency) == pytest.approx(share, abs=0.002)
    expected = 0.75 * np.cos(2 * np.pi * 5 * found.time) + 0.25 * np.cos(2 * np.pi * 20 * found.time)
    np.testing.assert_allclose(found.vacf, expected, atol=5e-3)  # a finite number of periods
    assert np.trapezoid(found.dos, found.frequency) == pytest.approx(1.0, abs=1e-3)
    assert found.wavenumber[-1] == pytest.approx(found.frequency[-1] * 33.35641, rel=1e-6)
    assert vibrational_spectrum(oscillators(400), longest=0.1).time[-1] == pytest.approx(0.1)


def test_frames_that_tell_no_motion():
    still = frames_of(np.zeros((4, 2, 3)), "Cu2")
    with pytest.raises(ValueError, match="no velocities"):
        vibrational_spectrum(motion_of(still))
    with pytest.raises(ValueError, match="at least two frames at equal intervals"):
        msd(motion_of(still[:1]))
    with pytest.raises(ValueError, match="equal intervals"):
        msd(motion_of([still[0], still[1], still[3]]))
    with pytest.raises(ValueError, match="different atoms"):
        motion_of([still[0], Atoms("Al2")])
    with pytest.raises(ValueError, match="no frames"):
        msd(motion_of([]))
    with pytest.raises(ValueError, match="increasing parts"):
        msd(motion_of(still), fit=(0.5, 0.2))


def test_on_the_fly_is_the_same_as_afterwards(tmp_path):
    """From a file of eight decimals; velocities in Å/ps lose the most."""
    live, walk = RadialDistribution(5.0, 50), Motion()
    run = md(
        crystal(images=1), steps=200, ensemble="nve", temperature=600, folder=tmp_path, interval=5, frame_interval=5,
        observers=[live.add, walk.add],
    )  # fmt: skip
    after, later = rdf(run.frames(), r_max=5.0, bins=50), motion_of(run.frames())
    np.testing.assert_allclose(live.result().coordination, after.coordination)
    np.testing.assert_allclose(walk.positions(), later.positions(), atol=1e-7)
    np.testing.assert_allclose(walk.velocities(), later.velocities(), atol=1e-5)
    assert walk.interval == later.interval == 0.005
    for result in (after, density_profile(run.frames(), axis=1, bins=20), msd(later), vibrational_spectrum(later)):
        names = {path.name for path in result.write(tmp_path)}
        assert names == {f"{result.name}.{suffix}" for suffix in ("json", "png", "svg")}

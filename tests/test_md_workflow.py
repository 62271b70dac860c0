"""`dpa2_ase.workflows.md`: conservation, thermal distributions, exact restart, and an orderly end of explosions."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read
from ase.md import nose_hoover_chain
from ase.units import GPa, kB
from pairs import Morse, crystal, dimer
from scipy.optimize import brentq
from scipy.stats import chi2, kstest
from zoo import METALS

from dpa2_ase import DPA2Calculator
from dpa2_ase.workflows.ensembles import ENSEMBLES, degrees_of_freedom, set_velocities
from dpa2_ase.workflows.md import md
from dpa2_ase.workflows.md_files import LAST_GOOD, RESTART, THERMO, TRAJECTORY, read_thermo
from dpa2_ase.workflows.md_watch import ExplosionError, Limits

HAS_AXES = hasattr(nose_hoover_chain, "MaskedMTKNPT")  # ASE 3.29
AVAILABLE = [name for name in ENSEMBLES if HAS_AXES or name != "npt-axes"]
THERMOSTATS = [name for name in ENSEMBLES if name.startswith("nvt")]


def small() -> Atoms:
    """Four atoms with nearest images only: a Hamiltonian like any other, cheap."""
    return crystal(images=1)


# ---- physics ---------------------------------------------------------------------------------------------------------


def test_nve_conserves_energy_to_second_order():
    """Velocity Verlet: halving the time step divides the energy's fluctuation by four."""
    spread = []
    for timestep in (2.0, 1.0):
        run = md(small(), steps=int(300 / timestep), ensemble="nve", timestep=timestep, temperature=600, interval=1)
        spread.append(np.ptp(run.thermo["total_energy"]))
    assert spread[0] / spread[1] == pytest.approx(4.0, rel=0.1)  # the next order is the square of dt·ω ≈ 0.1
    assert np.ptp(run.thermo["kinetic_energy"]) > 100 * spread[1]
    np.testing.assert_array_equal(run.thermo["total_energy"], run.thermo["conserved_energy"])
    assert abs(run.drift()) < spread[1] / 0.3 / 4  # bounded, not growing over the 0.3 ps
    assert np.abs(run.atoms.get_momenta().sum(0)).max() < 1e-12


@pytest.mark.parametrize("ensemble", ["nvt-bussi", "nvt-nose-hoover", "npt-isotropic", "npt-full"])
def test_thermostats_keep_their_books(ensemble):
    """Heat given and taken adds up, with the corrected numbers of degrees of freedom too: the rest is of order dt²."""
    run = md(
        small(), steps=300, ensemble=ensemble, temperature=500, interval=2, thermostat_time=20.0, barostat_time=100.0
    )
    thermo = run.thermo
    assert np.ptp(thermo["total_energy"]) > 0.1
    assert np.ptp(thermo["conserved_energy"]) < 0.01 * np.ptp(thermo["total_energy"])


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", THERMOSTATS)
def test_kinetic_energies_are_chi_square(ensemble):
    """2K/kT of f degrees of freedom is χ² of f; 9 of 12 are left with the momentum at rest.

    Counting 12 would heat to 1333 K. At this temperature the crystal is anharmonic enough for its modes to share
    energy, and samples every 60 fs at a damping of 30 fs are nearly independent. For a right distribution p is
    uniform, so that one of a thousand seeds would fail here.
    """
    temperature = 1000.0
    run = md(
        small(), steps=4000, timestep=3.0, ensemble=ensemble, temperature=temperature,
        thermostat_time=30.0, interval=20, frame_interval=1000, seed=3,
    )  # fmt: skip
    energies = run.thermo["kinetic_energy"][20:]
    assert degrees_of_freedom(small(), ensemble) == 9
    assert kstest(2 * energies / (kB * temperature), chi2(9).cdf).pvalue > 1e-3
    mean, error = run.average("temperature")
    assert abs(mean - temperature) < 4 * error < 300


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", ["npt-isotropic", "npt-full"])
def test_npt_finds_the_volume_of_the_equation_of_state(ensemble):
    """3 GPa take 0.9 percent of the volume; thermal expansion at 50 K gives back 0.15, the mean scatters by 0.1."""
    pressure = 3.0
    scales = np.linspace(3.5, 3.7, 11)
    crystals = [crystal(a, images=1) for a in scales]
    volumes = [atoms.get_volume() for atoms in crystals]
    slope = np.polynomial.Polynomial.fit(volumes, [atoms.get_potential_energy() for atoms in crystals], 6).deriv()
    volume = brentq(lambda v: slope(v) + pressure * GPa, volumes[0], volumes[-1])
    run = md(
        crystal(3.62, images=1), steps=2500, timestep=4.0, ensemble=ensemble, temperature=50.0, pressure=pressure,
        thermostat_time=60.0, barostat_time=400.0, interval=5, frame_interval=1000,
    )  # fmt: skip
    assert run.average("volume", skip=0.3)[0] == pytest.approx(volume, rel=5e-3)
    mean, error = run.average("pressure", skip=0.3)
    assert abs(mean - pressure) < 4 * error < 1.5
    assert np.ptp(run.thermo["conserved_energy"]) < 0.3 * np.ptp(run.thermo["total_energy"])


def test_npt_axes_moves_only_those():
    if not HAS_AXES:
        with pytest.raises(ValueError, match="npt-axes needs ASE 3.29 or newer"):
            md(small(), steps=1, ensemble="npt-axes")
        return
    run = md(small(), steps=60, ensemble="npt-axes", axes=(False, True, False), pressure=3.0, barostat_time=50.0)
    lengths = run.atoms.cell.lengths()
    np.testing.assert_allclose(lengths[[0, 2]], 3.65, atol=1e-12)
    assert abs(lengths[1] - 3.65) > 1e-4
    np.testing.assert_allclose(run.atoms.cell.angles(), 90.0, atol=1e-10)


@pytest.mark.parametrize("ensemble", THERMOSTATS)
def test_a_ramp_is_followed(ensemble):
    run = md(
        small(), steps=800, timestep=2.0, ensemble=ensemble, temperature=50, temperature_end=1000,
        thermostat_time=20.0, interval=5,
    )  # fmt: skip
    time, found = run.thermo["time"], run.thermo["temperature"]
    slope, start = np.polyfit(time / time[-1], found, 1)
    assert slope == pytest.approx(950, rel=0.3)  # nine degrees of freedom scatter by half of their mean
    assert start == pytest.approx(50, abs=120)


def test_velocities_have_the_temperature_and_no_drift():
    atoms = small()
    set_velocities(atoms, "nve", 250.0, np.random.default_rng(1))
    assert 2 * atoms.get_kinetic_energy() / (9 * kB) == pytest.approx(250.0, rel=1e-12)
    assert np.abs(atoms.get_momenta().sum(0)).max() < 1e-14
    again = small()
    set_velocities(again, "nve", 250.0, np.random.default_rng(1))
    np.testing.assert_array_equal(atoms.get_momenta(), again.get_momenta())


@pytest.mark.parametrize(("name", "global_", "langevin"), [("CH4", 9, 12), ("CO2", 4, 6), ("H2", 1, 3), ("H", 3, 3)])
def test_degrees_of_freedom_of_molecules(name, global_, langevin):
    atoms = molecule(name)
    assert degrees_of_freedom(atoms, "nvt-bussi") == degrees_of_freedom(atoms, "nve") == global_
    assert degrees_of_freedom(atoms, "nvt-langevin") == langevin
    set_velocities(atoms, "nve", 300.0, np.random.default_rng(0))
    if len(atoms) > 1:
        assert np.abs(atoms.get_angular_momentum()).max() < 1e-12
    assert 2 * atoms.get_kinetic_energy() / (global_ * kB) == pytest.approx(300.0)


def test_a_dimer_only_vibrates():
    run = md(dimer(2.8), steps=200, ensemble="nvt-bussi", temperature=300, interval=10)
    bonds = run.atoms.positions[1] - run.atoms.positions[0]
    np.testing.assert_allclose(np.abs(bonds @ [0.6, 0.8, 0]), np.linalg.norm(bonds), rtol=1e-9)
    assert np.isnan(run.thermo["pressure"]).all()
    assert np.isnan(run.thermo["volume"]).all()


def test_constraints_hold_and_are_counted():
    atoms = small()
    atoms.set_constraint(FixAtoms([0]))
    for ensemble in ("nve", *THERMOSTATS):
        run = md(atoms, steps=50, ensemble=ensemble, temperature=200)
        np.testing.assert_array_equal(run.atoms.positions[0], atoms.positions[0])
        assert len(run.atoms.constraints) == 1
        assert run.thermo["temperature"][0] == pytest.approx(200)
    with pytest.raises(ValueError, match="no constraints, found .* 1 constraints; use an nvt ensemble"):
        md(atoms, steps=1, ensemble="npt-full")


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_the_input_is_left_as_it_was():
    atoms = small()
    before, calc = atoms.copy(), atoms.calc
    for ensemble in ("nvt-langevin", "npt-full"):
        run = md(atoms, steps=3, ensemble=ensemble)
        assert atoms == before
        assert not atoms.has("momenta")
        assert not atoms.constraints
        assert not run.atoms.constraints
        assert run.atoms.calc is calc


def test_given_velocities_are_kept():
    atoms = small()
    set_velocities(atoms, "nve", 123.0, np.random.default_rng(5))
    run = md(atoms, steps=0, ensemble="nve", interval=1)
    np.testing.assert_allclose(run.atoms.get_momenta(), atoms.get_momenta(), atol=1e-15)
    assert run.thermo["temperature"][0] == pytest.approx(123.0)
    fresh = md(atoms, steps=0, ensemble="nve", initial_temperature=50.0)
    assert fresh.thermo["temperature"][0] == pytest.approx(50.0)


def test_samples_frames_and_progress(tmp_path):
    seen, watched = [], []
    run = md(
        small(), steps=25, ensemble="nve", interval=5, frame_interval=10, folder=tmp_path / "run",
        on_progress=seen.append, observers=[lambda atoms, time: watched.append((time, atoms.positions[1, 0]))],
    )  # fmt: skip
    assert run.thermo["step"].tolist() == [0, 5, 10, 15, 20, 25]
    assert [item.step for item in seen] == [0, 5, 10, 15, 20, 25]
    assert [time for time, _ in watched] == [0, 5, 10, 15, 20, 25]
    assert (seen[-1].steps, seen[-1].remaining) == (25, 0.0)
    assert all(item.steps_per_second > 0 and item.remaining >= 0 for item in seen[1:])
    assert seen[2].total_energy == run.thermo["total_energy"][2]
    frames = run.frames()
    assert [frame.info["step"] for frame in frames] == [0, 10, 20]
    assert [frame.info["time"] for frame in frames] == [0, 10, 20]
    assert frames[2].positions[1, 0] == pytest.approx(watched[4][1], abs=1e-8)
    assert frames[2].get_potential_energy() == pytest.approx(run.thermo["potential_energy"][4], abs=1e-8)
    assert frames[2].get_kinetic_energy() == pytest.approx(run.thermo["kinetic_energy"][4], rel=1e-5)
    assert np.abs(frames[2].get_forces()).max() > 0.01
    rows = read_thermo(tmp_path / "run" / THERMO)
    assert [row["total_energy"] for row in rows] == run.thermo["total_energy"].tolist()
    atoms = small()
    pressure = -atoms.get_stress()[:3].mean() / GPa
    kinetic = 9 / 12 * 4 * kB * 300 / atoms.get_volume() / GPa
    assert run.thermo["pressure"][0] == pytest.approx(pressure + kinetic)
    assert run.thermo["density"][0] == pytest.approx(4 * 63.546 * 1.66053907 / atoms.get_volume(), rel=1e-7)
    assert [run.thermo[name][-1] for name in ("a", "b", "c", "gamma")] == pytest.approx([3.65, 3.65, 3.65, 90.0])
    assert len(md(small(), steps=25, ensemble="nve", frame_interval=10).frames()) == 3


def test_the_result_is_written(tmp_path):
    run = md(crystal(images=1), steps=20, ensemble="npt-full", interval=1, folder=tmp_path / "run")
    names = {path.name for path in run.write(tmp_path / "other")}
    assert names == {"md.json", "md-atoms.extxyz", "md.png", "md.svg", THERMO}
    assert {path.name for path in run.write(tmp_path / "run")} == names - {THERMO}
    stored = json.loads((tmp_path / "other/md.json").read_text())
    assert stored["averages"]["temperature"] == pytest.approx(run.average("temperature"))
    assert stored["ensemble"]["name"] == "npt-full"
    assert stored["provenance"]["settings"]["seed"] == 0
    assert (tmp_path / "other" / THERMO).read_text().replace("nan", "") == (tmp_path / "run" / THERMO).read_text()
    ax = run.plot()
    assert len(ax.get_figure().axes) == 3
    assert run.plot(ax) is ax


# ---- restart ---------------------------------------------------------------------------------------------------------


def stop_at(step: int):
    def stop(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("ensemble", AVAILABLE)
def test_a_stopped_run_continues_to_the_last_bit(tmp_path, ensemble):
    """Stopped between two frames after some rows; files and state end as those of a run that was never stopped."""
    settings = {"ensemble": ensemble, "interval": 2, "frame_interval": 5, "temperature": 400.0, "barostat_time": 100.0}
    settings |= {"axes": (True, False, True)}
    whole = md(small(), steps=24, folder=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        md(small(), steps=24, folder=tmp_path / "parts", on_progress=stop_at(8), **settings)
    with (tmp_path / "parts" / THERMO).open("a") as file:
        file.write("10,0.1")  # as if killed while writing
    seen = []
    rest = md(small(), steps=24, folder=tmp_path / "parts", resume=True, on_progress=seen.append, **settings)
    assert seen[0].step == 10
    np.testing.assert_array_equal(rest.atoms.positions, whole.atoms.positions)
    np.testing.assert_array_equal(rest.atoms.get_momenta(), whole.atoms.get_momenta())
    np.testing.assert_array_equal(rest.atoms.cell, whole.atoms.cell)
    for name in (THERMO, TRAJECTORY):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for name, column in whole.thermo.items():
        np.testing.assert_array_equal(rest.thermo[name], column)


@pytest.mark.parametrize("ensemble", ["nvt-langevin", "npt-full"])
def test_a_stop_in_the_middle_of_a_step_is_as_good(tmp_path, ensemble):
    """The state is then neither of one step nor of the next; the last sample counts."""

    class Interrupted(Morse):
        calls = 0

        def calculate(self, *args, **kwargs):
            self.calls += 1
            if self.calls == 17:
                raise KeyboardInterrupt
            super().calculate(*args, **kwargs)

    settings = {"ensemble": ensemble, "interval": 3, "frame_interval": 6, "steps": 24}
    whole = md(small(), folder=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        md(crystal(calc=Interrupted(1)), folder=tmp_path / "parts", **settings)
    rest = md(small(), folder=tmp_path / "parts", resume=True, **settings)
    np.testing.assert_array_equal(rest.atoms.positions, whole.atoms.positions)
    for name in (THERMO, TRAJECTORY):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_ramp_continues_exactly_and_a_finished_run_can_be_extended(tmp_path):
    settings = {"temperature": 100.0, "temperature_end": 500.0, "interval": 1, "frame_interval": 4}
    whole = md(small(), steps=20, folder=tmp_path / "a", **settings)
    with pytest.raises(KeyboardInterrupt):
        md(small(), steps=20, folder=tmp_path / "b", on_progress=stop_at(7), **settings)
    rest = md(small(), steps=20, folder=tmp_path / "b", resume=True, **settings)
    np.testing.assert_array_equal(rest.thermo["temperature"], whole.thermo["temperature"])
    long = md(small(), steps=33, folder=tmp_path / "c", interval=3)
    md(small(), steps=10, folder=tmp_path / "d", interval=3)
    extended = md(small(), steps=33, folder=tmp_path / "d", interval=3, resume=True)
    np.testing.assert_array_equal(extended.atoms.positions, long.atoms.positions)
    assert (tmp_path / "d" / THERMO).read_bytes() == (tmp_path / "c" / THERMO).read_bytes()
    same = md(small(), steps=33, folder=tmp_path / "d", interval=3, resume=True)  # nothing left to do
    np.testing.assert_array_equal(same.atoms.positions, long.atoms.positions)


@pytest.mark.parametrize(
    ("make", "tolerance"), [(EMT, 1e-12), (lambda: DPA2Calculator(METALS, device="cpu"), 0.0)], ids=["emt", "dpa2"]
)
def test_calculators_with_neighbor_lists_continue(tmp_path, make, tolerance):
    """A list kept from an earlier step must not show in the numbers; EMT's order of summation does, in rounding."""
    atoms = bulk("Cu", cubic=True)
    atoms.calc = make()
    settings = {"ensemble": "nvt-langevin", "temperature": 900.0, "timestep": 4.0, "interval": 2}
    whole = md(atoms, steps=24, folder=tmp_path / "whole", **settings)
    atoms.calc = make()
    with pytest.raises(KeyboardInterrupt):
        md(atoms, steps=24, folder=tmp_path / "parts", on_progress=stop_at(12), **settings)
    atoms.calc = make()
    rest = md(atoms, steps=24, folder=tmp_path / "parts", resume=True, **settings)
    np.testing.assert_allclose(rest.atoms.positions, whole.atoms.positions, rtol=0, atol=tolerance)


def test_only_the_same_simulation_continues(tmp_path):
    md(small(), steps=4, folder=tmp_path)
    with pytest.raises(FileExistsError, match=r"holds a simulation already; continue it with resume=True"):
        md(small(), steps=4, folder=tmp_path)
    with pytest.raises(ValueError, match=r"other \['ensemble', 'seed'\]; continue with the same arguments"):
        md(small(), steps=8, folder=tmp_path, resume=True, seed=1, timestep=2.0)
    other = small()
    other.rattle(0.01)
    with pytest.raises(ValueError, match=r"other \['structure'\]"):
        md(other, steps=8, folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match="is at step 4 already"):
        md(small(), steps=2, folder=tmp_path, resume=True)
    wrong = crystal(calc=EMT())
    with pytest.raises(ValueError, match="continue with the same calculator"):
        md(wrong, steps=8, folder=tmp_path, resume=True)
    (tmp_path / "lost").mkdir()
    shutil.copy(tmp_path / RESTART, tmp_path / "lost")
    with pytest.raises(ValueError, match="md-trajectory.extxyz is shorter than at the last checkpoint"):
        md(small(), steps=8, folder=tmp_path / "lost", resume=True)
    assert md(small(), steps=8, folder=tmp_path, resume=True).steps == 8
    assert md(small(), steps=3, folder=tmp_path / "new", resume=True).steps == 3
    assert (tmp_path / "new" / RESTART).exists()


# ---- explosions ------------------------------------------------------------------------------------------------------


def test_an_explosion_stops_with_the_last_good_frame(tmp_path):
    """120 fs are longer than the shortest period: beyond the stability of any integrator."""
    with pytest.raises(
        ExplosionError, match=r"exploded at step \d+ \(\d+ fs\): (a force|the temperature|atoms)"
    ) as info:
        md(small(), steps=500, timestep=120.0, temperature=900, ensemble="nve", interval=1, folder=tmp_path)
    good = info.value.last_good
    assert good is not None
    assert good.info["step"] == info.value.step - 1
    assert f"the last good frame is of step {good.info['step']}, in {tmp_path / LAST_GOOD}" in str(info.value)
    stored = read(tmp_path / LAST_GOOD)
    np.testing.assert_allclose(stored.positions, good.positions, atol=1e-8)
    assert np.isfinite(stored.get_forces()).all()
    assert read_thermo(tmp_path / THERMO)[-1]["step"] == good.info["step"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(temperature=200.0), r"step 0 \(0 fs\): the temperature of 300 K is above 200 K"),
        (Limits(force=1e-3), r"a force of .* eV/Å is above 0.001 eV/Å"),
        (Limits(distance=1.1), r"atoms \d and \d are 2.* Å apart, less than 1.1 times the sum of their covalent radii"),
    ],
)
def test_every_limit_is_watched(limits, message):
    atoms = small()
    atoms.rattle(0.02, seed=2)
    with pytest.raises(ExplosionError, match=message) as info:
        md(atoms, steps=5, limits=limits)
    assert info.value.last_good is None


def test_numbers_that_are_none_stop_it():
    class Breaks(Morse):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            if abs(self.atoms.positions[1, 1] - 1.825) > 0.01:
                self.results["forces"] = self.results["forces"] * np.nan

    with pytest.raises(ExplosionError, match="nan") as info:
        md(crystal(calc=Breaks(1)), steps=50, ensemble="nve", interval=1)
    assert np.isfinite(info.value.last_good.positions).all()


def test_a_calculator_that_fails_on_debris_does_not_hide_the_explosion(tmp_path):
    class Strict(Morse):
        def calculate(self, atoms=None, *args, **kwargs):
            if np.abs(atoms.positions).max() > 50:
                raise ValueError("atoms far outside of the cell")
            super().calculate(atoms, *args, **kwargs)

    atoms = crystal(calc=Strict(1))
    atoms.rattle(0.3, seed=0)
    with pytest.raises(
        ExplosionError, match=r"the step failed \(atoms far outside of the cell\); the last good"
    ) as info:
        md(atoms, steps=50, timestep=2000.0, ensemble="nve", folder=tmp_path, limits=Limits(force=1e9, distance=0.0))
    assert (info.value.step, info.value.last_good.info["step"]) == (1, 0)

    class Fails(Morse):
        def calculate(self, atoms=None, *args, **kwargs):
            if abs(atoms.positions[1, 1] - 1.825) > 0.01:
                raise ValueError("the license has expired")
            super().calculate(atoms, *args, **kwargs)

    with pytest.raises(ValueError, match="the license has expired"):
        md(crystal(calc=Fails(1)), steps=50, ensemble="nve", folder=tmp_path / "other")
    assert (tmp_path / "other" / RESTART).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": "nvt"}, r"ensemble 'nvt' is not one of \['nve', 'nvt-bussi'"),
        ({"timestep": 0.0}, r"timestep should be positive \(fs\), found 0.0"),
        ({"thermostat_time": float("nan")}, "thermostat_time should be positive"),
        ({"temperature": 0.0}, "temperature should be above 0 K, found 0.0"),
        ({"temperature": -1.0, "ensemble": "nve"}, "temperature should be at least 0 K"),
        ({"pressure": float("inf")}, "pressure should be a number"),
        ({"temperature_end": 500.0, "ensemble": "nve"}, "a ramp needs a thermostat"),
        ({"temperature_end": -5.0}, "temperature_end should be above 0 K"),
        ({"steps": -1}, "steps should not be negative"),
        ({"interval": 0}, "intervals at least 1"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        md(small(), **{"steps": 1} | options)


def test_structures_that_cannot_move_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no calculator"):
        md(bulk("Cu"), steps=1)
    atoms = small()
    atoms.set_constraint(FixAtoms([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="nothing can move"):
        md(atoms, steps=1)
    empty = small()[[]]
    empty.calc = Morse()
    with pytest.raises(ValueError, match="no atoms to move"):
        md(empty, steps=1)
    with pytest.raises(ValueError, match="npt-full needs a structure with three periodic directions"):
        md(dimer(), steps=1, ensemble="npt-full", folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()

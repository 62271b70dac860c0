"""Molecular dynamics with any ASE calculator: seeded, watched, and continued exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from ase import Atoms

from .ensembles import Engine, Ensemble, check_temperature, set_velocities
from .md_files import COLUMNS, Record
from .md_result import Simulation
from .md_run import Plan, Progress, Run
from .md_watch import Limits
from .results import provenance_of, with_calculator


def md(  # noqa: PLR0913  # the choices of a simulation
    atoms: Atoms,
    *,
    steps: int,
    ensemble: str = "nvt-bussi",
    temperature: float = 300.0,
    temperature_end: float | None = None,
    pressure: float = 0.0,
    timestep: float = 1.0,
    thermostat_time: float = 100.0,
    barostat_time: float = 1000.0,
    axes: tuple[bool, bool, bool] = (True, True, True),
    initial_temperature: float | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    interval: int = 10,
    frame_interval: int = 100,
    resume: bool = False,
    limits: Limits | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    observers: Sequence[Callable[[Atoms, float], None]] = (),
) -> Simulation:
    """Run molecular dynamics; the input is left as it was.

    Parameters
    ----------
    atoms
        A structure with a calculator. Its velocities are used if it has any and no `initial_temperature` is given.
    steps
        Of the whole run, those before a restart included.
    ensemble, pressure, timestep, thermostat_time, barostat_time, axes
        See `Ensemble`: GPa and fs.
    temperature, temperature_end
        Target in K, and where a linear ramp over the run ends. For ``nve`` the former is the initial temperature.
    initial_temperature
        Velocities are drawn from Maxwell's distribution and scaled to this temperature in K; by default to
        `temperature`. A crystal at rest needs twice the temperature it should settle at.
    seed
        Of the velocities and of stochastic thermostats.
    folder
        Where ``md-trajectory.extxyz``, ``md-thermo.csv`` and ``md-restart.npz`` are written as the run goes;
        ``None`` keeps samples and frames in memory.
    interval, frame_interval
        Steps between samples, and between frames with checkpoints.
    resume
        Continue what is in `folder`, called with the same arguments (`steps` may be larger without a ramp): files and
        numbers are those of a run that was never interrupted, to the last bit if the calculator's results depend on
        the structure only. Starts anew if nothing is there.
    limits
        Where a simulation counts as exploded; see `Limits`.
    on_progress
        Called with every sample.
    observers
        Called with every sample: the moving structure, not to be changed or kept, and the time in fs. For example
        `dpa2_ase.workflows.analysis.RadialDistribution.add`. They see only what is simulated in this call.

    Raises
    ------
    ExplosionError
        When temperature, forces or distances leave the limits; it carries the last good frame, which the folder
        gets as well.
    ValueError
        For choices that cannot be, or a restart with other ones than before.
    FileExistsError
        If `folder` holds a simulation and `resume` is false.

    Notes
    -----
    Without constraints the center of mass is brought and kept at rest, and a molecule's rotation is stopped where the
    ensemble would conserve it. Temperatures are those of the degrees of freedom that are left.
    """
    if steps < 0 or interval < 1 or frame_interval < 1:
        raise ValueError(
            f"steps should not be negative and intervals at least 1, found {steps}, {interval}, {frame_interval}"
        )
    chosen = Ensemble(ensemble, timestep, temperature, pressure, thermostat_time, barostat_time, axes)
    if temperature_end is not None:
        check_temperature("temperature_end", temperature_end, zero_allowed=False)
        if not chosen.has_thermostat:
            raise ValueError("a ramp needs a thermostat; choose an nvt or npt ensemble or no temperature_end")
    moving = with_calculator(atoms)
    if not len(moving):
        raise ValueError("the structure has no atoms to move")
    velocities, thermostat = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    if initial_temperature is None and not moving.get_momenta().any():
        initial_temperature = temperature
    set_velocities(moving, ensemble, initial_temperature, velocities)
    plan = Plan(chosen, steps, temperature_end, initial_temperature, interval, frame_interval, seed)
    engine = Engine(moving, chosen, thermostat)
    record = Record(folder, resume=resume)
    with engine.dynamics:
        Run(atoms, plan, engine, record, limits or Limits()).go(on_progress, observers)
    moving.set_constraint(atoms.constraints)
    return Simulation(
        atoms=moving,
        steps=steps,
        ensemble=chosen,
        thermo={name: np.array([row[name] for row in record.rows]) for name in COLUMNS},
        folder=record.folder,
        _frames=tuple(record.frames),
        provenance=provenance_of(atoms.calc, **asdict(plan)),
    )

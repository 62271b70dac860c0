"""``dpa2 md``: molecular dynamics."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Common, OptionalValue, command, common_options
from .uncertainty import make_trusted_calculator, uncertainty_options
from .values import Flags

if TYPE_CHECKING:
    from ase import Atoms

    from ..workflows.md_result import Simulation
    from ..workflows.md_run import Progress as Sample
    from ..workflows.results import Result
    from .display import Progress
    from .run import Run

ENSEMBLES = ("nve", "nvt-bussi", "nvt-langevin", "nvt-nose-hoover", "npt-isotropic", "npt-full", "npt-axes")


WATCHED = click.option(
    "--uncertainty", cls=OptionalValue, without="warn", type=click.Choice(["warn", "stop"]),
    help="Warn where a calibrated threshold is passed, or also stop at the second one (dpa2 calibrate).",
)  # fmt: skip


@command()
@click.option("--steps", type=int, required=True, help="Of the whole run; with --resume also more than before.")
@click.option("--ensemble", type=click.Choice(ENSEMBLES), default="nvt-bussi", show_default=True)
@click.option("--temperature", "--temp", default=300.0, show_default=True, help="In K.")
@click.option("--temperature-end", "--temp-end", type=float, help="Where a linear ramp ends, K.")
@click.option("--pressure", default=0.0, show_default=True, help="In GPa.")
@click.option("--timestep", default=1.0, show_default=True, help="In fs.")
@click.option("--thermostat-time", default=100.0, show_default=True, help="Relaxation time, fs.")
@click.option("--barostat-time", default=1000.0, show_default=True, help="Relaxation time, fs.")
@click.option(
    "--axes", type=Flags("abc"), default=(True, True, True), show_default=True,
    help="Lattice vectors that may change in npt-axes.",
)  # fmt: skip
@click.option("--initial-temperature", type=float, help="Of the velocities drawn, K; default: the temperature.")
@click.option("--seed", default=0, show_default=True, help="Of velocities and stochastic thermostats.")
@click.option("--interval", "--stats-every", default=10, show_default=True, help="Steps between samples.")
@click.option("--frame-interval", "--traj-every", default=100, show_default=True, help="Steps between frames.")
@click.option("--max-temperature", type=float, help="Above it (K) the simulation counts as exploded.")
@click.option("--max-force", default=200.0, show_default=True, help="The same for a force, eV/Å.")
@click.option("--min-distance", default=0.4, show_default=True, help="The same, in sums of covalent radii.")
@click.option("--rdf", is_flag=True, help="Radial distribution of the frames.")
@click.option("--msd", is_flag=True, help="Mean squared displacement and diffusion of the frames.")
@click.option("--vdos", is_flag=True, help="Vibrational density of states; needs frames every few fs.")
@uncertainty_options(WATCHED)
@common_options()
def md(  # noqa: PLR0913  # what is analysed and watched
    common: Common,
    rdf: bool,
    msd: bool,
    vdos: bool,
    steps: int,
    uncertainty: str | None,
    calibration: Path | None,
    **settings: Any,
) -> None:
    """Molecular dynamics of STRUCTURES, one after the other; stops if one explodes (exit code 3)."""
    from ..workflows.md_watch import ExplosionError
    from .display import progress
    from .each import NOT_CONVERGED, begin

    has_ramp = settings["temperature_end"] is not None
    decisive = settings | {"rdf": rdf, "msd": msd, "vdos": vdos} | ({"steps": steps} if has_ramp else {})
    settings["uncertainty"] = uncertainty or "ignore"
    decisive |= {} if uncertainty is None else {"uncertainty": uncertainty}
    goal = {} if has_ramp else {"steps": steps}
    make = partial(make_trusted_calculator, wanted=uncertainty, calibration=calibration)
    with begin("md", common, decisive, make, goal=goal, journal=False) as run:
        for index, (name, atoms) in enumerate(run.frames):
            _clear(run, index)
            atoms.calc = run.calc
            with progress(f"dynamics of {name}", steps) as shown:
                try:
                    simulation = _simulate(run, index, steps, dict(settings), _shower(shown))
                except ExplosionError as error:
                    run.fail(index, error)
                    run.exit_code = NOT_CONVERGED
                    continue
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
            run.add(index, [simulation, *_analyses(simulation, rdf=rdf, msd=msd, vdos=vdos)], _row(simulation))


def _clear(run: Run, index: int) -> None:
    """Remove files of a run that was killed, where --overwrite begins anew."""
    from ..workflows.md_files import LAST_GOOD, RESTART, THERMO, TRAJECTORY

    folder = run.folder_of(index)
    if run.is_new and folder is not None:
        for name in (LAST_GOOD, RESTART, THERMO, TRAJECTORY):
            (folder / name).unlink(missing_ok=True)


def _simulate(
    run: Run, index: int, steps: int, settings: dict[str, Any], on_progress: Callable[[Sample], None]
) -> Simulation:
    from ..workflows.md import md as simulate
    from ..workflows.md_watch import Limits

    atoms, folder = run.frames[index][1], run.folder_of(index)
    names = ("max_temperature", "max_force", "min_distance", "uncertainty")
    limits = Limits(*(settings.pop(name) for name in names))
    return simulate(
        atoms, steps=steps, folder=folder, resume=not run.is_new, limits=limits, on_progress=on_progress, **settings
    )


def _shower(shown: Progress) -> Callable[[Sample], None]:
    def show(now: Sample) -> None:
        note = f"T {now.temperature:.0f} K  E {now.potential_energy:.3f} eV"
        if not math.isnan(now.pressure):
            note += f"  P {now.pressure:.2f} GPa"
        if not math.isnan(now.steps_per_second):
            note += f"  {now.steps_per_second:.1f} steps/s  {_clock(now.remaining)} left"
        shown.update(now.step, note)

    return show


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _analyses(simulation: Simulation, *, rdf: bool, msd: bool, vdos: bool) -> list[Result]:
    """What is asked for, from the frames: the same whether the run was interrupted or not."""
    from ..workflows import analysis, motion

    frames: list[Atoms] = simulation.frames() if rdf or msd or vdos else []
    found: list[Result] = []
    if rdf:
        found.append(analysis.rdf(frames))
    if msd or vdos:
        moved = motion.motion_of(frames, unwrap=False)
        found += [motion.msd(moved)] if msd else []
        found += [motion.vibrational_spectrum(moved)] if vdos else []
    return found


def _row(simulation: Simulation) -> dict[str, Any]:
    columns = {
        "T / K": "temperature",
        "E pot / eV": "potential_energy",
        "P / GPa": "pressure",
        "ρ / g/cm³": "density",
    }
    row: dict[str, Any] = {
        "steps": simulation.steps,
        "time / ps": simulation.steps * simulation.ensemble.timestep / 1000,
    }
    for title, name in columns.items():
        mean, error = simulation.average(name)
        row[title] = "–" if math.isnan(mean) else f"{mean:.5g} ± {error:.1g}"
    row["drift / eV/atom/ps"] = simulation.drift()
    return row

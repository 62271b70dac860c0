"""``dpa2 neb``: minimum-energy paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import OPTIMIZERS, Common, command, common_options
from .values import Numbers

if TYPE_CHECKING:
    from ..workflows.neb import Band

METHODS = ("improvedtangent", "aseneb", "eb", "spline", "string")
TRAJECTORY = "neb.traj"


@command()
@click.option("--images", "--n-images", default=5, show_default=True, help="Number of inner images.")
@click.option(
    "--interpolation", "--interpolator", type=click.Choice(["idpp", "linear"]), default="idpp", show_default=True,
    help="First guess of the path.",
)  # fmt: skip
@click.option("--method", type=click.Choice(METHODS), default="improvedtangent", show_default=True)
@click.option("--climb/--no-climb", default=True, show_default=True, help="Drive the highest image to the saddle.")
@click.option("--spring", type=Numbers(), default=(0.1,), show_default=True, help="eV/Å²; one, or one per spring.")
@click.option("--relax-ends", "--minimize", is_flag=True, help="Relax the ends to fmax first.")
@click.option("--fmax", default=0.05, show_default=True, help="Largest force of the band at convergence, eV/Å.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="fire", show_default=True)
@click.option("--max-steps", "--steps", default=500, show_default=True, help="Stop after so many steps.")
@click.option("--trajectory", is_flag=True, help=f"Write all images of every step to {TRAJECTORY} in the folder.")
@common_options()
def neb(common: Common, trajectory: bool, spring: tuple[float, ...], **settings: Any) -> None:
    """Path between two STRUCTURES, the first and the last; those between are the first guess of the inner images.

    Exit code 3 if it did not converge.
    """
    from ..workflows.neb import neb as run_neb
    from .display import progress
    from .each import NOT_CONVERGED, begin

    decisive = settings | {"spring": spring}
    with begin("neb", common, decisive) as run:
        if len(run.frames) < 2:
            raise ValueError(f"a path takes two structures at least, found {len(run.frames)}")
        frames = [atoms for _, atoms in run.frames]
        frames[0].calc = run.calc
        with progress("band", settings["max_steps"]) as shown:
            band = run_neb(
                frames[0],
                frames[-1],
                guess=frames[1:-1] or None,
                spring=spring[0] if len(spring) == 1 else spring,
                trajectory=run.folder / TRAJECTORY if trajectory and run.folder else None,
                on_step=lambda step, force: shown.update(step, f"step {step}, max force {force:.3g} eV/Å"),
                **settings,
            )
        name = f"{run.frames[0][0]} → {run.frames[-1][0]}"
        run.add_row(name, frames[0].get_chemical_formula(), _row(band))
        run.keep(name, band, run.folder)
        run.exit_code = 0 if band.converged else NOT_CONVERGED


def _row(band: Band) -> dict[str, Any]:
    return {
        "converged": band.converged,
        "steps": band.steps,
        "barrier / eV": band.barrier,
        "back / eV": band.reverse_barrier,
        "reaction / eV": band.reaction_energy,
        "max force / eV/Å": float(band.max_forces[1:-1].max()),
    }
